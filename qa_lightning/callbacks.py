"""What happens beside training: the best model saved for use, prediction files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from qa_lightning.model.encoder import build_encoder

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from qa_lightning.data.datamodule import SquadDataModule
    from qa_lightning.model.module import QuestionAnsweringModule


class SaveBestModel(Callback):
    """Saves the best model as a Hugging Face folder at the end of `fit`, and says what came out.

    The folder `model` in the run's folder holds the weights of the best checkpoint and the
    tokenizer, as `save_pretrained` writes them.
    """

    def __init__(self) -> None:
        """Start without a history."""
        self.history: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to know of the validations before it."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the history of the run that is resumed."""
        self.history = list(state_dict["history"])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the figures of this validation."""
        if trainer.sanity_checking:
            return
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
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
        save_model(Path(best), run / "model", trainer.datamodule)  # type: ignore[attr-defined]
        figures = self._figures_of_best(checkpoint)
        _log_final_figures(trainer, pl_module, figures)
        rank_zero_info(_summary(figures, Path(best), run))

    def _figures_of_best(self, checkpoint: ModelCheckpoint) -> dict[str, float]:
        monitor = checkpoint.monitor
        scored = [entry for entry in self.history if monitor in entry]
        if monitor is None or not scored:
            return self.history[-1] if self.history else {}
        pick = max if checkpoint.mode == "max" else min
        return pick(scored, key=lambda entry: entry[monitor])


def save_model(checkpoint: Path, folder: Path, data: SquadDataModule) -> None:
    """Save a checkpoint's weights and the tokenizer as a Hugging Face folder.

    Args:
        checkpoint: A file that `fit` wrote.
        folder: The folder to write.
        data: The datamodule whose tokenizer the model was trained with.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    encoder = build_encoder(content["hyper_parameters"]["encoder_config"])
    prefix = "encoder."
    weights = {
        name.removeprefix(prefix): value
        for name, value in content["state_dict"].items()
        if name.startswith(prefix)
    }
    encoder.load_state_dict(weights)
    encoder.save_pretrained(folder)
    data.tokenizer.save_pretrained(folder)


def _log_final_figures(
    trainer: Trainer, module: LightningModule, figures: dict[str, float]
) -> None:
    """Log hyperparameters and final figures together, once: TensorBoard's HPARAMS page."""
    final = {
        f"best/{name.removeprefix('val/')}": figures[name]
        for name in ("val/exact", "val/f1", "val/loss")
        if name in figures
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger) and final:
            logger.log_hyperparams({**module.hparams, **trainer.datamodule.hparams}, final)  # type: ignore[attr-defined]


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
        lines.append(f"  answered with 'no answer': {figures['val/null_share']:.1f} %")
    lines += [
        f"  checkpoint   {best}",
        f"  model        {run / 'model'}   (DistilBertForQuestionAnswering.from_pretrained)",
        f"  curves       tensorboard --logdir {run.parent}",
    ]
    return "\n".join(lines)


class PredictionWriter(Callback):
    """Writes `predictions.json` and `null_odds.json` after `predict`, in the official shapes.

    `predictions.json` maps every question's id to its answer, "" where there is none;
    `null_odds.json` maps it to the null score less the best answer's score.
    """

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all processes' windows and write the files, on the first process alone."""
        module: QuestionAnsweringModule = pl_module  # type: ignore[assignment]
        metric = module.metric
        with metric.sync_context():
            answers = metric.answers()
        texts = metric.texts(answers)
        odds = answers.null_odds.tolist()
        predictions, null_odds = {}, {}
        for name, text, null in zip(metric.ids(answers), texts, odds, strict=True):
            predictions[name] = "" if null > module.null_threshold else text
            null_odds[name] = null
        self._write(Path(trainer.log_dir or "."), predictions, null_odds)

    @rank_zero_only
    def _write(self, folder: Path, predictions: dict[str, str], odds: dict[str, float]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("predictions.json", predictions), ("null_odds.json", odds)):
            (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
        rank_zero_info(f"{len(predictions):,} answers in {folder / 'predictions.json'}")
