"""A trained model as a folder for others: Hugging Face files, ONNX, model card."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qa_lightning.data.download import sha256_of
from qa_lightning.data.squad import read_squad
from qa_lightning.data.tables import ReadReport, tables_from_texts
from qa_lightning.data.windows import Windows, make_windows
from qa_lightning.errors import UserError
from qa_lightning.evaluation.report import failure_report
from qa_lightning.evaluation.scoring import evaluate
from qa_lightning.evaluation.spans import NO_SPAN, Answers, best_texts
from qa_lightning.export.model_card import CardMetadata, ModelCard, Variant
from qa_lightning.export.onnx import (
    check_installed,
    largest_difference,
    onnx_logits,
    quantise,
    write_onnx,
)
from qa_lightning.export.provenance import DataFile, Scores, read_training
from qa_lightning.inference.answerer import Answerer, Logits, model_logits
from qa_lightning.model.trained_model import TrainedModel

Say = Callable[[str], Any]
"""Called with lines for the person who waits."""

WEIGHTS, ONNX, INT8 = "model.safetensors", "model.onnx", "model_int8.onnx"

WHAT = {
    WEIGHTS: "weights, float32",
    ONNX: "ONNX, float32, any number of windows of any length",
    INT8: "the same with weights of 8 bits",
}

TOLERANCE = 1e-3
"""How far a float32 ONNX model's logits may differ from torch's; rounding makes some 1e-5."""

_LOVELACE = (
    "Ada Lovelace was an English mathematician, born in London in 1815. In 1843 she translated an "
    "article by the Italian engineer Luigi Menabrea about the Analytical Engine of Charles "
    "Babbage, and added notes three times as long as the article itself. Note G describes how the "
    "engine would compute Bernoulli numbers. It is often called the first computer program, "
    "although the engine was never built."
)
_SALT = (
    "Sea water freezes at about minus two degrees Celsius, since the salt in it keeps its "
    "molecules from forming crystals. When it does freeze, most of the salt is left behind: the "
    "ice is nearly fresh, and the water below it becomes saltier and heavier, and sinks."
)
QUESTIONS = (
    ("Where was Ada Lovelace born?", _LOVELACE),
    ("Whose article did she translate in 1843?", _LOVELACE),
    ("What would the engine compute?", _LOVELACE),
    ("Who built the first steam engine?", _LOVELACE),
    ("At what temperature does sea water freeze?", _SALT),
    ("What becomes of the water below the ice?", _SALT),
    ("How deep is the sea?", _SALT),
    ("What describes how the engine would compute Bernoulli numbers?", f"{_SALT} {_LOVELACE}"),
    ("When did she die?", " ".join([_SALT, _LOVELACE] * 4)),  # several windows
)
"""What an ONNX model is compared with torch on, when nothing else is given."""


@dataclass(frozen=True)
class EvaluationResult:
    """What one form of a model made of labelled questions.

    Attributes:
        answers: Best spans and null scores.
        figures: See `Scores.figures`.
        verdicts: Characters of what was answered, int32 `[questions, 2]`; `NO_SPAN` for nothing.
    """

    answers: Answers
    figures: dict[str, float]
    verdicts: np.ndarray


def score(logits: Logits, trained: TrainedModel, windows: Windows) -> EvaluationResult:
    """Answer labelled questions and score the answers, as evaluation does.

    Args:
        logits: A form of the model.
        trained: The model, for its tokenizer and null threshold.
        windows: Windows of the questions, all of which are labelled.
    """
    answers = Answerer(logits, trained.tokenizer, trained.windows).answers(windows)
    questions = windows.questions
    contexts = windows.contexts["text"].take(questions["context"]).to_pylist()
    golds = [[one["text"] for one in of_one] for of_one in questions["answers"].to_pylist()]
    tuned = trained.null_threshold
    threshold = tuned or 0.0
    figures = evaluate(
        golds,
        best_texts(answers, contexts),
        null_odds=answers.null_odds,
        threshold=threshold,
        also_at={"zero": 0.0} | ({} if tuned is None else {"tuned": tuned}),
    )
    figures["no_answer_rate"] = 100.0 * float(np.mean(answers.null_odds > threshold))
    return EvaluationResult(answers, figures, _verdicts(answers, threshold))


def _verdicts(answers: Answers, threshold: float) -> np.ndarray:
    silent = answers.null_odds > threshold
    return np.where(silent[:, None], NO_SPAN, answers.spans[:, 0])


def same_answers(one: np.ndarray, other: np.ndarray) -> int:
    """How many verdicts of `EvaluationResult` are equal."""
    return int((one == other).all(axis=1).sum())


def read_labelled(data: Path, trained: TrainedModel) -> tuple[Windows, ReadReport]:
    """Windows of labelled questions, and what was wrong with the file.

    Raises:
        UserError: the file cannot be read, or holds questions without a label.
    """
    if not data.is_file():
        raise UserError(f"--data {data}: there is no such file")
    tables = read_squad(data)
    if tables.report.unlabelled:
        raise UserError(
            f"--data {data}: {tables.report.unlabelled:,} of {tables.report.questions:,} questions "
            "have no label, and cannot be scored; give labelled questions"
        )
    return make_windows(tables, trained.tokenizer, trained.windows), tables.report


def export(
    model: str | Path,
    out: Path,
    stated: CardMetadata,
    *,
    data: Path | None = None,
    onnx: bool = False,
    int8: bool = False,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> None:
    """Write a model as a Hugging Face folder with a model card.

    The folder appears complete or not at all.

    Args:
        model: As `TrainedModel.load` takes it.
        out: The folder to write.
        stated: What the card cannot know by itself.
        data: Labelled questions in SQuAD's format to score the model on, in float32.
        onnx: Write `model.onnx` too, compared with torch's model on `QUESTIONS` and on `data`.
        int8: Write `model_int8.onnx` too; it takes `onnx` and `data`.
        overwrite: Replace a model's folder.
        say: Told what is being done and what came out.

    Raises:
        UserError: there is no such model, `out` is taken or cannot be written, `data` cannot be
            read or has no labels, the packages for ONNX are not installed, or its logits are not
            those of torch.
    """
    if int8 and (data is None or not onnx):
        raise ValueError("int8 is made from ONNX and measured on data")
    if onnx:
        check_installed("onnx", "onnxscript", "onnxruntime")
    _check_place(out, model, overwrite)
    trained = TrainedModel.load(model)
    training = read_training(model)
    labelled = None if data is None else read_labelled(data, trained)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
            folder = Path(temporary) / "new"
            folder.mkdir()
            trained.save(folder)
            if onnx:
                write_onnx(trained.encoder, folder / ONNX)
            if int8:
                quantise(folder / ONNX, folder / INT8)
            forms = {WEIGHTS: model_logits(trained.encoder, precision="32-true")}
            forms |= {file.name: onnx_logits(file) for file in sorted(folder.glob("*.onnx"))}
            if onnx:
                _compare(forms, trained, say)
            outcomes: dict[str, EvaluationResult] = {}
            scores = None
            if data is not None and labelled is not None:
                windows, read = labelled
                for name, logits in forms.items():
                    say(f"{name}: answering {len(windows.questions):,} questions of {data}")
                    outcomes[name] = score(logits, trained, windows)
                    say(f"  {_summary(outcomes[name], outcomes[WEIGHTS])}")
                scores = _scores(data, windows, read, outcomes[WEIGHTS], trained)
            variants = [
                _variant(folder / name, outcomes.get(name), outcomes.get(WEIGHTS)) for name in forms
            ]
            card = ModelCard(stated, trained, training, scores, variants).to_markdown()
            (folder / "README.md").write_text(card, encoding="utf-8")
            for file in folder.iterdir():  # safetensors writes for nobody else to read
                file.chmod(folder.stat().st_mode & 0o666)
            _put(folder, out, Path(temporary) / "old")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    say(f"{out}: " + ", ".join(sorted(path.name for path in out.iterdir())))


def _check_place(out: Path, model: str | Path, overwrite: bool) -> None:
    """Refuse a place that is taken, or that replacing would lose something else at."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; give the name of a folder to write")
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{out} is not empty; give another folder, or --overwrite to replace it")
    if not (out / "config.json").is_file():
        raise UserError(
            f"{out} holds no config.json: it is not a model's folder, and --overwrite does not "
            "replace it"
        )
    source = Path(model).expanduser()
    if source.exists() and source.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{out} holds the model that is to be exported; give another folder")


