"""Answers as files, in the shapes that the official evaluator and the usual scripts use."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from qa_lightning.evaluation.spans import NO_SPAN, Answers, WindowScores, best_texts, candidates

ANSWERS = "answers.json"


class WindowPrediction(TypedDict):
    """The best span of one window; a question's answer is the best over its windows."""

    id: str  # of the question
    window: int  # its number among the question's windows, from 0
    text: str  # "" without any legal span
    start: int | None  # characters of the context
    end: int | None  # one past the last
    score: float  # sum of start and end logit; -inf without any legal span
    null_score: float  # the question's is the lowest over its windows


def window_predictions(
    scores: WindowScores, questions: pa.Table, contexts: pa.Table
) -> list[WindowPrediction]:
    """The best span of every window; tables as in `qa_lightning.data.tables`."""
    of_windows = questions.select(["id", "context"]).take(scores.key[:, 0])
    texts = contexts["text"].take(of_windows["context"]).to_pylist()
    names, spans = of_windows["id"].to_pylist(), scores.spans[:, 0].tolist()
    predictions = []
    for row, (text, (start, end)) in enumerate(zip(texts, spans, strict=True)):
        prediction: WindowPrediction = {
            "id": names[row],
            "window": int(scores.key[row, 1]),
            "text": "" if start == NO_SPAN else text[start:end],
            "start": None if start == NO_SPAN else start,
            "end": None if start == NO_SPAN else end,
            "score": float(scores.scores[row, 0]),
            "null_score": float(scores.null[row]),
        }
        predictions.append(prediction)
    return predictions


def write_predictions(
    folder: Path,
    ids: Sequence[str],
    contexts: Sequence[str],
    answers: Answers,
    threshold: float,
    temperature: float = 1.0,
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
    every = candidates(contexts, answers, threshold, temperature)
    best = ([asdict(one) for one in of_one] for of_one in every)
    _write(folder / "nbest_predictions.json", ids, best)


def _write(path: Path, ids: Sequence[str], values: Iterable[Any]) -> None:
    lines = (
        f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in zip(ids, values, strict=True)
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
