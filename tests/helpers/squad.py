"""Made-up questions about one context, and what holds of any tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qa_lightning.data.tables import CONTEXTS, NO_PLACE, QUESTIONS, SquadTables

CONTEXT = "Zoë plays the cello in Gent. 😀 Ana plays the oboe."
Write = Callable[..., Path]


def answer(text: str, start: int | None = None) -> dict[str, Any]:
    return {"text": text, "answer_start": CONTEXT.index(text) if start is None else start}


def question(name: str, *answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": name, "question": f"What about {name}?", "answers": list(answers), **more}


def check(tables: SquadTables) -> None:
    """What holds of any tables: schemas, counts, unique ids, every known place of an answer."""
    assert tables.contexts.schema == CONTEXTS
    assert tables.questions.schema == QUESTIONS
    rows = tables.questions.to_pylist()
    texts = tables.contexts["text"].to_pylist()
    report = tables.report
    assert len({row["id"] for row in rows}) == len(rows) == report.questions > 0
    assert sorted({row["context"] for row in rows}) == list(range(report.contexts))
    assert report.contexts == len(texts)
    assert report.articles == len(set(tables.contexts["article"].to_pylist()))
    assert report.answers == sum(len(row["answers"]) for row in rows)
    assert report.unanswerable == sum(row["labelled"] and not row["answers"] for row in rows)
    assert report.unlabelled == sum(not row["labelled"] for row in rows)
    for row in rows:
        placed = [one for one in row["answers"] if one["start"] != NO_PLACE]
        assert ((row["id"] in report.unplaced) == bool(row["answers"])) or placed
        for one in placed + row["plausible_answers"]:
            assert texts[row["context"]].startswith(one["text"], one["start"]) and one["text"]
