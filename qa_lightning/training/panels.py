"""ValidationPanels: what loggers show of a run beside its curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from lightning.pytorch import Callback
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from qa_lightning.evaluation.examples import COLUMNS, cells_of, choose, example, table_of
from qa_lightning.evaluation.figures import abstention_figure
from qa_lightning.evaluation.scored_answers import scored_answers
from qa_lightning.training.loggers import log_figure, log_hyperparameters, log_text

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from qa_lightning.evaluation.spans import Answers
    from qa_lightning.training.module import QuestionAnsweringModule

THRESHOLDS = ("zero", "tuned", "best")

LAYOUT = {
    "Learning": {
        "loss: training and validation": ["train/loss$", "val/loss$"],
        "EM and F1 (%)": ["val/exact$", "val/f1$"],
        "learning rate": ["lr-.*pg1$"],
        "token accuracy (0 to 1)": ["val/token_accuracy$"],
    },
    "Answerable and unanswerable questions": {
        "EM (%)": ["val/HasAns_exact$", "val/NoAns_exact$"],
        "F1 (%)": ["val/HasAns_f1$", "val/NoAns_f1$"],
    },
    "No answer": {
        "questions left unanswered (%)": ["val/no_answer_rate$"],
        "effective null threshold": ["val/null_threshold$"],
        "EM at threshold 0, tuned, best (%)": [f"val/{at}_exact$" for at in THRESHOLDS],
        "F1 at threshold 0, tuned, best (%)": [f"val/{at}_f1$" for at in THRESHOLDS],
    },
    "Speed": {
        "windows per second": ["throughput/windows_per_s$"],
        "MFU and padding (%)": ["throughput/mfu$", "throughput/padding$"],
    },
}
"""Curves that belong side by side: titles of sections, titles of charts, patterns of names."""

EXAMPLES = 8
"""Questions that are shown at every validation."""

SHOWING = (TensorBoardLogger, WandbLogger, MLFlowLogger)
"""Loggers that take texts and figures."""


class ValidationPanels(Callback):
    """Shows in TensorBoard, W&B and MLflow what the model does, at every validation of `fit`.

    - `val/examples`, a text: the same few questions every time, the seed of the data fixes which;
      the answer marked in its context, gold beside predicted.
    - `val/no_answer`, an image: precision and recall of "no answer" over the null threshold, the
      effective one marked, and the null odds of answerable and unanswerable questions.
    - TensorBoard's layout of the custom scalars: curves that belong together in one chart.

    Every logger gets the hyperparameters that runs are compared by.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the hyperparameters, write the layout."""
        if not trainer.is_global_zero:
            return
        layout = {
            section: {title: ["Multiline", names] for title, names in charts.items()}
            for section, charts in LAYOUT.items()
        }
        log_hyperparameters(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(layout)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show examples and figure."""
        shown = any(isinstance(logger, SHOWING) for logger in trainer.loggers)
        if trainer.sanity_checking or trainer.state.fn != "fit" or not shown:
            return
        module: QuestionAnsweringModule = pl_module  # type: ignore[assignment]
        with module.metric.sync_context():  # all processes take part, and the first one logs
            if trainer.is_global_zero:
                self._show(trainer, module, module.metric.answers())

    def _show(self, trainer: Trainer, module: QuestionAnsweringModule, answers: Answers) -> None:
        windows, threshold = module.datamodule.windows("val"), module.effective_null_threshold
        golds = pc.list_value_length(windows.questions.column("answers")).to_numpy()
        answerable = golds[answers.question] > 0
        chosen = choose(answerable, EXAMPLES, module.datamodule.hparams["seed"])
        scored = scored_answers(
            windows.questions, windows.contexts, answers.take(chosen), threshold
        )
        asked = [example(scored, row) for row in range(len(chosen))]
        text = table_of(asked, threshold)
        log_text(trainer, "val/examples", text, (COLUMNS, cells_of(asked)))
        if np.unique(answerable).size == 2:
            figure = abstention_figure(answers.null_odds, answerable, threshold)
            log_figure(trainer, "val/no_answer", figure)
