"""SaveBestModel: the best model as a Hugging Face folder, and the run's outcome."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from qa_lightning.evaluation.figures import learning_curve_figure
from qa_lightning.model.run_folder import LAST, LEARNING_CURVE, MODEL
from qa_lightning.model.trained_model import TrainedModel
from qa_lightning.training.loggers import log_final_figures, where_to_look
from qa_lightning.training.run_folder import run_folder
from qa_lightning.training.summary import best_model_summary
from qa_lightning.training.throughput import Throughput

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer


class SaveBestModel(Callback):
    """Saves the best model as a Hugging Face folder at the end of `fit`, and reports the outcome.

    The folder `model` in the run's folder holds the weights of the best checkpoint and the
    tokenizer, as `save_pretrained` writes them; `null_threshold` in its config.json is the tuned
    null threshold, if there is one. `learning_curve.png` beside it shows losses and
    scores over the run; every logger gets the final figures.
    """

    def __init__(self) -> None:
        """Start without a history."""
        self.history: list[dict[str, float]] = []  # figures of each validation
        self.losses: dict[int, float | Tensor] = {}  # training loss by optimizer step

    def state_dict(self) -> dict[str, Any]:
        """History and losses so far, for a resumed run."""
        self.losses = {step: float(loss) for step, loss in self.losses.items()}
        return {"history": self.history, "losses": self.losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the history of the run that is resumed."""
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
        # A resumed run may repeat the last validation, with the same weights and figures.
        self.history = [entry for entry in self.history if entry["step"] != trainer.global_step]
        self.history.append({"step": trainer.global_step, **figures})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the model, log the final figures, print the summary."""
        checkpoint = trainer.checkpoint_callback
        if not isinstance(checkpoint, ModelCheckpoint):
            return
        run = run_folder(trainer)  # a collective: every process asks
        if not trainer.is_global_zero:
            return
        best = checkpoint.best_model_path or checkpoint.last_model_path
        last = Path(checkpoint.dirpath or ".") / LAST
        if not best and last.is_file():
            rank_zero_info(f"{checkpoint.monitor} was never logged: the model is that of {LAST}")
            best = str(last)
        if not best:
            return
        TrainedModel.from_checkpoint(Path(best)).save(run / MODEL)
        figures = self._figures_of_best(checkpoint)
        log_final_figures(trainer, pl_module, _final(trainer, figures))
        losses = {step: float(loss) for step, loss in self.losses.items()}
        step = int(figures["step"]) if figures else None
        learning_curve_figure(losses, self.history, step).savefig(run / LEARNING_CURVE)
        rank_zero_info(best_model_summary(figures, Path(best), run, where_to_look(trainer)))

    def _figures_of_best(self, checkpoint: ModelCheckpoint) -> dict[str, float]:
        monitor = checkpoint.monitor
        scored = [entry for entry in self.history if monitor in entry]
        if monitor is None or not scored:
            return self.history[-1] if self.history else {}
        # A run resumed in another folder has the history of the first, but not its checkpoints.
        of_best = [entry for entry in scored if entry[monitor] == checkpoint.best_model_score]
        pick = max if checkpoint.mode == "max" else min
        return of_best[-1] if of_best else pick(scored, key=lambda entry: entry[monitor])


def _final(trainer: Trainer, figures: dict[str, float]) -> dict[str, float]:
    """The figures that a run is judged by."""
    final = {
        f"best/{name.removeprefix('val/')}": figures[name]
        for name in ("val/exact", "val/f1", "val/loss")
        if name in figures
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Throughput) and callback.overall is not None:
            final["run/windows_per_s"] = callback.overall.windows_per_s
    return final
