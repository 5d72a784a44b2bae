"""Checkpoints: written whole or not at all, and training resumed as if it had never stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Callback
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from qa_lightning.errors import UserError
from qa_lightning.model.checkpoint import read_checkpoint
from qa_lightning.training import slurm

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer

LAST = "last.ckpt"

POSITION = "position"
"""Key of a checkpoint under which it says how far training had come."""

SHARDED = "sharded"
"""Key there: whether the optimizer's state is numbered as FSDP does it, unlike all others."""

INTERVAL = timedelta(minutes=10)
"""Time between two writings of the newest checkpoint, if nothing else is asked for."""

STEPS_UNASKED = 50
"""Optimizer steps after which several processes ask the first what time it is: that costs time."""

PARTIAL = ".partial"
"""End of the name of a file that is being written."""


class Interrupted(Exception):
    """Training was asked to stop, and did so between two steps."""

    def __init__(self, signum: int, written: bool) -> None:
        """Remember the signal, and whether there is a checkpoint to go on from."""
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.written = signum, written


# ------------------------------------------------------------------------------ files


def write_atomically(content: Any, path: Path) -> None:
    """Save with `torch.save`: whoever opens the file finds the old content or the new one, whole.

    Args:
        content: What to save.
        path: The file; its folder is made if there is none.

    Raises:
        UserError: it cannot be written; what was there before is still there.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # a name must not come to the disk before what it names
        partial.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        # torch tells of a full disk in words of its own.
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UserError(
            f"cannot write the checkpoint {path}: {reason}; the one before it is untouched. "
            "Is the disk full?"
        ) from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads nothing but tensors and plain values."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write it, see `write_atomically`."""
        write_atomically(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read it; `weights_only` is on, whatever is asked for: a file must not run code."""
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return content


def newest_runs_first(runs: Path) -> list[Path]:
    """The folders `version_N`, the highest number first."""
    numbered = [
        (int(folder.name.removeprefix("version_")), folder)
        for folder in runs.glob("version_*")
        if folder.name.removeprefix("version_").isdecimal() and folder.is_dir()
    ]
    return [folder for _, folder in sorted(numbered, reverse=True)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in a folder that has come furthest; of those alike, `last.ckpt`.

    A file that cannot be read is passed over, with a warning.

    Args:
        folder: Where `fit` wrote its checkpoints.

    Returns:
        The file, or None if there is none.

    Raises:
        UserError: there are some, but none can be read.
    """
    readable, refused = [], []
    for path in sorted(folder.glob("*.ckpt")):
        if path.name.startswith("."):
            continue
        try:
            step = read_checkpoint(path)["global_step"]
        except UserError as error:
            refused.append(error)
            continue
        readable.append((step, path.name == LAST, path))
    if refused and not readable:
        raise refused[-1]
    for reason in refused:
        rank_zero_warn(f"passed over: {reason}")
    return max(readable)[2] if readable else None


# ------------------------------------------------------------------------------ random state


def torch_random_state(device: torch.device) -> dict[str, Any]:
    """States of the random generators of torch, which dropout draws from: quick enough for a step.

    Args:
        device: Of which the state is wanted beside that of the CPU.
    """
    state = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """States of the random generators of Python, NumPy and torch, as plain values and tensors."""
    version, internal, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=True)  # what others may use; we do not
    return {
        "python": [version, list(internal), gauss],
        "numpy": [numpy[0], numpy[1].tolist(), *map(float, numpy[2:])],
        **torch_random_state(device),
    }


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Take up what `random_state` gave; a device of another kind keeps its own."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, at, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), int(at), int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


# ------------------------------------------------------------------------------ position


@dataclass(frozen=True)
class Position:
    """How far training has come, between two optimizer steps.

    Attributes:
        epoch: Epochs that are complete.
        batches: Batches of the epoch under way that were trained on.
        total_batches: Batches of all epochs that were trained on.
        logger_step: The step under which the next training figures are logged.
        validating: Whether the validation after these batches is still to be done, or begun anew.
    """

    epoch: int = 0
    batches: int = 0
    total_batches: int = 0
    logger_step: int = 0
    validating: bool = False


def normalize_loop_state(loop: dict[str, Any], position: Position) -> None:
    """Make the saved state of Lightning's fit loop say that training stands at a position.

    Lightning saves its counters as they are at the moment, in the midst of a batch or of a hook,
    and tells from them where to go on. There are many such moments, and not from all of them does
    it go on with the right batch, or validates once. So there shall be three only: before an epoch,
    between two batches, and before a validation.

    Args:
        loop: `checkpoint["loops"]["fit_loop"]`; changed in place.
        position: Where training stands.
    """
    training = "epoch_loop."
    for name in ("optimizer.step", "optimizer.zero_grad"):
        first, second = name.split(".")
        progress = loop[f"{training}automatic_optimization.optim_progress"][first][second]
        _complete(progress)
    _complete(loop[f"{training}scheduler_progress"])
    under_way = int(position.batches > 0)
    _count(loop["epoch_progress"], position.epoch, position.epoch)
    for tracker in loop["epoch_progress"].values():
        tracker["ready"] = tracker["started"] = position.epoch + under_way
    _count(loop[f"{training}batch_progress"], position.total_batches, position.batches)
    loop[f"{training}batch_progress"]["is_last_batch"] = False
    # Lightning adds one when it passes the end of the batch again; see `LastCheckpoint`.
    loop[f"{training}state_dict"]["_batches_that_stepped"] = max(position.logger_step - 1, 0)
    validation = loop[f"{training}val_loop.batch_progress"]
    _count(validation, 0, 0)
    validation["is_last_batch"] = False
    if position.validating:
        for tracker in (validation["total"], validation["current"]):
            tracker["ready"] = tracker["started"] = 1


