"""Claim: whatever the file, it is refused in one clear message, or every label in it is right.

Makes SQuAD-shaped files of wild text and spoils them in 22 ways. Each is read and laid out
in windows; what was accepted is compared with a second, slow reading of the same file.

    python benchmarks/fuzz.py --encoder FOLDER
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from report import record
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qa_lightning.data.batches import WindowDataset
from qa_lightning.data.squad import MAX_MISPLACED, MAX_SHIFT, SquadTables, read_squad
from qa_lightning.data.windows import IGNORED, NO_ANSWER_HERE, Windows, WindowSettings, make_windows
from qa_lightning.errors import UserError

# --- wild text ---------------------------------------------------------------------------------

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz     ",
    "aA1 .,'-()\"\\/%$#@!?;:",
    "éàüñçßøåÅİıſﬁǅ ",
    "a\u0301e\u0308o\u0323\u0307n\u0303 \u0489\u20dd",  # combining marks
    "\U0001d15e\U0001d165\U0001d16e\u0f71\u0f72\u0f74\u093c\u0902 ",  # marks that are reordered
    "אבגדהו שלום עולם مرحبا بالعالم \u202e\u202c\u200f",  # right to left
    "\u200b\u200c\u200d\ufeff\u2060\u00ad a",  # no width
    "\0\x01\x07\x08\x0b\x0c\x1b\x7f\x85 a",  # control characters
    "\t\n\r \u00a0\u2003\u2028\u3000",  # white space
    "👍🏽👩‍👩‍👧‍👦🇫🇷🏴\U000e0067☝️ ",  # emoji with modifiers
    "東京都は日本の首都です。 한국어 ",
    "각ᄀ\u1161\u11a8가",  # Hangul, composed and not
    "\ufffd\ufffe\uffff\ue000\U0010ffff\U000f0000 a",  # no characters, private use
    "ẛ̣ﬃ½①㎏ﷺ",  # become others, or several, when normalised
)
WORDS = "the city of Paris was founded in 1234 by people who built a small old bridge".split()


def text(draw: random.Random, longest: int = 80) -> str:
    """Words and characters of several alphabets."""
    if draw.random() < 0.3:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, max(1, longest // 5))))
    pieces = []
    for _ in range(draw.randint(1, 4)):
        alphabet = draw.choice(ALPHABETS)
        pieces.append("".join(draw.choices(alphabet, k=draw.randint(0, max(1, longest // 4)))))
    return draw.choice(["", " "]).join(pieces)


def anything(draw: random.Random, depth: int = 3) -> Any:
    """Any JSON value at all."""
    kind = draw.randrange(8 if depth else 6)
    if kind == 0:
        return draw.choice([None, True, False])
    if kind == 1:
        return draw.choice([0, -1, 1, 2**31, -(2**31) - 1, 2**63, 10**400, draw.randint(-9, 99)])
    if kind == 2:
        return draw.choice([0.5, 1.0, -0.0, 1e308, float("nan"), float("inf")])
    if kind in (3, 4):
        return text(draw)
    if kind == 5:
        return draw.choice(["", " ", "\ud800", "a\udfff", "0", "data", "x" * 5000])
    if kind == 6:
        return [anything(draw, depth - 1) for _ in range(draw.randrange(4))]
    keys = ["data", "paragraphs", "qas", "context", "id", "question", "answers", text(draw)]
    return {key: anything(draw, depth - 1) for key in draw.sample(keys, draw.randrange(4))}


# --- files -------------------------------------------------------------------------------------

Json = dict[str, Any]


def answer(draw: random.Random, context: str) -> Json:
    """Any piece of the context that is not blank, where there is one."""
    for _ in range(20):
        start = draw.randrange(len(context))
        end = draw.randint(start + 1, min(len(context), start + draw.choice([1, 3, 10, 60])))
        if context[start:end].strip():
            break
    return {"text": context[start:end], "answer_start": start}


def good(draw: random.Random) -> Json:
    """A file with nothing wrong but its text."""
    articles = []
    number = 0
    for _ in range(draw.randint(1, 3)):
        paragraphs = []
        for _ in range(draw.randint(1, 3)):
            context = text(draw, draw.choice([10, 80, 600]))
            if not context.strip():
                context += "x"
            qas = []
            for _ in range(draw.randint(1, 4)):
                qa: Json = {"id": f"q{number}", "question": text(draw, draw.choice([40, 400]))}
                number += 1
                if draw.random() < 0.3:
                    qa |= {"answers": [], "is_impossible": True}
                    qa["plausible_answers"] = [answer(draw, context)]
                elif draw.random() < 0.95:
                    qa["answers"] = [answer(draw, context) for _ in range(draw.randint(1, 3))]
                    qa["is_impossible"] = False
                qas.append(qa)
            paragraphs.append({"context": context, "qas": qas})
        articles.append({"title": text(draw, 20), "paragraphs": paragraphs})
    return {"version": "v2.0", "data": articles}


def questions(content: Json) -> list[tuple[Json, Json]]:
    """Every question with its paragraph."""
    return [
        (paragraph, question)
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def holders(value: Any) -> list[Any]:
    """Every list and object in a value that holds something."""
    found = [value] if isinstance(value, list | dict) and value else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return found + [holder for part in inner for holder in holders(part)]


def key_in(draw: random.Random, holder: Any) -> Any:
    return draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))


def as_bytes(draw: random.Random, content: Any) -> bytes:
    """JSON in one of the ways that it is written."""
    ascii_only = draw.random() < 0.5
    written = json.dumps(content, ensure_ascii=ascii_only, indent=draw.choice([None, None, 1]))
    return written.encode("utf-8", "surrogatepass")


def an_answer(draw: random.Random, content: Json) -> Json:
    """One answer of the file, made where there is none."""
    paragraph, question = draw.choice(questions(content))
    if not question.get("answers"):
        question["answers"] = [answer(draw, paragraph["context"])]
        question["is_impossible"] = False
    return draw.choice(question["answers"])


def wild_text(draw: random.Random, content: Json) -> Any:
    return content


def wrong_types(draw: random.Random, content: Json) -> Any:
    for _ in range(draw.randint(1, 3)):
        holder = draw.choice(holders(content))
        holder[key_in(draw, holder)] = anything(draw)
    return content


def missing_keys(draw: random.Random, content: Json) -> Any:
    for _ in range(draw.randint(1, 3)):
        if there := holders(content):
            holder = draw.choice(there)
            del holder[key_in(draw, holder)]
    return content


def more_keys(draw: random.Random, content: Json) -> Any:
    for _ in range(draw.randint(1, 5)):
        holder = draw.choice([h for h in holders(content) if isinstance(h, dict)])
        holder.setdefault(text(draw, 8), anything(draw))
    return content


def random_json(draw: random.Random, content: Json) -> Any:
    value = anything(draw, 5)
    return draw.choice([value, {"data": value}, {"data": [{"paragraphs": value}]}])


def shuffled_shape(draw: random.Random, content: Json) -> Any:
    one, other = draw.choice(holders(content)), draw.choice(holders(content))
    key, place = key_in(draw, one), key_in(draw, other)
    one[key], other[place] = json.loads(json.dumps([other[place], one[key]]))
    return content


def duplicate_ids(draw: random.Random, content: Json) -> Any:
    for _, question in draw.choices(questions(content), k=3):
        question["id"] = draw.choice(["q0", "", text(draw)])
    return content


def offsets(draw: random.Random, content: Json) -> Any:
    chosen = an_answer(draw, content)
    wild = [-1, -(2**31), -(2**70), 2**31, 2**31 - 1, 2**63, 2**64, 10**400]
    small = [chosen["answer_start"] + shift for shift in (-2, -1, 1, 2, 3, 100)]
    odd = [True, 1.0, 0.5, "0", None, [0], float("nan")]
    chosen["answer_start"] = draw.choice(wild + small + odd)
    return content


def other_answers(draw: random.Random, content: Json) -> Any:
    chosen = an_answer(draw, content)
    longer = chosen["text"] * draw.choice([2, 1000])
    chosen["text"] = draw.choice(
        ["", " ", "\u200b", "\0", text(draw), longer, chosen["text"] + " "]
    )
    return content


def few_misplaced(draw: random.Random, content: Json) -> Any:
    context = content["data"][0]["paragraphs"][0]["context"]
    qas = [
        {"id": f"more{n}", "question": text(draw), "answers": [answer(draw, context)]}
        for n in range(150)
    ]
    for question in draw.sample(qas, draw.randint(1, 4)):
        question["answers"].insert(draw.randrange(2), {"text": "nowhere!", "answer_start": 0})
        del question["answers"][draw.choice([1, 2]) :]
    content["data"].append({"paragraphs": [{"context": context, "qas": qas}]})
    return content


def surrogates(draw: random.Random, content: Json) -> Any:
    half = draw.choice(["\ud800", "\udbff", "\udc00", "\udfff", "\udc00\ud800"])
    paragraph, question = draw.choice(questions(content))
    where = draw.randrange(4)
    if where == 0:
        paragraph["context"] += half
    elif where == 1:
        question["question"] = half
    elif where == 2:
        question["id"] += half
    else:
        an_answer(draw, content)["text"] += half
    return content


def many_answers(draw: random.Random, content: Json) -> Any:
    paragraph, question = draw.choice(questions(content))
    question |= {"is_impossible": False, "answers": []}
    for _ in range(draw.randint(1000, 4000)):
        question["answers"].append(answer(draw, paragraph["context"]))
    return content


def huge_text(draw: random.Random, content: Json) -> Any:
    paragraph, question = draw.choice(questions(content))
    unit = draw.choice(
        ["a", "a ", " ", "e\u0301", "\u0301", "👍🏽", "\0", "東", "the city ", "\u200d"]
    )
    huge = unit * (draw.randint(5_000, 30_000) // len(unit))
    if draw.random() < 0.3:
        question["question"] = huge
    else:
        at = draw.randint(0, len(huge))
        paragraph["context"] = f"{huge[:at]} Oslo {huge[at:]}"
        new = {"text": "Oslo", "answer_start": at + 1}
        for other in paragraph["qas"]:
            other |= {"answers": [new], "is_impossible": False, "plausible_answers": []}
    return content


def empty_text(draw: random.Random, content: Json) -> Any:
    empty = draw.choice(["", " ", "\n\t", "\u3000", "\0", "\u200b"])
    paragraph, question = draw.choice(questions(content))
    holder, key = draw.choice([(paragraph, "context"), (question, "question"), (question, "id")])
    holder[key] = empty
    return content


def impossible(draw: random.Random, content: Json) -> Any:
    for _, question in questions(content):
        if draw.random() < 0.2:
            question["is_impossible"] = draw.choice([True, False, None, "true", 1])
    return content


def deep_nesting(draw: random.Random, content: Json) -> bytes:
    depth = draw.choice([50, 900, 1100, 100_000])
    opening, closing = draw.choice([("[", "]"), ('{"data":', "}"), ('{"data":[', "]}")])
    value = opening * depth + "1" + closing * depth
    around = draw.choice(["%s", '{"v": %s, "data": []}', '{"data": [%s]}'])
    return (around % value).encode()


def odd_numbers(draw: random.Random, content: Json) -> bytes:
    number = draw.choice(["1e999", "-0", "1E5", "9" * 5000, "NaN", "-Infinity", "01", "1.", "0x1"])
    an_answer(draw, content)["answer_start"] = "HERE"
    return as_bytes(draw, content).replace(b'"HERE"', number.encode())


def duplicate_keys(draw: random.Random, content: Json) -> bytes:
    written = as_bytes(draw, content)
    key = draw.choice([b'"context":', b'"qas":', b'"answers":', b'"id":', b'"data":', b'"text":'])
    value = as_bytes(draw, anything(draw))
    return written.replace(key, key + b" " + value + b", " + key, 1)


def cut_off(draw: random.Random, content: Json) -> bytes:
    written = as_bytes(draw, content)
    return written[: draw.randrange(len(written))]


def changed_bytes(draw: random.Random, content: Json) -> bytes:
    written = bytearray(as_bytes(draw, content))
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(written))
        new = draw.choice([b"", bytes([draw.randrange(256)]), draw.choice(b'[]{},:"\\').to_bytes()])
        written[at : at + draw.randrange(3)] = new
    return bytes(written)


def encodings(draw: random.Random, content: Json) -> bytes:
    written = json.dumps(content, ensure_ascii=False)
    name = draw.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig", "utf-7"])
    return written.encode(name, "replace")


def gzipped(draw: random.Random, content: Json) -> bytes:
    packed = bytearray(gzip.compress(as_bytes(draw, content), 1, mtime=0))
    way = draw.randrange(4)
    if way == 0:
        del packed[draw.randrange(1, len(packed)) :]
    elif way == 1:
        packed[draw.randrange(2, len(packed))] ^= 1 << draw.randrange(8)
    elif way == 2:
        packed += draw.choice([b"x", bytes(100), bytes(packed)])
    return bytes(packed)


KINDS: dict[str, Callable[[random.Random, Json], Any]] = {
    spoil.__name__.replace("_", " "): spoil
    for spoil in (
        wild_text,
        wrong_types,
        missing_keys,
        more_keys,
        random_json,
        shuffled_shape,
        duplicate_ids,
        offsets,
        other_answers,
        few_misplaced,
        surrogates,
        many_answers,
        huge_text,
        empty_text,
        impossible,
        deep_nesting,
        odd_numbers,
        duplicate_keys,
        cut_off,
        changed_bytes,
        encodings,
        gzipped,
    )
}


def spoilt(number: int) -> tuple[str, bytes]:
    """File `number` of all that there are: how it was spoilt, and its content."""
    draw = random.Random(number)
    kind = list(KINDS)[number % len(KINDS)]
    content = KINDS[kind](draw, good(draw))
    return kind, content if isinstance(content, bytes) else as_bytes(draw, content)


# --- what must hold ----------------------------------------------------------------------------


def examine(number: int, folder: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[str, int]:
    """Read file `number` and lay out its windows; check what comes of it.

    Args:
        number: Which file.
        folder: Where to write it.
        tokenizer: A fast tokenizer.

    Returns:
        Why it was refused ("" if it was accepted), and how many labels of answers were checked.

    Raises:
        AssertionError: a message that does not help, a question that was read wrongly, a label
            that is wrong.
    """
    kind, content = spoilt(number)
    path = folder / "fuzzed.json"
    path.write_bytes(content)
    draw = random.Random(-number)
    try:
        tables = read_squad(path, folder if draw.random() < 0.1 else None)
    except UserError as error:
        message = str(error)
        assert message.startswith(f"{path}: "), message
        assert "\n" not in message and message.isprintable() and len(message) < 1000, message
        if kind in ("offsets", "surrogates") and '"answer_start"' in message:
            assert 'question "q' in message, message
        return message.removeprefix(f"{path}: "), 0
    check_tables(content, tables)
    question = draw.choice([4, 16, 64])
    settings = WindowSettings(
        window=question + draw.choice([10, 60, 300]),
        overlap=draw.choice([0, 5]),
        max_question_tokens=question,
        context_first=draw.random() < 0.3,
        first_window_only=draw.random() < 0.2,
        every_answer=draw.random() < 0.5,
    )
    windows = make_windows(tables, tokenizer, settings)
    return "", check_labels(windows, tokenizer)


def check_tables(content: bytes, tables: SquadTables) -> None:
    """Compare with the plainest way to read the file."""
    plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    expected = []
    lost = with_answers = 0
    for paragraph, question in questions(json.loads(plain.decode("utf-8-sig"))):
        context = paragraph["context"]
        placed = {
            key: [
                {"text": given["text"], "start": start}
                for given in question.get(key, [])
                if (start := standing_at(context, given["text"], given["answer_start"])) is not None
            ]
            for key in ("answers", "plausible_answers")
        }
        with_answers += bool(question.get("answers"))
        lost += len(placed["answers"]) < len(question.get("answers", []))
        if question.get("answers") and not placed["answers"]:
            continue
        row = {"id": question["id"], "text": question["question"], "context": context, **placed}
        row["labelled"] = "answers" in question and (
            bool(question["answers"]) or question.get("is_impossible", True)
        )
        expected.append(row)
    found = tables.questions.to_pylist()
    contexts = tables.contexts["text"].to_pylist()
    assert [{**row, "context": contexts[row["context"]]} for row in found] == expected
    assert tables.report.misplaced_questions == lost <= MAX_MISPLACED * with_answers


def standing_at(context: str, wanted: str, start: int) -> int | None:
    """Where an answer stands: at its start, or a little before."""
    for place in range(start, start - MAX_SHIFT - 1, -1):
        if place >= 0 and context[place : place + len(wanted)] == wanted:
            return place
    return None


def check_labels(windows: Windows, tokenizer: PreTrainedTokenizerFast) -> int:
    """Check that the labelled tokens are exactly those that share a character with the answer.

    And that the text from the first one's first character to the last one's last holds the answer,
    but for characters at its ends that no token has.
    """
    contexts = windows.contexts["text"].to_pylist()
    answers = windows.questions["answers"].to_pylist()
    labelled = windows.questions["labelled"].to_pylist()
    encoded: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    in_batch = np.flatnonzero(windows.label_start > 0)[:64]
    if len(in_batch):
        batch = WindowDataset(windows, with_offsets=True)[in_batch]
    at = {row: position for position, row in enumerate(in_batch.tolist())}
    checked = 0
    nth = -1
    for row in range(len(windows)):
        question, context = int(windows.question[row]), int(windows.context[row])
        if context not in encoded:
            encoding = tokenizer.backend_tokenizer.encode(
                contexts[context], add_special_tokens=False
            )
            pairs = np.array(encoding.offsets, np.int64).reshape(-1, 2)
            encoded[context] = np.array(encoding.ids), pairs
        ids, chars = encoded[context]
        first, size = int(windows.context_start[row]), int(windows.context_length[row])
        nth = 0 if windows.index[row] == 0 else nth + (first == 0)  # which answer of the question
        label = int(windows.label_start[row]), int(windows.label_end[row])
        missing = NO_ANSWER_HERE if labelled[question] else IGNORED
        if answers[question]:
            text, start = answers[question][nth]["text"], answers[question][nth]["start"]
            end = start + len(text)
            assert contexts[context][start:end] == text
            shares = np.flatnonzero((chars[:, 0] < end) & (chars[:, 1] > start))
            if len(shares) and first <= shares[0] and shares[-1] < first + size:
                lead = 1 if windows.settings.context_first else None
                if lead is None:
                    lead = 2 + int(windows.question_ids.lengths[question])
                expected = shares[0] - first + lead, shares[-1] - first + lead
                assert label == expected, (label, expected)
                assert (np.diff(shares) == 1).all(), "the answer's tokens do not stand together"
                low, high = chars[shares, 0].min(), chars[shares, 1].max()
                covered = [
                    c for c in range(start, end) if ((chars[:, 0] <= c) & (chars[:, 1] > c)).any()
                ]
                assert low <= covered[0] and covered[-1] < high
                if row in at:
                    tokens = slice(label[0], label[1] + 1)
                    assert (batch.input_ids[at[row], tokens].numpy() == ids[shares]).all()
                    spans = batch.offsets[at[row], tokens].numpy()
                    held = contexts[context][spans[0, 0] : spans[-1, 1]]
                    assert contexts[context][covered[0] : covered[-1] + 1] in held
                checked += 1
                continue
            if len(shares) == 0 or windows.settings.first_window_only:
                missing = IGNORED
        assert label == (missing, missing), (label, missing)
    return checked


# --- the run -----------------------------------------------------------------------------------


def reason(message: str) -> str:
    """A refusal's message without what is particular to the file, to count reasons."""
    message = re.sub(r'"(\\.|[^"\\])*"', '"…"', message)
    return re.sub(r"\d+", "N", message)[:60]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="folder with the tokenizer")
    parser.add_argument("--files", type=int, default=11_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--reasons", action="store_true", help="print why files were refused")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    tokenizer = AutoTokenizer.from_pretrained(given.encoder)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    reasons: Counter[str] = Counter()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.first, given.first + given.files):
            kind = list(KINDS)[number % len(KINDS)]
            try:
                refused, checked = examine(number, Path(folder), tokenizer)
            except Exception as error:
                counts[kind]["failed"] += 1
                print(f"file {number} ({kind}): {type(error).__name__}: {str(error)[:300]}")
                continue
            counts[kind]["refused" if refused else "accepted"] += 1
            counts[kind]["labels"] += checked
            reasons[reason(refused)] += bool(refused)
            for left in Path(folder).glob("*.arrow"):
                left.unlink()
    if given.reasons:
        for why, count in reasons.most_common():
            print(f"{count:6,}  {why}")
    counts["all"] = sum(counts.values(), Counter())
    rows = [
        {
            "how the file was spoilt": kind,
            "files": f"{count['accepted'] + count['refused'] + count['failed']:,}",
            "refused": f"{count['refused']:,}",
            "accepted": f"{count['accepted']:,}",
            "labels checked": f"{count['labels']:,}",
            "crashed or wrong": f"{count['failed']:,}",
        }
        for kind, count in counts.items()
    ]
    note = (
        "A refusal is one line that names the file, and the question where there is one. A label "
        "is right if the labelled tokens are exactly those that share a character with the answer; "
        f"what was read equals a plain second reading. {time.perf_counter() - began:.0f} s."
    )
    record("Hostile files", rows, note, to_file=given.record)
    return int(counts["all"]["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
