"""Training resumed as if it had never stopped."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from qa_lightning.model.run_folder import LAST
from qa_lightning.training import lightning_private, slurm
from qa_lightning.training.agreement import Agreement
from qa_lightning.training.checkpoint_files import PARTIAL
from qa_lightning.training.lightning_private import Position, normalize_loop_state
from qa_lightning.training.random_state import (
    random_state,
    restore_random_state,
    torch_random_state,
)
from qa_lightning.training.resume_checks import (
    POSITION,
    STEPS,
    check_resumable,
    what_steps_are_made_of,
)

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer

PRECISION = "precision"
"""Key of the position: the precision that the run computes in, and resumes in."""

INTERVAL = timedelta(minutes=10)
"""Time between two writings of `last.ckpt`, if nothing else is asked for."""


class Interrupted(Exception):
    """Training was asked to stop, and did so between two steps."""

    def __init__(self, signum: int, written: bool) -> None:
        """Remember the signal, and whether there is a checkpoint to resume from."""
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum, self.written = signum, written


class LastCheckpoint(Callback):
    """Keeps `last.ckpt`, from which a run resumes as if it had not stopped.

    Every checkpoint of the run holds what that takes: the position, and the random state there. The
    resumed run trains on the remaining batches in the same order, with the same dropout, schedule
    and metric history; on one CPU process in float32 it ends with the same weights, bit for bit.

    `last.ckpt` is written between two optimizer steps: at an interval, after every validation, at
    the end, on Ctrl-C and SIGTERM, when SLURM says that the job's time is nearly up (the job is
    then requeued), and when an exception ends the run, unless that happened during the optimizer's
    step or the weights are not finite.
    """

    def __init__(
        self,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        write: bool = True,
    ) -> None:
        """Choose how often it is written: every N optimizer steps, else by time.

        With `write=False` it is not; runs can still be resumed from their other checkpoints.
        """
        self.every_n_train_steps = every_n_train_steps or 0
        self.interval = train_time_interval or INTERVAL
        self.write = write
        self.position = Position()
        self._random: dict[str, Any] = {}
        self._resumed = False
        self._stepping = False  # during the optimizer's step
        self._accumulating = False  # gradients wait for further ones
        self._due = False
        self._written: Position | None = None  # where training stood at the last writing
        self._written_at = 0.0
        self._started = False
        self._agreement = Agreement()
        self._signal: int | None = None
        self._job: str | None = None  # the SLURM job, until it is requeued
        self._requeue = False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add position and random states, and make Lightning's counters agree with them."""
        position = self.position
        if position.batches >= trainer.num_training_batches and not position.validating:
            position = replace(position, epoch=position.epoch + 1, batches=0)
        normalize_loop_state(checkpoint["loops"]["fit_loop"], position)
        checkpoint["epoch"] = position.epoch
        state = {**random_state(pl_module.device), **self._random}
        states = [state]
        if trainer.world_size > 1:
            states *= trainer.world_size
            torch.distributed.all_gather_object(states, state)
        checkpoint[POSITION] = {
            **asdict(position),
            "random": states,
            PRECISION: str(trainer.precision),
        }
        checkpoint[STEPS] = what_steps_are_made_of(trainer, pl_module.datamodule)  # type: ignore[arg-type]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore position and random state."""
        saved = dict(checkpoint.get(POSITION) or {})
        if not saved:
            rank_zero_warn("the checkpoint does not say how far training had come in its epoch")
            return
        if not lightning_private.is_trial(trainer):
            check_resumable(checkpoint, trainer, pl_module.datamodule)  # type: ignore[arg-type]
        states = saved.pop("random")
        saved.pop(PRECISION, None)
        self._random = states[trainer.global_rank % len(states)]
        self.position = self._written = Position(**saved)
        self._resumed = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove what a killed run left half written."""
        if trainer.is_global_zero and self.folder(trainer).is_dir():
            for path in self.folder(trainer).glob(f".*{PARTIAL}"):
                path.unlink(missing_ok=True)
        if not self._random:
            self._random = torch_random_state(pl_module.device)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Skip the batches that a resumed run was trained on; start the clock; handle signals."""
        self._started = True
        self._written_at = time.monotonic()
        if self._resumed:
            loader: Any = trainer.train_dataloader
            loader.sampler.start_at(self.position.epoch, self.position.batches)
            if self.position.batches == 0:
                lightning_private.start_epoch_afresh(trainer)
        with suppress(ValueError):  # not in the main thread, which alone handles signals
            self._handle_signals(trainer)

    def _handle_signals(self, trainer: Trainer) -> None:
        """Act on signals between two steps, in place of Lightning, which restores all at the end.

        Lightning's own handlers communicate with other processes and save at whatever moment the
        signal arrives.
        """
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGTERM, self._on_stop)
        lightning_private.leave_signals_to_us(trainer)
        if environment := lightning_private.slurm_environment(trainer):
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
        """Between two steps: act on signals, write the checkpoint if it is due."""
        if self._resumed:
            lightning_private.set_logger_step(trainer, self.position.logger_step)
            restore_random_state(self._random, pl_module.device)
            self._resumed = False
        self._act_on_signals(trainer)
        if not self._accumulating and self._is_due(trainer):
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
        self._accumulating = not self._stepping  # such gradients are not part of a checkpoint
        if self._accumulating:
            return
        self.position = Position(
            epoch=trainer.current_epoch,
            batches=batch_idx + 1,
            total_batches=trainer.fit_loop.total_batch_idx + 1,
            logger_step=lightning_private.logger_step(trainer) + 1,
        )
        self._random = torch_random_state(pl_module.device)
        self._stepping = False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that a validation is pending: if it is cut short, it is to be redone."""
        if not trainer.sanity_checking and not self._accumulating:
            self.position = replace(self.position, validating=True)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Act on signals here too, since a job scheduler does not wait for a long validation."""
        if not trainer.sanity_checking:
            self._act_on_signals(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make a checkpoint due, to be written once the other callbacks have seen the figures."""
        if not trainer.sanity_checking:
            self.position = replace(self.position, validating=False)
            self._due = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last one."""
        self.save(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write a checkpoint to resume from, unless its content is what went wrong."""
        # Before the first step there is nothing to resume, and its folder is not that of a run.
        trained = self.position.total_batches > 0
        if not self._started or not trained or self.position == self._written or not self.write:
            return
        if trainer.world_size > 1 and not isinstance(exception, Interrupted):
            return  # the other processes are not part of this, and would not join in the writing
        if self._stepping:
            rank_zero_warn(f"{LAST} was not written: stopped during the optimizer's step")
        elif not all(weight.isfinite().all() for weight in pl_module.parameters()):
            rank_zero_warn(f"{LAST} was not written: the weights are not finite")
        else:
            self.save(trainer)

    def folder(self, trainer: Trainer) -> Path:
        """Where it is written: beside the best checkpoint."""
        best: Any = trainer.checkpoint_callback
        return Path(getattr(best, "dirpath", None) or trainer.default_root_dir)

    def save(self, trainer: Trainer) -> None:
        """Write it now, on all processes together, after flushing what was logged."""
        self._due = False
        if not self.write or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.save()
        trainer.save_checkpoint(self.folder(trainer) / LAST, weights_only=False)
        self._written = self.position
        self._written_at = time.monotonic()

    def _is_due(self, trainer: Trainer) -> bool:
        if self.position == self._written or not self.position.total_batches:
            return False
        if self._due:
            return True
        every = self.every_n_train_steps
        return bool(every) and trainer.global_step % every == 0

    def _act_on_signals(self, trainer: Trainer) -> None:
        """Stop, or have SLURM requeue the job, if a signal asked for it; note if saving is due.

        All processes do it together, even if the signal has reached but one of them.
        """
        by_time = not self.every_n_train_steps
        late = by_time and time.monotonic() - self._written_at >= self.interval.total_seconds()
        asked = (self._signal is not None, self._requeue, late)
        stop, requeue, late = self._agreement.any_of(trainer, *asked)
        if stop:
            written = self.write and self.position.total_batches > 0
            raise Interrupted(self._signal or signal.SIGTERM, written)
        self._due |= late
        if self._job is None or not requeue:
            return
        job, self._job = self._job, None  # once is enough
        if self.position != self._written:
            self.save(trainer)
        if not trainer.is_global_zero:
            return
        if refused := slurm.requeue(job):
            rank_zero_warn(f"SLURM job {job} is not requeued: {refused}")
        else:
            rank_zero_info(f"SLURM job {job} is requeued; --ckpt_path hpc resumes from {LAST}")
