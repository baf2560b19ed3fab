"""What makes outputs of texts: a checkpoint, run by torch, or what `polygraft export` wrote, run by CTranslate2."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt
from transformers import AutoTokenizer, MBartConfig

from polygraft.data.files import assert_known_format
from polygraft.data.notices import count_unwritable
from polygraft.errors import CheckpointError, RecipeError
from polygraft.inference.generate import (
    OnProgress,
    best_device,
    decode_several,
    encode_sources,
    in_batches,
    longest_source,
)
from polygraft.models.checkpoints import load_seq2seq, load_tokenizer
from polygraft.models.recorded import Languages, choose, recorded_in
from polygraft.models.sound import reading
from polygraft.models.tokenizers import right_tokenizer
from polygraft.settings import Decoding

EXPORT_FILE = "export.json"
AGAIN = "Export it again."
PATIENCE = 4
"""Of CTranslate2: ended beams, times their number, after which a search ends. There is no other word for transformers'
`early_stopping=False`; docs/export.md has how often outputs then are equal."""


class Checkpoint:
    """A checkpoint that transformers reads.

    Attributes:
        tokenizer: its tokenizer.
        languages: the codes that it was trained to read and to write.
    """

    def __init__(self, name: str) -> None:
        self.name, self.tokenizer = name, load_tokenizer(name)
        self.languages = recorded_in(name, self.tokenizer)

    @cached_property
    def network(self) -> Any:
        """The model, loaded when it is first needed."""
        network: Any = load_seq2seq(self.name)
        return network.to(best_device()).eval()

    def longest(self, settings: Decoding) -> int:
        """At how many tokens, special ones included, a text is cut."""
        return longest_source(self.network, self.tokenizer, settings)

    def decode(
        self,
        texts: Sequence[str],
        source_codes: Sequence[str],
        target_codes: Sequence[str],
        settings: Decoding,
        progress: OnProgress | None = None,
    ) -> list[list[str]]:
        """Generate outputs per text, the best first; see `generate.decode_several`."""
        return decode_several(self.network, self.tokenizer, texts, source_codes, target_codes, settings, progress)


class ExportRecord(BaseModel):
    """What is read of an export.json."""

    model_config = ConfigDict(frozen=True)

    vocabulary: PositiveInt
    max_positions: PositiveInt
    languages: Languages
    sha256: dict[str, str]


class Exported:
    """A folder that `polygraft export` wrote; attributes as those of `Checkpoint`."""

    def __init__(self, name: str) -> None:
        """Read what the folder says of itself; the model itself is loaded when it is first needed.

        Raises:
            DataError: a newer polygraft wrote it.
            CheckpointError: a file that is not as this version writes it.
        """
        path = Path(name) / EXPORT_FILE
        with reading(name, "exported model", AGAIN):
            content = json.loads(path.read_text(encoding="utf-8"))
            assert_known_format(path, content)
            self.name, self.record = name, ExportRecord.model_validate(content)
            rows = MBartConfig(vocab_size=self.record.vocabulary)
            self.tokenizer = right_tokenizer(AutoTokenizer.from_pretrained(name), name, rows)
        self.languages = self.record.languages

    @cached_property
    def translator(self) -> Any:
        """CTranslate2's model, on the GPU if there is one that it knows.

        Raises:
            RecipeError: CTranslate2 is not installed.
            CheckpointError: it cannot read the folder.
        """
        ctranslate2 = import_ctranslate2()
        import torch

        with reading(self.name, "exported model", AGAIN):
            changed = sorted(set(hashes(Path(self.name)).items()) ^ set(self.record.sha256.items()))
        if changed:  # CTranslate2 believes its files, and reads beyond its memory where they are wrong
            name, _ = changed[0]
            raise CheckpointError(f"{self.name}: {name} is not as it was written: damaged, changed or gone. {AGAIN}")
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        try:
            return ctranslate2.Translator(self.name, device=device, intra_threads=torch.get_num_threads())
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.name}: CTranslate2 cannot read it ({error}). {AGAIN}") from None

    def longest(self, settings: Decoding) -> int:
        """At how many tokens, special ones included, a text is cut."""
        return min(settings.max_source_length_tokens, self.record.max_positions)

    def decode(
        self,
        texts: Sequence[str],
        source_codes: Sequence[str],
        target_codes: Sequence[str],
        settings: Decoding,
        progress: OnProgress | None = None,
    ) -> list[list[str]]:
        """Generate outputs per text, as `Checkpoint.decode` does."""
        arguments = self.arguments(settings, self.record.max_positions)
        sources = encode_sources(self.tokenizer, texts, source_codes, self.longest(settings))

        def write(rows: list[list[int]], target_code: str) -> list[list[str]]:
            tokens = [self.tokenizer.convert_ids_to_tokens(row) for row in rows]
            with reading(self.name, "exported model", AGAIN):  # parts of it are read when they are first needed
                found = self.translator.translate_batch(tokens, target_prefix=[[target_code]] * len(rows), **arguments)
            ids = [[self.tokenizer.convert_tokens_to_ids(one) for one in result.hypotheses] for result in found]
            return [self.tokenizer.batch_decode(one, skip_special_tokens=True) for one in ids]

        return in_batches(texts, sources, target_codes, settings, write, progress)

    @staticmethod
    def arguments(settings: Decoding, limit: int) -> dict[str, Any]:
        """CTranslate2's names for transformers' settings."""
        given = settings.arguments()
        most = min(given["max_new_tokens"], limit)
        least = given.get("min_new_tokens", 1)
        named = {
            "beam_size": given["num_beams"],
            "num_hypotheses": given.get("num_return_sequences", 1),
            "max_decoding_length": max(1, most - 1),  # of the two that transformers counts, </s> is not counted here
            "min_decoding_length": max(1, least - 1),
            "length_penalty": given.get("length_penalty", 1.0),
            "patience": 1 if given.get("early_stopping") else PATIENCE,
            "repetition_penalty": given.get("repetition_penalty", 1.0),
            "no_repeat_ngram_size": given["no_repeat_ngram_size"],
        }
        if given["do_sample"]:
            named |= {"beam_size": 1, "patience": 1, "sampling_topk": given.get("top_k", 50)}
            named |= {"sampling_topp": given.get("top_p", 1.0), "sampling_temperature": given.get("temperature", 1.0)}
        return named


Engine = Checkpoint | Exported


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in an exported folder that CTranslate2 reads."""
    files = [folder / "config.json", folder / "model.bin", *sorted(folder.glob("*_vocabulary.*"))]
    return {path.name: _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_exported(name: str) -> bool:
    """Whether a name is that of a folder that `polygraft export` wrote."""
    return (Path(name) / EXPORT_FILE).is_file()


def open_engine(name: str) -> Engine:
    """Return the engine of a checkpoint (hub name, folder or bundled name) or of an exported folder."""
    return Exported(name) if is_exported(name) else Checkpoint(name)


def generate_texts(
    model: str, texts: Sequence[str], source_lang: str | None, target_lang: str | None, settings: Decoding
) -> list[list[str]]:
    """Generate outputs for each text, the best first, by a checkpoint or an exported folder.

    Languages may be written `uk`, `uk_UA` or `ukr_Cyrl`; those not given are what the checkpoint records.

    Raises:
        RecipeError: a language that is neither given nor recorded.
        DataError: a language that the model does not have.
        CheckpointError: a model that cannot be loaded.
    """
    engine = open_engine(model)
    source, target = choose(model, engine.tokenizer, source_lang, target_lang, engine.languages)
    count_unwritable(engine.tokenizer, texts, "the input", "text")
    return engine.decode(texts, [source] * len(texts), [target] * len(texts), settings)


def import_ctranslate2() -> Any:
    """Return the library.

    Raises:
        RecipeError: it is not installed.
    """
    try:
        import ctranslate2
    except ImportError:
        raise RecipeError("CTranslate2 is not installed: pip install 'polygraft[export]'") from None
    return ctranslate2
