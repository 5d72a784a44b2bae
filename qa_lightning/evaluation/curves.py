"""Curves of a run and of its null threshold: computed here, and drawn for a person to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qa_lightning.evaluation.scoring import Floats, last_of_ties

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _GREY = "#3182bd", "#d95f02", "#31a354", "#b8b8b8"
_OUTERMOST = 0.01  # share of the null odds on each side that is drawn at the border
_BARS = 40
_SMOOTHED = 10  # the mean runs over such a part of the points


@dataclass(frozen=True)
class Abstaining:
    """How right it is to say "no answer", at every null threshold that makes a difference.

    At a threshold, and from there up to the next, the same questions are left unanswered: those
    with larger null odds.

    Attributes:
        thresholds: Rising from -inf, float64 `[points]`.
        precision: Share of the questions left unanswered that are unanswerable, in percent,
            float64 `[points]`; nan where none is left.
        recall: Share of the unanswerable questions that are left unanswered, in percent, float64
            `[points]`.
    """

    thresholds: Floats
    precision: Floats
    recall: Floats

    def at(self, threshold: float) -> tuple[float, float]:
        """Precision and recall at any threshold."""
        place = int(np.searchsorted(self.thresholds, threshold, side="right")) - 1
        return float(self.precision[place]), float(self.recall[place])


def abstaining(null_odds: npt.ArrayLike, answerable: npt.ArrayLike) -> Abstaining:
    """Precision and recall of leaving questions unanswered, over the null threshold.

    Args:
        null_odds: Null score less best span score, shape `(questions,)`, no NaN.
        answerable: Whether the question has a gold answer, shape `(questions,)`.

    Raises:
        ValueError: no question is unanswerable.
    """
    odds = np.asarray(null_odds, np.float64)
    unanswerable = ~np.asarray(answerable, np.bool_)
    if not unanswerable.any():
        raise ValueError("recall needs an unanswerable question")
    order = np.argsort(odds, kind="stable")
    thresholds = np.concatenate([[-np.inf], odds[order]])
    left = np.arange(len(odds), -1, -1, dtype=np.float64)
    rightly = np.concatenate([[0], np.cumsum(unanswerable[order])])
    rightly = rightly[-1] - rightly
    precision = np.full(len(left), np.nan)
    np.divide(100.0 * rightly, left, out=precision, where=left > 0)
    cut = last_of_ties(thresholds)
    return Abstaining(thresholds[cut], precision[cut], (100.0 * rightly / rightly[0])[cut])


def abstaining_figure(
    null_odds: npt.ArrayLike, answerable: npt.ArrayLike, threshold: float
) -> Figure:
    """Draw precision and recall of "no answer" above, and how the null odds lie below.

    500 x 420 pixels: TensorBoard shows images small. Odds further out than 98 % of all are drawn
    at the borders. Belongs to no pyplot state, so nothing needs closing.

    Args:
        null_odds: As for `abstaining`.
        answerable: As for `abstaining`; both kinds of questions.
        threshold: The null threshold in force.
    """
    from matplotlib.figure import Figure

    odds = np.asarray(null_odds, np.float64)
    has_answer = np.asarray(answerable, np.bool_)
    curve = abstaining(odds, has_answer)
    precision, recall = curve.at(threshold)
    low, high = np.quantile(odds, [_OUTERMOST, 1 - _OUTERMOST])
    low, high = (low, high) if low < high else (low - 1, high + 1)

    figure = Figure(figsize=(5, 4.2), dpi=100)
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.12, top=0.92, hspace=0.14)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    outcome = f"precision {precision:.1f} %, recall {recall:.1f} %"
    if np.isnan(precision):
        outcome = "to no question"
    above.set_title(f"“No answer” above {threshold:.3g}: {outcome}", fontsize=10)
    for name, values, at, color in (
        ("precision", curve.precision, precision, _BLUE),
        ("recall", curve.recall, recall, _GREEN),
    ):
        # -inf cannot be drawn; what holds there holds up to the lowest odds.
        places = np.maximum(curve.thresholds, min(low, odds.min()) - 1)
        above.step(places, values, where="post", color=color, label=name)
        if low <= threshold <= high:
            above.plot([threshold], [at], "o", color=color)
    edges = np.linspace(low, high, _BARS + 1)
    for name, members, color in (
        ("answerable", has_answer, _BLUE),
        ("unanswerable", ~has_answer, _ORANGE),
    ):
        within = np.clip(odds[members], low, high)
        below.hist(within, edges, histtype="stepfilled", color=color, alpha=0.55, label=name)
    if low <= threshold <= high:
        for axes in (above, below):
            axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
    above.set(xlim=(low, high), ylim=(0, 105), ylabel="percent", yticks=range(0, 101, 20))
    below.set(ylabel="questions", xlabel="null odds")
    for axes in (above, below):
        _plain(axes)
    return figure


def learning_curve(
    losses: Mapping[int, float], validations: Sequence[Mapping[str, float]], best: int | None
) -> Figure:
    """Draw the course of a run: losses above, EM and F1 below, the best model marked.

    Args:
        losses: Training loss by optimizer step, at least one, or a validation.
        validations: Figures of every validation, by their names and with the `step`.
        best: Optimizer step of the best model; None marks none.

    Returns:
        800 x 600 pixels; belongs to no pyplot state, so nothing needs closing.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=100)
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.09, top=0.94, hspace=0.12)
    above, below = figure.subplots(2, 1, sharex=True)
    steps = np.array(sorted(losses), np.int64)
    values = np.array([losses[step] for step in steps.tolist()])
    if len(steps):
        above.plot(steps, values, color=_BLUE, alpha=0.3, linewidth=0.8)
        width = max(len(steps) // _SMOOTHED, 1)
        mean = np.ones(width) / width
        above.plot(
            *(np.convolve(each, mean, "valid") for each in (steps, values)),
            color=_BLUE,
            label="training loss" + (f" (mean of {width} points)" if width > 1 else ""),
        )
    for axes, name, label, color in (
        (above, "val/loss", "validation loss", _ORANGE),
        (below, "val/exact", "EM", _BLUE),
        (below, "val/f1", "F1", _GREEN),
    ):
        points = [(each["step"], each[name]) for each in validations if name in each]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=color, markersize=4, label=label)
    title = "Learning curve"
    if best is not None:
        title += f": best model after {best:,} steps"
        of_best = [each for each in validations if each["step"] == best and "val/exact" in each]
        for figures in of_best:
            title += f", EM {figures['val/exact']:.2f}, F1 {figures['val/f1']:.2f}"
        for axes in (above, below):
            axes.axvline(best, color="black", linestyle="--", linewidth=1)
    above.set(title=title, ylabel="loss")
    below.set(ylabel="percent", xlabel="optimizer steps")
    for axes in (above, below):
        _plain(axes)
    return figure


def _plain(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=9, framealpha=0.8)
    axes.grid(color=_GREY, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
