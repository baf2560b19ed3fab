"""metrics.py against sacreBLEU, rouge-score, Grusky et al.'s algorithm and hand-counted examples."""

from __future__ import annotations

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from polygraft.scoring import metrics
from polygraft.scoring.bootstrap import Bootstrap, Score, resampled_sums
from polygraft.scoring.metrics import METRICS
from polygraft.scoring.predictions import Prediction
from polygraft.scoring.tokens import UnicodeTokenizer

OUTPUTS = ["a small text editor", "Бібліотека для файлів", "", "ファイル圧縮ライブラリ", "tool (beta) for files."]
REFERENCES = [
    "small editor for text",
    "бібліотека стиснених файлів",
    "empty",
    "圧縮ファイルを読む",
    "tools for files .",
]


def document(prediction="", reference="", source="", loss_nats=0.0, reference_tokens=1, lang="xx") -> Prediction:
    """A document of which only what is given counts."""
    return Prediction(
        id="", lang=lang, lead="", prediction=prediction, reference=reference, source=source, loss_nats=loss_nats,
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


LONGER = [f"{text} to read, write and convert the files of other programs" for text in OUTPUTS]
LONGER_REFERENCES = [f"{text} to write and convert files of other programs" for text in REFERENCES]


@pytest.mark.parametrize(("lang", "tokenize"), [("uk_UA", "13a"), ("", "13a"), ("zh_CN", "zh"), ("ja_XX", "char")])
def test_bleu_equals_sacrebleu(lang: str, tokenize: str) -> None:
    """Also where no n-gram matches, or there is none at all."""
    theirs = BLEU(tokenize=tokenize)
    for outputs, references in [
        (OUTPUTS, REFERENCES),
        (LONGER, LONGER_REFERENCES),
        (["a"], ["a"]),
        (["b c d e"], ["x"]),
    ]:
        for upto in range(1, len(outputs) + 1):
            expected = theirs.corpus_score(outputs[:upto], [references[:upto]]).score
            pairs = zip(outputs[:upto], references[:upto], strict=True)
            found = scored("bleu", [document(*pair, lang=lang) for pair in pairs])
            assert found.score == pytest.approx(expected, abs=1e-9)  # measured 4e-14
    parts = METRICS["bleu"].signature(Bootstrap(), {lang}).replace("|bs:1000|seed:12345", "")
    assert parts == theirs.get_signature().format()


def test_bleu_of_several_languages_counts_by_the_tokenizer_of_each() -> None:
    documents = [
        document(text, text, lang=lang)
        for text, lang in [("ab c d ef", "uk"), ("圧縮ファイル", "ja"), ("压缩文件", "zh")]
    ]
    statistics_DK = METRICS["bleu"].statistics(documents)
    assert statistics_DK[:, 0].tolist() == [4, 6, 4]  # words, and characters
    assert "tok:13a,char,zh|" in METRICS["bleu"].signature(Bootstrap(), ("uk", "ja", "zh"))
    assert metrics.bleu("char").statistics(documents)[0, 0] == 6


@pytest.mark.parametrize(("name", "theirs"), [("chrf++", CHRF(word_order=2)), ("bleu", BLEU())])
def test_every_bootstrap_draw_equals_sacrebleu_on_the_drawn_documents(name, theirs) -> None:
    bootstrap = Bootstrap(resamples=20, seed=7)
    statistics_DK = METRICS[name].statistics(texts(OUTPUTS, REFERENCES))
    scores_R = METRICS[name].from_sums(resampled_sums(statistics_DK, bootstrap))
    drawn_RD = resampled_sums(np.eye(len(OUTPUTS)), bootstrap).astype(int)  # the same draws, as document counts
    for score, counts_D in zip(scores_R, drawn_RD, strict=True):
        drawn = np.repeat(np.arange(len(OUTPUTS)), counts_D)
        expected = theirs.corpus_score([OUTPUTS[d] for d in drawn], [[REFERENCES[d] for d in drawn]])
        assert score == pytest.approx(expected.score, abs=1e-9)


def test_chrf_signature_is_sacrebleus() -> None:
    metric = CHRF(word_order=2)
    metric.corpus_score(OUTPUTS, [REFERENCES])
    ours = METRICS["chrf++"].signature(Bootstrap(resamples=50, seed=3), ())
    parts = dict(part.split(":") for part in ours.split("|"))
    assert (parts.pop("bs"), parts.pop("seed")) == ("50", "3")
    assert parts == dict(part.split(":") for part in metric.get_signature().format().split("|"))


ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def test_rouge_on_plain_ascii_equals_rouge_scores_own_tokenizer() -> None:
    pairs = [("the cat sat on a mat", "a cat sat on the mat"), ("files, and 2 tools", "tools and files"), ("x", "y")]
    pairs += [("a dog ran\nthe cat sat", "the cat sat down.\na big dog ran\n\nfar"), ("", "a"), ("a", ""), ("b\n", "b")]
    documents = [document(output, reference) for output, reference in pairs]
    theirs = RougeScorer(list(ROUGE))
    for name in ROUGE:
        expected = [100 * theirs.score(r, o)[name].fmeasure for o, r in pairs]
        assert METRICS[name].statistics(documents)[:, 0].tolist() == expected


def test_rouge_of_any_texts_equals_rouge_scores() -> None:
    rng = np.random.default_rng(3)
    words = ["один", "два", "три", "字", "a", "b", "c\n", "\n"]
    pairs = [[" ".join(rng.choice(words, size=rng.integers(0, size))) for _ in "or"] for size in (4, 20, 90) * 30]

    class Words:
        tokenize = staticmethod(UnicodeTokenizer().tokenize)

    theirs = RougeScorer(list(ROUGE), tokenizer=Words())
    for name in ROUGE:
        expected = [100 * theirs.score(r, o)[name].fmeasure for o, r in pairs]
        assert METRICS[name].statistics([document(*pair) for pair in pairs])[:, 0].tolist() == expected


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


@pytest.mark.parametrize(
    ("output", "percent"),
    [("a b c", 0), ("a b a b", 100 / 3), ("file file file file", 200 / 3), ("file", 0), ("", 0), ("文文文", 50)],
)
def test_repeats_are_pairs_that_were_there_before(output: str, percent: float) -> None:
    assert scored("repeats", [document(output)]).score == pytest.approx(percent)


def test_wrong_language_is_that_of_the_output_asked_for() -> None:
    """Polish asked for: Polish, nothing at all, Ukrainian, English; and languages that no model knows."""
    outputs = ["narzędzie do konwersji obrazów", "", "засіб перетворення зображень", "a tool that converts images"]
    rows = [document(output, lang="pl_PL") for output in outputs]
    assert METRICS["wrong_language"].statistics(rows)[:, 0].tolist() == [0, 0, 100, 100]
    rows += [document("a tool", lang="mnw"), document("a tool", lang="xx"), document("a tool", lang="uk")]
    assert METRICS["wrong_language"].statistics(rows)[4:, 0].tolist() == [100, 0, 100]


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
    monkeypatch.setattr("polygraft.scoring.bootstrap._CHUNK_ENTRIES", 35)
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
    assert "version:" in METRICS[name].signature(Bootstrap(), ("uk_UA",))


def test_what_is_scored_of_whom() -> None:
    assert set(METRICS) - set(metrics.metrics_of("lead")) == {"loss_per_token"}
    assert set(metrics.metrics_of("reference")) == {"copy_rate", "wrong_language", "repeats"}
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
