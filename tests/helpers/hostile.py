"""Hypothesis strategies for SQuAD files: made of wild text, and spoilt in many ways."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import strategies as st

Json = dict[str, Any]

WORDS = "the city of Paris was founded in 1234 by people who built a small old bridge".split()
ODD = (
    "aA1 .,'-()\"\\/%$#@!?;:éàüñçßøåÅİıſﬁǅ"
    "a\u0301e\u0308o\u0323\u0307n\u0303\u0489\u20dd"  # combining marks
    "\U0001d15e\U0001d165\U0001d16e\u0f71\u0f72\u0f74\u093c\u0902"  # marks that are reordered
    "אבגשלום مرحبا\u202e\u202c\u200f"  # right to left
    "\u200b\u200c\u200d\ufeff\u2060\u00ad"  # no width
    "\0\x01\x07\x08\x0b\x0c\x1b\x7f\x85\t\n\r \u00a0\u2003\u2028\u3000"  # controls, white space
    "👍🏽👩‍👩‍👧‍👦🇫🇷🏴\U000e0067☝️東京都は日本の首都です각ᄀ\u1161\u11a8가"
    "\ufffd\ufffe\uffff\ue000\U0010ffff\U000f0000ẛ̣ﬃ½①㎏ﷺ"  # no characters; others when normalised
)
LETTERS = st.sampled_from(ODD) | st.characters(exclude_categories=["Cs"])
PIECES = st.sampled_from(WORDS) | st.text(LETTERS, max_size=8)
TEXTS = st.builds(str.join, st.sampled_from(["", " "]), st.lists(PIECES, max_size=12))
EMPTY = st.sampled_from(["", " ", "\n\t", "\u3000", "\0", "\u200b"])
KEYS = st.sampled_from(["data", "paragraphs", "qas", "context", "id", "question", "answers"])
NUMBERS = st.sampled_from([-1, 2**31, -(2**31) - 1, 2**63, 2**64, 10**400]) | st.integers(-9, 99)
HALVES = st.sampled_from(["\ud800", "\udbff", "\udc00", "\udfff", "\udc00\ud800"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | TEXTS | EMPTY | HALVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXTS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def answers(draw: st.DrawFn, context: str) -> Json:
    """Any piece of the context that is not blank."""
    start = draw(st.integers(0, len(context) - 1))
    end = draw(st.integers(start + 1, min(len(context), start + 60)))
    if not context[start:end].strip():
        start = len(context) - len(context.lstrip())
        end = start + 1
    return {"text": context[start:end], "answer_start": start}


@st.composite
def good_files(draw: st.DrawFn) -> Json:
    """A file with nothing wrong but its text; its first question has an answer."""
    number = itertools.count()
    kinds = st.sampled_from(["answerable", "answerable", "unanswerable", "unlabelled"])

    def question(context: str) -> Json:
        asked: Json = {"id": f"q{next(number)}", "question": draw(TEXTS) + "?"}
        kind = "answerable" if asked["id"] == "q0" else draw(kinds)
        if kind == "answerable":
            asked["answers"] = draw(st.lists(answers(context), min_size=1, max_size=3))
            asked["is_impossible"] = False
        elif kind == "unanswerable":
            asked |= {"answers": [], "is_impossible": True}
            asked["plausible_answers"] = [draw(answers(context))]
        return asked

    def paragraph() -> Json:
        context = draw(TEXTS) * draw(st.sampled_from([1, 1, 8]))
        context = context if context.strip() else f"{context}x"
        return {"context": context, "qas": [question(context) for _ in range(draw(COUNTS))]}

    articles = [
        {"title": draw(TEXTS), "paragraphs": [paragraph() for _ in range(draw(COUNTS))]}
        for _ in range(draw(COUNTS))
    ]
    return {"version": "v2.0", "data": articles}


COUNTS = st.integers(1, 3)


@st.composite
def files(draw: st.DrawFn, kind: str) -> bytes:
    """A file spoilt in one of the `KINDS`, written in one of the ways that JSON is written."""
    content = KINDS[kind](draw, draw(good_files()))
    return content if isinstance(content, bytes) else as_bytes(draw, content)


def as_bytes(draw: st.DrawFn, content: Any) -> bytes:
    written = json.dumps(
        content, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))
    )
    return written.encode("utf-8", "surrogatepass")


# --- the kinds ---------------------------------------------------------------------------------


def questions(content: Json) -> list[tuple[Json, Json]]:
    """Every question with its paragraph."""
    return [
        (paragraph, question)
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every list or object in a value, with each of its indices or keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        found += places(value[key]) if isinstance(value[key], list | dict) else []
    return found


def key_of(draw: st.DrawFn, content: Json, *names: str) -> tuple[Json, str]:
    """An object of the file that has one of these keys, and the key."""
    return draw(st.sampled_from([place for place in places(content) if place[1] in names]))


def replaced(
    draw: st.DrawFn, content: Json, name: str, values: Callable[[Any], st.SearchStrategy[Any]]
) -> Any:
    holder, key = key_of(draw, content, name)
    holder[key] = draw(values(holder[key]))
    return content


def wild_text(draw: st.DrawFn, content: Json) -> Any:
    return content


def wrong_values(draw: st.DrawFn, content: Json) -> Any:
    for _ in range(draw(COUNTS)):
        holder, key = draw(st.sampled_from(places(content)))
        holder[key] = draw(ANYTHING)
    return content


def missing_keys(draw: st.DrawFn, content: Json) -> Any:
    for _ in range(draw(COUNTS)):
        if content:
            holder, key = draw(st.sampled_from(places(content)))
            del holder[key]
    return content


def more_keys(draw: st.DrawFn, content: Json) -> Any:
    for holder in (content, content["data"][0], *questions(content)[0]):
        holder.setdefault(draw(KEYS | TEXTS), draw(ANYTHING))
    return content


def random_json(draw: st.DrawFn, content: Json) -> Any:
    value = draw(ANYTHING)
    return draw(st.sampled_from([value, {"data": value}, {"data": [{"paragraphs": value}]}]))


def few_misplaced(draw: st.DrawFn, content: Json) -> Any:
    context = content["data"][0]["paragraphs"][0]["context"]
    found, lost = draw(answers(context)), {"text": "nowhere!", "answer_start": 0}
    qas = [{"id": f"more{n}", "question": "?", "answers": [found]} for n in range(150)]
    for number in draw(st.sets(st.integers(0, 149), min_size=1, max_size=4)):
        qas[number]["answers"] = draw(st.sampled_from([[lost], [lost, found], [found, lost]]))
    content["data"].append({"paragraphs": [{"context": context, "qas": qas}]})
    return content


def surrogates(draw: st.DrawFn, content: Json) -> Any:
    holder, key = key_of(draw, content, "context", "question", "id", "text")
    holder[key] += draw(HALVES)
    return content


def many_answers(draw: st.DrawFn, content: Json) -> Any:
    paragraph, question = draw(st.sampled_from(questions(content)))
    several = draw(st.lists(answers(paragraph["context"]), min_size=1, max_size=5))
    question |= {"is_impossible": False, "answers": several * 400}
    return content


def huge_text(draw: st.DrawFn, content: Json) -> Any:
    paragraph, question = draw(st.sampled_from(questions(content)))
    unit = draw(
        st.sampled_from(["a", "a ", " ", "e\u0301", "\u0301", "👍🏽", "\0", "東", "\u200d"])
    )
    huge = unit * draw(st.integers(1000, 10_000))
    if draw(st.booleans()):
        question["question"] = huge
    else:
        paragraph["context"] = f"{huge} Oslo {huge}"
        new = {"text": "Oslo", "answer_start": len(huge) + 1}
        for other in paragraph["qas"]:
            other |= {"answers": [new], "is_impossible": False, "plausible_answers": []}
    return content


def deep_nesting(draw: st.DrawFn, content: Json) -> bytes:
    depth = draw(st.sampled_from([50, 900, 1100, 100_000]))
    opening, closing = draw(st.sampled_from([("[", "]"), ('{"data":', "}"), ('{"data":[', "]}")]))
    around = draw(st.sampled_from(["%s", '{"v": %s, "data": []}', '{"data": [%s]}']))
    return (around % (opening * depth + "1" + closing * depth)).encode()


def odd_numbers(draw: st.DrawFn, content: Json) -> bytes:
    holder, key = key_of(draw, content, "answer_start")
    holder[key] = "HERE"
    odd = [b"1e999", b"-0", b"1E5", b"9" * 5000, b"NaN", b"-Infinity", b"01", b"1.", b"0x1"]
    return as_bytes(draw, content).replace(b'"HERE"', draw(st.sampled_from(odd)))


def duplicate_keys(draw: st.DrawFn, content: Json) -> bytes:
    key = f'"{draw(KEYS)}":'.encode()
    twice = key + as_bytes(draw, draw(ANYTHING)) + b", " + key
    return as_bytes(draw, content).replace(key, twice, 1)


def cut_off(draw: st.DrawFn, content: Json) -> bytes:
    written = as_bytes(draw, content)
    return written[: draw(st.integers(0, len(written) - 1))]


def changed_bytes(draw: st.DrawFn, content: Json) -> bytes:
    written = bytearray(as_bytes(draw, content))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(written) - 1))
        new = draw(st.binary(max_size=1) | st.sampled_from(list(b'[]{},:"\\')).map(int.to_bytes))
        written[at : at + draw(st.integers(0, 2))] = new
    return bytes(written)


def encodings(draw: st.DrawFn, content: Json) -> bytes:
    names = ["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig", "utf-7"]
    written = json.dumps(content, ensure_ascii=False)
    return written.encode(draw(st.sampled_from(names)), "replace")


def gzipped(draw: st.DrawFn, content: Json) -> bytes:
    packed = bytearray(gzip.compress(as_bytes(draw, content), 1, mtime=0))
    damage = draw(st.sampled_from(["none", "cut", "bit", "more"]))
    if damage == "cut":
        del packed[draw(st.integers(1, len(packed) - 1)) :]
    elif damage == "bit":
        packed[draw(st.integers(2, len(packed) - 1))] ^= 1 << draw(st.integers(0, 7))
    elif damage == "more":
        packed += draw(st.sampled_from([b"x", bytes(100), bytes(packed)]))
    return bytes(packed)


KINDS: dict[str, Callable[[st.DrawFn, Json], Any]] = {
    spoil.__name__.replace("_", " "): spoil
    for spoil in (
        *(wild_text, wrong_values, missing_keys, more_keys, random_json),
        *(few_misplaced, surrogates, many_answers, huge_text, deep_nesting, odd_numbers),
        *(duplicate_keys, cut_off, changed_bytes, encodings, gzipped),
    )
}
REPLACED: dict[str, Callable[[Any], st.SearchStrategy[Any]]] = {
    "id": lambda old: EMPTY | TEXTS | st.just("q0"),
    "context": lambda old: EMPTY | TEXTS,
    "question": lambda old: EMPTY | TEXTS,
    "text": lambda old: EMPTY | TEXTS | st.sampled_from([old * 2, old * 1000, old + " "]),
    "answer_start": lambda old: (
        NUMBERS
        | st.sampled_from([-2, -1, 1, 2, 3, 100]).map(old.__add__)
        | st.sampled_from([True, 1.0, 0.5, "0", None, [0], float("nan")])
    ),
    "is_impossible": lambda old: st.sampled_from([True, False, None, "true", 1]),
}
KINDS |= {f"{n} replaced": partial(replaced, name=n, values=v) for n, v in REPLACED.items()}
REFUSED = {"surrogates", "deep nesting", "cut off"}
"""Kinds that leave nothing to accept."""
