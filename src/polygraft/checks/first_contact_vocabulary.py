"""First contact: rows, codes, segmentation and dead rows of a pair, against what is known of the published ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

from polygraft.checks.first_contact import Findings
from polygraft.data.languages import language_codes
from polygraft.data.layout import is_cc25
from polygraft.models import checkpoints
from polygraft.models.vocabulary import VocabularyMap, map_vocabularies, script_of
from polygraft.transfers.rows.sorting import row_health

# A sentence in each of several scripts, and its number of tokens in the vocabulary that XLM-R and the mBARTs share,
# counted with the `tokenizers` library on XLM-R's published tokenizer.json.
SENTENCES = [
    ("Latin", "This package reads and writes compressed files.", 12),
    ("Latin", "Ce paquet lit et écrit des fichiers compressés.", 13),
    ("Cyrillic", "Цей пакунок читає та записує стиснені файли.", 15),
    ("Arabic", "هذه الحزمة تقرأ الملفات المضغوطة.", 11),
    ("Devanagari", "यह पैकेज संपीड़ित फ़ाइलें पढ़ता है।", 15),
    ("Japanese", "このパッケージは圧縮ファイルを読み書きします。", 11),
    ("Hangul", "이 패키지는 압축 파일을 읽고 씁니다.", 14),
    ("Han", "这个软件包读取压缩文件。", 9),
    ("Greek", "Το πακέτο αυτό διαβάζει συμπιεσμένα αρχεία.", 14),
    ("Hebrew", "החבילה הזו קוראת קבצים דחוסים.", 12),
    ("Thai", "แพ็กเกจนี้อ่านไฟล์ที่บีบอัด", 12),
    ("Georgian", "ეს პაკეტი კითხულობს შეკუმშულ ფაილებს.", 14),
    ("Ethiopic", "ይህ ጥቅል የታመቁ ፋይሎችን ያነባል።", 14),
]
LAST_PIECE, LAST_ID = "稣", 250_000  # of the published vocabulary
KNOWN_SCRIPTS = ("LATIN", "CYRILLIC", "ARABIC", "CJK", "HANGUL", "DEVANAGARI")  # of languages in both mBARTs
MUCH = 0.5  # of a script's rows


def look_at_vocabularies(findings: Findings, source: str | None, target: str) -> None:
    """Compare the two vocabularies, row by row and sentence by sentence, and look for rows that never learned."""
    model: Any = checkpoints.load_seq2seq(target)
    tokenizer = checkpoints.load_tokenizer(target)
    matrix = model.get_input_embeddings().weight.detach()
    look_at_codes(findings, tokenizer)
    if source:
        other: Any = checkpoints.load_masked_lm(source)
        other_tokenizer, other_matrix = checkpoints.load_tokenizer(source), other.get_input_embeddings().weight.detach()
        vocabulary = map_vocabularies(tokenizer, len(matrix), other_tokenizer, len(other_matrix))
        look_at_rows(findings, vocabulary, tokenizer, other_tokenizer)
        look_for_copies(findings, vocabulary, tokenizer, matrix, other_tokenizer, other_matrix)
        look_at_segmentation(findings, tokenizer, other_tokenizer)
        del other
    look_at_dead_rows(findings, "target", model, tokenizer)


def look_at_codes(findings: Findings, tokenizer: Any) -> None:
    """Codes follow the pieces in the published order, and <mask> follows the codes; what a user added comes behind."""
    own = FAIRSEQ_LANGUAGE_CODES[: 25 if is_cc25(tokenizer) else 52]
    codes = language_codes(tokenizer)
    ids = tokenizer.convert_tokens_to_ids([*own, "<mask>"])
    ordered = codes[: len(own)] == own and ids == list(range(ids[0], ids[0] + len(ids)))
    words = f"{len(codes)}, from {codes[0]} {ids[0]:,}; <mask> {ids[-1]:,}" if codes else "none"
    published = tokenizer.convert_tokens_to_ids(LAST_PIECE) == LAST_ID
    right = ordered and (not published or ids[0] == LAST_ID + 1)
    findings.add("target: codes", words, surprising=len(codes) != len(own), failed=not right)


def look_at_rows(findings: Findings, vocabulary: VocabularyMap, tokenizer: Any, other: Any) -> None:
    """All pieces have the same id in both; only <mask> has moved, and only language codes are the target's alone."""
    sizes = vocabulary.sizes() | {"only_in_source": len(set(vocabulary.only_in_source.tolist()) - {other.pad_token_id})}
    moved = tokenizer.convert_ids_to_tokens(vocabulary.moved[:3].tolist())
    words = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in sizes.items() if count)
    words += f"; moved: {', '.join(moved) or 'none'}{' …' if sizes['moved'] > len(moved) else ''}"
    odd = any(sizes[name] for name in ("only_in_target", "only_in_source", "unused"))
    findings.add("rows", words, surprising=odd or moved != ["<mask>"] or sizes["pad"] != 1)


