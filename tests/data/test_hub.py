"""Data sets through `datasets`: from the hub's cache without a network, and folders of `save_to_disk`."""

from __future__ import annotations

import json
import shutil
import sys
import tracemalloc

import datasets
import pytest

from polygraft.data import hub
from polygraft.data.reading import iter_rows, read_rows
from polygraft.data.sources import data_files
from polygraft.errors import DataError
from polygraft.runs.records import fingerprint_of
from polygraft.settings import TextData

ROWS = [{"text": f"text {i}", "translation": {"en": "dog", "uk": f"пес {i}"}, "n": i} for i in range(7)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No network, and a cache of the test's own."""

    def refuse(event, arguments):
        if watching and event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
            raise AssertionError(f"{event} {arguments}")

    watching = [True]
    sys.addaudithook(refuse)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    hub._load.cache_clear()
    yield
    watching.clear()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder of the cache as `datasets` itself prepares it, of a local file."""
    folder = tmp_path_factory.mktemp("made")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(ROWS).to_parquet(folder / "rows.parquet")
    files = {"train": str(folder / "rows.parquet"), "test": str(folder / "rows.parquet")}
    builder = datasets.load_dataset_builder("parquet", data_files=files, cache_dir=str(folder / "cache"))
    builder.download_and_prepare()
    return builder.cache_dir


@pytest.fixture
def cached(prepared, tmp_path):
    """Puts a data set into the cache as if it had been downloaded."""

    def _cached(config="uk", commit=COMMIT):
        folder = tmp_path / "cache" / "owner___news" / config / "0.0.0" / commit
        shutil.copytree(prepared, folder)
        for file in folder.glob("parquet-*.arrow"):
            file.rename(file.with_name(file.name.replace("parquet-", "news-")))
        info = json.loads((folder / "dataset_info.json").read_text())
        (folder / "dataset_info.json").write_text(json.dumps(info | {"config_name": config, "dataset_name": "news"}))

    return _cached


@pytest.mark.parametrize("end", ["news:uk:train", "news:test", f"news@{COMMIT}:uk:test", f"news@{COMMIT[:7]}:uk:test"])
def test_from_the_cache_without_a_network(cached, end):
    cached()
    rows = read_rows(f"hf://datasets/owner/{end}", ["text", "translation.uk"])
    assert rows == [{"text": f"text {i}", "translation.uk": f"пес {i}", "id": str(i + 1)} for i in range(7)]


def test_the_commit_is_in_the_fingerprint(cached):
    cached()
    section = TextData(train_file="hf://datasets/owner/news:uk:train", validation_file="hf://datasets/owner/news:test")
    first = [fingerprint_of(f"file:{file}") for file in data_files(section)]
    assert len(set(first)) == 2
    shutil.rmtree("cache")
    hub._load.cache_clear()
    cached(commit="f" * 40)
    second = [fingerprint_of(f"file:{file}") for file in data_files(section)]
    assert not set(first) & set(second)


REFUSED = {
    "news": "which split is not said. Write hf://datasets/owner/news:test, hf://datasets/owner/news:train",
    "news:uk:dev": "there is no split 'dev'. Write hf://datasets/owner/news:uk:test, ",
    "news:fr:train": "cannot be loaded (offline: only what is in the cache can be had)",
    "other:train": "cannot be loaded (offline: only what is in the cache can be had)",
    "news@v2:uk:train": f"the cache has commit {COMMIT}, and offline 'v2' cannot be looked up",
    "news/more": "is not the name of a hub data set. Write hf://datasets/OWNER/NAME[@REVISION][:CONFIGURATION][:SPLIT]",
}


@pytest.mark.parametrize("end", REFUSED)
def test_refused(cached, end):
    cached()
    with pytest.raises(DataError) as error:
        read_rows(f"hf://datasets/owner/{end}", ["text"])
    assert REFUSED[end] in str(error.value)
    assert str(error.value).startswith(f"hf://datasets/owner/{end}: ")


def test_columns_of_a_hub_data_set(cached):
    cached()
    with pytest.raises(DataError, match=r"there is no column 'summary'. Columns here: 'text', 'translation\.en', "):
        read_rows("hf://datasets/owner/news:train", ["text", "summary"])
    with pytest.raises(DataError, match=r"news:train, row 1: column 'n' holds 0, but text was expected"):
        read_rows("hf://datasets/owner/news:train", ["n"])


def test_a_local_folder_does_not_take_the_hubs_place(cached, tmp_path):
    cached()
    (tmp_path / "owner/news").mkdir(parents=True)
    with pytest.raises(DataError, match="`datasets` would read what lies at owner/news here"):
        read_rows("hf://datasets/owner/news:train", ["text"])


def test_folders_of_save_to_disk(tmp_path):
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk("one", num_shards=3)
    datasets.DatasetDict(train=data, test=data.select([5, 2])).save_to_disk("two")
    assert [row["text"] for row in read_rows("one", ["text"])] == [row["text"] for row in ROWS]
    assert [row["translation.uk"] for row in read_rows("two/test", ["translation.uk"])] == ["пес 5", "пес 2"]
    with pytest.raises(DataError, match=r"two: is a data set of several splits. Name one: two/test, two/train"):
        read_rows("two", ["text"])
    assert data_files(TextData(train_file="two/test")) == ["two/test/data-00000-of-00001.arrow"]
    (tmp_path / "one/data-00001-of-00003.arrow").unlink()
    with pytest.raises(DataError, match=r"one: cannot be read by datasets.load_from_disk"):
        read_rows("one", ["text"])


def test_memory_does_not_grow_with_a_saved_data_set(tmp_path):
    """Rows of 2 kB each, mapped into memory and read a thousand at a time: measured 2.3 MB for 40 MB of text."""
    datasets.Dataset.from_dict({"text": ["a" * 2000] * 20_000}).save_to_disk("large")
    next(iter(iter_rows("large", ["text"])))  # what is imported and kept is not counted
    tracemalloc.start()
    count = sum(1 for _ in iter_rows("large", ["text"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 6e6
