"""The variants of a model that an export writes, compared with the original in torch."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qa_lightning.data.squad import read_squad
from qa_lightning.data.tables import require_labels, tables_from_texts
from qa_lightning.data.windows import Windows, make_windows
from qa_lightning.errors import UserError
from qa_lightning.evaluation.scoring import score_questions
from qa_lightning.evaluation.spans import NO_SPAN, Answers, best_texts
from qa_lightning.export.onnx import largest_difference
from qa_lightning.model.answers import answer_windows
from qa_lightning.model.logits import Logits
from qa_lightning.model.trained_model import InferenceSettings

Log = Callable[[str], Any]  # called with lines that report progress and results

WEIGHTS, ONNX, INT8 = "model.safetensors", "model.onnx", "model_int8.onnx"

DESCRIPTIONS = {
    WEIGHTS: "weights, float32",
    ONNX: "ONNX, float32, any number of windows of any length",
    INT8: "the same with weights of 8 bits",
}

# How far a float32 ONNX model's logits may differ from torch's; rounding makes some 1e-5.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class LabelledQuestions:
    """Questions to score a model on."""

    file: Path
    windows: Windows


@dataclass(frozen=True)
class EvaluationResult:
    """How one variant of a model answered labelled questions."""

    answers: Answers
    figures: dict[str, float]  # see `qa_lightning.evaluation.scoring.score_questions`
    verdicts: np.ndarray  # see `verdicts`


def read_labelled(file: Path, settings: InferenceSettings) -> LabelledQuestions:
    """Windows of labelled questions.

    Raises:
        UserError: the file cannot be read, or holds questions without a label.
    """
    if not file.is_file():
        raise UserError(f"--data {file}: there is no such file")
    tables = read_squad(file)
    require_labels(tables.questions, f"--data {file}")
    windows = make_windows(tables, settings.tokenizer, settings.windows)
    return LabelledQuestions(file, windows)


def score(logits: Logits, settings: InferenceSettings, windows: Windows) -> EvaluationResult:
    """Answer labelled questions and score the answers, as evaluation does."""
    answers = answer_windows(logits, windows)
    contexts = windows.contexts["text"].take(windows.questions["context"]).to_pylist()
    golds = [[one["text"] for one in own] for own in windows.questions["answers"].to_pylist()]
    texts, threshold = best_texts(answers, contexts), settings.effective_null_threshold
    tuned = settings.null_threshold
    figures = score_questions(golds, texts, answers.null_odds, threshold, tuned)
    return EvaluationResult(answers, figures, verdicts(answers, threshold))


def verdicts(answers: Answers, threshold: float) -> np.ndarray:
    """Characters of each question's answer, int32 `[questions, 2]`; `NO_SPAN` for "no answer"."""
    return np.where(answers.unanswered(threshold)[:, None], NO_SPAN, answers.spans[:, 0])


def same_answers(one: np.ndarray, other: np.ndarray) -> int:
    """How many of these `verdicts` are equal."""
    return int((one == other).all(axis=1).sum())


def score_all(
    variants: Mapping[str, Logits],
    settings: InferenceSettings,
    labelled: LabelledQuestions,
    log: Log,
) -> dict[str, EvaluationResult]:
    """Score every variant on the same questions, and log what came out.

    `variants` holds the logits of each by file name; the original, `WEIGHTS`, comes first.
    """
    results: dict[str, EvaluationResult] = {}
    count = len(labelled.windows.questions)
    for name, logits in variants.items():
        log(f"{name}: answering {count:,} questions of {labelled.file}")
        results[name] = score(logits, settings, labelled.windows)
        figures = results[name].figures
        text = f"  EM {figures['exact']:.2f}   F1 {figures['f1']:.2f}"
        if name != WEIGHTS:
            same = same_answers(results[name].verdicts, results[WEIGHTS].verdicts)
            text += f"   {same:,} of {count:,} answers are the original's"
        log(text)
    return results


def compare_onnx(variants: Mapping[str, Logits], settings: InferenceSettings, log: Log) -> None:
    """Compare the ONNX variants of a model with torch's, and log what came out.

    The questions are those of questions.json; one has several windows.

    Raises:
        UserError: the logits of the float32 variant differ by more than `TOLERANCE`.
    """
    asked = json.loads(Path(__file__).with_name("questions.json").read_text(encoding="utf-8"))
    tables = tables_from_texts(*([one[key] for one in asked] for key in ("question", "context")))
    windows = make_windows(tables, settings.tokenizer, settings.windows)
    threshold = settings.effective_null_threshold
    original = verdicts(answer_windows(variants[WEIGHTS], windows), threshold)
    for name, logits in variants.items():
        if name == WEIGHTS:
            continue
        same = same_answers(verdicts(answer_windows(logits, windows), threshold), original)
        largest = largest_difference(variants[WEIGHTS], logits, windows)
        log(
            f"{name}: {same} of {len(asked)} built-in questions answered as by torch; logits "
            f"differ by {largest:.2g} at most"
        )
        if name == ONNX and not largest <= TOLERANCE:
            raise UserError(
                f"the ONNX model's logits differ from torch's by {largest:.2g}, more than rounding "
                "explains; nothing was written. Try other versions of torch, onnx or onnxruntime"
            )