def look_for_copies(
    findings: Findings, vocabulary: VocabularyMap, tokenizer: Any, matrix: Any, other_tokenizer: Any, other: Any
) -> None:
    """Rows of the target that are the source's, bit by bit, were copied; the source's <mask> on a code, by id."""
    codes = torch.from_numpy(vocabulary.language_code)
    mask = matrix[tokenizer.mask_token_id]
    words, wrong = [], False
    if other.shape[1] == matrix.shape[1]:
        same = torch.from_numpy(vocabulary.same)
        copied = int((matrix[same] == other[same]).all(dim=1).sum())
        masked = [row for row in codes.tolist() if torch.equal(matrix[row], other[other_tokenizer.mask_token_id])]
        words.append(f"{copied:,} of {len(same):,} rows are the source's own")
        wrong = copied > 0 or bool(masked)
        if masked:
            words.append(f"the source's <mask> lies on {tokenizer.convert_ids_to_tokens(masked[0])}")
    alike = [row for row in codes.tolist() if torch.equal(matrix[row], mask)]
    if alike:
        words.append(f"{tokenizer.convert_ids_to_tokens(alike[0])} is <mask> again")
    zero = int((matrix == 0).all(dim=1).sum())
    words.append(f"{zero} rows of zeros")
    findings.add("copied rows", ", ".join(words), surprising=wrong or bool(alike) or zero > 1)


def look_at_segmentation(findings: Findings, tokenizer: Any, other: Any) -> None:
    """Both tokenizers split a sentence in each script alike, without <unk>, into as many tokens as published."""
    published = tokenizer.convert_tokens_to_ids(LAST_PIECE) == LAST_ID
    unlike, unknown, lengths, odd = [], [], [], []
    for script, text, expected in SENTENCES:
        tokens, others = tokenizer.tokenize(text), other.tokenize(text)
        unlike += [script] if tokens != others else []
        unknown += [script] if tokenizer.unk_token_id in tokenizer.convert_tokens_to_ids(tokens) else []
        odd += [script] if published and len(tokens) != expected else []
        lengths.append(f"{script} {len(tokens)}")
    for what, scripts in (("split unlike", unlike), ("with <unk>", unknown), ("of another length than published", odd)):
        if scripts:
            lengths.append(f"{what}: {', '.join(dict.fromkeys(scripts))}")
    findings.add("segmentation", "; ".join(lengths), surprising=bool(unlike or odd or (published and unknown)))


def look_at_dead_rows(findings: Findings, side: str, model: Any, tokenizer: Any) -> None:
    """Which rows never learned, by script: some of languages that mBART has not read, few of those that it has."""
    health = row_health(model, tokenizer, [text for _, text, _ in SENTENCES])
    all_rows = _rows_by_script(tokenizer)
    dead: dict[str, int] = health["dead_rows"]
    shares = [f"{script.capitalize()} {count:,} of {all_rows[script]:,}" for script, count in list(dead.items())[:12]]
    many = [script for script in KNOWN_SCRIPTS if dead.get(script, 0) > MUCH * max(1, all_rows.get(script, 0))]
    total, whole = sum(dead.values()), sum(all_rows.values())
    words = f"{total:,} of {whole:,}: {', '.join(shares)}" if dead else "none found"
    words += f"; more than half of a script that mBART reads: {', '.join(many)}" if many else ""
    findings.add(f"{side}: dead rows", words, surprising=bool(many) or not dead or total > MUCH * whole)


def _rows_by_script(tokenizer: Any) -> dict[str, int]:
    special = set(tokenizer.all_special_tokens) | set(language_codes(tokenizer))
    return dict(Counter(script_of(token) for token in tokenizer.get_vocab() if token not in special))
