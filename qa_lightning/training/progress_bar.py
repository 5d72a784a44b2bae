"""The progress bar: loss, EM and F1, throughput and time left, in one line of a terminal."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
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


def shown(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What the bar shows of the metrics that it is given, under short names."""
    return {
        name: f"{float(metrics[logged]):{how}}"
        for logged, (name, how) in _SHOWN.items()
        if logged in metrics
    }


class _OurBar(ProgressBar, ABC):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show a resumed epoch where it stands; Lightning does not say that it starts."""
        super().on_train_start(trainer, pl_module)
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer, pl_module)
            self._begin_at(trainer.fit_loop.batch_idx + 1)

    @abstractmethod
    def _begin_at(self, done: int) -> None:
        """Show so many batches as done, and measure the rate of those that follow."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """See `shown`."""
        return dict(shown(trainer.progress_bar_metrics))


class TerminalBar(_OurBar, RichProgressBar):
    """A bar that is redrawn in place."""

    def __init__(self) -> None:
        """Redraw it ten times per second at most, for drawing takes time from training."""
        super().__init__(refresh_rate=10, theme=RichProgressBarTheme(metrics_text_delimiter="  "))

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """A short bar and the time left; the metrics that follow show windows per second."""
        description, bar, batches, *_ = super().configure_columns(trainer)
        bar.bar_width = 12  # all of it fits on 100 characters, and on two lines of 80
        return [description, bar, batches, TimeRemainingColumn(), TextColumn("left")]

    def _begin_at(self, done: int) -> None:
        if self.progress is not None:  # only on the process that shows it
            bar = self.train_progress_bar
            self.progress.reset(bar.id, total=bar.total, completed=done)


class FileBar(_OurBar, TQDMProgressBar):
    """A line every 50 batches, for a log file."""

    def __init__(self) -> None:
        """Set the interval."""
        super().__init__(refresh_rate=50)

    def _begin_at(self, done: int) -> None:
        bar = self.train_progress_bar
        bar.initial = bar.n = done
        bar.refresh()


def progress_bar() -> ProgressBar:
    """The bar for where the output goes: a terminal or a file."""
    return TerminalBar() if sys.stderr.isatty() and sys.stdout.isatty() else FileBar()
