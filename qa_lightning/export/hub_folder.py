"""A trained model as a folder for others: Hugging Face files, ONNX, model card."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from qa_lightning.data.download import sha256_of
from qa_lightning.data.files import atomic_folder
from qa_lightning.errors import UserError
from qa_lightning.evaluation.calibration import Tuned
from qa_lightning.evaluation.report import failure_report
from qa_lightning.export.model_card import CardFacts, CardMetadata, Variant, model_card
from qa_lightning.export.onnx import quantise, write_onnx
from qa_lightning.export.provenance import DataFile, Scores, read_training
from qa_lightning.export.variants import (
    DESCRIPTIONS,
    INT8,
    ONNX,
    WEIGHTS,
    EvaluationResult,
    LabelledQuestions,
    Log,
    compare_onnx,
    read_labelled,
    same_answers,
    score_all,
)
from qa_lightning.model.logits import Logits, model_logits
from qa_lightning.model.onnx_session import check_installed, onnx_logits
from qa_lightning.model.trained_model import InferenceSettings, TrainedModel


def export(
    model: str | Path,
    out: Path,
    metadata: CardMetadata,
    *,
    data: Path | None = None,
    onnx: bool = False,
    int8: bool = False,
    overwrite: bool = False,
    log: Log = lambda line: None,
) -> None:
    """Write a model as a Hugging Face folder with a model card, complete or not at all.

    Args:
        model: As `TrainedModel.load` takes it.
        out: The folder to write.
        metadata: What the card cannot know by itself.
        data: Labelled questions in SQuAD's format to score the model on.
        onnx: Write `model.onnx` too, compared with torch's model.
        int8: Write `model_int8.onnx` too; it takes `onnx` and `data`.
        overwrite: Replace a model's folder.
        log: Receives lines that report progress and results.

    Raises:
        UserError: there is no such model, `out` is taken or cannot be written, `data` cannot be
            read or has no labels, `int8` lacks `onnx` or `data`, the packages for ONNX are not
            installed, or its logits are not those of torch.
    """
    if int8 and not onnx:
        raise UserError("--int8 rounds the ONNX model: give --onnx too")
    if int8 and data is None:
        raise UserError("--int8 changes answers: give labelled questions with --data to measure it")
    if onnx:
        check_installed("onnx", "onnxscript", "onnxruntime")
    _check_place(out, model, overwrite)
    trained, training = TrainedModel.load(model), read_training(model)
    labelled = None if data is None else read_labelled(data, trained.settings)
    try:
        with atomic_folder(out, replace=True) as folder:
            variants = _write_variants(trained, folder, onnx, int8)
            if onnx:
                compare_onnx(variants, trained.settings, log)
            results, scores = {}, None
            if labelled is not None:
                results = score_all(variants, trained.settings, labelled, log)
                scores = _scores(labelled, results[WEIGHTS], trained.settings)
            files = [_variant(folder / name, results) for name in variants]
            card = model_card(CardFacts(metadata, trained, training, scores, files))
            (folder / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    log(f"{out}: " + ", ".join(sorted(path.name for path in out.iterdir())))


def _check_place(out: Path, model: str | Path, overwrite: bool) -> None:
    """Refuse a place that is taken, unless what is there is a model's folder to be replaced."""
    if out.is_file():
        raise UserError(f"{out} is a file; give the name of a folder to write")
    if not out.exists() or not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{out} is not empty; give another folder, or --overwrite to replace it")
    if not (out / "config.json").is_file():
        raise UserError(f"{out} without config.json is not replaced: it is not a model's folder")
    source = Path(model).expanduser()
    if source.exists() and source.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{out} holds the model that is to be exported; give another folder")


def _write_variants(
    trained: TrainedModel, folder: Path, onnx: bool, int8: bool
) -> dict[str, Logits]:
    """Write the model's files; give each variant's logits by file name, the original first."""
    trained.save(folder)
    if onnx:
        write_onnx(trained.encoder, folder / ONNX)
    if int8:
        quantise(folder / ONNX, folder / INT8)
    variants = {WEIGHTS: model_logits(trained.encoder, precision="32-true")}
    return variants | {file.name: onnx_logits(file) for file in sorted(folder.glob("*.onnx"))}


def _scores(
    labelled: LabelledQuestions, result: EvaluationResult, settings: InferenceSettings
) -> Scores:
    """What the card says of an evaluation."""
    windows, answers = labelled.windows, result.answers
    tables = (windows.questions, windows.contexts)
    counts = np.bincount(windows.question)[answers.question]
    threshold = settings.effective_null_threshold
    tuned = Tuned(threshold, settings.temperature, settings.tuned_share)
    report = failure_report(*tables, answers, counts, threshold, tuned=tuned, worst=0)
    source = DataFile(str(labelled.file), sha256_of(labelled.file), len(windows.questions))
    when = "when it was exported, in float32"
    return Scores(source, when, result.figures, threshold, report)


def _variant(file: Path, results: Mapping[str, EvaluationResult]) -> Variant:
    """What the card says of a file; results of all variants, if they were scored."""
    variant = Variant(file.name, DESCRIPTIONS[file.name], file.stat().st_size)
    if not results:
        return variant
    own, original = results[file.name], results[WEIGHTS]
    same = None if own is original else same_answers(own.verdicts, original.verdicts)
    return replace(variant, figures=own.figures, same=same)
