"""Labelled questions beside their answers and scores: what reports and examples are made from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from qa_lightning.evaluation.calibration import given_probabilities
from qa_lightning.evaluation.scoring import Bools, Floats, apply_threshold, score_answers
from qa_lightning.evaluation.spans import Answers, best_texts


@dataclass(frozen=True)
class ScoredAnswers:
    """Labelled questions, how they were answered at a null threshold, and the official scores.

    All have one row per question, in the order of the answers; arrays are `[questions]`.
    """

    questions: pa.Table  # see `qa_lightning.data.tables.QUESTIONS`
    contexts: list[str]
    golds: list[list[dict[str, Any]]]  # with `text` and `start`, -1 if unknown; or none
    answerable: Bools  # whether there is a gold answer
    answers: Answers
    unanswered: Bools  # whether it was answered with "no answer"
    predicted: list[str]  # "" for "no answer"
    confidence: Floats  # probability of the given answer among all candidates, 0 to 1
    exact: Floats  # 0 or 1
    f1: Floats  # 0 to 1


def scored_answers(
    questions: pa.Table,
    contexts: pa.Table,
    answers: Answers,
    threshold: float,
    temperature: float = 1.0,
) -> ScoredAnswers:
    """Answer and score labelled questions at a null threshold, with probabilities at a temperature.

    The tables have the schemas QUESTIONS and CONTEXTS of `qa_lightning.data.tables`; the answers
    are those of all these questions or of some.
    """
    asked = questions.take(answers.question)
    texts = contexts.column("text").take(asked.column("context")).to_pylist()
    golds = asked.column("answers").to_pylist()
    answerable = np.array([len(given) > 0 for given in golds], np.bool_)
    gold_texts = [[gold["text"] for gold in given] for given in golds]
    scores = score_answers(gold_texts, best_texts(answers, texts))
    exact, f1 = (apply_threshold(each, answers.null_odds, answerable, threshold) for each in scores)
    unanswered, predicted = answers.unanswered(threshold), best_texts(answers, texts, threshold)
    confidence = given_probabilities(answers, threshold, temperature)
    return ScoredAnswers(
        asked, texts, golds, answerable, answers, unanswered, predicted, confidence, exact, f1
    )