def _put(folder: Path, out: Path, aside: Path) -> None:
    """Move a finished folder to its place; what was there goes aside, or comes back."""
    if out.exists():
        out.rename(aside)
    try:
        folder.rename(out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise


def _compare(forms: dict[str, Logits], trained: TrainedModel, say: Say) -> None:
    """Compare the ONNX forms of a model with torch's on `QUESTIONS`."""
    questions, contexts = zip(*QUESTIONS, strict=True)
    windows = make_windows(
        tables_from_texts(questions, contexts), trained.tokenizer, trained.windows
    )
    verdicts = {}
    for name, logits in forms.items():
        answers = Answerer(logits, trained.tokenizer, trained.windows).answers(windows)
        verdicts[name] = _verdicts(answers, trained.null_threshold or 0.0)
        if name == WEIGHTS:
            continue
        largest = largest_difference(forms[WEIGHTS], logits, windows)
        same = same_answers(verdicts[name], verdicts[WEIGHTS])
        say(
            f"{name}: {same} of {len(QUESTIONS)} built-in questions answered as by torch; logits "
            f"differ by {largest:.2g} at most"
        )
        if name == ONNX and not largest <= TOLERANCE:
            raise UserError(
                f"the ONNX model's logits differ from torch's by {largest:.2g}, where {TOLERANCE} "
                "would be rounding; nothing was written. Other versions of torch, onnx or "
                "onnxruntime may do better"
            )


def _summary(outcome: EvaluationResult, original: EvaluationResult) -> str:
    text = f"EM {outcome.figures['exact']:.2f}   F1 {outcome.figures['f1']:.2f}"
    if outcome is original:
        return text
    same = same_answers(outcome.verdicts, original.verdicts)
    return f"{text}   {same:,} of {len(outcome.verdicts):,} answers are the original's"


def _scores(
    data: Path, windows: Windows, read: ReadReport, outcome: EvaluationResult, trained: TrainedModel
) -> Scores:
    """What the card says of an evaluation."""
    threshold = trained.null_threshold or 0.0
    report = failure_report(
        windows.questions,
        windows.contexts,
        outcome.answers,
        np.bincount(windows.question)[outcome.answers.question],
        threshold,
        worst=0,
    )
    notes = []
    if read.dropped_questions:
        notes.append(
            f"{read.dropped_questions:,} questions of the file were left out, since their answers "
            "do not stand in their text."
        )
    source = DataFile(str(data), sha256_of(data), len(windows.questions))
    when = "when it was exported, in float32"
    return Scores(source, when, outcome.figures, threshold, report, notes)


def _variant(
    file: Path, outcome: EvaluationResult | None, original: EvaluationResult | None
) -> Variant:
    same = None
    if outcome is not None and original is not None and outcome is not original:
        same = same_answers(outcome.verdicts, original.verdicts)
    figures = None if outcome is None else outcome.figures
    return Variant(file.name, WHAT[file.name], file.stat().st_size, figures, same)
