"""Where a model fails: scores by group, calibration, and its most confident errors.

All shares and probabilities in a report are percentages, 0 to 100, like the official figures.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qa_lightning.evaluation.calibration import (
    NOT_TUNED,
    Calibration,
    Tuned,
    calibration,
    given_probabilities,
    threshold_for_share,
)
from qa_lightning.evaluation.examples import Example, example
from qa_lightning.evaluation.markdown import shown, table
from qa_lightning.evaluation.scored_answers import ScoredAnswers, scored_answers
from qa_lightning.evaluation.scoring import score_answers
from qa_lightning.evaluation.spans import Answers, best_texts

SHARES = (0, 0.1, 0.2, 0.33, 0.5, 0.67)
"""Shares of unanswerable questions that a user may expect."""

_NOTABLE = 0.05  # the lowest F1 is pointed out among groups of at least this share of the questions

_ASKING = re.compile(r"\b(who|what|when|where|which|how|why)(?:m|se)?\b", re.IGNORECASE)
_QUESTION_WORDS = ["who", "what", "when", "where", "which", "how", "why", "other"]
_QUARTERS = ["first quarter", "second quarter", "third quarter", "last quarter"]
# Names of buckets by the smallest value in them: words of an answer or a context, and windows.
_ANSWER = {0: "1", 2: "2", 3: "3", 4: "4–5", 6: "6–10", 11: "11+"}
_CONTEXT = {0: "under 50", 50: "50–99", 100: "100–149", 150: "150–199", 200: "200–299", 300: "300+"}
_WINDOWS = {0: "1", 2: "2", 3: "3+"}

_TITLES = {
    "question_word": "First question word",
    "answer_words": "Length of the answer (words; answerable questions)",
    "answer_position": "Where the answer begins in the context (answerable questions)",
    "context_words": "Length of the context (words)",
    "windows": "Number of windows",
    "cut_questions": "Questions longer than the model reads",
}


@dataclass(frozen=True)
class Group:
    """Figures of some questions, at least one; `no_answer` is the share left unanswered."""

    name: str
    count: int
    exact: float
    f1: float
    no_answer: float


@dataclass(frozen=True)
class Plausible:
    """How the unanswerable questions with plausible answers were answered."""

    count: int
    answered: float  # share of them that the model answered at all
    taken: float  # share of them answered with a plausible answer, equal once normalised


@dataclass(frozen=True)
class Expecting:
    """The same questions answered by a user who expects a share of them to have no answer."""

    share: float  # of unanswerable questions, 0 to 1
    threshold: float  # the null threshold that follows
    answered: float  # share of all questions that is answered (coverage)
    right: float  # share of these that is answered right (exact match)
    abstained: float  # share of the unanswerable questions that is not answered


@dataclass(frozen=True)
class Report:
    """Where a model fails; made by `failure_report`."""

    threshold: float  # the effective null threshold
    overall: list[Group]  # all questions, then the answerable and the unanswerable ones
    # Groups by what they were grouped by: `question_word`, `context_words` and `windows` cover all
    # questions, `answer_words` and `answer_position` the answerable ones, `cut_questions` those
    # that were cut. Groups have a fixed order; empty ones are left out.
    breakdowns: dict[str, list[Group]]
    plausible: Plausible | None  # None if no unanswerable question has plausible answers
    calibration: Calibration
    temperature: float  # that the probabilities were divided by
    uncalibrated: float  # expected calibration error without it, in points
    by_share: list[Expecting]
    mistakes: list[Example]  # wrong answers (exact match 0), the most confident first

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's own types; an infinite threshold is the text "inf" or "-inf"."""
        content = asdict(self)
        for holder in (content, *content["by_share"]):
            if math.isinf(holder["threshold"]):
                holder["threshold"] = str(holder["threshold"])
        return content

    def _calibration_blocks(self) -> list[str]:
        measured, rows = self.calibration, []
        for each in measured.bins:
            figures = [f"{each.count:,}", f"{each.confidence:.1f}", f"{each.right:.1f}"]
            rows.append([f"{each.low:.0f}–{each.high:.0f} %", *figures])
        without = ""
        if self.temperature != 1:
            without = f" (temperature {self.temperature:.2f}; without it {self.uncalibrated:.1f})"
        return [
            f"Mean confidence {measured.confidence:.1f} %, right {measured.right:.1f} %; expected "
            f"calibration error {measured.ece:.1f} points{without}.",
            table(["sure to", "count", "mean confidence", "right (EM)"], rows),
        ]

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
        blocks += ["## Calibration", *self._calibration_blocks()]
        rows = [
            [
                f"{one.share:g}",
                *(f"{value:.1f}" for value in (one.answered, one.right, one.abstained)),
            ]
            for one in self.by_share
        ]
        blocks += [
            "## If another share of the questions has no answer",
            "`--unanswerable_share` sets the share that is expected. These questions, answered "
            "with each:",
            table(
                ["share expected", "answered", "of these right (EM)", "unanswerable left out"], rows
            ),
        ]
        if self.mistakes:
            blocks += [
                "## Worst confident errors",
                "In the context, the answer given is **bold**; where none was given, the gold "
                "answer is in *italics*.",
                "\n".join(_item(number, each) for number, each in enumerate(self.mistakes, 1)),
            ]
        return "\n\n".join(blocks) + "\n"


