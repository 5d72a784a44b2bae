"""Single questions to look at: the answer marked in its context, gold beside predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qa_lightning.evaluation.markdown import escaped, excerpt, shown, table
from qa_lightning.evaluation.scored_answers import ScoredAnswers


@dataclass(frozen=True)
class Example:
    """A labelled question and how it was answered.

    The excerpt of the context is `before + marked + after`, on one line, of about 160 characters.
    """

    id: str
    question: str
    golds: list[str]  # different ones; none if the question is unanswerable
    predicted: str  # "" for "no answer"
    confidence: float  # probability of the answer among all candidates, in percent
    exact: float  # 0 or 1
    f1: float  # 0 to 1
    null_odds: float
    before: str
    marked: str  # the predicted span; for "no answer" see `example`
    after: str

    @property
    def context(self) -> str:
        """The excerpt in Markdown: the answer that was given is bold, another span in italics."""
        marker = "**" if self.predicted else "*"
        marked = f"{marker}{escaped(self.marked)}{marker}" if self.marked else ""
        return escaped(self.before) + marked + escaped(self.after)

    @property
    def gold(self) -> str:
        """The gold answers in Markdown."""
        return " / ".join(map(shown, self.golds)) or "no answer"


def choose(answerable: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose a few questions, half of them answerable, or more where one kind has too few.

    Returns:
        Their places in `answerable`, int64: answerable ones, then the others, both rising.
    """
    draw = np.random.default_rng(seed)
    kinds = [np.flatnonzero(answerable), np.flatnonzero(~answerable)]
    first = min(len(kinds[0]), max(count // 2, count - len(kinds[1])))
    counts = (first, count - first)
    chosen = (draw.permutation(rows)[:n] for rows, n in zip(kinds, counts, strict=True))
    return np.concatenate([np.sort(rows) for rows in chosen])


def example(scored: ScoredAnswers, row: int, *, mark_gold: bool = False) -> Example:
    """One of the scored questions.

    For "no answer", the best span is marked, if there is one; with `mark_gold` the first gold
    answer whose place is known.
    """
    golds = scored.golds[row]
    begin, end = np.maximum(scored.answers.spans[row, 0], 0).tolist()  # (0, 0) if there is no span
    if mark_gold and scored.unanswered[row]:
        for gold in [gold for gold in golds if gold["start"] >= 0][:1]:
            begin, end = gold["start"], gold["start"] + len(gold["text"])
    return Example(
        scored.questions["id"][row].as_py(),
        scored.questions["text"][row].as_py(),
        list(dict.fromkeys(gold["text"] for gold in golds)),
        scored.predicted[row],
        float(100 * scored.confidence[row]),
        float(scored.exact[row]),
        float(scored.f1[row]),
        float(scored.answers.null_odds[row]),
        *excerpt(scored.contexts[row], begin, end),
    )


COLUMNS = ("right", "question", "context", "gold", "predicted")


def cells_of(rows: Sequence[Example]) -> list[list[str]]:
    """Examples as rows of a table with these columns, the text of each cell in Markdown."""
    return [
        [
            "✓" if each.exact else "½" if each.f1 else "✗",
            shown(each.question),
            each.context,
            each.gold,
            # In one cell: TensorBoard would squeeze a column of short figures to nothing.
            f"{shown(each.predicted) or 'no answer'} (null odds {each.null_odds:+.3g})",
        ]
        for each in rows
    ]


def table_of(rows: Sequence[Example], threshold: float) -> str:
    """Examples that were answered at a null threshold, as a table in Markdown."""
    return (
        "✓ is right (exact match), ½ shares words with a gold answer. In the context, the answer "
        "given is **bold**; where none was given, the best one there was is in *italics*. Null "
        f"odds above {threshold:.4g} mean “no answer”.\n\n"
        + table(["", *COLUMNS[1:]], cells_of(rows), of_figures=False)
    )
