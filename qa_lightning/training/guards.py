"""FiniteLoss: stops a run whose loss or weights are no longer finite numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from torch import Tensor

from qa_lightning.errors import UserError
from qa_lightning.training import lightning_private

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from qa_lightning.data.batches import Batch

SHOWN_IDS = 5


class FiniteLoss(Callback):
    """Stops training with a UserError when the loss, or a weight, is not a finite number.

    Losses are inspected together when the trainer logs, so that no other step waits for the device,
    and before each validation and checkpoint. A checkpoint with such a weight is not
    written: the one before it stays as it is.
    """

    def __init__(self) -> None:
        """Start with nothing to inspect."""
        self._recent: list[tuple[int, Tensor, Tensor]] = []  # step, loss, question rows

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Keep the loss; inspect those kept at the logging interval."""
        self._recent.append((trainer.global_step, outputs["loss"], batch.key[:, 0]))
        if lightning_private.logs_now(trainer):
            self._check_losses(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Inspect the epoch's last losses."""
        self._check_losses(trainer, module)

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse to score weights that are not finite, also before the first step."""
        if trainer.state.fn == "fit":
            self._check_losses(trainer, module)
            self._check_weights(trainer, module)

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Refuse to save weights that are not finite."""
        self._check_losses(trainer, module)
        self._check_weights(trainer, module)

    def _check_losses(self, trainer: Trainer, module: LightningModule) -> None:
        recent, self._recent = self._recent, []
        finite = torch.stack([loss for _, loss, _ in recent]).isfinite().tolist() if recent else []
        # All processes stop together: one that went on would wait for the others for ever.
        if trainer.strategy.reduce_boolean_decision(all(finite), all=True):
            return
        if all(finite):
            raise UserError(
                "the loss of another process is not finite: its message names the questions"
            )
        step, loss, rows = recent[finite.index(False)]
        questions = rows.unique().tolist()
        windows = module.datamodule.windows("train")  # type: ignore[operator,union-attr]
        ids = windows.questions["id"].take(questions[:SHOWN_IDS]).to_pylist()
        more = f" and {len(questions) - SHOWN_IDS} more" if len(questions) > SHOWN_IDS else ""
        raise UserError(
            f"the loss is {float(loss)} at step {step}, in the batch with the questions "
            f"{', '.join(ids)}{more}. {_advice(trainer, module)}"
        )

    def _check_weights(self, trainer: Trainer, module: LightningModule) -> None:
        finite = torch.stack([weight.isfinite().all() for weight in module.parameters()]).all()
        if not trainer.strategy.reduce_boolean_decision(bool(finite), all=True):
            raise UserError(
                f"there are weights that are not finite at step {trainer.global_step}. "
                f"{_advice(trainer, module)}"
            )


def _advice(trainer: Trainer, module: LightningModule) -> str:
    """What to try after the loss diverged, and which checkpoint is left to resume from."""
    tries = [f"a lower --model.learning_rate (it was {module.hparams['learning_rate']:g})"]
    if trainer.precision in ("16-mixed", "16-true"):
        tries.append(f"--trainer.precision bf16-mixed or 32-true (it was {trainer.precision})")
    if module.hparams["warmup"] < 0.05:
        tries.append(f"a longer --model.warmup (it was {module.hparams['warmup']:g})")
    if not trainer.gradient_clip_val:
        tries.append("--trainer.gradient_clip_val 1.0 (gradients were not clipped)")
    saved = [
        path
        for callback in trainer.checkpoint_callbacks
        for name in ("best_model_path", "last_model_path")
        if (path := Path(getattr(callback, name, "") or "-")).is_file()
    ]
    left = "No checkpoint was written yet."
    if saved:
        newest = max(saved, key=lambda path: path.stat().st_mtime)
        left = f"The last checkpoint before that is whole: --ckpt_path {newest}"
    return f"Try {'; or '.join(tries)}. {left}"
