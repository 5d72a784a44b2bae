"""EvaluationFiles: predictions and a report, written after an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from qa_lightning.errors import UserError
from qa_lightning.evaluation.calibration import Tuned
from qa_lightning.evaluation.figures import calibration_figure
from qa_lightning.evaluation.predictions import ANSWERS, write_predictions
from qa_lightning.evaluation.report import Report, failure_report
from qa_lightning.training.loggers import log_figure, log_text
from qa_lightning.training.run_folder import run_folder
from qa_lightning.training.summary import lines_by_threshold

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from qa_lightning.training.module import QuestionAnsweringModule


class EvaluationFiles(Callback):
    """Writes the predictions of an evaluation and, where labels are known, a report.

    After `predict`, `validate` and `test`: `answers.json`, `predictions.json`, `null_odds.json`
    and `nbest_predictions.json` (see `qa_lightning.evaluation.predictions`). After `validate` and
    `test` also `scores.json`, the figures to the last digit (TensorBoard rounds them to float32),
    and `report.md`, `report.json` and `calibration.png`, which loggers are given too: where the
    model fails (see `qa_lightning.evaluation.report`).
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
        if self.folder is None and trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        module: QuestionAnsweringModule = pl_module  # type: ignore[assignment]
        folder = self.folder or run_folder(trainer)  # a collective: every process asks
        with module.metric.sync_context():  # all processes take part, and the first one writes
            answers = module.metric.answers() if trainer.is_global_zero else None
        if answers is None:
            return
        windows = module.datamodule.windows(split)
        threshold = module.effective_null_threshold
        questions = windows.questions.take(answers.question)
        texts = windows.contexts["text"].take(questions["context"]).to_pylist()
        ids = questions["id"].to_pylist()
        try:
            write_predictions(folder, ids, texts, answers, threshold, module.temperature)
            if split != "predict":
                figures = json.dumps(module.metric.compute(), indent=1)
                (folder / "scores.json").write_text(figures + "\n", encoding="utf-8")
                number_of_windows = np.bincount(windows.question)[answers.question]
                tables = (windows.questions, windows.contexts)
                cut = windows.cut_questions[answers.question]
                report = failure_report(
                    *(*tables, answers, number_of_windows, threshold),
                    tuned=Tuned(
                        module.tuned_threshold or 0.0, module.temperature, module.tuned_share
                    ),
                    cut=cut,
                )
                self._write_report(trainer, report, folder, split)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
        for line in lines_by_threshold(trainer.callback_metrics, split):
            rank_zero_info(line)
        rank_zero_info(f"{len(texts):,} answers in {folder / ANSWERS}")

    def _write_report(self, trainer: Trainer, report: Report, folder: Path, split: str) -> None:
        text = report.to_markdown()
        (folder / "report.md").write_text(text, encoding="utf-8")
        content = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "report.json").write_text(content + "\n", encoding="utf-8")
        figure = calibration_figure(report.calibration)
        figure.savefig(folder / "calibration.png")
        log_text(trainer, f"{split}/report", text)
        log_figure(trainer, f"{split}/calibration", figure)
        rank_zero_info(f"where the model fails: {folder / 'report.md'}")
