"""The unit in which a file counts answer_start is recognised, and places are found in it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_lightning.data.offsets import UNITS, Case, Unit, at_the_place, explain_misplaced
from tests.helpers.data import REPOSITORY

COUNT: dict[str, Callable[[str], int]] = {  # how long what stands before an answer is
    "spaces": len,
    "bytes": lambda before: len(before.encode()),
    "UTF-16": lambda before: len(before.encode("utf-16-le")) // 2,
    "two characters": lambda before: len(before.replace("\r\n", "\n")),
    "one character": lambda before: len(before.replace("\n", "\r\n")),
    "several": lambda before: len(" ".join(f"{before}x".split())) - 1,
}
PIECES = st.lists(st.sampled_from(["é", "😀", "東", "\n", "  ", " \u00a0", "\u2028", "ab", "c"]))
CONTEXT = "Zoë sang in  Gent.\n😀 Ana played\u00a0the oboe.\nÉva ran."


@pytest.mark.parametrize(("unit", "count"), zip(UNITS, COUNT.values(), strict=True))
@given(pieces=PIECES, more=PIECES)
def test_places_in_every_unit(
    unit: Unit, count: Callable[[str], int], pieces: list[str], more: list[str]
) -> None:
    before, text = "".join(pieces), "Ana" + "".join(more) + "."
    if unit is UNITS[3]:
        before = before.replace("\n", "\r\n")
    assert unit.standing(before + text, text, count(before)) == (text, len(before))


@pytest.mark.parametrize(
    ("unit", "context"),
    [
        ("bytes", CONTEXT),
        ("UTF-16", CONTEXT),
        ("two characters", CONTEXT.replace("\n", "\r\n")),
        ("one character", CONTEXT),
        ("several", "  " + CONTEXT),
    ],
)
def test_the_unit_of_a_file_is_named(unit: str, context: str) -> None:
    """Even if one in twelve is misplaced for another reason."""
    starts = [(word, context.index(word)) for word in ("played", "oboe", "ran")]
    cases = [(context, word, COUNT[unit](context[:start])) for word, start in starts] * 4
    cases = [case for case in cases if not context.startswith(case[1], case[2])]
    told = explain_misplaced([*cases, (context, "tuba", 3)])
    assert told.startswith(f"{len(cases)} of {len(cases) + 1} misplaced answers")
    assert unit in told and "check FILE --fix OUT.json" in told
    assert explain_misplaced([*cases, *[(context, "tuba", 3)] * len(cases)]) == ""


@pytest.mark.parametrize(
    ("file", "words"),
    [("nbsp.json", "all spaces and line ends"), ("crlf.json", r"two characters (\r\n) as one")],
)
def test_files_of_other_tools(file: str, words: str) -> None:
    content = json.loads((REPOSITORY / "tests" / "cases" / file).read_text(encoding="utf-8"))
    (paragraph,) = content["data"][0]["paragraphs"]
    cases: list[Case] = [
        (paragraph["context"], answer["text"], answer["answer_start"])
        for question in paragraph["qas"]
        for answer in question["answers"]
    ]
    assert words in explain_misplaced(cases)


def test_nothing_explains_what_stands_nowhere() -> None:
    assert explain_misplaced([(CONTEXT, "tuba", start) for start in (-1, 0, 3, 10**30)]) == ""
    assert explain_misplaced([]) == ""


def test_what_stands_at_a_place() -> None:
    assert at_the_place(CONTEXT, "oboe", 4) == "'sang' stands at character 4, not 'oboe'"
    assert len(at_the_place(CONTEXT * 99, "x" * 500, 10**300)) < 200
