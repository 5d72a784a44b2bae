"""The progress bar: loss, EM and F1, throughput and time left, in one line of a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich.progress import TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

_SHOWN = {
    "train/loss": ("loss", ".3f"),
    "val/exact": ("EM", ".1f"),
    "val/f1": ("F1", ".1f"),
    "windows/s": ("windows/s", "g"),
}
_WIDTH = 12  # characters of the bar: all of it fits on 100, and on two lines of 80
_REDRAWS = 10  # per second at most, for drawing takes time from training


def shown(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What the bar shows of the metrics that it is given, under short names."""
    return {
        name: f"{float(metrics[logged]):{how}}"
        for logged, (name, how) in _SHOWN.items()
        if logged in metrics
    }


class TerminalBar(RichProgressBar):
    """A bar that is redrawn in place."""

    def __init__(self) -> None:
        """Set its looks."""
        theme = RichProgressBarTheme(metrics_text_delimiter="  ")
        super().__init__(refresh_rate=_REDRAWS, theme=theme)

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """A short bar and the time left; the metrics that follow show windows per second."""
        columns: list[Any] = super().configure_columns(trainer)
        description, bar, batches = columns[:3]
        bar.bar_width = _WIDTH
        return [description, bar, batches, TimeRemainingColumn(), TextColumn("left")]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """See `shown`."""
        return dict(shown(trainer.progress_bar_metrics))


class FileBar(TQDMProgressBar):
    """A line now and then, for a log file."""

    def __init__(self) -> None:
        """Set how often a line is written."""
        super().__init__(refresh_rate=50)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """See `shown`."""
        return dict(shown(trainer.progress_bar_metrics))


def progress_bar() -> ProgressBar:
    """The bar for where the output goes: a terminal or a file."""
    terminal = sys.stderr.isatty() and sys.stdout.isatty()
    return TerminalBar() if terminal else FileBar()
