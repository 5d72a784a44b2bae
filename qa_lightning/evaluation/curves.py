"""The abstention curve: precision and recall of "no answer" over the null threshold."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qa_lightning.evaluation.scoring import Floats, last_of_ties, sweep


@dataclass(frozen=True)
class AbstentionCurve:
    """How right it is to answer "no answer", at every null threshold that makes a difference.

    Precision is the share of the unanswered questions that are unanswerable, nan where every
    question is answered; recall the share of the unanswerable questions that are left unanswered.
    Both are in percent, and all three float64 `[points]`.
    """

    thresholds: Floats  # rising from -inf; from each up to the next the same are left unanswered
    precision: Floats
    recall: Floats

    def at(self, threshold: float) -> tuple[float, float]:
        """Precision and recall at any threshold."""
        place = int(np.searchsorted(self.thresholds, threshold, side="right")) - 1
        return float(self.precision[place]), float(self.recall[place])


def abstention_curve(null_odds: npt.ArrayLike, answerable: npt.ArrayLike) -> AbstentionCurve:
    """Precision and recall of leaving questions unanswered, over the null threshold.

    Arguments are as for `sweep`.

    Raises:
        ValueError: no question is unanswerable.
    """
    nothing = np.zeros(np.shape(null_odds))
    # With no score for any answer, the total counts the unanswerable questions left unanswered.
    thresholds, rightly = sweep(nothing, null_odds, answerable, predicted_empty=nothing)
    if not rightly[0]:
        raise ValueError("recall needs an unanswerable question")
    left = np.arange(len(nothing), -1.0, -1.0)
    with np.errstate(invalid="ignore"):
        precision = 100.0 * rightly / left  # nan where none is left
    cut = last_of_ties(thresholds)
    return AbstentionCurve(thresholds[cut], precision[cut], (100.0 * rightly / rightly[0])[cut])
