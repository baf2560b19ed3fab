"""Train the nano vocabulary: one Unigram model in the layouts of XLM-R and of mBART-50.

Both real families share one SentencePiece model, and so do the nano two. Ids 0 to N coincide; then XLM-R has
``<mask>``, where mBART-50 has its first language code, fifty-one more codes, and only then ``<mask>``. That collision
is kept on purpose: a prefix copy of an embedding matrix is as wrong here as it is on the real pair. Danish, which the
nano mBART reads and mBART-50 never did, has its code after ``<mask>``, as a user would add a language.

No piece has a Greek letter: Greek is the language in a script that neither model can read.

    python examples/nano/vocabulary.py --data data/debian --out outputs/nano/tokenizers

With `--real` it writes the tokenizer of a target with XLM-R's and mBART-50's own vocabulary instead, of which only the
30,000 pieces that the text of all languages, Finnish and Greek among them, uses most are kept: what is left is split as
before where all of its pieces are. (The entries come from a package; see REAL_TOKENIZER in the Makefile.)
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import io
import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import sentencepiece
from mixture import HELD_OUT, LANGUAGES, read
from sentencepiece import sentencepiece_model_pb2
from transformers import MBart50Tokenizer, XLMRobertaTokenizer
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

from polygraft.models.tokenizers import keep_ids
from polygraft.models.trimming import needed_ids
from polygraft.models.vocabulary import token_counts

PIECES = 8000
PARAGRAPHS = 120_000
SAMPLING_EXPONENT = 0.3  # XLM-R's temperature: small languages get more of the vocabulary than their share of text
MAX_LENGTH_TOKENS = 512
REAL_PIECES, COUNTED_DOCUMENTS = 30_000, 4000  # the latter per language and split


def greek(text: str) -> bool:
    """Whether a text has Greek letters once it is normalized (NFKC turns the micro sign into one)."""
    return any("GREEK" in unicodedata.name(c, "") for c in set(unicodedata.normalize("NFKC", text)) if ord(c) > 0x36F)


def sample_paragraphs(data: Path) -> list[str]:
    """Draw paragraphs of all languages, n_language proportional to its size ** SAMPLING_EXPONENT."""
    texts = {
        language: [
            p for row in read(data, language) for p in (row["summary"], *row["text"].split("\n")) if not greek(p)
        ]
        for language in LANGUAGES["xlmr"]
    }
    weights = {language: len(t) ** SAMPLING_EXPONENT for language, t in texts.items()}
    generator = random.Random(1)
    sample: list[str] = []
    for language, paragraphs in texts.items():
        wanted = int(PARAGRAPHS * weights[language] / sum(weights.values()))
        sample += generator.sample(paragraphs, min(wanted, len(paragraphs)))
    return sample


def train(paragraphs: list[str]) -> tuple[list[tuple[str, float]], bytes]:
    """Return the pieces with their log-probabilities, fairseq order (<s> <pad> </s> <unk> first), and the NFKC map."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(paragraphs), model_writer=model, model_type="unigram", vocab_size=PIECES - 1,
        character_coverage=0.9985, normalization_rule_name="nmt_nfkc", num_threads=1, minloglevel=2,
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    return pieces, proto.normalizer_spec.precompiled_charsmap


def mbart50(pieces: list[tuple[str, float]], charsmap: bytes) -> MBart50Tokenizer:
    """A tokenizer in mBART-50's layout, with Danish after <mask>."""
    tokenizer = MBart50Tokenizer(
        vocab=[*pieces, *((code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES), ("<mask>", 0.0)],
        src_lang="en_XX", tgt_lang="en_XX", _spm_precompiled_charsmap=charsmap, model_max_length=MAX_LENGTH_TOKENS,
    )  # fmt: skip
    tokenizer.add_tokens(["da_DK"], special_tokens=True)
    return tokenizer


def real_tokenizer(data: Path) -> MBart50Tokenizer:
    """mBART-50's tokenizer with the pieces whose share of the tokens, in the mean over languages, is highest."""
    package = importlib.util.find_spec("semantra_multilingual")
    assert package is not None and package.origin, "install REAL_TOKENIZER of the Makefile"
    path = Path(package.origin).parent / "assets/multilingual-e5-small/tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    charsmap = base64.b64decode(content["normalizer"]["normalizers"][0]["precompiled_charsmap"])
    full = mbart50([(piece, score) for piece, score in content["model"]["vocab"][:-1]], charsmap)
    shares = np.zeros(len(full))
    for language in (*LANGUAGES["xlmr"], *HELD_OUT):
        texts = [r["text"] for s in ("pretrain", "adapt") for r in read(data, language, s)[:COUNTED_DOCUMENTS]]
        counts = token_counts(full, texts)
        shares += counts / counts.sum()
        print(f"{language}: {counts.sum():,} tokens, {np.count_nonzero(counts):,} pieces", flush=True)
    always = needed_ids(full, [])  # codes and specials, and the pieces of one character: too many of these
    single = np.char.str_len(np.array(full.convert_ids_to_tokens(always))) == 1
    always = always[~single | (shares[always] > 0)]
    return keep_ids(full, np.union1d(np.argsort(-shares)[:REAL_PIECES], always))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--out", type=Path, default=Path("outputs/nano/tokenizers"))
    parser.add_argument("--real", action="store_true", help="the most used pieces of the real vocabulary")
    args = parser.parse_args()
    if args.real:
        real_tokenizer(args.data).save_pretrained(args.out / "real")
        return
    pieces, charsmap = train(sample_paragraphs(args.data))
    assert not any(greek(piece) for piece, _ in pieces)
    source = XLMRobertaTokenizer(
        vocab=[*pieces, ("<mask>", 0.0)], _spm_precompiled_charsmap=charsmap, model_max_length=MAX_LENGTH_TOKENS
    )
    source.save_pretrained(args.out / "xlmr")
    mbart50(pieces, charsmap).save_pretrained(args.out / "mbart")


if __name__ == "__main__":
    main()
