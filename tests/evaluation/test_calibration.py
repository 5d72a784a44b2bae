"""Calibration is that worked out by hand, and tells an overconfident model."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_lightning.evaluation.calibration import (
    calibration,
    fit_temperature,
    given_probabilities,
    threshold_for_share,
)
from qa_lightning.evaluation.spans import Answers, candidate_probabilities


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


@st.composite
def answered(draw: st.DrawFn) -> Answers:
    """Answers to some questions, with one to three spans each."""
    count = draw(st.integers(1, 8))
    scores = st.floats(-20, 20, width=32)
    null = np.array(draw(st.lists(scores, min_size=count, max_size=count)), np.float32)
    rows = draw(st.lists(st.lists(scores, min_size=3, max_size=3), min_size=count, max_size=count))
    spans = np.tile(np.array([[0, 1], [2, 3], [4, 5]], np.int32), (count, 1, 1))
    best = -np.sort(-np.array(rows, np.float32), axis=1)
    return Answers(np.arange(count), null, spans, best)


@given(answers=answered(), threshold=st.floats(-5, 5), temperature=st.floats(0.1, 10))
def test_probability_and_verdict_never_contradict(
    answers: Answers, threshold: float, temperature: float
) -> None:
    null, likely = candidate_probabilities(answers, threshold, temperature)
    assert np.allclose(null + likely.sum(1), 1)
    nothing = answers.unanswered(threshold)
    assert (null[nothing] >= likely[nothing, 0]).all()
    assert (null[~nothing] <= likely[~nothing, 0]).all()


@given(answers=answered(), share=st.floats(0.01, 0.99), tuned=st.floats(0.01, 0.99))
def test_a_larger_share_answers_fewer_questions(
    answers: Answers, share: float, tuned: float
) -> None:
    at = threshold_for_share(0.5, share, tuned, 2.0)
    assert (at < 0.5) == (share > tuned) or share == tuned
    assert not answers.unanswered(threshold_for_share(0.5, 0, tuned, 2.0)).any()
    assert answers.unanswered(threshold_for_share(0.5, 1, tuned, 2.0)).all()
    # Where only the null score and one span count, "no answer" has the odds that the share says.
    pair = Answers(answers.question, answers.null, answers.spans[:, :1], answers.scores[:, :1])
    before, after = (candidate_probabilities(pair, each, 2.0)[0] for each in (0.5, at))
    odds = (share / (1 - share)) / (tuned / (1 - tuned))
    assert np.allclose(after, before * odds / (before * odds + 1 - before), atol=1e-6)


def test_the_temperature_undoes_overconfidence() -> None:
    random = np.random.default_rng(0)
    odds = random.normal(0, 2, 4000)
    right = (random.random(4000) < 1 / (1 + np.exp(-np.abs(odds)))).astype(float)
    spans = np.zeros((4000, 1, 2), np.int32)
    spans[..., 1] = 1
    # Scores are three times what they should be.
    answers = Answers(np.arange(4000), np.zeros(4000, np.float32), spans, 3 * odds[:, None])
    temperature = fit_temperature(answers, right, 0.0)
    assert 2.5 < temperature < 3.5
    plain, fitted = (given_probabilities(answers, 0.0, each) for each in (1.0, temperature))
    assert calibration(fitted, right).ece < 3 < calibration(plain, right).ece
