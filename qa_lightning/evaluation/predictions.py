"""Answers as files, in the shapes that the official evaluator and the usual scripts use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qa_lightning.evaluation.spans import Answers, best_texts, candidates

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
    best = ([asdict(one) for one in of_one] for of_one in candidates(contexts, answers))
    _write(folder / N_BEST, ids, best)


def _write(path: Path, ids: Sequence[str], values: Any) -> None:
    lines = (
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in zip(ids, values, strict=True)
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
