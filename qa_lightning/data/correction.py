"""A corrected copy of a file: each answer gets the answer_start at which it stands."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from qa_lightning.data.findings import Finding, findings
from qa_lightning.data.offsets import (
    CHARACTERS,
    Case,
    Unit,
    at_the_place,
    explain_misplaced,
    unit_of,
)
from qa_lightning.data.sources import Source, raw_questions
from qa_lightning.data.squad import MAX_SHIFT
from qa_lightning.data.squad_json import ErrorCollector, RawQuestion, shown

_KINDS = {
    "counted": "counted in another unit: corrected",
    "shifted": f"up to {MAX_SHIFT} characters before the place that the file names: corrected",
    "spaces": "with other spaces or line ends than the context: corrected, text included",
    "once": "not found where the file says, but once in the context: corrected",
    "kept": "found nowhere in the context or at several places: left as it is",
}


def corrected(source: Source) -> tuple[dict[str, Any], list[Finding]]:
    """The content of a source as SQuAD's JSON, with corrected answers, and what was corrected.

    Of articles and paragraphs it has the title and the context, of questions all that is not null.

    Raises:
        UserError: The source cannot be read, or an article or a paragraph of it cannot.
    """
    questions = list(raw_questions(source, ErrorCollector()))
    unit, _ = unit_of([case for _, case in _misplaced(questions)]) or (CHARACTERS, 0)
    ids: dict[str, list[str]] = {kind: [] for kind in ("", *_KINDS)}
    articles: dict[int, dict[str, Any]] = {}
    paragraphs: dict[Hashable, dict[str, Any]] = {}
    for raw in questions:
        for answer in _answers(raw):
            ids[_correct(raw.context, answer, unit)].append(raw.record["id"])
        article = articles.setdefault(raw.article, {"title": raw.title, "paragraphs": []})
        if raw.context_key not in paragraphs:
            paragraphs[raw.context_key] = {"context": raw.context, "qas": []}
            article["paragraphs"].append(paragraphs[raw.context_key])
        record = raw.record
        if type(record) is dict:
            in_a_row = ("title", "context")  # which stand above the question now
            record = {k: v for k, v in record.items() if v is not None and k not in in_a_row}
        paragraphs[raw.context_key]["qas"].append(record)
    content = {"version": "v2.0", "data": list(articles.values())}
    told = (findings(f"{kind}_answers", ids[kind], "answer", _KINDS[kind]) for kind in _KINDS)
    return content, [finding for of_kind in told for finding in of_kind]


def misplaced_findings(source: Source) -> Iterator[Finding]:
    """What stands at the place of a misplaced answer, and why, if a source has one."""
    errors = ErrorCollector([])  # which the check has told already
    with errors:
        if misplaced := list(_misplaced(raw_questions(source, errors))):
            identity, case = misplaced[0]
            where = f"in the context of question {shown(identity)}, for instance"
            why = explain_misplaced([case for _, case in misplaced])
            message = f"{where}, {at_the_place(*case)}{'; ' if why else ''}{why}"
            yield Finding("misplaced_places", message)


def _misplaced(questions: Iterable[RawQuestion]) -> Iterator[tuple[str, Case]]:
    """The answers that stand neither at their answer_start nor just before it, with their ids."""
    for raw in questions:
        for answer in _answers(raw):
            text, start = answer["text"], answer.get("answer_start")
            if type(start) is int and _start_near(raw.context, text, start) is None:
                yield raw.record["id"], (raw.context, text, start)


def _answers(raw: RawQuestion) -> Iterator[dict[str, Any]]:
    """The answers of a question that have a text; a check tells what is wrong with others."""
    record = raw.record if type(raw.record) is dict and type(raw.record.get("id")) is str else {}
    for given in (record.get("answers"), record.get("plausible_answers")):
        for answer in given if type(given) is list else ():
            text = answer.get("text") if type(answer) is dict else None
            if type(text) is str and text.strip():
                yield answer


def _correct(context: str, answer: dict[str, Any], unit: Unit) -> str:
    """Correct an answer in place; returns the kind of correction, "" if it stands already."""
    text, start = answer["text"], answer.get("answer_start")
    start = start if type(start) is int else -1
    near, first = _start_near(context, text, start), context.find(text)
    if near == start:
        return ""
    for kind, found in (
        ("counted", unit.standing(context, text, start)),
        ("shifted", None if near is None else (text, near)),
        ("spaces", CHARACTERS.standing(context, text, start)),
        ("once", (text, first) if 0 <= first == context.rfind(text) else None),
    ):
        if found is not None:
            answer["text"], answer["answer_start"] = found
            return kind if found[0] == text else "spaces"
    return "kept"


def _start_near(context: str, text: str, start: int) -> int | None:
    """Where an answer stands exactly: at `start` or up to MAX_SHIFT before."""
    places = range(start, max(start - MAX_SHIFT, 0) - 1, -1)
    return next((place for place in places if context.startswith(text, place)), None)
