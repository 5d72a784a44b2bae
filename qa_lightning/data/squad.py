"""Read SQuAD-format data into tables, checked: every answer stands where the table says it does."""

import gc
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from qa_lightning.data.problems import grouped
from qa_lightning.data.sources import Source, raw_questions
from qa_lightning.data.squad_json import ErrorCollector, RawQuestion, field, optional_field, shown
from qa_lightning.data.tables import NO_PLACE, SquadTables, tables_from_rows
from qa_lightning.errors import UserError

MAX_SHIFT = 2  # characters by which an answer_start may be late and is corrected


def read_squad(
    source: Source | Path, problems: list[str] | None = None, *, labels: bool = True
) -> SquadTables:
    """Read a SQuAD 1.1 or 2.0 file (`.json`, gzipped or not) or a hub dataset, and check it.

    An answer that stands one or two characters before its `answer_start` is corrected, as in the
    notebook this project started from. One that stands nowhere near keeps its text, which scoring
    goes by, and has no place to train on. An empty question, or one over an empty context, has
    nothing to answer and is left out. The report has the ids of all of them.

    As in the official evaluator, a question is answerable if it has answers. With an empty list it
    is unanswerable, or, where `is_impossible` is false, without a label, as without `answers`.

    `problems` takes what is wrong with an article, a paragraph or a question, and reading continues
    without it. None raises the first of them, with the number of those like it. With `labels`
    false, answers are not looked at: to answer questions, they need not be right.

    Raises:
        UserError: A file that cannot be read, is not JSON in UTF-8, or not of SQuAD's shape; a
            duplicate question id; answers in a question marked impossible; an empty answer; no
            questions at all.
    """
    if isinstance(source, Path):
        source = Source(str(source), source, digest="")
    found: list[str] = [] if problems is None else problems
    errors = ErrorCollector(found)
    builder = _TableBuilder(source.name, labels)
    collecting_garbage = gc.isenabled()
    gc.disable()  # it would search millions of new objects, of which none is in a cycle
    try:
        for question in raw_questions(source, errors):
            with errors:
                builder.add(question)
    finally:
        if collecting_garbage:
            gc.enable()
    if problems is None and found:
        raise UserError(grouped(found, source.name)[0])
    return builder.tables()


class _TableBuilder:
    """Checks questions one by one and collects them, with their contexts, into tables."""

    def __init__(self, name: str, labels: bool) -> None:
        self._name = name
        self._labels = labels
        self._contexts: list[tuple[Any, ...]] = []
        self._questions: list[tuple[Any, ...]] = []
        self._context_rows: dict[Hashable, int] = {}
        self._ids: set[str] = set()
        self._ids_of = defaultdict[str, list[str]](list)  # by the tuples of ReadReport

    def add(self, raw: RawQuestion) -> None:
        """Check one question and take it in."""
        record, context = raw.record, raw.context
        identity = field(record, "id", str, raw.location)
        location = f"{self._name}: question {shown(identity)}"
        if identity in self._ids:
            raise UserError(f"{location}: this id appears more than once; ids must be unique")
        self._ids.add(identity)
        text = field(record, "question", str, location)
        if not text.strip() or not context.strip():
            self._ids_of["empty"].append(identity)
            return
        labels = self._label(record, context, identity, location) if self._labels else _NO_LABEL
        row = self._context_rows.setdefault(raw.context_key, len(self._contexts))
        if row == len(self._contexts):
            self._contexts.append((raw.article, raw.title, context))
        self._questions.append((identity, row, text, *labels))

    def _label(self, record: Any, context: str, identity: str, location: str) -> tuple[Any, ...]:
        """Whether a question is labelled, its answers and its plausible answers."""
        given = _answers(record, "answers", location)
        impossible = optional_field(record, "is_impossible", bool, location)
        if given and impossible:
            raise UserError(
                f'{location}: "is_impossible" is true, and yet there are answers; make it false, '
                'or move them to "plausible_answers"'
            )
        labelled = given is not None and (bool(given) or impossible is not False)
        answers, shifted, misplaced = _placed(context, given or [])
        self._ids_of["shifted"] += [identity] * shifted
        self._ids_of["misplaced"] += [identity] * misplaced
        self._ids_of["unplaced"] += [identity] * bool(given and misplaced == len(given))
        given = _answers(record, "plausible_answers", location)
        plausible, _, misplaced = _placed(context, given or [])
        self._ids_of["misplaced_plausible"] += [identity] * misplaced
        return labelled, answers, [one for one in plausible if one["start"] != NO_PLACE]

    def tables(self) -> SquadTables:
        """All that was taken in."""
        if not self._questions:
            empty = " with a text and a context" if self._ids_of["empty"] else ""
            raise UserError(f"{self._name}: there are no questions{empty} in it")
        corrected = {name: tuple(ids) for name, ids in self._ids_of.items()}
        return tables_from_rows(self._contexts, self._questions, **corrected)


_NO_LABEL: tuple[Any, ...] = (False, [], [])


_Given = tuple[str, int | None]  # text and answer_start of an answer


def _answers(record: Any, key: str, location: str) -> list[_Given] | None:
    """The answers under `key`, or None where the key is absent."""
    given = optional_field(record, key, list, location)
    if given is None:
        return None
    answers: list[_Given] = []
    for n, answer in enumerate(given):
        at = f"{location}, {key}[{n}]"
        text = field(answer, "text", str, at)
        start = optional_field(answer, "answer_start", int, at)
        if not text.strip():
            raise UserError(f'{at}: an empty text; a question without an answer has "{key}": []')
        answers.append((text, start))
    return answers


def _placed(context: str, given: list[_Given]) -> tuple[list[dict[str, Any]], int, int]:
    """The answers with their places in the context; how many were corrected, and misplaced."""
    answers, shifted, misplaced = [], 0, 0
    for text, start in given:
        start = NO_PLACE if start is None else start
        near = range(start, max(start - MAX_SHIFT, 0) - 1, -1)  # empty below 0
        place = next((at for at in near if context.startswith(text, at)), NO_PLACE)
        shifted += place not in (start, NO_PLACE)
        misplaced += place == NO_PLACE
        answers.append({"text": text, "start": place})
    return answers, shifted, misplaced
