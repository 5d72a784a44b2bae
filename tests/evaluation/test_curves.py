"""Precision and recall of "no answer" are those worked out by hand, and those of counting."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.evaluation.curves import abstention_curve

# Null odds by falling certainty that there is an answer; the third and fourth have none.
ODDS = [-1.0, 2.0, 0.0, 3.0]
ANSWERABLE = [True, True, False, False]


class TestAbstentionCurve:
    def test_by_hand(self) -> None:
        curve = abstention_curve(ODDS, ANSWERABLE)
        assert curve.thresholds.tolist() == [-math.inf, -1, 0, 2, 3]
        assert curve.recall.tolist() == [100, 100, 50, 50, 0]
        assert curve.precision[:-1].tolist() == pytest.approx([50, 200 / 3, 50, 100])
        assert math.isnan(curve.precision[-1])  # nothing is left unanswered
        assert curve.at(-5) == (50, 100)
        assert curve.at(0) == curve.at(1.99) == (50, 50)
        assert curve.at(2) == (100, 50)

    def test_no_threshold_parts_equal_odds(self) -> None:
        curve = abstention_curve([1, 1, 1, 0], [True, False, False, True])
        assert curve.thresholds.tolist() == [-math.inf, 0, 1]
        assert curve.precision[:2].tolist() == pytest.approx([50, 200 / 3])
        assert curve.recall.tolist() == [100, 100, 0]

    def test_needs_an_unanswerable_question(self) -> None:
        with pytest.raises(ValueError, match="unanswerable"):
            abstention_curve([1.0, 2.0], [True, True])

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(st.floats(-9, 9) | st.integers(-2, 2), st.booleans()), min_size=1
        ).filter(lambda rows: not all(answerable for _, answerable in rows)),
        st.floats(allow_nan=False) | st.integers(-3, 3),
    )
    def test_equals_counting(self, rows: list[tuple[float, bool]], threshold: float) -> None:
        left = [answerable for odds, answerable in rows if odds > threshold]
        rightly = left.count(False)
        precision, recall = abstention_curve(*zip(*rows, strict=True)).at(threshold)
        everyone = [answerable for _, answerable in rows].count(False)
        assert recall == pytest.approx(100 * rightly / everyone)
        if left:
            assert precision == pytest.approx(100 * rightly / len(left))
        else:
            assert math.isnan(precision)
