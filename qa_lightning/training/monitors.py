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


def best_is(monitor: str | None) -> Literal["min", "max"]:
    """Whether the lowest or the highest value of a figure is the best."""
    return "min" if (monitor or "").endswith("loss") else "max"


def check_monitors(trainer: Trainer) -> None:
    """Raise UserError if a callback goes by a figure that nothing logs, as far as that is known."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    known = ("lightning.", "qa_lightning.")
    if not all(type(callback).__module__.startswith(known) for callback in callbacks):
        return  # a user's own callback may log figures of its own
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
