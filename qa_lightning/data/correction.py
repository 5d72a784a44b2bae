"""A corrected copy of a file: each answer gets the answer_start at which it stands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from qa_lightning.data.findings import Finding, findings
from qa_lightning.data.offsets import CHARACTERS, Unit, at_the_place, explain_misplaced, unit_of
from qa_lightning.data.sources import Source, raw_questions
from qa_lightning.data.squad import MAX_SHIFT
from qa_lightning.data.squad_json import ErrorCollector, RawQuestion, shown

_KINDS = {
    "counted": "counted in another unit: corrected",
    "shifted": f"up to {MAX_SHIFT} characters before the place that the file names: corrected",
    "spaces": "with other spaces or line ends than the context at that place: text corrected",
    "once": "not found where the file says, but once in the context: corrected",
    "kept": "found nowhere in the context or at several places: left as it is",
}


def corrected(source: Source) -> tuple[dict[str, Any], list[Finding]]:
    """The content of a source as SQuAD's JSON, with corrected answers, and what was changed.

    Answers that stand at their answer_start stay. Of articles and paragraphs, titles and contexts
    are kept; of questions, everything that is not null.

    Raises:
        UserError: The source cannot be read, or an article or a paragraph of it cannot.
    """
    questions = list(raw_questions(source, ErrorCollector()))
    unit, _ = unit_of([case for _, case in _misplaced(questions)]) or (CHARACTERS, 0)
    changed = defaultdict[str, list[str]](list)
    articles: dict[int, dict[str, Any]] = {}
    paragraphs: dict[Hashable, dict[str, Any]] = {}
    for raw in questions:
        for answer in _answers(raw):
            if kind := _correct(raw.context, answer, unit):
                changed[kind].append(raw.record["id"])
        if raw.article not in articles:
            articles[raw.article] = {"title": raw.title, "paragraphs": []}
        if raw.context_key not in paragraphs:
            paragraphs[raw.context_key] = {"context": raw.context, "qas": []}
            articles[raw.article]["paragraphs"].append(paragraphs[raw.context_key])
        paragraphs[raw.context_key]["qas"].append(_question(raw.record))
    content = {"version": "v2.0", "data": list(articles.values())}
    told = (findings(f"{k}_answers", changed[k], "answer", rest) for k, rest in _KINDS.items())
    return content, [finding for of_kind in told for finding in of_kind]


def misplaced_findings(source: Source) -> Iterator[Finding]:
    """What stands at the place of a misplaced answer, and why, if a source has one."""
    errors = ErrorCollector([])  # the check tells them already
    with errors:
        misplaced = list(_misplaced(raw_questions(source, errors)))
        if misplaced:
            identity, case = misplaced[0]
            message = (
                f"in the context of question {shown(identity)}, for instance, {at_the_place(*case)}"
            )
            if why := explain_misplaced([case for _, case in misplaced]):
                message += f"; {why}"
            yield Finding("misplaced_places", message)


def _misplaced(questions: Iterable[RawQuestion]) -> Iterator[tuple[str, tuple[str, str, int]]]:
    """The answers that stand neither at their answer_start nor just before it, with their ids."""
    for raw in questions:
        for answer in _answers(raw):
            text, start = answer["text"], answer.get("answer_start")
            if type(start) is int and _start_near(raw.context, text, start) is None:
                yield raw.record["id"], (raw.context, text, start)


def _answers(raw: RawQuestion) -> Iterator[dict[str, Any]]:
    """The answers of a question that have a text; a check tells what is wrong with others."""
    record = raw.record if type(raw.record) is dict and type(raw.record.get("id")) is str else {}
    for key in ("answers", "plausible_answers"):
        given = record.get(key)
        for answer in given if type(given) is list else ():
            text = answer.get("text") if type(answer) is dict else None
            if type(text) is str and text.strip():
                yield answer


def _correct(context: str, answer: dict[str, Any], unit: Unit) -> str:
    """Correct an answer in place; returns how, "" if it stands where it should."""
    text, start = answer["text"], answer.get("answer_start")
    if type(start) is int:
        if (near := _start_near(context, text, start)) is not None:
            answer["answer_start"] = near
            return "shifted" if near < start else ""
        for each in (unit, CHARACTERS):
            if found := each.standing(context, text, start):
                answer["text"], answer["answer_start"] = found
                return "spaces" if each is CHARACTERS else "counted"
    if (first := context.find(text)) < 0 or first != context.rfind(text):
        return "kept"
    answer["answer_start"] = first
    return "once"


def _start_near(context: str, text: str, start: int) -> int | None:
    """Where an answer stands exactly: at `start` or up to MAX_SHIFT before."""
    places = range(start, max(start - MAX_SHIFT, 0) - 1, -1)
    return next((place for place in places if context.startswith(text, place)), None)


def _question(record: Any) -> Any:
    if type(record) is not dict:
        return record
    of_others = ("title", "context")  # in a row
    return {k: v for k, v in record.items() if v is not None and k not in of_others}
