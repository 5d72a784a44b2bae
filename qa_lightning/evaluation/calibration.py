"""Calibration: whether a model's confidence can be trusted. All shares are in percent."""

from dataclasses import dataclass

import numpy as np

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
    """Confidence against the share of right answers.

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