def _complete(progress: dict[str, dict[str, int]]) -> None:
    """What was begun, and not completed, was not begun."""
    for tracker in progress.values():
        for name in tracker:
            tracker[name] = tracker["completed"]


def _count(progress: dict[str, Any], total: int, current: int) -> None:
    for which, number in (("total", total), ("current", current)):
        for name in progress[which]:
            progress[which][name] = number


class LastCheckpoint(Callback):
    """Keeps `last.ckpt`, from which a run goes on as if it had not stopped.

    Every checkpoint of the run gets what that takes: the position, and the random state there. The
    resumed run has the same batches before it, in the same order, the same dropout, the same
    schedule and metric history; on one CPU process in float32 it ends with the same weights, bit
    for bit.

    `last.ckpt` is written between two optimizer steps: at an interval, after every validation, at
    the end, on Ctrl-C and SIGTERM, when SLURM says that the job's time is nearly up (the job is
    then requeued), and when an exception ends the run, unless that happened in the midst of the
    optimizer's step or the weights are not finite.
    """

    def __init__(
        self,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        write: bool = True,
    ) -> None:
        """Choose how often it is written.

        Args:
            every_n_train_steps: Optimizer steps between two writings; None or 0 goes by time.
            train_time_interval: Time between two writings; `INTERVAL` if neither is given.
            write: False writes none; the run's other checkpoints can be gone on from all the same.
        """
        self.every_n_train_steps = every_n_train_steps or 0
        self.interval = train_time_interval or INTERVAL
        self.write = write
        self.position = Position()
        self._random: dict[str, Any] = {}
        self._resumed = False
        self._stepping = False  # in the midst of the optimizer's step
        self._due = False
        self._written: Position | None = None  # where training stood at the last writing
        self._written_at = 0.0
        self._begun = False
        self._signal: int | None = None
        self._job: str | None = None  # the SLURM job, until it is requeued
        self._requeue = False

    # -------------------------------------------------------------------- saving and restoring

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say how far training has come, in words of our own and in Lightning's."""
        position = self.position
        if position.batches >= trainer.num_training_batches and not position.validating:
            position = Position(
                position.epoch + 1, 0, position.total_batches, position.logger_step, False
            )
        normalize_loop_state(checkpoint["loops"]["fit_loop"], position)
        checkpoint["epoch"] = position.epoch
        state = {**random_state(pl_module.device), **self._random}
        states = [state]
        if trainer.world_size > 1:
            states *= trainer.world_size
            torch.distributed.all_gather_object(states, state)
        sharded = isinstance(trainer.strategy, FSDPStrategy)
        checkpoint[POSITION] = {**asdict(position), "random": states, SHARDED: sharded}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up position and random state."""
        saved = dict(checkpoint.get(POSITION) or {})
        if not saved:
            rank_zero_warn("the checkpoint does not say how far training had come in its epoch")
            return
        if SHARDED not in saved:
            raise UserError(
                "this checkpoint was written by an earlier version: it can be used "
                "(--model.pretrained with its model folder), but not gone on from"
            )
        saved.pop(SHARDED)
        states = saved.pop("random")
        self._random = states[trainer.global_rank % len(states)]
        self.position = self._written = Position(**saved)
        self._resumed = True
        begin = (self.position.epoch, self.position.batches)
        trainer.datamodule.resume_at = begin  # type: ignore[attr-defined]
        loader = trainer.train_dataloader
        if loader is not None:  # some strategies load after the data are set up
            loader.sampler.start_at(*begin)

    # -------------------------------------------------------------------- following the training

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what a killed run left half written."""
        if trainer.is_global_zero and self.folder(trainer).is_dir():
            for path in self.folder(trainer).glob(f".*{PARTIAL}"):
                path.unlink(missing_ok=True)
        if not self._random:
            self._random = torch_random_state(pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count the time; listen to signals; have Lightning begin a whole epoch anew."""
        self._begun = True
        self._written_at = time.monotonic()
        if self._resumed and self.position.batches == 0:
            # With --trainer.max_steps Lightning takes every resumed epoch for one under way.
            trainer.fit_loop.epoch_loop.restarting = False
        with suppress(ValueError):  # not the main thread: somebody else listens
            self._listen(trainer)

    def _listen(self, trainer: Trainer) -> None:
        """Answer signals between two steps, in the place of Lightning, which puts all back.

        Its own handlers talk to the other processes and save in the midst of whatever they do.
        """
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGTERM, self._on_stop)
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._job = slurm.job()
            signal.signal(environment.requeue_signal or signal.SIGUSR1, self._on_requeue)

    def _on_stop(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT:
            if self._signal is not None:
                raise KeyboardInterrupt
            rank_zero_info("\nstopping after this step; Ctrl-C again stops at once")
        self._signal = signum

    def _on_requeue(self, signum: int, frame: FrameType | None) -> None:
        self._requeue = True

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: do what was asked for, write the checkpoint if it is due."""
        if self._resumed:
            # Where Lightning passed the end of the last batch again, it counted that once more.
            trainer.fit_loop.epoch_loop._batches_that_stepped = self.position.logger_step
            restore_random_state(self._random, pl_module.device)
            self._resumed = False
        self._do_what_was_asked(trainer)
        if self._between_steps(trainer) and self._is_due(trainer):
            self.save(trainer)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """From here on the weights are neither those before the step nor those after it."""
        self._stepping = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After an optimizer step, remember where training stands."""
        if not self._stepping:
            return  # gradients are being accumulated: they are not in a checkpoint
        loop = trainer.fit_loop.epoch_loop
        epochs: Any = trainer.fit_loop.epoch_progress.current
        batches: Any = loop.batch_progress
        self.position = Position(
            epoch=epochs.processed,
            batches=batches.current.processed,
            total_batches=batches.total.processed,
            logger_step=loop._batches_that_stepped + 1,
        )
        self._random = torch_random_state(pl_module.device)
        self._stepping = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """If it is cut short, it is to be done again."""
        if not trainer.sanity_checking and self._between_steps(trainer):
            self.position = Position(**{**asdict(self.position), "validating": True})

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Do not let a scheduler that has lost patience wait for the validation's end."""
        if not trainer.sanity_checking:
            self._do_what_was_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A checkpoint is due, once all others have seen the figures."""
        if not trainer.sanity_checking:
            self.position = Position(**{**asdict(self.position), "validating": False})
            self._due = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last one."""
        self.save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write what can be gone on from, unless it is what broke."""
        if not self._begun or self.position == self._written or not self.write:
            return
        if trainer.world_size > 1 and not isinstance(exception, Interrupted):
            return  # the others know nothing of it, and would not join in
        if self._stepping:
            rank_zero_warn(f"{LAST} was not written: stopped in the midst of the optimizer's step")
        elif not all(weight.isfinite().all() for weight in pl_module.parameters()):
            rank_zero_warn(f"{LAST} was not written: the weights are not finite")
        else:
            self.save(trainer)

    # -------------------------------------------------------------------- writing

    def folder(self, trainer: Trainer) -> Path:
        """Where it is written: beside the best checkpoint."""
        best: Any = trainer.checkpoint_callback
        return Path(getattr(best, "dirpath", None) or trainer.default_root_dir)

    def save(self, trainer: Trainer) -> None:
        """Write it now, on all processes together; what was logged goes to the disk before it."""
        self._due = False
        if not self.write or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
        trainer.save_checkpoint(self.folder(trainer) / LAST, weights_only=False)
        self._written = self.position
        self._written_at = time.monotonic()

    def _between_steps(self, trainer: Trainer) -> bool:
        """Whether no gradients wait for further ones."""
        return trainer.fit_loop.epoch_loop.batch_progress.total.completed == (
            self.position.total_batches
        )

    def _is_due(self, trainer: Trainer) -> bool:
        if self.position == self._written or not self.position.total_batches:
            return False
        if self._due:
            return True
        if self.every_n_train_steps:
            return trainer.global_step % self.every_n_train_steps == 0
        if trainer.world_size > 1 and trainer.global_step % STEPS_UNASKED:
            return False
        late = time.monotonic() - self._written_at >= self.interval.total_seconds()
        return trainer.strategy.broadcast(late)  # clocks differ, but all have to join in

    def _do_what_was_asked(self, trainer: Trainer) -> None:
        """Stop, or have SLURM start the job again, if a signal said so: all processes together.

        It may have reached one of them, or all, each in another step.
        """
        agree = trainer.strategy.reduce_boolean_decision
        if agree(self._signal is not None, all=False):
            raise Interrupted(self._signal or signal.SIGTERM, self.write)
        if self._job is None or not agree(self._requeue, all=False):
            return
        job, self._job = self._job, None  # once is enough
        if self.position != self._written:
            self.save(trainer)
        if not trainer.is_global_zero:
            return
        if refused := slurm.requeue(job):
            rank_zero_warn(f"SLURM job {job} is not requeued: {refused}")
        else:
            rank_zero_info(f"SLURM job {job} is requeued; --ckpt_path hpc goes on from {LAST}")
