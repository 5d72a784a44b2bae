"""Figures of a run and of an evaluation, drawn without pyplot, so that nothing needs closing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qa_lightning.evaluation.calibration import BINS, Calibration
from qa_lightning.evaluation.curves import abstention_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREEN, _GREY = "#3182bd", "#d95f02", "#31a354", "#b8b8b8"
_OUTERMOST = 0.01  # share of the null odds on each side that is drawn at the border


def abstention_figure(
    null_odds: npt.ArrayLike, answerable: npt.ArrayLike, threshold: float
) -> Figure:
    """Draw precision and recall of "no answer" above, and the null odds of the questions below.

    500 x 420 pixels, since TensorBoard shows images small. The outermost hundredth of the odds on
    either side is drawn at the borders. The threshold is marked. Arguments are as for `sweep`, with
    questions of both kinds.
    """
    odds = np.asarray(null_odds, np.float64)
    has_answer = np.asarray(answerable, np.bool_)
    curve = abstention_curve(odds, has_answer)
    precision, recall = curve.at(threshold)
    low, high = np.quantile(odds, [_OUTERMOST, 1 - _OUTERMOST])
    low, high = (low, high) if low < high else (low - 1, high + 1)

    figure, above, below = _figure(5, 4.2, [3, 2])
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.12, top=0.92, hspace=0.14)
    reached = f"precision {precision:.1f} %, recall {recall:.1f} %"
    if np.isnan(precision):
        reached = "to no question"
    above.set_title(f"“No answer” above {threshold:.3g}: {reached}", fontsize=10)
    # -inf cannot be drawn; what holds there holds up to the lowest odds.
    places = np.maximum(curve.thresholds, min(low, odds.min()) - 1)
    above.step(places, curve.precision, where="post", color=_BLUE, label="precision")
    above.step(places, curve.recall, where="post", color=_GREEN, label="recall")
    odds = np.clip(odds, low, high)
    bars: Any = {"bins": 40, "range": (low, high), "histtype": "stepfilled", "alpha": 0.55}
    below.hist(odds[has_answer], color=_BLUE, label="answerable", **bars)
    below.hist(odds[~has_answer], color=_ORANGE, label="unanswerable", **bars)
    if low <= threshold <= high:
        above.plot([threshold], [precision], "o", color=_BLUE)
        above.plot([threshold], [recall], "o", color=_GREEN)
        _mark(threshold, above, below)
    above.set(xlim=(low, high), ylim=(0, 105), ylabel="percent", yticks=range(0, 101, 20))
    below.set(ylabel="questions", xlabel="null odds")
    _finish(above, below)
    return figure


def learning_curve_figure(
    losses: Mapping[int, float], validations: Sequence[Mapping[str, float]], best: int | None
) -> Figure:
    """Draw a whole run, 800 x 600 pixels: losses above, EM and F1 below, the best model marked.

    `losses` are by optimizer step. `validations` are the figures of every validation by name, with
    the `step`, and `best` is the step of the best model; None marks none.
    """
    figure, above, below = _figure(8, 6, [1, 1])
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.09, top=0.94, hspace=0.12)
    steps = np.array(sorted(losses), np.int64)
    values = np.array([losses[step] for step in steps.tolist()])
    if len(steps):
        above.plot(steps, values, color=_BLUE, alpha=0.3, linewidth=0.8)
        width = max(len(steps) // 10, 1)  # of the running mean, in points
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
        for each in validations:
            if each["step"] == best and "val/exact" in each:
                title += f", EM {each['val/exact']:.2f}, F1 {each['val/f1']:.2f}"
        _mark(best, above, below)
    above.set(title=title, ylabel="loss")
    below.set(ylabel="percent", xlabel="optimizer steps")
    _finish(above, below)
    return figure


def calibration_figure(measured: Calibration) -> Figure:
    """Draw a reliability diagram, 640 x 480 pixels.

    Above, the share of right answers in each bin beside the diagonal of perfect calibration; below,
    the share of the questions in each bin.
    """
    figure, above, below = _figure(6.4, 4.8, [3, 1], layout="constrained")
    left, _, counts, confidence, right = zip(*map(astuple, measured.bins), strict=True)
    whole_bin: Any = {"width": 100 / BINS, "align": "edge", "edgecolor": "white"}
    above.bar(left, right, color="#9ecae1", **whole_bin)
    above.plot([0, 100], [0, 100], "--", color="black", label="perfect calibration")
    above.plot(confidence, right, "o-", color=_ORANGE, label="measured")
    above.set(xlim=(0, 100), ylim=(0, 105), ylabel="right (EM, %)", yticks=range(0, 101, 20))
    above.legend(loc="upper left")
    above.set_title(f"Calibration: ECE {measured.ece:.1f} points, {sum(counts):,} answers")
    shares = [100 * count / sum(counts) for count in counts]
    bars = below.bar(left, shares, color=_GREY, **whole_bin)
    names = [f"{share:.0f}" if share >= 1 else "<1" for share in shares]
    below.bar_label(bars, names, fontsize=8)
    below.set(ylim=(0, 1.3 * max(shares)), ylabel="answers (%)")
    below.set(xlabel="confidence (%)", xticks=range(0, 101, 10))
    return figure


def _figure(
    width: float, height: float, ratios: list[int], layout: str | None = None
) -> tuple[Figure, Axes, Axes]:
    """An empty figure of so many inches at 100 dpi, with two charts that share their x axis."""
    from matplotlib.figure import Figure  # slow to import, and needed when something is drawn

    figure = Figure(figsize=(width, height), dpi=100, layout=layout)  # type: ignore[arg-type]
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, above, below


def _mark(place: float, *charts: Axes) -> None:
    for axes in charts:
        axes.axvline(place, color="black", linestyle="--", linewidth=1)


def _finish(*charts: Axes) -> None:
    for axes in charts:
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", fontsize=9, framealpha=0.8)
        axes.grid(color=_GREY, alpha=0.3)
