"""What is drawn is what was computed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qa_lightning.evaluation.calibration import calibration
from qa_lightning.evaluation.figures import (
    abstention_figure,
    calibration_figure,
    learning_curve_figure,
)

# Null odds by falling certainty that there is an answer; the third and fourth have none.
ODDS = [-1.0, 2.0, 0.0, 3.0]
ANSWERABLE = [True, True, False, False]


class TestAbstentionFigure:
    def test_marks_the_threshold(self) -> None:
        figure = abstention_figure(ODDS, ANSWERABLE, 1.5)
        above, below = figure.axes
        assert above.get_title() == "“No answer” above 1.5: precision 50.0 %, recall 50.0 %"
        for axes in (above, below):
            (line,) = [each for each in axes.lines if each.get_linestyle() == "--"]
            assert list(line.get_xdata()) == [1.5, 1.5]
        marked = [each for each in above.lines if each.get_marker() == "o"]
        assert [each.get_xydata().tolist() for each in marked] == [[[1.5, 50]], [[1.5, 50]]]

    def test_every_question_is_in_a_bar(self) -> None:
        rng = np.random.default_rng(0)
        odds = np.concatenate([rng.normal(size=200), [3.4e38, -60.0]])
        answerable = np.arange(202) % 3 > 0
        figure = abstention_figure(odds, answerable, 0.0)
        below = figure.axes[1]
        assert len(below.patches) == 2
        drawn = [heights_of(patch.get_path().vertices) for patch in below.patches]
        assert drawn == [answerable.sum(), (~answerable).sum()]
        low, high = below.get_xlim()
        assert -4 < low < -1 < 1 < high < 4  # one odd question does not squash the others

    @pytest.mark.parametrize("threshold", [math.inf, -math.inf, 1e9])
    def test_a_threshold_out_of_reach_is_named_only(self, threshold: float) -> None:
        figure = abstention_figure([1.0, 1.0], [True, False], threshold)
        above = figure.axes[0]
        assert f"{threshold:.3g}" in above.get_title()
        assert above.get_title().endswith("to no question") == (threshold > 0)
        assert len(above.lines) == 2
        figure.canvas.draw()


def heights_of(vertices: np.ndarray) -> float:
    """Sum of the heights of a histogram drawn as one outline, in bars."""
    x, y = vertices[:, 0], vertices[:, 1]
    width = np.ptp(x) / 40
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return round(float(area / width), 6)


class TestLearningCurve:
    VALIDATIONS = (
        {"step": 50, "val/loss": 2.0, "val/exact": 40.0, "val/f1": 44.0},
        {"step": 100, "val/loss": 2.5, "val/exact": 45.5, "val/f1": 48.25},
    )

    def test_draws_the_run(self) -> None:
        losses = {step: 10 / step for step in range(110, 0, -10)}  # in any order
        figure = learning_curve_figure(losses, self.VALIDATIONS, 100)
        above, below = figure.axes
        raw, mean, validation, best = above.lines
        assert list(raw.get_xdata()) == list(range(10, 120, 10))
        assert raw.get_ydata()[0] == 1.0
        assert mean.get_xydata().tolist() == raw.get_xydata().tolist()  # too few to smooth
        assert validation.get_xydata().tolist() == [[50, 2.0], [100, 2.5]]
        assert list(best.get_xdata()) == [100, 100]
        assert [line.get_ydata()[0] for line in below.lines[:2]] == [40.0, 44.0]
        assert above.get_title() == (
            "Learning curve: best model after 100 steps, EM 45.50, F1 48.25"
        )

    def test_smooths_many_points(self) -> None:
        losses = {step: float(step % 2) for step in range(100)}
        mean = learning_curve_figure(losses, [], None).axes[0].lines[1]
        assert mean.get_label() == "training loss (mean of 10 points)"
        assert len(mean.get_xdata()) == 91
        assert set(np.round(mean.get_ydata(), 9)) == {0.5}

    @pytest.mark.parametrize(
        ("losses", "validations", "best"),
        [({}, VALIDATIONS, 50), ({10: 1.0}, [], 10), ({10: 1.0}, [], None), ({}, [], None)],
    )
    def test_draws_what_there_is(self, losses: dict, validations: list, best: int | None) -> None:
        figure = learning_curve_figure(losses, validations, best)
        figure.canvas.draw()
        assert figure.axes[0].get_title().startswith("Learning curve")


def test_the_reliability_diagram_draws_the_bins() -> None:
    confidence = np.array([0.9, 0.95, 0.85, 0.9, 0.99, 0.75, 0.8, 0.6])
    measured = calibration(confidence, np.array([1, 1, 0, 0, 0, 0, 1, 0]))
    figure = calibration_figure(measured)
    assert tuple(figure.get_size_inches() * figure.dpi) == (640, 480)
    above, below = figure.axes
    bins = measured.bins
    assert above.get_title() == f"Calibration: ECE {measured.ece:.1f} points, 8 answers"
    assert [bar.get_height() for bar in above.patches] == [each.right for each in bins]
    assert [bar.get_x() for bar in above.patches] == [each.low for each in bins]
    assert sum(bar.get_height() for bar in below.patches) == pytest.approx(100)
