"""Questions and their contexts as two Arrow tables, and the report on what they hold."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from qa_lightning.errors import UserError

# One row per paragraph that has questions (in a hub dataset: per distinct context string).
CONTEXTS = pa.schema(
    {
        "article": pa.int32(),  # number of its article, counted from 0 in the order of the file
        "title": pa.string(),  # "" where the file gives none
        "text": pa.string(),
    }
)
# Starts are in characters (code points, as Python counts) of the context; -1 where the place is not
# known. Scoring goes by the texts of all answers, training by those that have a place.
NO_PLACE = -1
ANSWERS = pa.list_(pa.struct({"text": pa.string(), "start": pa.int32()}))
# One row per question, in the order of the file. It is answerable if it has answers, unanswerable
# if it is labelled and has none; without a label it can only be predicted on.
QUESTIONS = pa.schema(
    {
        "id": pa.string(),
        "context": pa.int32(),  # row in CONTEXTS
        "text": pa.string(),
        "labelled": pa.bool_(),
        "answers": ANSWERS,
        "plausible_answers": ANSWERS,
    }
)

MAX_MISPLACED = 0.03
"""Share of the questions with answers that may have a misplaced one when they are trained on."""

Rows = Sequence[tuple[Any, ...]]  # with the values of a table's columns, in their order


@dataclass(frozen=True)
class ReadReport:
    """What the tables hold, and what reading their source corrected or left out.

    The first six count rows of the tables and answers in them. The tuples hold ids of questions in
    the order of the file. An answer is shifted if it stood one or two characters before its
    `answer_start`, and misplaced if it stood nowhere near, or has no `answer_start`: its question
    is named once for each. A question is unplaced if it has answers and all are misplaced. An empty
    question, or one over an empty context, is left out of the tables.
    """

    articles: int
    contexts: int
    questions: int
    unanswerable: int
    unlabelled: int
    answers: int
    shifted: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()
    misplaced_plausible: tuple[str, ...] = ()
    unplaced: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()

    @property
    def answerable(self) -> int:
        """Questions with answers."""
        return self.questions - self.unanswerable - self.unlabelled


@dataclass(frozen=True)
class SquadTables:
    """Contexts and questions with the schemas CONTEXTS and QUESTIONS, and the report on them."""

    contexts: pa.Table
    questions: pa.Table
    report: ReadReport


def counts(contexts: pa.Table, questions: pa.Table) -> dict[str, Any]:
    """The first six fields of a ReadReport."""
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


def tables_from_rows(contexts: Rows, questions: Rows, **corrected: Any) -> SquadTables:
    """Tables with these rows; `corrected` are the tuples of their report."""
    tables = _table(contexts, CONTEXTS), _table(questions, QUESTIONS)
    return SquadTables(*tables, ReadReport(**counts(*tables), **corrected))


def _table(rows: Rows, schema: pa.Schema) -> pa.Table:
    columns = zip(zip(*rows, strict=True), schema.types, strict=True)
    return pa.table([pa.array(*column) for column in columns], schema=schema)


def tables_from_texts(questions: Sequence[str], contexts: Sequence[str]) -> SquadTables:
    """Tables of questions to be answered, at least one, with the context of each.

    Their ids are "0", "1", ...; equal contexts are one row.
    """
    rows = {context: row for row, context in enumerate(dict.fromkeys(contexts))}
    asked = enumerate(zip(questions, contexts, strict=True))
    return tables_from_rows(
        [(row, "", context) for context, row in rows.items()],
        [(str(n), rows[context], question, False, [], []) for n, (question, context) in asked],
    )


def require_labels(questions: pa.Table, name: str) -> None:
    """Refuse questions that cannot be trained on or scored: nothing is known of their answers.

    Raises:
        UserError: there is one without a label; the message calls their source `name`.
    """
    if unlabelled := pc.sum(pc.invert(questions["labelled"])).as_py():
        raise UserError(
            f"{name} holds {unlabelled:,} questions that neither have answers nor are "
            "marked is_impossible: they can be answered (predict), but not trained on or scored"
        )


def require_places(report: ReadReport, name: str) -> None:
    """Refuse to train on a source of which so many answers are misplaced that something is wrong.

    Raises:
        UserError: more than `MAX_MISPLACED` of the questions with answers have a misplaced one.
    """
    ids = list(dict.fromkeys(report.misplaced))
    if len(ids) > MAX_MISPLACED * report.answerable:
        raise UserError(
            f"{name}: {len(ids):,} of {report.answerable:,} questions with answers have one that "
            f"is not in its context at answer_start (at most {MAX_MISPLACED:.0%} are left out of "
            f"training), for instance {', '.join(map(json.dumps, ids[:5]))}. answer_start counts "
            "characters (not bytes) from 0: python -m qa_lightning check FILE --fix OUT.json tells "
            "what it counts, and corrects it. The file can be answered (predict) and scored "
            "(validate) as it is"
        )


def replaced(questions: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The same questions with another column in the place of one."""
    return questions.set_column(QUESTIONS.get_field_index(name), QUESTIONS.field(name), column)
