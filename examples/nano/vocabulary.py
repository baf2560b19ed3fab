"""Train the nano vocabulary: one Unigram model in the layouts of XLM-R and of mBART-50.

Both real families share one SentencePiece model, and so do the nano two. Ids 0 to N coincide; then XLM-R has
``<mask>``, where mBART-50 has its first language code, fifty-one more codes, and only then ``<mask>``. That collision
is kept on purpose: a prefix copy of an embedding matrix is as wrong here as it is on the real pair. Danish, which the
nano mBART reads and mBART-50 never did, has its code after ``<mask>``, as a user would add a language.

No piece has a Greek letter: Greek is the language in a script that neither model can read.

    python examples/nano/vocabulary.py --data data/debian --out outputs/nano/tokenizers
"""

from __future__ import annotations

import argparse
import io
import random
import unicodedata
from pathlib import Path

import sentencepiece
from mixture import LANGUAGES, read
from sentencepiece import sentencepiece_model_pb2
from transformers import MBart50Tokenizer, XLMRobertaTokenizer
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

PIECES = 8000
PARAGRAPHS = 120_000
SAMPLING_EXPONENT = 0.3  # XLM-R's temperature: small languages get more of the vocabulary than their share of text
MAX_LENGTH_TOKENS = 512


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--out", type=Path, default=Path("outputs/nano/tokenizers"))
    args = parser.parse_args()
    pieces, charsmap = train(sample_paragraphs(args.data))
    assert not any(greek(piece) for piece, _ in pieces)
    shared = {"_spm_precompiled_charsmap": charsmap, "model_max_length": MAX_LENGTH_TOKENS}
    XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)], **shared).save_pretrained(args.out / "xlmr")
    codes = [(code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES]
    mbart = MBart50Tokenizer(vocab=[*pieces, *codes, ("<mask>", 0.0)], src_lang="en_XX", tgt_lang="en_XX", **shared)
    mbart.add_tokens(["da_DK"], special_tokens=True)
    mbart.save_pretrained(args.out / "mbart")


if __name__ == "__main__":
    main()
