"""Calibration is that worked out by hand, and tells an overconfident model."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from qa_lightning.evaluation.calibration import calibration


def test_bins_and_error_by_hand() -> None:
    confidence = np.array([0.0, 0.05, 0.55, 0.5, 0.95, 1.0, 1.0])
    right = np.array([0, 1, 1, 0, 1, 1, 0])
    measured = calibration(confidence, right)
    assert [astuple(each) for each in measured.bins] == [
        pytest.approx((0.0, 10.0, 2, 2.5, 50.0)),
        pytest.approx((50.0, 60.0, 2, 52.5, 50.0)),
        pytest.approx((90.0, 100.0, 3, 295 / 3, 200 / 3)),
    ]
    assert measured.ece == pytest.approx((2 * 47.5 + 2 * 2.5 + 95) / 7)


def test_a_perfectly_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large() -> None:
    draw = np.random.default_rng(0)
    confidence = draw.random(50_000)
    right = (draw.random(50_000) < confidence).astype(float)
    measured = calibration(confidence, right)
    assert measured.ece < 1.0
    assert [each.low for each in measured.bins] == [10.0 * place for place in range(10)]
    assert calibration(np.sqrt(confidence), right).ece == pytest.approx(100 * (2 / 3 - 1 / 2), 0.1)
