"""Calibration: whether a model's confidence can be trusted, and what makes it trustworthy."""

from dataclasses import dataclass
from math import inf, log

import numpy as np

from qa_lightning.evaluation.spans import Answers, candidate_probabilities

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The questions, at least one, whose confidence lies from `low` up to but not at `high`."""

    low: float
    high: float  # the last bin includes 100
    count: int
    confidence: float  # mean confidence of these questions
    right: float  # share of them that was answered right (exact match)


@dataclass(frozen=True)
class Calibration:
    """Confidence against the share of right answers; all shares are in percent.

    Confidence is the probability of the given answer ("no answer" or the best span) among all
    candidates of the question. The expected calibration error says how far the share of right
    answers lies from the mean confidence, averaged over the bins by count (Naeini et al. 2015).
    """

    ece: float  # expected calibration error, in points
    confidence: float  # mean confidence of all questions
    right: float  # share of all questions that was answered right (exact match)
    bins: list[Bin]  # of equal width, without the empty ones


def calibration(confidence: np.ndarray, right: np.ndarray) -> Calibration:
    """Compare how sure the model was with how often it was right, for at least one question.

    `confidence` is the probability of the given answer, 0 to 1, float64 `[questions]`, and `right`
    is 1 where that was right, else 0, `[questions]`.
    """
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = []
    for index in np.unique(place).tolist():
        members = place == index
        means = (float(100 * values[members].mean()) for values in (confidence, right))
        low, high = 100.0 * index / BINS, 100.0 * (index + 1) / BINS
        bins.append(Bin(low, high, int(members.sum()), *means))
    gaps = sum(each.count * abs(each.right - each.confidence) for each in bins)
    return Calibration(
        ece=gaps / len(confidence),
        confidence=float(100 * confidence.mean()),
        right=float(100 * right.mean()),
        bins=bins,
    )


@dataclass(frozen=True)
class Tuned:
    """What was tuned on held-out questions, for use on others."""

    threshold: float  # the null threshold
    temperature: float = 1.0  # of probabilities
    unanswerable_share: float | None = None  # that the threshold is for


NOT_TUNED = Tuned(0.0)
"""A model that nothing was tuned for."""


def given_probabilities(answers: Answers, threshold: float, temperature: float) -> np.ndarray:
    """Probability of the answer given to each question, "no answer" or its best span, float64."""
    null, likely = candidate_probabilities(answers, threshold, temperature)
    return np.where(answers.unanswered(threshold), null, likely[:, 0])


def fit_temperature(
    answers: Answers, right: np.ndarray, threshold: float, weights: np.ndarray | float = 1.0
) -> float:
    """The temperature at which confidence says best how likely an answer is right.

    It minimises the log loss of "the given answer is right", and changes neither answers nor their
    order (Guo et al. 2017). Between 1/20 and 20.

    Args:
        answers: Answers to held-out questions, at least one.
        right: 1 where the answer that is given at the threshold is right, else 0, `[questions]`.
        threshold: The null threshold.
        weights: How much each question counts.
    """

    def loss(temperature: float) -> float:
        sure = np.clip(given_probabilities(answers, threshold, temperature), 1e-6, 1 - 1e-6)
        return float(-np.mean(weights * np.where(right > 0, np.log(sure), np.log1p(-sure))))

    grid = np.exp(np.linspace(-log(20), log(20), 241))
    return float(min(grid, key=loss))


def threshold_for_share(
    threshold: float, share: float, tuned_share: float | None, temperature: float
) -> float:
    """The null threshold where another share of questions is unanswerable than it was tuned for.

    The odds of "no answer" change as the odds of the two shares do (Saerens et al. 2002).

    Args:
        threshold: The tuned null threshold.
        share: Share of unanswerable questions that is expected, 0 to 1: at 0 every question is
            answered, at 1 none.
        tuned_share: The share that the threshold was tuned for; None stands for a half.
        temperature: By which score differences are divided to be log odds.
    """
    if share in (0, 1):
        return -inf if share else inf
    before = 0.5 if tuned_share is None else min(max(tuned_share, 0.001), 0.999)
    return threshold - temperature * (log(share / (1 - share)) - log(before / (1 - before)))
