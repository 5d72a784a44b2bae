"""Answers as files, in the shapes that the official evaluator and the usual scripts use."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qa_lightning.evaluation.spans import Answers, best_texts, candidates

ANSWERS = "answers.json"


def write_predictions(
    folder: Path, ids: Sequence[str], contexts: Sequence[str], answers: Answers, threshold: float
) -> None:
    """Write the answers of questions into a folder, one question per line, in the order given.

    - `answers.json`: id to the answer at the null threshold, "" for "no answer".
    - `predictions.json`: id to text of the best span, whatever its null odds. The official
      evaluator takes both files, with the threshold, and sweeps it: it would find other figures
      from predictions that a threshold has emptied already.
    - `null_odds.json`: id to null score minus best span score; above the threshold means "no
      answer". The `--na-prob-file` of the official evaluator.
    - `nbest_predictions.json`: id to candidates by falling score, "no answer" among them with the
      text "". Each has `text`, `start` and `end` (characters of the context, one past the last;
      null for "no answer"), `score` (sum of start and end logit) and `probability` (softmax over
      the candidates of the question).
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / ANSWERS, ids, best_texts(answers, contexts, threshold))
    _write(folder / "predictions.json", ids, best_texts(answers, contexts))
    _write(folder / "null_odds.json", ids, answers.null_odds.tolist())
    best = ([asdict(one) for one in of_one] for of_one in candidates(contexts, answers))
    _write(folder / "nbest_predictions.json", ids, best)


def _write(path: Path, ids: Sequence[str], values: Iterable[Any]) -> None:
    lines = (
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in zip(ids, values, strict=True)
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
