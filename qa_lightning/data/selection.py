"""Which questions of a source are used: samples, articles held out, kinds left out."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_lightning.data.tables import ANSWERS, NO_PLACE, SquadTables, counts, replaced
from qa_lightning.errors import UserError


@dataclass(frozen=True)
class Selection:
    """Which questions of a source are used, and how."""

    # How unanswerable questions count: "no_answer" keeps them as they are; "plausible" takes
    # plausible answers as if they were the answers, and drops unanswerable questions without any
    # (as the starting notebook does, where each answer is a row); "drop" drops all of them.
    # Questions without a label stay.
    unanswerable: Literal["no_answer", "plausible", "drop"] = "no_answer"
    # At most so many: whole paragraphs, drawn at random after unanswerable questions were dropped,
    # the last one cut to fit.
    max_questions: int | None = None
    seed: int = 42  # fixes the draw, and which articles are held out
    holdout: float = 0.0  # share of the articles held out, see `split_articles`; 0 for none
    held_out: bool = False  # whether the articles held out are meant, or those that stay
    # Leave out answers whose place is not known, and questions that have no other answers: they are
    # scored, but cannot be trained on.
    placed: bool = False

    def of(self, tables: SquadTables) -> SquadTables:
        """The questions to use, in the order of the file, with the contexts that they need.

        Raises:
            UserError: no question is left, or there is only one article to hold out from.
        """
        if self.holdout:
            tables = split_articles(tables, self.holdout, self.seed)[self.held_out]
        if self.unanswerable == "plausible":
            tables = dataclasses.replace(tables, questions=_with_plausible(tables.questions))
        questions = tables.questions
        keep = np.ones(questions.num_rows, bool)
        if self.placed:
            had_answers = pc.greater(pc.list_value_length(questions["answers"]), 0)
            questions = replaced(questions, "answers", _placed(questions["answers"]))
            tables = dataclasses.replace(tables, questions=questions)
            left = pc.greater(pc.list_value_length(questions["answers"]), 0)
            keep = pc.or_(left, pc.invert(had_answers)).to_numpy()
            if not keep.any():
                raise UserError("no question is left: no answer stands at its answer_start")
        if self.unanswerable != "no_answer":
            answerable = pc.greater(pc.list_value_length(questions["answers"]), 0)
            keep = keep & pc.or_(answerable, pc.invert(questions["labelled"])).to_numpy()
            if not keep.any():
                raise UserError(
                    f"no question is left: all {questions.num_rows:,} are unanswerable, and "
                    f"unanswerable is {self.unanswerable!r}; use 'no_answer' to keep them"
                )
        if self.max_questions is not None:
            random = np.random.Generator(np.random.PCG64(self.seed))
            place = random.permutation(tables.contexts.num_rows)  # of each context in the draw
            rows = np.flatnonzero(keep)
            context = questions["context"].to_numpy()[rows]
            drawn = np.argsort(place[context], kind="stable")[: self.max_questions]
            keep = np.zeros_like(keep)
            keep[rows[drawn]] = True
        return _chosen(tables, keep)


def _placed(answers: pa.ChunkedArray) -> pa.Array:
    """The answers of each question that have a place."""
    whole = answers.combine_chunks()
    has_place = pc.not_equal(whole.values.field("start"), NO_PLACE)
    before = np.concatenate([[0], np.cumsum(has_place.to_numpy(zero_copy_only=False))])
    offsets = before[whole.offsets.to_numpy()].astype(np.int32)
    return pa.ListArray.from_arrays(offsets, whole.values.filter(has_place), type=ANSWERS)


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

    Articles with the same title count as one; an article without a title goes by its number.
    `share` is the share of the articles to hold out, above 0 and below 1; at least one article is
    held out, and at least one stays.

    Returns:
        The tables of the articles that stay, and of those held out.

    Raises:
        UserError: there are not two articles.
    """
    titles = tables.contexts["title"].to_pylist()
    numbers = tables.contexts["article"].to_pylist()
    article_of = [title or number for title, number in zip(titles, numbers, strict=True)]
    articles = list(dict.fromkeys(article_of))
    if len(articles) < 2:
        raise UserError(
            "holding out articles needs at least two of them (by title), and there is one"
        )
    random = np.random.Generator(np.random.PCG64(seed))
    count = min(max(1, round(share * len(articles))), len(articles) - 1)
    held = {articles[place] for place in random.permutation(len(articles))[:count]}
    is_held = np.array([article in held for article in article_of])
    of_question = is_held[tables.questions["context"].to_numpy()]
    return _chosen(tables, ~of_question), _chosen(tables, of_question)


def _chosen(tables: SquadTables, keep: np.ndarray) -> SquadTables:
    """Some of the tables' questions, with the contexts that they need."""
    questions = tables.questions.filter(pa.array(keep))
    context = questions["context"].to_numpy()
    used = np.zeros(tables.contexts.num_rows, bool)
    used[context] = True
    new_row = np.cumsum(used, dtype=np.int32) - 1
    questions = replaced(questions, "context", pa.array(new_row[context]))
    contexts = tables.contexts.filter(pa.array(used))
    report = dataclasses.replace(tables.report, **counts(contexts, questions))
    return SquadTables(contexts, questions, report)
