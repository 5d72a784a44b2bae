"""A few questions, always the same: what the model says to them, gold beside predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qa_lightning.evaluation.markdown import escaped, excerpt, shown, table
from qa_lightning.evaluation.scoring import score_answers
from qa_lightning.evaluation.spans import NO_SPAN, Answers

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Example:
    """A question and what the model said to it.

    The excerpt of the context is `before + marked + after`, on one line, of about 160 characters.

    Attributes:
        question: The question.
        golds: Different gold answers, none if it is unanswerable.
        predicted: What was answered, "" for "no answer".
        exact: Exact match of that, 0 or 1.
        f1: F1 of that, 0 to 1.
        null_odds: Null score less the best span's score.
        before: The context before the best span.
        marked: The best span, given as the answer or not; "" if the question has none.
        after: The context after it.
    """

    question: str
    golds: list[str]
    predicted: str
    exact: float
    f1: float
    null_odds: float
    before: str
    marked: str
    after: str


def choose(answerable: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose a few questions, half of them answerable, or more where one kind has too few.

    Args:
        answerable: Whether a question has an answer, bool `[questions]`.
        count: How many to choose; all, where there are not as many.
        seed: Fixes the choice.

    Returns:
        Their places, int64: first answerable ones, then the others, both rising.
    """
    draw = np.random.default_rng(seed)
    kinds = [np.flatnonzero(answerable), np.flatnonzero(~answerable)]
    first = min(len(kinds[0]), max(count // 2, count - len(kinds[1])))
    wanted = (first, count - first)
    return np.concatenate(
        [np.sort(draw.permutation(rows)[:n]) for rows, n in zip(kinds, wanted, strict=True)]
    )


def examples(
    questions: pa.Table,
    contexts: pa.Table,
    answers: Answers,
    places: np.ndarray,
    threshold: float,
) -> list[Example]:
    """Say how some questions were answered.

    Args:
        questions: Arrow table, see `qa_lightning.data.tables.QUESTIONS`.
        contexts: Arrow table, see `qa_lightning.data.tables.CONTEXTS`.
        answers: Answers of all these questions or of some.
        places: Which of the answers are meant, int64 `[examples]`.
        threshold: A question is answered with "no answer" when its null odds exceed this.
    """
    asked = questions.take(answers.question[places]).to_pylist()
    texts = contexts.column("text").take([each["context"] for each in asked]).to_pylist()
    odds = answers.null_odds[places].tolist()
    spans = answers.spans[places, 0].tolist()
    predicted = [
        context[begin:end] if begin != NO_SPAN and likely <= threshold else ""
        for context, (begin, end), likely in zip(texts, spans, odds, strict=True)
    ]
    golds = [[answer["text"] for answer in each["answers"]] for each in asked]
    exact, f1 = score_answers(golds, predicted)
    return [
        Example(
            asked[row]["text"],
            list(dict.fromkeys(golds[row])),
            predicted[row],
            float(exact[row]),
            float(f1[row]),
            odds[row],
            *excerpt(texts[row], *(spans[row] if spans[row][0] != NO_SPAN else (0, 0))),
        )
        for row in range(len(places))
    ]


def table_of(rows: Sequence[Example], threshold: float) -> str:
    """Examples as a table in Markdown.

    Args:
        rows: The examples.
        threshold: The null threshold with which they were answered.
    """
    header = ["", "question", "context", "gold", "predicted"]
    return (
        "✓ is right (exact match), ½ shares words with a gold answer. In the context, the answer "
        "given is **bold**; where none was given, the best one there was is in *italics*. Null "
        f"odds above {threshold:.4g} mean “no answer”.\n\n"
        + table(header, [_cells(each) for each in rows], of_figures=False)
    )


def _cells(example: Example) -> list[str]:
    marker = "**" if example.predicted else "*"
    marked = f"{marker}{escaped(example.marked)}{marker}" if example.marked else ""
    return [
        "✓" if example.exact else "½" if example.f1 else "✗",
        shown(example.question),
        escaped(example.before) + marked + escaped(example.after),
        " / ".join(map(shown, example.golds)) or "no answer",
        # In one cell: TensorBoard would squeeze a column of short figures to nothing.
        f"{shown(example.predicted) or 'no answer'} (null odds {example.null_odds:+.3g})",
    ]
