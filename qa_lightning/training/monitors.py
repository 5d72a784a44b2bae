"""Figures that a checkpoint or an early stop can go by."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal

from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

LOGGED = (
    "train/loss",
    *(f"val/{group}{figure}" for group in ("", "HasAns_", "NoAns_") for figure in ("exact", "f1")),
    *(f"val/{group}total" for group in ("", "HasAns_", "NoAns_")),
    *(f"val/{at}_{figure}" for at in ("zero", "tuned", "best") for figure in ("exact", "f1")),
    *("val/best_exact_thresh", "val/best_f1_thresh", "val/null_threshold", "val/no_answer_rate"),
    *("val/pr_exact_ap", "val/pr_f1_ap", "val/pr_oracle_ap", "val/loss", "val/token_accuracy"),
)
"""What `fit` logs, but for learning rates (`lr-...`) and `throughput/...`."""


def best_is(monitor: str) -> Literal["min", "max"]:
    """Whether the lowest or the highest value of a figure is the best."""
    return "min" if monitor.endswith("loss") else "max"


def check_monitors(trainer: Trainer) -> None:
    """Refuse callbacks that go by a figure that nothing logs.

    A callback that is neither Lightning's nor ours may log figures of its own, which are not known.

    Raises:
        UserError: there is no such figure.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not all(
        type(one).__module__.startswith(("lightning.", "qa_lightning.")) for one in callbacks
    ):
        return
    for callback in callbacks:
        if not isinstance(callback, (EarlyStopping, ModelCheckpoint)):
            continue
        monitor = callback.monitor
        if monitor is None or monitor in LOGGED or monitor.startswith(("lr-", "throughput/")):
            continue
        ours = callback is trainer.checkpoint_callback
        option = "--checkpoint.monitor" if ours else f"monitor of {type(callback).__name__}:"
        close = difflib.get_close_matches(monitor, LOGGED, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"{option} {monitor} is not logged; {hint}Logged are {', '.join(LOGGED)}")


def check_validation_interval(trainer: Trainer, batches: int) -> None:
    """Refuse to validate after more batches than an epoch has; `batches` of it are loaded.

    Raises:
        UserError: it would never be validated.
    """
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    every = trainer.val_check_interval
    if not isinstance(every, int) or trainer.check_val_every_n_epoch is None:
        return
    if every > batches and trainer.limit_val_batches:
        raise UserError(
            f"--trainer.val_check_interval {every} is more than the {batches} batches of an epoch: "
            f"give {batches} at most, or a share of the epoch such as 0.5, or "
            "--trainer.check_val_every_n_epoch null to count the batches of all epochs"
        )
