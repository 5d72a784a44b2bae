"""Where a model fails, and whether it knows: scores by group, calibration, the worst errors.

All shares and probabilities in a report are percentages, 0 to 100, like the official figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_lightning.evaluation.markdown import escaped, excerpt, shown, table
from qa_lightning.evaluation.scoring import score_answers
from qa_lightning.evaluation.spans import NO_SPAN, Answers, best_texts, candidate_probabilities

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

_BINS = 10
_NOTABLE = 0.05  # share of the questions below which a group's low F1 is not pointed out

_ASKING = re.compile(r"\b(who|what|when|where|which|how|why)(?:m|se)?\b", re.IGNORECASE)
_QUESTION_WORDS = ["who", "what", "when", "where", "which", "how", "why", "other"]
_QUARTERS = ["first quarter", "second quarter", "third quarter", "last quarter"]
# Name of each bucket, and the smallest value in every bucket but the first.
_ANSWER_WORDS = (["1", "2", "3", "4–5", "6–10", "11+"], [2, 3, 4, 6, 11])
_CONTEXT_WORDS = (
    ["under 50", "50–99", "100–149", "150–199", "200–299", "300+"],
    [50, 100, 150, 200, 300],
)
_WINDOWS = (["1", "2", "3+"], [2, 3])

_TITLES = {
    "question_word": "First question word",
    "answer_words": "Length of the answer (words; answerable questions)",
    "answer_position": "Where the answer begins in the context (answerable questions)",
    "context_words": "Length of the context (words)",
    "windows": "Number of windows",
}


@dataclass(frozen=True)
class Group:
    """Figures of some questions.

    Attributes:
        name: What the questions have in common.
        count: How many there are, at least 1.
        exact: Exact match.
        f1: F1.
        no_answer: Share answered with "no answer", rightly or wrongly.
    """

    name: str
    count: int
    exact: float
    f1: float
    no_answer: float


@dataclass(frozen=True)
class Plausible:
    """What became of the unanswerable questions that have plausible answers.

    Attributes:
        count: How many there are.
        answered: Share of them that the model answered at all.
        taken: Share of them that it answered with a plausible answer; equal once normalised.
    """

    count: int
    answered: float
    taken: float


@dataclass(frozen=True)
class Bin:
    """Questions whose confidence lies between two bounds.

    Attributes:
        low: Lowest confidence of the bin.
        high: Where the next one begins; the last bin includes 100.
        count: How many questions there are, at least 1.
        confidence: Their mean confidence.
        right: Share of them that were answered right (exact match).
    """

    low: float
    high: float
    count: int
    confidence: float
    right: float


@dataclass(frozen=True)
class Calibration:
    """Whether confidence can be trusted.

    Confidence is the probability, among all candidates of the question, of what was answered: of
    "no answer" or of the best span.

    Attributes:
        ece: Expected calibration error, in points: how far the share that is right lies from the
            mean confidence, averaged over the bins by count (Naeini and others 2015).
        confidence: Mean confidence of all questions.
        right: Share of all questions that were answered right (exact match).
        bins: Ten bins of equal width, without the empty ones.
    """

    ece: float
    confidence: float
    right: float
    bins: list[Bin]


@dataclass(frozen=True)
class Mistake:
    """A question answered wrong (exact match 0).

    The excerpt is `before + marked + after`, on one line, of about 160 characters.

    Attributes:
        id: Id of the question.
        question: Its text.
        golds: Different gold answers, none if it is unanswerable.
        predicted: What was answered, "" for "no answer".
        confidence: Its probability.
        before: The context before the marked span.
        marked: The predicted span; where none was given, the first gold answer.
        after: The context after it.
    """

    id: str
    question: str
    golds: list[str]
    predicted: str
    confidence: float
    before: str
    marked: str
    after: str


@dataclass(frozen=True)
class Report:
    """Where a model fails; made by `failure_report`.

    Attributes:
        threshold: The null threshold in force.
        overall: All questions, then the answerable and the unanswerable ones.
        breakdowns: Groups by what they were grouped by. `question_word`, `context_words` and
            `windows` cover all questions, `answer_words` and `answer_position` the answerable
            ones. Groups stand in a fixed order, empty ones are left out.
        plausible: None if no unanswerable question has plausible answers.
        calibration: Whether confidence can be trusted.
        mistakes: The most confident wrong answers, most confident first.
    """

    threshold: float
    overall: list[Group]
    breakdowns: dict[str, list[Group]]
    plausible: Plausible | None
    calibration: Calibration
    mistakes: list[Mistake]

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's own types; an infinite threshold is the text "inf" or "-inf"."""
        content = asdict(self)
        if math.isinf(self.threshold):
            content["threshold"] = str(self.threshold)
        return content

    def to_markdown(self) -> str:
        """The report to read, for a file or TensorBoard's text page."""
        blocks = [
            "# Where the model fails",
            f"Percent; null threshold {self.threshold:.4g}. **Bold** is the lowest F1 in its table "
            f"among groups with at least {100 * _NOTABLE:.0f} % of its questions.",
            _table_of_groups(self.overall, point_out=False),
        ]
        for name, groups in self.breakdowns.items():
            blocks += [f"## {_TITLES[name]}", _table_of_groups(groups, point_out=True)]
        if self.plausible:
            blocks += [
                "## Unanswerable questions with plausible answers",
                f"Questions: {self.plausible.count:,}. Answered at all: "
                f"{self.plausible.answered:.1f} %. Answered with the plausible answer: "
                f"{self.plausible.taken:.1f} %.",
            ]
        blocks += [
            "## Calibration",
            f"Mean confidence {self.calibration.confidence:.1f} %, right "
            f"{self.calibration.right:.1f} %; expected calibration error "
            f"{self.calibration.ece:.1f} points.",
            table(
                ["sure to", "count", "mean confidence", "right (EM)"],
                [
                    [
                        f"{each.low:.0f}–{each.high:.0f} %",
                        f"{each.count:,}",
                        f"{each.confidence:.1f}",
                        f"{each.right:.1f}",
                    ]
                    for each in self.calibration.bins
                ],
            ),
        ]
        if self.mistakes:
            blocks += [
                "## Worst confident errors",
                "In the context, the answer given is **bold**; where none was given, the gold "
                "answer is in *italics*.",
                "\n".join(
                    _item(number, mistake) for number, mistake in enumerate(self.mistakes, 1)
                ),
            ]
        return "\n\n".join(blocks) + "\n"


