"""What happens beside training: the best model saved for use, predictions and reports written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from qa_lightning.errors import UserError
from qa_lightning.evaluation.figures import calibration_figure, learning_curve_figure
from qa_lightning.evaluation.predictions import PREDICTIONS, write_predictions
from qa_lightning.evaluation.report import Report, failure_report
from qa_lightning.model.trained_model import TrainedModel
from qa_lightning.training.throughput import Throughput

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from qa_lightning.training.module import QuestionAnsweringModule

LEARNING_CURVE = "learning_curve.png"

COMPARED = (
    *("pretrained", "learning_rate", "weight_decay", "schedule", "warmup", "dropout"),
    *("unanswerable_share", "train", "max_train_questions", "train_unanswerable", "window", "seed"),
)
"""Hyperparameters of model and data that stand on TensorBoard's HPARAMS page, to compare runs.

Few, because it shows the first five by name alone, unless it is told otherwise. `config.yaml` has
all of them."""


class SaveBestModel(Callback):
    """Saves the best model as a Hugging Face folder at the end of `fit`, and says what came out.

    The folder `model` in the run's folder holds the weights of the best checkpoint and the
    tokenizer, as `save_pretrained` writes them; `null_threshold` in its config.json is the tuned
    null threshold, if there is one. `learning_curve.png` beside it shows the course of the run,
    TensorBoard's HPARAMS page the hyperparameters with the final figures.
    """

    def __init__(self) -> None:
        """Start without a history."""
        self.history: list[dict[str, float]] = []  # of validations
        self.losses: dict[int, float | Tensor] = {}  # of training, by optimizer step

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to know of what was before it."""
        self.losses = {step: float(loss) for step, loss in self.losses.items()}
        return {"history": self.history, "losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the history of the run that is resumed."""
        self.history = list(state_dict["history"])
        self.losses = dict(state_dict.get("losses", {}))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the training loss when the trainer logs; without waiting for the device."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step and step % every == 0 and step not in self.losses:
            self.losses[step] = trainer.logged_metrics["train/loss"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the figures of this validation."""
        if trainer.sanity_checking:
            return
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # A resumed run may do the last validation again: the same weights, the same figures.
        self.history = [entry for entry in self.history if entry["step"] != trainer.global_step]
        self.history.append({"step": trainer.global_step, **figures})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the model, log the hyperparameters with the final figures, print the summary."""
        run = Path(trainer.log_dir or ".")  # asked for on every process: it is broadcast
        checkpoint = trainer.checkpoint_callback
        if not isinstance(checkpoint, ModelCheckpoint) or not trainer.is_global_zero:
            return
        best = checkpoint.best_model_path or checkpoint.last_model_path
        if not best:
            return
        TrainedModel.from_checkpoint(Path(best)).save(run / "model")
        figures = self._figures_of_best(checkpoint)
        _log_final_figures(trainer, pl_module, figures)
        losses = {step: float(loss) for step, loss in self.losses.items()}
        step = int(figures["step"]) if figures else None
        learning_curve_figure(losses, self.history, step).savefig(run / LEARNING_CURVE)
        rank_zero_info(_summary(figures, Path(best), run))

    def _figures_of_best(self, checkpoint: ModelCheckpoint) -> dict[str, float]:
        monitor = checkpoint.monitor
        scored = [entry for entry in self.history if monitor in entry]
        if monitor is None or not scored:
            return self.history[-1] if self.history else {}
        # A run gone on with in another folder has the history of the first, not its checkpoints.
        of_best = [entry for entry in scored if entry[monitor] == checkpoint.best_model_score]
        pick = max if checkpoint.mode == "max" else min
        return of_best[-1] if of_best else pick(scored, key=lambda entry: entry[monitor])


def _log_final_figures(
    trainer: Trainer, module: LightningModule, figures: dict[str, float]
) -> None:
    """Log hyperparameters and final figures together, once: TensorBoard's HPARAMS page."""
    final = {
        f"best/{name.removeprefix('val/')}": figures[name]
        for name in ("val/exact", "val/f1", "val/loss")
        if name in figures
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Throughput) and callback.overall is not None:
            final["run/windows_per_s"] = callback.overall.windows_per_s
    data = trainer.datamodule.hparams  # type: ignore[attr-defined]
    every = {**module.hparams, **data}
    compared = {
        **{name: every[name] for name in COMPARED},
        "batch_size": data["batch_size"] * trainer.world_size * trainer.accumulate_grad_batches,
        "epochs": trainer.max_epochs,
        "precision": trainer.precision,
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and final:
            logger.log_hyperparams(compared, final)


def thresholds_compared(figures: Mapping[str, Any], split: str) -> list[str]:
    """The scores at three null thresholds, each named for what it is, as lines of text.

    Args:
        figures: What was logged.
        split: "val" or "test".
    """
    ways = {
        "zero": "at null threshold 0",
        "tuned": "at the threshold tuned on held-out training articles",
        "best": "at the best threshold for these very questions: an oracle, not a result",
    }
    return [
        f"    EM {figures[f'{split}/{way}_exact']:.2f}   F1 {figures[f'{split}/{way}_f1']:.2f}   "
        f"{meaning}"
        for way, meaning in ways.items()
        if f"{split}/{way}_exact" in figures
    ]


def _summary(figures: dict[str, float], best: Path, run: Path) -> str:
    lines = ["", "Best model"]
    if "val/exact" in figures:
        lines.append(f"  EM {figures['val/exact']:.2f}   F1 {figures['val/f1']:.2f}")
        for group, name in (("HasAns", "answerable"), ("NoAns", "unanswerable")):
            if f"val/{group}_exact" in figures:
                lines.append(
                    f"    {name}: EM {figures[f'val/{group}_exact']:.2f}   "
                    f"F1 {figures[f'val/{group}_f1']:.2f}"
                )
        lines.append(f"  answered with 'no answer': {figures['val/no_answer_rate']:.1f} %")
        lines += thresholds_compared(figures, "val")
    lines += [
        f"  checkpoint   {best}",
        f"  model        {run / 'model'}   (DistilBertForQuestionAnswering.from_pretrained)",
        f"  course       {run / LEARNING_CURVE}",
        f"  curves       tensorboard --logdir {run.parent}",
    ]
    return "\n".join(lines)


class EvaluationFiles(Callback):
    """Writes what an evaluation gave: the predictions and, where labels are known, a report.

    After `predict`, `validate` and `test`: `predictions.json`, `nbest_predictions.json` and
    `null_odds.json` (see `qa_lightning.evaluation.predictions`). After `validate` and `test` also
    `scores.json`, the figures to the last digit (TensorBoard rounds them to float32), and
    `report.md`, `report.json` and `calibration.png`, which TensorBoard shows too: where the model
    fails (see `qa_lightning.evaluation.report`).
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        """Choose the folder.

        Args:
            folder: Where to write; by default the run's folder.
        """
        self.folder = None if folder is None else Path(folder)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the predictions."""
        self._write(trainer, pl_module, "predict")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write predictions and report, unless this validation is a part of `fit`."""
        if trainer.state.fn == "validate":
            self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write predictions and report."""
        self._write(trainer, pl_module, "test")

    def _write(
        self, trainer: Trainer, pl_module: LightningModule, split: Literal["val", "test", "predict"]
    ) -> None:
        """Gather the windows of all processes and write the files, on the first process alone."""
        module: QuestionAnsweringModule = pl_module  # type: ignore[assignment]
        folder = self.folder or Path(trainer.log_dir or ".")  # broadcast: asked for by everyone
        with module.metric.sync_context():  # all processes join in; one has a use for it
            answers = module.metric.answers() if trainer.is_global_zero else None
        if answers is None:
            return
        windows = module.datamodule.windows(split)
        threshold = module.effective_null_threshold
        questions = windows.questions.take(answers.question)
        texts = windows.contexts["text"].take(questions["context"]).to_pylist()
        try:
            write_predictions(folder, questions["id"].to_pylist(), texts, answers, threshold)
            if split != "predict":
                figures = json.dumps(module.metric.compute(), indent=1)
                (folder / "scores.json").write_text(figures + "\n", encoding="utf-8")
                number_of_windows = np.bincount(windows.question)[answers.question]
                report = failure_report(
                    windows.questions, windows.contexts, answers, number_of_windows, threshold
                )
                self._write_report(trainer, report, folder, split)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
        for line in thresholds_compared(trainer.callback_metrics, split):
            rank_zero_info(line)
        rank_zero_info(f"{len(texts):,} answers in {folder / PREDICTIONS}")

    def _write_report(self, trainer: Trainer, report: Report, folder: Path, split: str) -> None:
        text = report.to_markdown()
        (folder / "report.md").write_text(text, encoding="utf-8")
        content = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "report.json").write_text(content + "\n", encoding="utf-8")
        figure = calibration_figure(report.calibration)
        figure.savefig(folder / "calibration.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(f"{split}/report", text)
                logger.experiment.add_figure(f"{split}/calibration", figure)
        rank_zero_info(f"where the model fails: {folder / 'report.md'}")
