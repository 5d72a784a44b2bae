"""A corrected copy has every answer in its place, and keeps all else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qa_lightning.data.correction import corrected
from qa_lightning.data.sources import Source
from qa_lightning.data.squad import read_squad
from qa_lightning.errors import UserError
from tests.helpers.data import REPOSITORY
from tests.helpers.squad import CONTEXT, Write, answer, question


def correct(path: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    content, changes = corrected(Source(path.name, path, ""))
    return content, {change.kind: change.ids for change in changes}


@pytest.mark.parametrize(
    ("file", "changes", "answers"),
    [
        (
            "nbsp.json",
            {"spaces_answers": ("a", "b")},
            [("300\u00a0crowns", 13), ("Tom\u00a0Ashe", 58)],
        ),
        (
            "crlf.json",
            {"counted_answers": ("crlf-0", "crlf-1", "crlf-2")},
            [("Jonas Webb", 27), ("1801", 58), ("300 crowns", 81)],
        ),
        ("text_only.json", {"once_answers": ("q1",)}, [("Peter Hallam", 29)]),
        (
            "misplaced.json",
            {"once_answers": ("q2",)},
            [("Peter Hallam", 29), ("1791", 45), ("24 kilometres", 57)],
        ),
        ("hub_rows.jsonl", {}, [("Tom Ashe", 33)]),
        ("int_ids.json", {}, [("Peter Hallam", 29), ("1791", 45)]),
    ],
)
def test_files_of_other_tools(
    file: str, changes: dict[str, Any], answers: list[tuple[str, int]], tmp_path: Path
) -> None:
    content, changed = correct(REPOSITORY / "tests" / "cases" / file)
    assert changed == changes
    path = tmp_path / "out.json"
    path.write_text(json.dumps(content))
    tables = read_squad(path)
    given = [
        (one["text"], one["start"])
        for row in tables.questions["answers"].to_pylist()
        for one in row
    ]
    assert given == answers
    assert (tables.report.misplaced, tables.report.shifted, tables.report.unplaced) == ((), (), ())
    assert correct(path) == (content, {})


def test_what_stands_stays_and_what_cannot_be_corrected_is_told(write: Write) -> None:
    late = answer("Ana", CONTEXT.index("Ana") + 2)
    questions = [
        question("right", answer("plays", CONTEXT.rindex("plays")), note="kept"),
        question("late", late, is_impossible=None),
        question("twice", {"text": "plays"}, {"text": "oboe"}),
        question("nowhere", answer("tuba", 3), plausible_answers=[answer("Gent", 0)]),
        question("not an answer", {"text": 3}, 7, {"text": " "}),
        question("none"),
    ]
    content, changes = correct(write(*questions))
    (paragraph,) = content["data"][0]["paragraphs"]
    assert (content["data"][0]["title"], paragraph["context"]) == ("Music", CONTEXT)
    wanted = json.loads(json.dumps(questions))
    wanted[1] = question("late", answer("Ana"))
    wanted[2]["answers"][1] = answer("oboe")
    wanted[3]["plausible_answers"] = [answer("Gent")]
    assert paragraph["qas"] == wanted
    assert changes == {
        "shifted_answers": ("late",),
        "once_answers": ("twice", "nowhere"),
        "kept_answers": ("twice", "nowhere"),
    }


def test_nothing_is_left_out_without_a_word(write: Write) -> None:
    path = write(articles=[{"title": "t", "paragraphs": [{"context": 3, "qas": []}]}])
    with pytest.raises(UserError, match=r'paragraphs\[0\]: "context" must be a string'):
        correct(path)