def failure_report(
    questions: pa.Table,
    contexts: pa.Table,
    answers: Answers,
    windows: np.ndarray,
    threshold: float,
    *,
    worst: int = 10,
) -> Report:
    """Score labelled questions group by group, with calibration and the worst errors.

    The figures of all questions are those of `evaluate` at the same threshold. A question without
    gold answers counts as unanswerable.

    Args:
        questions: Arrow table, see `qa_lightning.data.tables.QUESTIONS`.
        contexts: Arrow table, see `qa_lightning.data.tables.CONTEXTS`.
        answers: Answers of all these questions or of some.
        windows: Number of windows of each answered question, int64 `[questions]`.
        threshold: A question is answered with "no answer" when its null odds exceed this.
        worst: How many of the most confident errors to show.

    Raises:
        ValueError: no answers, or not as many numbers of windows.
    """
    total = len(answers.question)
    if not total:
        raise ValueError("no questions to report on")
    if len(windows) != total:
        raise ValueError(f"{len(windows)} numbers of windows for {total} questions")
    asked = questions.take(answers.question)
    texts = asked.column("text").to_pylist()
    golds = asked.column("answers").to_pylist()
    gold_texts = [[gold["text"] for gold in given] for given in golds]
    context_of = asked.column("context").to_numpy()
    all_contexts = contexts.column("text").to_pylist()
    own_contexts = [all_contexts[row] for row in context_of.tolist()]

    predicted = best_texts(answers, own_contexts)
    exact, f1 = score_answers(gold_texts, predicted)
    answerable = np.array([len(given) > 0 for given in gold_texts])
    beyond = answers.null_odds > threshold
    exact = np.where(beyond, ~answerable, exact)
    f1 = np.where(beyond, ~answerable, f1)
    # Without any legal span nothing was answered, however high the threshold.
    silent = beyond | (answers.spans[:, 0, 0] == NO_SPAN)
    null, likely = candidate_probabilities(answers)
    confidence = np.where(silent, null, likely[:, 0])

    answer_words, quarter = np.zeros(total, np.int64), np.zeros(total, np.int64)
    for row in np.flatnonzero(answerable).tolist():
        first = golds[row][0]
        answer_words[row] = len(first["text"].split())
        quarter[row] = min(4 * first["start"] // max(len(own_contexts[row]), 1), 3)
    used = np.unique(context_of)
    words_of_used = np.array([len(all_contexts[row].split()) for row in used.tolist()])
    context_words = words_of_used[np.searchsorted(used, context_of)]

    everyone = np.ones(total, np.bool_)
    outcome = np.column_stack([exact, f1, silent]).astype(np.float64)
    breakdowns = {
        "question_word": _groups(_QUESTION_WORDS, _question_words(texts), everyone, outcome),
        "answer_words": _buckets(*_ANSWER_WORDS, answer_words, answerable, outcome),
        "answer_position": _groups(_QUARTERS, quarter, answerable, outcome),
        "context_words": _buckets(*_CONTEXT_WORDS, context_words, everyone, outcome),
        "windows": _buckets(*_WINDOWS, np.asarray(windows), everyone, outcome),
    }

    def mistake(row: int) -> Mistake:
        context, (begin, end) = own_contexts[row], answers.spans[row, 0].tolist()
        if silent[row]:
            begin = golds[row][0]["start"]
            end = begin + len(golds[row][0]["text"])
        before, marked, after = excerpt(context, begin, end)
        return Mistake(
            id=asked.column("id")[row].as_py(),
            question=texts[row],
            golds=list(dict.fromkeys(gold_texts[row])),
            predicted="" if silent[row] else predicted[row],
            confidence=float(100 * confidence[row]),
            before=before,
            marked=marked,
            after=after,
        )

    wrong = np.flatnonzero(exact == 0)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:worst]
    return Report(
        threshold=float(threshold),
        overall=_groups(["all"], np.zeros(total, np.int64), everyone, outcome)
        + _groups(["answerable", "unanswerable"], (~answerable).astype(int), everyone, outcome),
        breakdowns={name: groups for name, groups in breakdowns.items() if groups},
        plausible=_plausible(asked, predicted, answerable, silent),
        calibration=calibration(confidence, exact),
        mistakes=[mistake(row) for row in wrong.tolist()],
    )