def failure_report(
    questions: pa.Table,
    contexts: pa.Table,
    answers: Answers,
    windows: np.ndarray,
    threshold: float,
    *,
    tuned: Tuned = NOT_TUNED,
    cut: np.ndarray | None = None,
    worst: int = 10,
) -> Report:
    """Score labelled questions group by group, with calibration and the worst errors.

    The figures of all questions are those of `evaluate` at the same threshold. `windows` is the
    number of windows of each answered question, int64 `[questions]`, `tuned` what travels
    with the model: its temperature, and the threshold that other shares of unanswerable questions
    start from, whatever the threshold in use; `cut` whether a question was too long to be read
    whole, bool `[questions]`, and `worst` how many of the most confident errors to show; the rest
    is as for `scored_answers`.

    Raises:
        ValueError: no answers, or not as many numbers of windows.
    """
    total = len(answers.question)
    if not total:
        raise ValueError("no questions to report on")
    if len(windows) != total:
        raise ValueError(f"{len(windows)} numbers of windows for {total} questions")
    scored = scored_answers(questions, contexts, answers, threshold, tuned.temperature)
    plain = given_probabilities(answers, threshold, 1.0)
    wrong = np.flatnonzero(scored.exact == 0)
    wrong = wrong[np.argsort(-scored.confidence[wrong], kind="stable")][:worst]
    breakdowns = _breakdowns(scored, windows)
    if cut is not None:
        names = np.where(cut, "cut", "").tolist()
        breakdowns["cut_questions"] = _groups(scored, ["cut"], names)
    kinds = np.where(scored.answerable, "answerable", "unanswerable").tolist()
    return Report(
        threshold=float(threshold),
        overall=_groups(scored, ["all"], ["all"] * total)
        + _groups(scored, ["answerable", "unanswerable"], kinds),
        breakdowns={name: groups for name, groups in breakdowns.items() if groups},
        plausible=_plausible(scored),
        calibration=calibration(scored.confidence, scored.exact),
        temperature=tuned.temperature,
        uncalibrated=calibration(plain, scored.exact).ece,
        by_share=_by_share(scored, tuned),
        mistakes=[example(scored, row, mark_gold=True) for row in wrong.tolist()],
    )


def _breakdowns(scored: ScoredAnswers, windows: np.ndarray) -> dict[str, list[Group]]:
    question_word = [
        match[1].lower() if (match := _ASKING.search(text)) else "other"  # "In what year": "what"
        for text in scored.questions["text"].to_pylist()
    ]
    answer_words, quarter = [""] * len(windows), [""] * len(windows)
    for row in np.flatnonzero(scored.answerable).tolist():
        first = scored.golds[row][0]
        answer_words[row] = _bucket(_ANSWER, len(first["text"].split()))
        if first["start"] >= 0:
            place = 4 * first["start"] // max(len(scored.contexts[row]), 1)
            quarter[row] = _QUARTERS[min(place, 3)]
    context_words = [_bucket(_CONTEXT, len(text.split())) for text in scored.contexts]
    number = [_bucket(_WINDOWS, count) for count in windows.tolist()]
    return {
        "question_word": _groups(scored, _QUESTION_WORDS, question_word),
        "answer_words": _groups(scored, _ANSWER.values(), answer_words),
        "answer_position": _groups(scored, _QUARTERS, quarter),
        "context_words": _groups(scored, _CONTEXT.values(), context_words),
        "windows": _groups(scored, _WINDOWS.values(), number),
    }


def _bucket(names: dict[int, str], value: int) -> str:
    return names[max(least for least in names if least <= value)]


def _groups(scored: ScoredAnswers, names: Iterable[str], group: Sequence[str]) -> list[Group]:
    """Figures of each named group, given the group of every question; empty ones are left out."""
    outcome = np.column_stack([scored.exact, scored.f1, scored.unanswered]).astype(np.float64)
    groups = []
    for name in names:
        members = np.array(group) == name
        if members.any():
            means = (100.0 * outcome[members].mean(axis=0)).tolist()
            groups.append(Group(name, int(members.sum()), *means))
    return groups


def _by_share(scored: ScoredAnswers, tuned: Tuned) -> list[Expecting]:
    """What would be answered, and be right, where users expect other shares (risk and coverage)."""
    texts = best_texts(scored.answers, scored.contexts)
    golds = [[gold["text"] for gold in given] for given in scored.golds]
    exact, _ = score_answers(golds, texts)
    rows = []
    for share in SHARES:
        at = threshold_for_share(
            tuned.threshold, share, tuned.unanswerable_share, tuned.temperature
        )
        answered = ~scored.answers.unanswered(at)
        right = exact[answered & scored.answerable].sum() / max(answered.sum(), 1)
        abstained = (~answered)[~scored.answerable].mean() if (~scored.answerable).any() else 0.0
        means = (float(100 * value) for value in (answered.mean(), right, abstained))
        rows.append(Expecting(share, at, *means))
    return rows


def _plausible(scored: ScoredAnswers) -> Plausible | None:
    given = scored.questions["plausible_answers"].to_pylist()
    rows = [row for row in np.flatnonzero(~scored.answerable).tolist() if given[row]]
    if not rows:
        return None
    texts = [[answer["text"] for answer in given[row]] for row in rows]
    same, _ = score_answers(texts, [scored.predicted[row] for row in rows])
    answered = ~scored.unanswered[rows]
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
        f1 = f"**{group.f1:.1f}**" if worst else f"{group.f1:.1f}"
        figures = [f"{group.exact:.1f}", f1, f"{group.no_answer:.1f}"]
        rows.append([group.name, f"{group.count:,}", *figures])
    return table(["", "count", "EM", "F1", 'answered "no answer"'], rows)


def _item(number: int, mistake: Example) -> str:
    """One error as an item of a numbered list; labels keep texts from the start of a line."""
    lines = [
        f"{number}. Question: {shown(mistake.question)} ({shown(mistake.id)})",
        f"Answer: {shown(mistake.predicted) or 'no answer'}, {mistake.confidence:.1f} % sure. "
        f"Gold: {mistake.gold}",
        f"Context: {mistake.context}",
    ]
    return "<br>\n   ".join(lines)
