"""Read SQuAD-format data into tables, checked: every answer stands where the table says it does."""

import gc
from collections import defaultdict
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from qa_lightning.data.problems import grouped
from qa_lightning.data.sources import Source, raw_questions
from qa_lightning.data.squad_json import ErrorCollector, RawQuestion, field, optional_field, shown
from qa_lightning.data.tables import SquadTables, tables_from_rows
from qa_lightning.errors import UserError

MAX_MISPLACED = 0.03  # share of the questions with answers; beyond it something else is wrong
MAX_SHIFT = 2  # characters by which an answer_start may be late and is corrected


def read_squad(source: Source | Path, problems: list[str] | None = None) -> SquadTables:
    """Read a SQuAD 1.1 or 2.0 file (`.json`, gzipped or not) or a hub dataset, and check it.

    Every answer must stand at its `answer_start`; one that stands one or two characters earlier is
    corrected (as in the notebook this project started from), any other is skipped, and a question
    that loses all its answers that way is dropped: it is not unanswerable.

    As in the official evaluator, a question is answerable if it has answers. With an empty list it
    is unanswerable, or, where `is_impossible` is false, without a label, as without `answers`.

    `problems` takes what is wrong with an article, a paragraph or a question, and reading continues
    without it. None raises the first of them, with the number of those like it.

    Raises:
        UserError: A file that cannot be read, is not JSON in UTF-8, or not of SQuAD's shape; a
            duplicate question id; answers in a question marked impossible; an empty answer; a
            question over an empty context; more than 3 % of the questions with answers having
            misplaced ones; no questions at all.
    """
    if isinstance(source, Path):
        source = Source(str(source), source, digest="")
    found: list[str] = [] if problems is None else problems
    errors = ErrorCollector(found)
    builder = _TableBuilder(source.name)
    collecting_garbage = gc.isenabled()
    gc.disable()  # it would search millions of new objects, of which none is in a cycle
    try:
        for question in raw_questions(source, errors):
            with errors:
                builder.add(question)
    finally:
        if collecting_garbage:
            gc.enable()
    with errors:
        builder.check_misplaced()
    if problems is None and found:
        raise UserError(grouped(found, source.name)[0])
    return builder.tables()


class _TableBuilder:
    """Checks questions one by one and collects them, with their contexts, into tables."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._contexts: list[tuple[Any, ...]] = []
        self._questions: list[tuple[Any, ...]] = []
        self._context_rows: dict[Hashable, int] = {}
        self._ids: set[str] = set()
        self._answered = 0
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
        if not context.strip():
            raise UserError(f"{location}: its context is empty")
        given = _answers(record, "answers", location)
        impossible = optional_field(record, "is_impossible", bool, location)
        if given and impossible:
            raise UserError(
                f'{location}: "is_impossible" is true, and yet there are answers; make it false, '
                'or move them to "plausible_answers"'
            )
        answers, shifted = _placed(context, given or [])
        self._ids_of["shifted"] += [identity] * shifted
        labelled = given is not None and (bool(given) or impossible is not False)
        if given:
            self._answered += 1
            self._ids_of["misplaced"] += [identity] * (len(given) - len(answers))
            if not answers:
                self._ids_of["dropped"].append(identity)
                return
        given_plausible = _answers(record, "plausible_answers", location) or []
        plausible, _ = _placed(context, given_plausible)
        misplaced = [identity] * (len(given_plausible) - len(plausible))
        self._ids_of["misplaced_plausible"] += misplaced
        row = self._context_rows.setdefault(raw.context_key, len(self._contexts))
        if row == len(self._contexts):
            self._contexts.append((raw.article, raw.title, context))
        self._questions.append((identity, row, text, labelled, answers, plausible))

    def check_misplaced(self) -> None:
        """Refuse a source of which so many answers are misplaced that something else is wrong."""
        ids = list(dict.fromkeys(self._ids_of["misplaced"]))
        if len(ids) > MAX_MISPLACED * self._answered:
            raise UserError(
                f"{self._name}: {len(ids):,} of {self._answered:,} questions with answers have one "
                f"that is not in its context at answer_start (at most {MAX_MISPLACED:.0%} are "
                f"skipped), for instance {', '.join(map(shown, ids[:5]))}. answer_start counts "
                "characters (not bytes) from 0."
            )

    def tables(self) -> SquadTables:
        """All that was taken in."""
        if not self._questions:
            raise UserError(f"{self._name}: there are no questions in it")
        corrected = {name: tuple(ids) for name, ids in self._ids_of.items()}
        return tables_from_rows(self._contexts, self._questions, **corrected)


def _answers(record: dict[str, Any], key: str, location: str) -> list[tuple[str, int]] | None:
    """The answers under `key` as (text, start), or None where the key is absent."""
    given = optional_field(record, key, list, location)
    if given is None:
        return None
    answers = []
    for n, answer in enumerate(given):
        at = f"{location}, {key}[{n}]"
        text = field(answer, "text", str, at)
        start = field(answer, "answer_start", int, at)
        if not text.strip():
            raise UserError(f'{at}: an empty text; a question without an answer has "{key}": []')
        if start < 0:
            raise UserError(f'{at}: "answer_start" must not be negative, but is {start}')
        answers.append((text, start))
    return answers


def _placed(context: str, given: list[tuple[str, int]]) -> tuple[list[dict[str, Any]], int]:
    """The answers that stand in their context, with corrected starts, and how many needed that."""
    placed, shifted = [], 0
    for text, start in given:
        for shift in range(min(MAX_SHIFT, start) + 1):
            if context.startswith(text, start - shift):
                placed.append({"text": text, "start": start - shift})
                shifted += shift > 0
                break
    return placed, shifted
