"""metrics.py against sacreBLEU, rouge-score, Grusky et al.'s algorithm and hand-counted examples."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF

from polygraft.scoring import metrics
from polygraft.scoring.metrics import METRICS, Bootstrap, Score, UnicodeTokenizer, resampled_sums
from polygraft.scoring.predictions import Prediction

OUTPUTS = ["a small text editor", "Бібліотека для файлів", "", "ファイル圧縮ライブラリ", "tool (beta) for files."]
REFERENCES = [
    "small editor for text",
    "бібліотека стиснених файлів",
    "empty",
    "圧縮ファイルを読む",
    "tools for files .",
]


def document(prediction="", reference="", source="", loss_nats=0.0, reference_tokens=1) -> Prediction:
    """A document of which only what is given counts."""
    return Prediction(
        id="", lang="", lead="", prediction=prediction, reference=reference, source=source, loss_nats=loss_nats,
        reference_tokens=reference_tokens,
    )  # fmt: skip


def scored(name: str, documents: list[Prediction], resamples: int = 1000) -> Score:
    return METRICS[name].score(METRICS[name].statistics(documents), Bootstrap(resamples))


def texts(outputs: list[str], references: list[str]) -> list[Prediction]:
    return [document(output, reference) for output, reference in zip(outputs, references, strict=True)]


def losses(nats, tokens) -> list[Prediction]:
    return [document(loss_nats=one, reference_tokens=count) for one, count in zip(nats, tokens, strict=True)]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The 2nd File, re-read!", ["the", "2nd", "file", "re", "read"]),
        ("नेपाली भाषा", ["नेपाली", "भाषा"]),
        ("об'єму  ЇЖАК", ["об", "єму", "їжак"]),
        ("日本語のファイル2号", ["日", "本", "語", "の", "フ", "ァ", "イ", "ル", "2", "号"]),
        ("中文text中", ["中", "文", "text", "中"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 파일", ["한국어", "파일"]),
        ("ﬁle Ｗｉｄｅ", ["file", "wide"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("e\u0301te\u0301 \u00e9t\u00e9", ["été", "été"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("\u0301 ... --", []),
        ("", []),
    ],
)
def test_tokens_of_any_script(text: str, tokens: list[str]) -> None:
    assert UnicodeTokenizer().tokenize(text) == tokens


@pytest.mark.parametrize(
    "text", ["नेपाली भाषामा सारांश", "中文摘要很短", "日本語の要約です", "ภาษาไทย", "Коротко кажучи", "short one"]
)
def test_identical_text_of_any_script_scores_100(text: str) -> None:
    for name in ("chrf++", "rouge1", "rougeL"):
        assert scored(name, [document(text, text)]) == Score(100.0, 100.0, 100.0)


def test_different_japanese_texts_are_told_apart() -> None:
    documents = texts(["圧縮ファイルを読む", "音楽再生"], ["圧縮ファイルを読み書きする"] * 2)
    near, far = METRICS["rougeL"].statistics(documents)[:, 0]
    assert near > 70
    assert far == 0


def test_chrf_equals_sacrebleu() -> None:
    for upto in range(1, len(OUTPUTS) + 1):
        expected = CHRF(word_order=2).corpus_score(OUTPUTS[:upto], [REFERENCES[:upto]]).score
        found = scored("chrf++", texts(OUTPUTS[:upto], REFERENCES[:upto]))
        assert found.score == pytest.approx(expected, abs=1e-9)  # measured 0


def test_every_bootstrap_draw_equals_sacrebleu_on_the_drawn_documents() -> None:
    bootstrap = Bootstrap(resamples=20, seed=7)
    statistics_DK = metrics.chrf_statistics(texts(OUTPUTS, REFERENCES))
    scores_R = metrics.chrf_from_sums(resampled_sums(statistics_DK, bootstrap))
    counts_RD = resampled_sums(np.eye(len(OUTPUTS)), bootstrap).astype(int)  # the same draws, as document counts
    for score, counts_D in zip(scores_R, counts_RD, strict=True):
        drawn = np.repeat(np.arange(len(OUTPUTS)), counts_D)
        expected = CHRF(word_order=2).corpus_score([OUTPUTS[d] for d in drawn], [[REFERENCES[d] for d in drawn]])
        assert score == pytest.approx(expected.score, abs=1e-9)


def test_chrf_signature_is_sacrebleus() -> None:
    metric = CHRF(word_order=2)
    metric.corpus_score(OUTPUTS, [REFERENCES])
    ours = METRICS["chrf++"].signature(Bootstrap(resamples=50, seed=3))
    parts = dict(part.split(":") for part in ours.split("|"))
    assert (parts.pop("bs"), parts.pop("seed")) == ("50", "3")
    assert parts == dict(part.split(":") for part in metric.get_signature().format().split("|"))


def test_rouge_on_plain_ascii_equals_rouge_scores_own_tokenizer() -> None:
    pairs = [("the cat sat on a mat", "a cat sat on the mat"), ("files, and 2 tools", "tools and files"), ("x", "y")]
    documents = [document(output, reference) for output, reference in pairs]
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for name in ("rouge1", "rouge2", "rougeL"):
        expected = 100 * np.mean([theirs.score(r, o)[name].fmeasure for o, r in pairs])
        assert scored(name, documents).score == pytest.approx(expected, abs=1e-12)


def grusky_coverage(source: list[str], output: list[str]) -> float:
    """Figure 3 of Grusky et al. 2018, word for word: greedy extractive fragments, then COVERAGE."""
    covered, i = 0, 0
    while i < len(output):
        longest, j = 0, 0
        while j < len(source):
            if output[i] == source[j]:
                length = 0
                while (
                    i + length < len(output) and j + length < len(source) and output[i + length] == source[j + length]
                ):
                    length += 1
                longest = max(longest, length)
                j += length
            else:
                j += 1
        covered += longest
        i += max(longest, 1)
    return covered / max(len(output), 1)


def test_copy_rate_equals_the_published_algorithm() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(12)]
    outputs = [" ".join(rng.choice(words, size=rng.integers(1, 9))) for _ in range(60)]
    sources = [" ".join(rng.choice(words, size=rng.integers(1, 15))) for _ in range(60)]
    expected = [grusky_coverage(s.split(), o.split()) for s, o in zip(sources, outputs, strict=True)]
    documents = [document(output, source=source) for output, source in zip(outputs, sources, strict=True)]
    assert METRICS["copy_rate"].statistics(documents)[:, 0] == pytest.approx(expected, abs=1e-12)
    assert scored("copy_rate", [document("", source="a source")]).score == 0.0


def test_length_ratio_counts_words_of_the_corpus() -> None:
    assert scored("length_ratio", texts(["a b c", ""], ["d e", "f g h i"])).score == pytest.approx(3 / 6)
    assert scored("length_ratio", [document("a", "...")]).score == 0.0


def test_loss_is_weighted_by_tokens_and_resampled_as_a_ratio() -> None:
    assert scored("loss_per_token", losses([2.0, 30.0], [1, 9])).score == pytest.approx(3.2)
    same = losses([1.5, 15.0, 150.0], [1, 10, 100])  # the same ratio everywhere: nothing to be unsure of
    constant = scored("loss_per_token", same)
    assert (constant.low, constant.high) == (pytest.approx(1.5), pytest.approx(1.5))


def test_interval_has_the_width_that_theory_gives() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(3.0, 1.0, size=400)
    score = scored("loss_per_token", losses(values, [1] * 400), resamples=4000)
    half_width = 1.96 * values.std() / 20
    assert score.low == pytest.approx(values.mean() - half_width, abs=0.01)
    assert score.high == pytest.approx(values.mean() + half_width, abs=0.01)


def test_equal_seeds_draw_equal_documents_also_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resampled_sums(np.eye(5), Bootstrap(resamples=64))
    monkeypatch.setattr("polygraft.scoring.metrics._CHUNK_ENTRIES", 35)
    assert np.array_equal(whole, resampled_sums(np.eye(5), Bootstrap(resamples=64)))
    assert not np.array_equal(whole, resampled_sums(np.eye(5), Bootstrap(resamples=64, seed=2)))
    assert (whole.sum(axis=1) == 5).all()


@pytest.mark.parametrize("name", METRICS)
def test_every_score_lies_between_its_bounds_and_says_how_it_was_made(name: str) -> None:
    documents = [
        document(output, reference, reference, loss_nats=float(place), reference_tokens=place)
        for place, (output, reference) in enumerate(zip(OUTPUTS, REFERENCES, strict=True), 1)
    ]
    found = scored(name, documents)
    assert found.low <= found.score <= found.high
    assert "version:" in METRICS[name].signature(Bootstrap())


def test_what_the_lead_has_no_score_of_is_the_loss() -> None:
    assert set(METRICS) - set(metrics.metrics_of("lead")) == {"loss_per_token"}
    assert metrics.metrics_of("model") == METRICS


def test_bootstrap_counts_n_grams_once(monkeypatch) -> None:
    """A thousand resamples are sums of what each document has, so that they cost next to nothing."""
    counted = []
    extract = CHRF._extract_corpus_statistics

    def counting(self, hypotheses, references):
        counted.extend(hypotheses)
        return extract(self, hypotheses, references)

    monkeypatch.setattr(CHRF, "_extract_corpus_statistics", counting)
    scored("chrf++", texts(OUTPUTS, REFERENCES), resamples=1000)
    assert counted == OUTPUTS
