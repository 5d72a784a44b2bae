"""SQuAD-format data becomes checked tables, or is refused with file, question and cause."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from qa_lightning.data.squad import read_squad
from qa_lightning.data.tables import NO_PLACE, ReadReport, require_places
from qa_lightning.errors import UserError
from tests.helpers.data import REPOSITORY
from tests.helpers.squad import CONTEXT, Write, answer, check, question


def many(count: int) -> list[dict[str, Any]]:
    """Faultless questions, so that a fault in one more is below the limit."""
    return [question(f"good{n}", answer("cello")) for n in range(count)]


# --- what is read ------------------------------------------------------------------------------


def test_a_squad_2_file_row_by_row(write: Write) -> None:
    other = {"context": "It rains.", "qas": [question("c", is_impossible=True)]}
    path = write(
        articles=[
            {
                "title": "Music",
                "paragraphs": [
                    {
                        "context": CONTEXT,
                        "qas": [
                            question("a", answer("oboe"), answer("Ana"), is_impossible=False),
                            question("b", is_impossible=True, plausible_answers=[answer("Gent")]),
                        ],
                    },
                    {"context": "Nobody asks about this.", "qas": []},
                ],
            },
            {"paragraphs": [other]},  # no title
        ]
    )
    tables = read_squad(path)
    check(tables)
    assert tables.contexts.to_pylist() == [
        {"article": 0, "title": "Music", "text": CONTEXT},
        {"article": 1, "title": "", "text": "It rains."},
    ]
    a, b, c = tables.questions.to_pylist()
    assert a == {
        "id": "a",
        "context": 0,
        "text": "What about a?",
        "labelled": True,
        # code points: the emoji counts one
        "answers": [{"text": "oboe", "start": 45}, {"text": "Ana", "start": 31}],
        "plausible_answers": [],
    }
    assert (b["answers"], b["plausible_answers"]) == ([], [{"text": "Gent", "start": 23}])
    assert b["labelled"] and c["labelled"] and c["context"] == 1
    assert tables.report == ReadReport(
        articles=2, contexts=2, questions=3, unanswerable=2, unlabelled=0, answers=2
    )


def test_which_questions_are_labelled(write: Write) -> None:
    """The official evaluator goes by the answers; only what it could not know has no label."""
    without = {"id": "no key", "question": "?"}
    tables = read_squad(
        write(
            question("squad 1.1", answer("cello")),
            question("false", answer("cello"), is_impossible=False),
            question("empty"),
            question("empty, true", is_impossible=True),
            question("empty, false", is_impossible=False),
            without,
        )
    )
    labelled = dict(
        zip(
            tables.questions["id"].to_pylist(),
            tables.questions["labelled"].to_pylist(),
            strict=True,
        )
    )
    assert labelled == {
        "squad 1.1": True,
        "false": True,
        "empty": True,
        "empty, true": True,
        "empty, false": False,
        "no key": False,
    }
    assert (tables.report.unanswerable, tables.report.unlabelled) == (2, 2)


def test_gzipped_or_not_is_the_same(write: Write, tmp_path: Path) -> None:
    path = write(question("a", answer("oboe")))
    packed = tmp_path / "f.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_squad(packed).questions == read_squad(path).questions


@pytest.mark.parametrize(
    "file", ["int_ids.json", "hub_rows.jsonl", "flat_answers.json", "nulls.json"]
)
def test_files_of_other_tools(file: str) -> None:
    tables = read_squad(REPOSITORY / "tests" / "cases" / file)
    check(tables)
    assert tables.questions["labelled"].to_pylist() == [True] * len(tables.questions)
    ids = ["1", "2"] if file == "int_ids.json" else ["a", "b"][: len(tables.questions)]
    assert tables.questions["id"].to_pylist() == ids


def test_late_answer_starts_are_corrected(write: Write) -> None:
    start = CONTEXT.index("cello")
    tables = read_squad(
        write(
            *(question(f"{late}", answer("cello", start + late)) for late in (0, 1, 2)),
            question("at 0", answer("Zoë", 1)),
            question("plausible", plausible_answers=[answer("Gent", 25)]),
        )
    )
    check(tables)
    starts = [row[0]["start"] for row in tables.questions["answers"].to_pylist()[:4]]
    assert starts == [start, start, start, 0]
    assert tables.report.shifted == ("1", "2", "at 0")
    assert tables.report.misplaced == ()


def test_misplaced_answers_keep_their_text_and_have_no_place(write: Write) -> None:
    start = CONTEXT.index("cello")
    tables = read_squad(
        write(
            *many(100),
            question("one of two", answer("cello", start - 1), answer("oboe")),
            question("all", answer("cello", start + 3), answer("tuba", 10**30)),
            question("no place", {"text": "Zoë"}, {"text": "Zoë", "answer_start": -1}),
            question("none", plausible_answers=[answer("tuba", 3), answer("Ana")]),
        )
    )
    check(tables)
    rows = {row["id"]: row for row in tables.questions.to_pylist()}
    assert rows["one of two"]["answers"] == [
        {"text": "cello", "start": NO_PLACE},
        {"text": "oboe", "start": CONTEXT.index("oboe")},
    ]
    assert [one["text"] for one in rows["all"]["answers"]] == ["cello", "tuba"]
    assert rows["none"]["plausible_answers"] == [{"text": "Ana", "start": CONTEXT.index("Ana")}]
    report = tables.report
    # once per answer
    assert report.misplaced == ("one of two", "all", "all", "no place", "no place")
    assert (report.unplaced, report.misplaced_plausible) == (("all", "no place"), ("none",))


def test_answers_are_not_looked_at_where_they_are_not_needed(write: Write) -> None:
    odd = question("odd", {"text": 3}, is_impossible=True)
    tables = read_squad(write(question("a", answer("oboe", 0)), odd), labels=False)
    check(tables)
    assert tables.questions["id"].to_pylist() == ["a", "odd"]
    assert (tables.report.unlabelled, tables.report.misplaced) == (2, ())


def test_empty_questions_are_left_out_and_told(write: Write) -> None:
    empty = {"context": " \n", "qas": [question("no context")]}
    path = write(
        articles=[
            {"paragraphs": [empty, {"context": CONTEXT, "qas": [question("a", answer("oboe"))]}]},
            {"paragraphs": [{"context": CONTEXT, "qas": [question("blank") | {"question": " "}]}]},
        ]
    )
    tables = read_squad(path)
    check(tables)
    assert tables.questions["id"].to_pylist() == ["a"]
    assert tables.report.empty == ("no context", "blank")
    with pytest.raises(UserError, match=r"no questions with a text and a context in it"):
        read_squad(write(articles=[{"paragraphs": [empty]}]))


def test_too_many_misplaced_answers_cannot_be_trained_on(write: Write) -> None:
    bad = [question(f"bad{n}", answer("tuba", 0)) for n in range(3)]
    unanswerable = [question(f"none{n}") for n in range(100)]  # they do not dilute the share
    few = read_squad(write(*many(97), *bad, *unanswerable)).report
    require_places(few, "f.json")
    assert few.unplaced == ("bad0", "bad1", "bad2")
    many_bad = read_squad(write(*many(96), *bad, *unanswerable)).report
    with pytest.raises(UserError, match=r'f\.json: 3 of 99 questions .*"bad0", "bad1", "bad2"'):
        require_places(many_bad, "f.json")


@pytest.mark.parametrize(
    ("file", "articles", "questions", "unanswerable"),
    [
        ("train-v2.0.json.gz", 442, 104_294, 17_295),
        ("dev-v2.0.json", 24, 8_316, 4_189),
        ("train-8k.json", 279, 8_002, 2_311),
        ("dev-2k.json", 24, 2_002, 1_017),
    ],
)
def test_the_real_data(
    shared: Path, file: str, articles: int, questions: int, unanswerable: int
) -> None:
    report = read_squad(shared / "squad2" / file).report
    assert (report.articles, report.questions) == (articles, questions)
    assert (report.unanswerable, report.unlabelled) == (unanswerable, 0)
    assert (report.misplaced, report.shifted) == ((), ())


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (question("a", answer("cello"), is_impossible=True), 'question "a": "is_impossible" is tr'),
        (question("a", is_impossible="no"), 'question "a": "is_impossible" must be true or false'),
        (question("a", is_impossible=0), "must be true or false, but is 0"),
        (question("a", {"text": "Zoë", "answer_start": True}), "must be a whole number, but is tr"),
        (question("a", {"text": "Zoë", "answer_start": 0.0}), "must be a whole number, but is 0.0"),
        (question("a", {"answer_start": 0}), r'question "a", answers\[0\]: the key "text"'),
        (question("a", {"text": 3, "answer_start": 0}), '"text" must be a string, but is 3'),
        (question("a", answer("", 0)), "an empty text"),
        (question("a", answer(" ", 3)), "an empty text"),
        (question("a", answer("\ud83d", 3)), "surrogate"),
        (question("a") | {"answers": {"texts": []}}, r'qas\[1\]: the key "text" is missing'),
        (
            question("a") | {"answers": {"text": ["Zoë"], "answer_start": []}},
            "1 answer texts but 0",
        ),
        (question("a") | {"answers": "Zoë"}, '"answers" must be a list, but is "Zo'),
        (question("a", plausible_answers=[7]), r"plausible_answers\[0\]: expected an object"),
        (question("a") | {"question": "\ud800?"}, r'question "a": "question" holds half'),
        ({"id": "a"}, 'question "a": the key "question" is missing'),
        ({"question": "?"}, r'f\.json: data\[0\]\.paragraphs\[0\]\.qas\[1\]: the key "id"'),
        (question("a") | {"id": 7.0}, r'qas\[1\]: "id" must be a string, but is 7.0'),
        (question("x\udc00"), r'qas\[1\]: "id" holds half of a surrogate pair'),
        ([], r"qas\[1\]: expected an object, found a list"),
        (question("first"), 'question "first": this id appears more than once'),
    ],
)
def test_bad_questions(write: Write, bad: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_squad(write(question("first", answer("cello")), bad))
    assert "f.json: " in str(error.value)


def test_a_mistake_that_is_made_often_is_told_once(write: Write) -> None:
    empty = [question(f"empty{n}", answer("", 0)) for n in range(1380)]
    with pytest.raises(UserError) as error:
        read_squad(write(question("first", answer("cello")), *empty))
    message = str(error.value)
    assert message.count("an empty text") == 1 and len(message) < 400
    assert '"empty0", answers[0]: an empty' in message
    assert (
        'the same at 1,379 more places, for instance question "empty1", question "empty2"'
        in message
    )


@pytest.mark.parametrize(
    ("articles", "message"),
    [
        ([], "no questions"),
        ([{"title": "t", "paragraphs": []}], "no questions"),
        ([3], r"data\[0\]: expected an object, found 3"),
        ([{}], r'data\[0\]: the key "paragraphs" is missing'),
        ([{"title": 3, "paragraphs": []}], '"title" must be a string, but is 3'),
        ([{"title": "\udfff", "paragraphs": []}], "surrogate"),
        ([{"paragraphs": {}}], '"paragraphs" must be a list, but is an object'),
        ([{"paragraphs": [None]}], r"paragraphs\[0\]: expected an object, found null"),
        ([{"paragraphs": [{"qas": []}]}], 'the key "context" is missing'),
        ([{"paragraphs": [{"context": "c"}]}], 'the key "qas" is missing'),
        ([{"paragraphs": [{"context": "\ud800", "qas": []}]}], "surrogate"),
    ],
)
def test_bad_files(write: Write, articles: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_squad(write(articles=articles))
    assert "f.json: " in str(error.value)
