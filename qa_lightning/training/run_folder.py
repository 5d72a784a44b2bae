"""The folder of a run: one of its own, whatever logs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from qa_lightning.errors import UserError
from qa_lightning.model.run_folder import CHECKPOINTS
from qa_lightning.training.checkpoint_files import newest_runs_first

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

RUNS = "lightning_logs"
"""The folder of runs, inside the trainer's `default_root_dir`."""

COUNTING = (TensorBoardLogger, CSVLogger)
"""Loggers with a folder for every run, `version_N` as ours; all others share one between runs."""


class RunFolder(Callback):
    """Gives a run its folder, and all processes the same one.

    The first process decides. Callbacks ask `run_folder(trainer)`.
    """

    def __init__(self, path: Path, resumed: bool = False) -> None:
        """Choose the folder; `resumed` if it is that of a run that is resumed."""
        self.path = path
        self.resumed = resumed
        self._trained = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the first process's folder, a collective; checkpoints go there as well."""
        self.path = Path(trainer.strategy.broadcast(str(self.path)))
        for checkpoint in trainer.checkpoint_callbacks:
            if isinstance(checkpoint, ModelCheckpoint) and not checkpoint.dirpath:
                checkpoint.dirpath = str(self.path / CHECKPOINTS)

    def on_train_batch_end(self, *_: Any) -> None:
        """Note that there is something to keep."""
        self._trained = True

    @contextmanager
    def made(self, trainer: Trainer) -> Iterator[None]:
        """Make the folder for a run, and remove it after a start that failed or left it empty.

        Raises:
            UserError: another run has just made it.
        """
        if self.resumed or not trainer.is_global_zero or not leaves_files(trainer):
            yield
            return
        for logger in trainer.loggers:
            if isinstance(logger, COUNTING):
                # It counts now. In the same place it finds the same number, and writes in there.
                _ = logger.log_dir
        try:
            self.path.mkdir(parents=True)
        except FileExistsError as error:
            raise UserError(f"another run has just begun in {self.path}: start again") from error
        try:
            yield
        except BaseException:
            # A process of its own may have trained, and left a checkpoint to tell of it.
            if not self._trained and not any(self.path.rglob("*.ckpt")):
                shutil.rmtree(self.path, ignore_errors=True)
            raise
        finally:
            for folder in (self.path, *self.path.parents[:2]):
                with suppress(OSError):  # it has content, or is gone
                    folder.rmdir()
                if folder.name == RUNS:  # what lies around it is the user's
                    break


def next_run(runs: Path) -> Path:
    """The folder `version_N` for the next run in a folder of runs."""
    newest = next(iter(newest_runs_first(runs)), None)
    return runs / f"version_{int(newest.name.removeprefix('version_')) + 1 if newest else 0}"


def leaves_files(trainer: Trainer) -> bool:
    """Whether a run leaves files: not a trial run, nor one with neither logger nor checkpoints."""
    trial: bool = trainer.fast_dev_run  # type: ignore[attr-defined]
    return not trial and bool(trainer.loggers or trainer.checkpoint_callback)


def run_folder(trainer: Trainer) -> Path:
    """The folder of a trainer's run, the same whenever it is asked for; it may not exist yet.

    The command line chooses it. For a `Trainer` in Python it is the folder that its first logger
    has for the run (TensorBoard's, a CSVLogger's), where Lightning's own files are, too; with any
    other logger or none the next `lightning_logs/version_N` in `default_root_dir`.

    A collective when it is first called: every process has to ask.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    own = next((each for each in callbacks if isinstance(each, RunFolder)), None)
    if own is None:
        own = RunFolder(_usual_folder(trainer))
        callbacks.append(own)
        own.setup(trainer, trainer.lightning_module, "")
    return own.path


def _usual_folder(trainer: Trainer) -> Path:
    for logger in trainer.loggers[:1]:
        if isinstance(logger, COUNTING):
            return Path(logger.log_dir)
    return next_run(Path(trainer.default_root_dir, RUNS))
