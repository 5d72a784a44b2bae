"""Answers as files, in the shapes that the official evaluator and the usual scripts use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qa_lightning.evaluation.spans import NO_SPAN, Answers, best_texts, candidate_probabilities

PREDICTIONS = "predictions.json"
N_BEST = "nbest_predictions.json"
NULL_ODDS = "null_odds.json"


def write_predictions(
    folder: Path,
    ids: Sequence[str],
    contexts: Sequence[str],
    answers: Answers,
    threshold: float,
) -> None:
    """Write the answers of questions, one question a line, in the order given.

    - `predictions.json`: id to text, "" for "no answer".
    - `null_odds.json`: id to null score minus best span score; above the threshold means "no
      answer". The `--na-prob-file` of the official evaluator.
    - `nbest_predictions.json`: id to candidates by falling score, "no answer" among them with the
      text "". Each has `text`, `start` and `end` (characters of the context, one past the last;
      null for "no answer"), `score` (sum of start and end logit) and `probability` (softmax over
      the candidates of the question).

    Args:
        folder: Where to write; created if need be.
        ids: Question ids.
        contexts: Their contexts.
        answers: Their answers.
        threshold: The null threshold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    odds = answers.null_odds.tolist()
    texts = best_texts(answers, contexts)
    decided = ["" if null > threshold else text for null, text in zip(odds, texts, strict=True)]
    _write(folder / PREDICTIONS, ids, decided)
    _write(folder / NULL_ODDS, ids, odds)
    _write(folder / N_BEST, ids, candidates(contexts, answers))


def candidates(contexts: Sequence[str], answers: Answers) -> Iterator[list[dict[str, Any]]]:
    """Candidates of every question by falling score, as `nbest_predictions.json` holds them.

    Args:
        contexts: Context of every question.
        answers: Their answers.
    """
    null, likely = candidate_probabilities(answers)
    rows = zip(
        contexts,
        answers.null.tolist(),
        null.tolist(),
        answers.spans.tolist(),
        answers.scores.tolist(),
        likely.tolist(),
        strict=True,
    )
    for context, null_score, null_probability, spans, scores, probabilities in rows:
        found = [
            {
                "text": context[start:end],
                "start": start,
                "end": end,
                "score": score,
                "probability": probability,
            }
            for (start, end), score, probability in zip(spans, scores, probabilities, strict=True)
            if start != NO_SPAN
        ]
        nothing = {
            "text": "",
            "start": None,
            "end": None,
            "score": null_score,
            "probability": null_probability,
        }
        yield sorted([nothing, *found], key=lambda one: -one["score"])


def _write(path: Path, ids: Sequence[str], values: Any) -> None:
    lines = (
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in zip(ids, values, strict=True)
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
