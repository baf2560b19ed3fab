"""Files and folders appear whole or not at all; a folder has one writer."""

import subprocess
import sys

import pytest

from polygraft.data.files import appearing, only_one, remove, write_atomically
from polygraft.errors import PolygraftError


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_new_folder_appears_whole(tmp_path):
    (tmp_path / ".new.new").mkdir()
    (tmp_path / ".new.new" / "of a killed run").write_text("x")
    with appearing(tmp_path / "new") as hidden:
        (hidden / "a").write_text("1")
        assert names(tmp_path) == [".new.new", ".new.new/a"]
    assert names(tmp_path) == ["new", "new/a"]


def test_files_replace_those_of_their_names(tmp_path):
    (tmp_path / "adapter").mkdir()
    for name in ("a", "b", "adapter/old"):
        (tmp_path / name).write_text("old")
    with appearing(tmp_path) as hidden:
        (hidden / "adapter").mkdir()
        for name in ("a", "adapter/new"):
            (hidden / name).write_text("new")
    assert names(tmp_path) == ["a", "adapter", "adapter/new", "b"]
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["new", "old"]


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_appears_of_what_failed(tmp_path, exists):
    folder = tmp_path / "folder"
    if exists:
        folder.mkdir()
        (folder / "a").write_text("old")
    before = names(tmp_path)

    def write():
        with appearing(folder) as hidden:
            (hidden / "a").write_text("new")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write()
    assert names(tmp_path) == before


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    (tmp_path / ".a.json.tmp").write_text("half")
    write_atomically(tmp_path / "a.json", "whole")
    assert names(tmp_path) == ["a.json"]


def test_remove(tmp_path):
    remove(tmp_path / "none")
    (tmp_path / "some" / "deep").mkdir(parents=True)
    remove(tmp_path / "some")
    assert names(tmp_path) == []


HOLDER = """
import sys, time
from pathlib import Path
from polygraft.data.files import only_one
with only_one(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_run_at_a_time(tmp_path):
    folder = tmp_path / "folder"
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(PolygraftError, match="another run of polygraft is working in it"), only_one(folder):
        pass
    other.kill()
    other.wait()
    with only_one(folder), only_one(folder):  # the same process may hold it twice
        assert not folder.exists()
    assert names(tmp_path) == [], "and nothing is left of the lock"
