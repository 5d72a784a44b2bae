"""Read SQuAD-format data into two Arrow tables, checked: contexts, and questions about them.

Every answer in the tables stands in its context where the table says it does. What cannot be put
right is refused with the file, the question id and the cause, or left out and counted.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_lightning.data.download import OFFICIAL, WITHOUT_NETWORK, download, reachable, sha256_of
from qa_lightning.data.json_stream import elements
from qa_lightning.errors import UserError

# One row a paragraph that has questions (in a hub dataset: a distinct context string).
CONTEXTS = pa.schema(
    [
        ("article", pa.int32()),  # number of its article, counted from 0 in the order of the file
        ("title", pa.string()),  # "" where the file gives none
        ("text", pa.string()),
    ]
)
ANSWERS = pa.list_(
    pa.struct(
        [
            ("text", pa.string()),
            ("start", pa.int32()),  # in characters (code points, as Python counts) of the context
        ]
    )
)
# One row a question, in the order of the file. It is answerable if it has answers, unanswerable if
# it is labelled and has none; without a label it can only be predicted on.
QUESTIONS = pa.schema(
    [
        ("id", pa.string()),
        ("context", pa.int32()),  # row in CONTEXTS
        ("text", pa.string()),
        ("labelled", pa.bool_()),
        ("answers", ANSWERS),
        ("plausible_answers", ANSWERS),
    ]
)

MAX_MISPLACED = 0.03  # share of the questions with answers; beyond it something else is wrong
MAX_SHIFT = 2  # characters by which an answer_start may be late and is put right
_SHOWN_IDS = 20
_BATCH = 10_000  # rows that are in memory at a time

Split = Literal["train", "dev"]
Unanswerable = Literal["no_answer", "plausible", "drop"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class ReadReport:
    """What was read, and what was wrong with it.

    The first six count what the tables hold; the others what reading the file put right or left
    out. An answer is shifted if it stood one or two characters before its `answer_start`, and
    misplaced if it stood nowhere near; a question is dropped if all its answers were misplaced.
    """

    articles: int
    contexts: int
    questions: int
    unanswerable: int
    unlabelled: int
    answers: int
    shifted_answers: int = 0
    misplaced_answers: int = 0
    misplaced_questions: int = 0
    dropped_questions: int = 0
    misplaced_plausible_answers: int = 0
    misplaced_ids: tuple[str, ...] = ()  # the first 20 questions with misplaced answers


@dataclass(frozen=True)
class AffectedQuestions:
    """Ids of all questions that a report counts something of, in the order of the file."""

    shifted: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    misplaced_plausible: tuple[str, ...] = ()


@dataclass(frozen=True)
class SquadTables:
    """Contexts and questions with the schemas CONTEXTS and QUESTIONS, and the report on them.

    Either in memory, or in files of `folder` that are mapped into it.
    """

    contexts: pa.Table
    questions: pa.Table
    report: ReadReport
    folder: Path | None = None
    affected: AffectedQuestions = AffectedQuestions()


@dataclass(frozen=True)
class Source:
    """Data that is there to be read: a local file, or a split of a hub dataset."""

    name: str  # for messages: the path, URL or dataset name
    path: Path | None
    digest: str  # SHA-256 of the content
    hub: str | None = None
    split: Split = "train"


# --- where data comes from ---------------------------------------------------------------------


def resolve_source(source: str | None, split: Split, folder: Path) -> Source:
    """Find what the user means by `source`, and download it if it is not there yet.

    Args:
        source: None for the official SQuAD 2.0 file; the path or http(s) URL of a SQuAD-format
            `.json` or `.json.gz` file; or the name of a hub dataset with SQuAD's columns.
        split: Which official file, or which split of a hub dataset ("dev" is its "validation").
        folder: Where downloads go.

    Raises:
        UserError: No such file or dataset, or a download that failed.
    """
    if source is None:
        official = OFFICIAL[split]
        path = download(official.url, folder, sha256=official.sha256)
        return Source(official.name, path, official.sha256)
    if re.match(r"https?://", source, re.IGNORECASE):
        path = download(source, folder)
        return Source(source, path, sha256_of(path))
    path = Path(source).expanduser()
    try:
        if path.is_file():
            return Source(source, path, sha256_of(path))
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:
        raise UserError(f"{source!r} cannot be read: {error}") from error
    if is_folder:
        raise UserError(f"{source!r} is a folder; give a SQuAD-format .json or .json.gz file")
    if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source) and not source.endswith((".json", ".gz")):
        return Source(source, None, _hub_split(source, split)[1], hub=source, split=split)
    raise UserError(
        f"{source!r}: no such file. Give a SQuAD-format .json or .json.gz file, its URL, "
        "or the name of a hub dataset."
    )


# --- reading -----------------------------------------------------------------------------------


def read_squad(
    source: Source | Path, folder: Path | None = None, problems: list[str] | None = None
) -> SquadTables:
    """Read a SQuAD 1.1 or 2.0 file (`.json`, gzipped or not) or a hub dataset, and check it.

    A file is read article by article, so that only the tables grow with its size. Every answer
    must stand at its `answer_start`; one that stands one or two characters earlier is put right
    (as the notebook this project started from does), any other is skipped and counted, and a
    question that loses all its answers that way is dropped: it is not unanswerable.

    As in the official evaluator, a question is answerable if it has answers. One with an empty
    list is unanswerable unless `is_impossible` is false; that one, and a question without the key
    `answers`, has no label.

    Args:
        source: A file or a hub dataset.
        folder: Where to keep the tables on disk instead of in memory; they need it as long as
            they are used.
        problems: Where to note what is wrong with an article, a paragraph or a question, to go on
            without it; the first of them is what would be raised. None raises it.

    Raises:
        UserError: A file that cannot be read, is not JSON in UTF-8, or not of SQuAD's shape; a
            duplicate question id; answers in a question marked impossible; an empty answer; a
            question over an empty context; more than 3 % of the questions with answers having
            misplaced ones; no questions at all.
    """
    if isinstance(source, Path):
        source = Source(str(source), source, digest="")
    tables = _Collector(source.name, folder, problems)
    if source.path is not None:
        _read_file(source.path, source.name, tables)
    elif source.hub is not None:
        _read_hub(source.hub, source.split, tables)
    return tables.finish()


def require_labels(questions: pa.Table, name: str) -> None:
    """Refuse questions that cannot be trained on or scored: nothing is known of their answers.

    Args:
        questions: See QUESTIONS.
        name: What the message calls their source.

    Raises:
        UserError: there is one without a label.
    """
    labelled = questions["labelled"].to_numpy()
    if not labelled.all():
        raise UserError(
            f"{name} holds {int((~labelled).sum()):,} questions that neither have answers nor are "
            "marked is_impossible: they can be answered (predict), but not trained on or scored"
        )


def tables_from_texts(questions: Sequence[str], contexts: Sequence[str]) -> SquadTables:
    """Tables of questions to be answered, in memory; equal contexts are one row.

    Args:
        questions: The questions; their ids are "0", "1", ...
        contexts: Context of each of them.
    """
    row_of: dict[str, int] = {}
    rows = [row_of.setdefault(context, len(row_of)) for context in contexts]
    count = len(row_of)
    context_table = pa.table(
        {"article": list(range(count)), "title": [""] * count, "text": list(row_of)},
        schema=CONTEXTS,
    )
    count = len(questions)
    question_table = pa.table(
        {
            "id": [str(number) for number in range(count)],
            "context": rows,
            "text": list(questions),
            "labelled": [False] * count,
            "answers": [[]] * count,
            "plausible_answers": [[]] * count,
        },
        schema=QUESTIONS,
    )
    report = ReadReport(**_counts(context_table, question_table))
    return SquadTables(context_table, question_table, report)


def _read_file(path: Path, name: str, tables: _Collector) -> None:
    for a, article in enumerate(elements(path, "data", name)):
        where = f"{name}: data[{a}]"
        with tables.refusing:
            title = _optional(article, "title", str, where) or ""
            for p, paragraph in enumerate(_field(article, "paragraphs", list, where)):
                where = f"{name}: data[{a}].paragraphs[{p}]"
                with tables.refusing:
                    context = _field(paragraph, "context", str, where)
                    for q, question in enumerate(_field(paragraph, "qas", list, where)):
                        with tables.refusing:
                            tables.add((a, p), a, title, context, question, f"{where}.qas[{q}]")


# --- hub datasets ------------------------------------------------------------------------------


def _read_hub(name: str, split: Split, tables: _Collector) -> None:
    table, _ = _hub_split(name, split)
    articles: dict[str, int] = {}
    row = 0
    for batch in table.to_batches(max_chunksize=1000):
        for record in batch.to_pylist():
            where = f"{name}: row {row}"
            row += 1
            with tables.refusing:
                record = {key: value for key, value in record.items() if value is not None}
                for key in {"answers", "plausible_answers"} & record.keys():
                    record[key] = _answer_records(record[key], where)
                context = _field(record, "context", str, where)
                # No title says nothing about what belongs together: then each context is one.
                title = _optional(record, "title", str, where) or ""
                article = articles.setdefault(title or context, len(articles))
                tables.add(context, article, title, context, record, where)


def _answer_records(answers: Any, where: str) -> Any:
    """SQuAD's flat form, lists of texts and of starts, as the list of records of the JSON form."""
    if not isinstance(answers, dict):
        return answers
    texts = _field(answers, "text", list, where)
    starts = _field(answers, "answer_start", list, where)
    if len(texts) != len(starts):
        raise UserError(f"{where}: {len(texts)} answer texts but {len(starts)} answer starts")
    return [
        {"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)
    ]


@functools.cache
def _hub_split(name: str, split: Split) -> tuple[pa.Table, str]:
    """The columns of a hub dataset that are SQuAD's, memory-mapped, and a SHA-256 of them."""
    import datasets  # takes two seconds, and is needed here only

    wanted = {"train": "train", "dev": "validation"}[split]
    offline = datasets.config.HF_HUB_OFFLINE
    # Without a network the hub's client tries for half a minute before it looks into its cache.
    datasets.config.HF_HUB_OFFLINE = offline or not reachable(datasets.config.HF_ENDPOINT)
    try:
        data = datasets.load_dataset(name, split=wanted)
    except Exception as error:  # a dozen kinds, of datasets, huggingface_hub and what they use
        raise UserError(
            f"{name}: no such file, and the hub dataset of that name (split {wanted!r}) could not "
            f"be loaded: {error}. {WITHOUT_NETWORK}"
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    missing = {"id", "context", "question"} - set(data.column_names)
    if missing:
        raise UserError(
            f"{name}: the hub dataset has no column {', '.join(sorted(missing))}; SQuAD's are id, "
            f"title, context, question, answers"
        )
    used = ("id", "title", "context", "question", "answers", "plausible_answers", "is_impossible")
    columns = [column for column in used if column in data.column_names]
    table = data.select_columns(columns).with_format("arrow")[:]
    digest = hashlib.sha256(table.schema.remove_metadata().serialize())
    for batch in table.combine_chunks().to_batches():
        digest.update(batch.serialize())
    return table, digest.hexdigest()


# --- checking ----------------------------------------------------------------------------------


class _Collector:
    """Checks questions one by one and collects them, with their contexts, into tables."""

    def __init__(self, name: str, folder: Path | None, problems: list[str] | None) -> None:
        self.refusing = _ErrorCollector(problems)
        self._name = name
        self._folder = folder
        self._contexts = _Rows(CONTEXTS, folder)
        self._questions = _Rows(QUESTIONS, folder)
        self._context_rows: dict[Hashable, int] = {}
        self._ids: set[str] = set()
        self._with_answers = 0
        self._shifted = 0
        self._shifted_ids: list[str] = []
        self._misplaced = 0
        self._misplaced_ids: list[str] = []
        self._dropped_ids: list[str] = []
        self._misplaced_plausible = 0
        self._misplaced_plausible_ids: list[str] = []

    def add(
        self, key: Hashable, article: int, title: str, context: str, record: Any, where: str
    ) -> None:
        """Take in one question; questions with the same `key` share one row of contexts."""
        identity = _field(record, "id", str, where)
        place = _Location(self._name, ": question ", identity)
        if identity in self._ids:
            raise UserError(f"{place}: this id appears more than once; ids must be unique")
        self._ids.add(identity)
        text = _field(record, "question", str, place)
        if not context.strip():
            raise UserError(f"{place}: its context is empty")

        given = _answers(record, "answers", place)
        impossible = _optional(record, "is_impossible", bool, place)
        if given and impossible:
            raise UserError(
                f'{place}: "is_impossible" is true, and yet there are answers; make it false, '
                'or move them to "plausible_answers"'
            )
        answers, shifted = _placed(context, given or [])
        if shifted:
            self._shifted += shifted
            self._shifted_ids.append(identity)
        if given:
            self._with_answers += 1
            if len(answers) < len(given):
                self._misplaced += len(given) - len(answers)
                self._misplaced_ids.append(identity)
            if not answers:
                self._dropped_ids.append(identity)
                return
        labelled = given is not None and (bool(given) or impossible is not False)

        given_plausible = _answers(record, "plausible_answers", place) or []
        plausible, _ = _placed(context, given_plausible)
        if len(plausible) < len(given_plausible):
            self._misplaced_plausible += len(given_plausible) - len(plausible)
            self._misplaced_plausible_ids.append(identity)

        row = self._context_rows.get(key)
        if row is None:
            row = self._context_rows[key] = self._contexts.count
            self._contexts.add(article, title, context)
        self._questions.add(identity, row, text, labelled, answers, plausible)

    def finish(self) -> SquadTables:
        misplaced = len(self._misplaced_ids)
        with self.refusing:
            self._check_share_misplaced()
        if not self._questions.count:
            raise UserError(f"{self._name}: there are no questions in it")
        contexts, questions = self._contexts.table(), self._questions.table()
        report = ReadReport(
            **_counts(contexts, questions),
            shifted_answers=self._shifted,
            misplaced_answers=self._misplaced,
            misplaced_questions=misplaced,
            dropped_questions=len(self._dropped_ids),
            misplaced_plausible_answers=self._misplaced_plausible,
            misplaced_ids=tuple(self._misplaced_ids[:_SHOWN_IDS]),
        )
        affected = AffectedQuestions(
            shifted=tuple(self._shifted_ids),
            misplaced=tuple(self._misplaced_ids),
            dropped=tuple(self._dropped_ids),
            misplaced_plausible=tuple(self._misplaced_plausible_ids),
        )
        return SquadTables(contexts, questions, report, self._folder, affected)

    def _check_share_misplaced(self) -> None:
        misplaced = len(self._misplaced_ids)
        if misplaced > MAX_MISPLACED * self._with_answers:
            some = ", ".join(_shown(identity) for identity in self._misplaced_ids[:5])
            raise UserError(
                f"{self._name}: {misplaced:,} of {self._with_answers:,} questions with answers "
                f"have one that is not in its context at answer_start (at most "
                f"{MAX_MISPLACED:.0%} are skipped), for instance {some}. answer_start counts "
                "characters (not bytes) from 0."
            )


class _ErrorCollector:
    """Lets a UserError through; or notes its message, if there is a list for that, and goes on."""

    def __init__(self, problems: list[str] | None) -> None:
        self._problems = problems

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if self._problems is None or not isinstance(error, UserError):
            return False
        self._problems.append(str(error))
        return True


class _GrowingTable:
    """A table that grows part by part, in memory or in a file of a folder."""

    def __init__(self, schema: pa.Schema, folder: Path | None) -> None:
        self._parts = [schema.empty_table()]
        self._path = None if folder is None else str(folder / f"{uuid.uuid4()}.arrow")
        if self._path:
            self._writer = pa.ipc.new_file(self._path, schema)

    def add(self, part: pa.Table) -> None:
        if self._path:
            self._writer.write_table(part)
        else:
            self._parts.append(part)

    def finish(self) -> pa.Table:
        """All parts as one table, mapped into memory if they are in a file."""
        if not self._path:
            return pa.concat_tables(self._parts).combine_chunks()
        self._writer.close()
        return pa.ipc.open_file(pa.memory_map(self._path)).read_all()


class _Rows:
    """Rows on their way into an Arrow table; a batch of them at most is held as Python objects."""

    def __init__(self, schema: pa.Schema, folder: Path | None) -> None:
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._table = _GrowingTable(schema, folder)
        self.count = 0

    def add(self, *values: Any) -> None:
        self._rows.append(values)
        self.count += 1
        if len(self._rows) == _BATCH:
            self._flush()

    def table(self) -> pa.Table:
        if self._rows:
            self._flush()
        return self._table.finish()

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        arrays = [
            pa.array(column, field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._table.add(pa.table(arrays, schema=self._schema))
        self._rows.clear()


def _answers(record: dict[str, Any], key: str, where: object) -> list[tuple[str, int]] | None:
    """The answers under `key` as (text, start), or None where the key is absent."""
    given = _optional(record, key, list, where)
    if given is None:
        return None
    answers = []
    for n, answer in enumerate(given):
        at = _Location(where, f", {key}[", n, "]")
        text = _field(answer, "text", str, at)
        start = _field(answer, "answer_start", int, at)
        if not text.strip():
            raise UserError(f'{at}: an empty text; a question without an answer has "{key}": []')
        if start < 0:
            raise UserError(f'{at}: "answer_start" must not be negative, but is {start}')
        answers.append((text, start))
    return answers


def _placed(context: str, given: list[tuple[str, int]]) -> tuple[list[dict[str, Any]], int]:
    """The answers that stand in their context, put right, and how many had to be."""
    placed = []
    shifted = 0
    for text, start in given:
        for shift in range(min(MAX_SHIFT, start) + 1):
            if context.startswith(text, start - shift):
                placed.append({"text": text, "start": start - shift})
                shifted += shift > 0
                break
    return placed, shifted


_KINDS = {str: "a string", int: "a whole number", bool: "true or false", list: "a list"}


class _Location:
    """Where something stands, for messages: put into words only when there is one."""

    def __init__(self, within: object, before: str, value: Any, after: str = "") -> None:
        self._parts = within, before, value, after

    def __str__(self) -> str:
        within, before, value, after = self._parts
        return f"{within}{before}{_shown(value)}{after}"


def _field(record: Any, key: str, kind: type[_T], where: object) -> _T:
    """The value of `key`, which must be there and of exactly that type (a bool is not an int)."""
    if type(record) is not dict:
        raise UserError(f"{where}: expected an object, found {_shown(record)}")
    if key not in record:
        raise UserError(f'{where}: the key "{key}" is missing')
    value = record[key]
    if type(value) is not kind:
        raise UserError(f'{where}: "{key}" must be {_KINDS[kind]}, but is {_shown(value)}')
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f'{where}: "{key}" holds half of a surrogate pair '
                f"({value[error.start]!r} at character {error.start}), which is no character"
            ) from None
    return value  # type: ignore[no-any-return]


def _optional(record: Any, key: str, kind: type[_T], where: object) -> _T | None:
    """The value of `key`, which must be of exactly that type where it is given."""
    if type(record) is dict and key not in record:
        return None
    return _field(record, key, kind, where)


def _shown(value: Any) -> str:
    """A value for a message, in JSON's words and kept short."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _counts(contexts: pa.Table, questions: pa.Table) -> dict[str, Any]:
    answers = pc.list_value_length(questions["answers"])
    labelled = questions["labelled"]
    return {
        "articles": pc.count_distinct(contexts["article"]).as_py(),
        "contexts": contexts.num_rows,
        "questions": questions.num_rows,
        "unanswerable": pc.sum(pc.and_(labelled, pc.equal(answers, 0))).as_py() or 0,
        "unlabelled": pc.sum(pc.invert(labelled)).as_py() or 0,
        "answers": pc.sum(answers).as_py() or 0,
    }


# --- choosing ----------------------------------------------------------------------------------


def select(
    tables: SquadTables,
    *,
    unanswerable: Unanswerable = "no_answer",
    max_questions: int | None = None,
    seed: int = 42,
) -> SquadTables:
    """The questions to use, in the order of the file, with the contexts that they need.

    Args:
        tables: What `read_squad` gave.
        unanswerable: How unanswerable questions count: "no_answer" keeps them as they are;
            "plausible" takes plausible answers as if they were the answers, and drops unanswerable
            questions without any (as the starting notebook does, where each answer is a row);
            "drop" drops all of them. Questions without a label stay.
        max_questions: At most so many questions: whole paragraphs, drawn at random, the last one
            cut to fit. They are drawn after unanswerable ones were dropped.
        seed: Fixes the draw.

    Raises:
        UserError: `max_questions` below 1, or no question left.
    """
    if max_questions is not None and max_questions < 1:
        raise UserError(f"max_questions must be at least 1, but is {max_questions}")
    questions = tables.questions
    answerable = _any(questions["answers"])
    labelled = questions["labelled"].to_numpy()
    if unanswerable == "plausible":
        plausible = _any(questions["plausible_answers"])
        answerable, labelled = answerable | plausible, labelled | plausible
    keep = np.ones(questions.num_rows, bool)
    if unanswerable != "no_answer":
        keep = answerable | ~labelled
        if not keep.any():
            raise UserError(
                f"no question is left: all {questions.num_rows:,} are unanswerable, and "
                f"unanswerable is {unanswerable!r}; use 'no_answer' to keep them"
            )
    if max_questions is not None:
        random = np.random.Generator(np.random.PCG64(seed))
        place = random.permutation(tables.contexts.num_rows)  # of each context in the draw
        rows = np.flatnonzero(keep)
        context = questions["context"].to_numpy()[rows]
        drawn = np.argsort(place[context], kind="stable")[:max_questions]
        keep = np.zeros_like(keep)
        keep[rows[drawn]] = True
    return _chosen(tables, keep, _with_plausible if unanswerable == "plausible" else None)


def _any(answers: pa.ChunkedArray) -> np.ndarray:
    """Which questions have any of these answers, bool `[questions]`."""
    return np.asarray(pc.greater(pc.list_value_length(answers), 0).to_numpy())


def _with_plausible(questions: pa.Table) -> pa.Table:
    """Questions with plausible answers have these as their answers."""
    plausible = pc.greater(pc.list_value_length(questions["plausible_answers"]), 0)
    answers = pc.if_else(plausible, questions["plausible_answers"], questions["answers"])
    labelled = pc.or_(plausible, questions["labelled"])
    return replaced(replaced(questions, "answers", answers), "labelled", labelled)


def split_articles(
    tables: SquadTables, share: float, seed: int = 42
) -> tuple[SquadTables, SquadTables]:
    """Hold out whole articles: no question of an article that stays is among those held out.

    Articles with the same title count as one.

    Args:
        tables: What `read_squad` gave.
        share: Share of the articles to hold out, above 0 and below 1; at least one article is held
            out, and at least one stays.
        seed: Fixes which.

    Returns:
        The tables of the articles that stay, and of those held out.

    Raises:
        UserError: there are not two articles.
    """
    # An article without a title goes by its number.
    titles = tables.contexts["title"].to_pylist()
    numbers = tables.contexts["article"].to_pylist()
    names = {name: None for name in map(_article, titles, numbers)}
    if len(names) < 2:
        raise UserError(
            "holding out articles needs at least two of them (by title), and there is one"
        )
    random = np.random.Generator(np.random.PCG64(seed))
    count = min(max(1, round(share * len(names))), len(names) - 1)
    chosen = set(random.permutation(len(names))[:count].tolist())
    held = {name for position, name in enumerate(names) if position in chosen}
    is_held = np.array([_article(*both) in held for both in zip(titles, numbers, strict=True)])
    of_question = is_held[tables.questions["context"].to_numpy()]
    return _chosen(tables, ~of_question), _chosen(tables, of_question)


def _article(title: str, number: int) -> str | int:
    return title or number


def _chosen(
    tables: SquadTables, keep: np.ndarray, change: Callable[[pa.Table], pa.Table] | None = None
) -> SquadTables:
    """Some of the tables' questions, changed, with the contexts that they need."""
    if keep.all() and change is None:
        return tables
    context = tables.questions["context"].to_numpy()
    used = np.zeros(tables.contexts.num_rows, bool)
    used[context[keep]] = True
    new_row = np.cumsum(used, dtype=np.int32) - 1

    contexts = _GrowingTable(CONTEXTS, tables.folder)
    for part in _parts_of(tables.contexts, used):
        contexts.add(part)
    questions = _GrowingTable(QUESTIONS, tables.folder)
    for part in _parts_of(tables.questions, keep):
        rows = pa.array(new_row[part["context"].to_numpy()])
        part = replaced(part, "context", rows)
        questions.add(part if change is None else change(part))
    chosen = contexts.finish(), questions.finish()
    report = dataclasses.replace(tables.report, **_counts(*chosen))
    return SquadTables(*chosen, report, tables.folder)


def _parts_of(table: pa.Table, keep: np.ndarray) -> Iterator[pa.Table]:
    """The rows to keep, a few at a time."""
    for at in range(0, table.num_rows, _BATCH):
        yield table.slice(at, _BATCH).filter(pa.array(keep[at : at + _BATCH]))


def replaced(questions: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The same questions with another column in the place of one."""
    return questions.set_column(QUESTIONS.get_field_index(name), QUESTIONS.field(name), column)


# --- a part at a time --------------------------------------------------------------------------


def iter_chunks(tables: SquadTables, questions: int = _BATCH) -> Iterator[SquadTables]:
    """The tables in consecutive parts, so that not everything need be in memory at once.

    No context is in two parts: a part ends where no later question asks about an earlier context.
    In a file that is after any paragraph. (A hub dataset that jumps back and forth between contexts
    may have no such place; then it is one part.)

    Args:
        tables: What `read_squad` or `select` gave.
        questions: A part ends as soon as it has so many.

    Yields:
        Tables whose rows of contexts begin at 0; the report is that on the whole.
    """
    context = tables.questions["context"].to_numpy()
    so_far = np.maximum.accumulate(context)
    to_come = np.minimum.accumulate(context[::-1])[::-1]
    ends = np.append(np.flatnonzero(so_far[:-1] < to_come[1:]) + 1, len(context))
    begin = first = 0
    while begin < len(context):
        enough = min(begin + questions, len(context))
        end = int(ends[np.searchsorted(ends, enough)])
        last = int(so_far[end - 1])
        part = tables.questions.slice(begin, end - begin)
        part = replaced(part, "context", pc.subtract(part["context"], pa.scalar(first, pa.int32())))
        contexts = tables.contexts.slice(first, last + 1 - first)
        yield dataclasses.replace(tables, contexts=contexts, questions=part)
        begin, first = end, last + 1