def calibration(confidence: np.ndarray, right: np.ndarray) -> Calibration:
    """Compare how sure the model was with how often it was right.

    Args:
        confidence: Probability of what was answered, 0 to 1, float64 `[questions]`, at least one.
        right: 1 where that was right, else 0, `[questions]`.
    """
    place = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    bins = []
    for number in np.unique(place).tolist():
        members = place == number
        bins.append(
            Bin(
                low=100.0 * number / _BINS,
                high=100.0 * (number + 1) / _BINS,
                count=int(members.sum()),
                confidence=float(100 * confidence[members].mean()),
                right=float(100 * right[members].mean()),
            )
        )
    gaps = sum(each.count * abs(each.right - each.confidence) for each in bins)
    return Calibration(
        ece=gaps / len(confidence),
        confidence=float(100 * confidence.mean()),
        right=float(100 * right.mean()),
        bins=bins,
    )


def calibration_figure(report: Report) -> Figure:
    """Draw the reliability diagram of a report, 640 x 480 pixels.

    Above, the share right in each bin beside the diagonal of perfect calibration; below, the share
    of the questions in each bin. Belongs to no pyplot state, so nothing needs closing.
    """
    from matplotlib.figure import Figure

    measured = report.calibration
    total = sum(each.count for each in measured.bins)
    figure = Figure(figsize=(6.4, 4.8), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.set_title(f"Calibration: ECE {measured.ece:.1f} points, {total:,} answers")
    left = [each.low for each in measured.bins]
    width = 100 / _BINS
    bars = {"width": width, "align": "edge", "edgecolor": "white"}
    above.bar(left, [each.right for each in measured.bins], color="#9ecae1", **bars)
    above.plot([0, 100], [0, 100], "--", color="black", label="perfect calibration")
    above.plot(
        [each.confidence for each in measured.bins],
        [each.right for each in measured.bins],
        "o-",
        color="#d95f02",
        label="measured",
    )
    above.set(xlim=(0, 100), ylim=(0, 105), ylabel="right (EM, %)", yticks=range(0, 101, 20))
    above.legend(loc="upper left")
    shares = [100 * each.count / total for each in measured.bins]
    below.bar(left, shares, color="#b8b8b8", **bars)
    for begin, share in zip(left, shares, strict=True):
        below.annotate(
            f"{share:.0f}" if share >= 1 else "<1",
            (begin + width / 2, share),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    below.set(
        ylim=(0, 1.3 * max(shares)),
        xlabel="confidence (%)",
        ylabel="answers (%)",
        xticks=range(0, 101, 10),
    )
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _groups(
    names: Sequence[str], place: np.ndarray, covered: np.ndarray, outcome: np.ndarray
) -> list[Group]:
    """Means of exact match, F1 and "no answer" over the covered questions of every group."""
    groups = []
    for number, name in enumerate(names):
        members = covered & (place == number)
        if members.any():
            means = (100.0 * outcome[members].mean(axis=0)).tolist()
            groups.append(Group(name, int(members.sum()), *means))
    return groups


def _buckets(
    names: Sequence[str],
    bounds: Sequence[int],
    values: np.ndarray,
    covered: np.ndarray,
    outcome: np.ndarray,
) -> list[Group]:
    return _groups(names, np.searchsorted(bounds, values, side="right"), covered, outcome)


def _question_words(texts: Sequence[str]) -> np.ndarray:
    """Place in `_QUESTION_WORDS` of the first such word: "In what year" asks "what"."""
    found = (_ASKING.search(text) for text in texts)
    words = (match[1].lower() if match else "other" for match in found)
    return np.array([_QUESTION_WORDS.index(word) for word in words])


def _plausible(
    asked: pa.Table, predicted: Sequence[str], answerable: np.ndarray, silent: np.ndarray
) -> Plausible | None:
    given = asked.column("plausible_answers").to_pylist()
    rows = [row for row in np.flatnonzero(~answerable).tolist() if given[row]]
    if not rows:
        return None
    texts = [[answer["text"] for answer in given[row]] for row in rows]
    same, _ = score_answers(texts, [predicted[row] for row in rows])
    answered = ~silent[rows]
    return Plausible(
        count=len(rows),
        answered=float(100 * answered.mean()),
        taken=float(100 * (answered & (same == 1)).mean()),
    )


def _table_of_groups(groups: Sequence[Group], *, point_out: bool) -> str:
    notable = _NOTABLE * sum(group.count for group in groups)
    lowest = min((group.f1 for group in groups if group.count >= notable), default=None)
    rows = []
    for group in groups:
        worst = point_out and len(groups) > 1 and group.f1 == lowest and group.count >= notable
        rows.append(
            [
                group.name,
                f"{group.count:,}",
                f"{group.exact:.1f}",
                f"**{group.f1:.1f}**" if worst else f"{group.f1:.1f}",
                f"{group.no_answer:.1f}",
            ]
        )
    return table(["", "count", "EM", "F1", 'answered "no answer"'], rows)


def _item(number: int, mistake: Mistake) -> str:
    """One error as an item of a numbered list; labels keep texts from the start of a line."""
    golds = " / ".join(shown(gold) for gold in mistake.golds) or "no answer"
    marker = "**" if mistake.predicted else "*"
    marked = f"{marker}{escaped(mistake.marked)}{marker}"
    lines = [
        f"{number}. Question: {shown(mistake.question)} ({shown(mistake.id)})",
        f"Answer: {shown(mistake.predicted) or 'no answer'}, {mistake.confidence:.1f} % sure. "
        f"Gold: {golds}",
        f"Context: {escaped(mistake.before)}{marked}{escaped(mistake.after)}",
    ]
    return "<br>\n   ".join(lines)
