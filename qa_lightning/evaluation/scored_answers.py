"""Labelled questions beside their answers and scores: what reports and examples are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qa_lightning.evaluation.scoring import Bools, Floats, apply_threshold, score_answers
from qa_lightning.evaluation.spans import Answers, best_texts, candidate_probabilities

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ScoredAnswers:
    """Labelled questions, how they were answered at a null threshold, and the official scores.

    Attributes:
        questions: Table of the questions (`qa_lightning.data.tables.QUESTIONS`), as the answers.
        contexts: Context of each question.
        golds: Gold answers of each, with `text` and `start`; none if it is unanswerable.
        answerable: Whether there is a gold answer, bool `[questions]`.
        answers: Best spans and null scores.
        unanswered: Whether the question was answered with "no answer", bool `[questions]`.
        predicted: Text of the answer, "" for "no answer".
        confidence: Probability of that among all candidates, float64 `[questions]`, 0 to 1.
        exact: Exact match, float64 `[questions]`, 0 or 1.
        f1: F1, float64 `[questions]`, 0 to 1.
    """

    questions: pa.Table
    contexts: list[str]
    golds: list[list[dict[str, Any]]]
    answerable: Bools
    answers: Answers
    unanswered: Bools
    predicted: list[str]
    confidence: Floats
    exact: Floats
    f1: Floats


def scored_answers(
    questions: pa.Table, contexts: pa.Table, answers: Answers, threshold: float
) -> ScoredAnswers:
    """Answer and score labelled questions at a null threshold.

    Args:
        questions: Arrow table, see `qa_lightning.data.tables.QUESTIONS`.
        contexts: Arrow table, see `qa_lightning.data.tables.CONTEXTS`.
        answers: Answers of all these questions or of some.
        threshold: The null threshold.
    """
    asked = questions.take(answers.question)
    texts = contexts.column("text").take(asked.column("context")).to_pylist()
    golds = asked.column("answers").to_pylist()
    answerable = np.array([len(given) > 0 for given in golds], np.bool_)
    gold_texts = [[gold["text"] for gold in given] for given in golds]
    scores = score_answers(gold_texts, best_texts(answers, texts))
    exact, f1 = (apply_threshold(each, answers.null_odds, answerable, threshold) for each in scores)
    unanswered, predicted = answers.unanswered(threshold), best_texts(answers, texts, threshold)
    null, likely = candidate_probabilities(answers)
    confidence = np.where(unanswered, null, likely[:, 0])
    return ScoredAnswers(
        asked, texts, golds, answerable, answers, unanswered, predicted, confidence, exact, f1
    )
