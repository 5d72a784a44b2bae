"""What loggers are given beside the curves, each in its own way; for the first process alone.

TensorBoard, W&B and MLflow take texts and figures, every logger hyperparameters and final figures.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from qa_lightning.training import lightning_private

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from matplotlib.figure import Figure

COMPARED = (
    *("pretrained", "learning_rate", "weight_decay", "schedule", "warmup", "dropout"),
    *("unanswerable_share", "train", "val", "max_train_questions", "train_unanswerable"),
    *("window", "seed"),
)
"""Hyperparameters to compare runs by; `config.yaml` has all.

There are few of them, because TensorBoard names only the first five unless it is configured."""


def log_text(
    trainer: Trainer,
    name: str,
    text: str,
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None,
) -> None:
    """Log a text in Markdown; as `table` (columns, rows) where a logger has tables of its own."""
    # The step of the scalars, so that a resumed run replaces all figures after it together.
    step = lightning_private.logger_step(trainer)
    columns, rows = table or (["text"], [[text]])
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, text, step)
        elif isinstance(logger, WandbLogger):
            logger.log_text(name, list(columns), [list(row) for row in rows], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, text, f"{name}/step-{step:06}.md")


def log_figure(trainer: Trainer, name: str, figure: Figure) -> None:
    """Log a figure."""
    step = lightning_private.logger_step(trainer)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(name, figure, step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [figure], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_figure(logger.run_id, figure, f"{name}/step-{step:06}.png")


def log_hyperparameters(trainer: Trainer, module: LightningModule) -> None:
    """Log what to compare runs by, when a run starts."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            continue  # its HPARAMS page takes them once, with the final figures
        try:
            logger.log_hyperparams(_compared(trainer, module))
        except Exception as error:  # MLflow's: a run's hyperparameters cannot be changed
            reason = str(error).partition("\n")[0]
            rank_zero_warn(f"{type(logger).__name__} keeps the hyperparameters it had: {reason}")


def log_final_figures(trainer: Trainer, module: LightningModule, final: dict[str, float]) -> None:
    """Log the figures of the best model, when a run ends."""
    for logger in trainer.loggers if final else ():
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(_compared(trainer, module), final)
        else:
            logger.log_metrics(final, lightning_private.logger_step(trainer))


def _compared(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    data = trainer.datamodule.hparams  # type: ignore[attr-defined]
    every = {**module.hparams, **data}
    return {
        **{name: every[name] for name in COMPARED},
        "seed_everything": int(os.environ.get("PL_GLOBAL_SEED", -1)),
        "batch_size": data["batch_size"] * trainer.world_size * trainer.accumulate_grad_batches,
        "epochs": trainer.max_epochs,
        "precision": trainer.precision,
    }


def where_to_look(trainer: Trainer) -> dict[str, str]:
    """Where the curves of a run are to be seen: a command, a file or an address by logger."""
    found = {}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            found["TensorBoard"] = f"tensorboard --logdir {Path(logger.log_dir).parent}"
        elif isinstance(logger, CSVLogger):
            found["curves"] = str(Path(logger.log_dir, "metrics.csv"))
        elif isinstance(logger, MLFlowLogger):
            uri = logger.experiment.tracking_uri
            command = f"mlflow ui --backend-store-uri {uri}"
            found["MLflow"] = uri if uri.startswith("http") else command
        elif isinstance(logger, WandbLogger):
            run = logger.experiment
            found["W&B"] = run.url or f"wandb sync {Path(run.dir).parent}"
    return found
