"""Everything that this project takes from inside Lightning, in one place.

None of it is public, so another release may change it. `pyproject.toml` therefore caps Lightning's
version, and `tests/training/test_lightning_private.py` says what changed when the cap is raised.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


PATIENCE = 5.0
"""Seconds that processes have to say what went wrong with them."""

SIGTERM_QUESTION = "_broadcast_sigterm_tensor"


@dataclass(frozen=True)
class Position:
    """How far training has come, between two optimizer steps.

    Attributes:
        epoch: Epochs that are complete.
        batches: Batches of the current epoch that were trained on.
        total_batches: Batches of all epochs that were trained on.
        logger_step: The step under which the next training figures are logged.
        validating: Whether the validation after these batches is still to be done, or redone.
    """

    epoch: int = 0
    batches: int = 0
    total_batches: int = 0
    logger_step: int = 0
    validating: bool = False


def normalize_loop_state(loop: dict[str, Any], position: Position) -> None:
    """Make the saved state of Lightning's fit loop say that training stands at a position.

    Lightning saves its counters as they are in the middle of a batch or of a hook, and infers from
    them where to resume. Not from every such moment does it resume with the right batch, or run the
    pending validation exactly once. The saved state is therefore one of three moments only: before
    an epoch, between two batches, and before a validation.

    Args:
        loop: `checkpoint["loops"]["fit_loop"]`; changed in place.
        position: Where training stands.
    """
    training = "epoch_loop."
    optimizer = loop[f"{training}automatic_optimization.optim_progress"]["optimizer"]
    for progress in (*optimizer.values(), loop[f"{training}scheduler_progress"]):
        for tracker in progress.values():
            for name in tracker:  # what was begun and not completed counts as not begun
                tracker[name] = tracker["completed"]
    _set_counters(loop["epoch_progress"], position.epoch, position.epoch)
    for tracker in loop["epoch_progress"].values():
        tracker["ready"] = tracker["started"] = position.epoch + int(position.batches > 0)
    _set_counters(loop[f"{training}batch_progress"], position.total_batches, position.batches)
    loop[f"{training}batch_progress"]["is_last_batch"] = False
    # Lightning adds one when it resumes past the end of a batch; see `set_logger_step`.
    loop[f"{training}state_dict"]["_batches_that_stepped"] = max(position.logger_step - 1, 0)
    validation = loop[f"{training}val_loop.batch_progress"]
    _set_counters(validation, 0, 0)
    validation["is_last_batch"] = False
    if position.validating:
        for tracker in (validation["total"], validation["current"]):
            tracker["ready"] = tracker["started"] = 1


def _set_counters(progress: dict[str, Any], total: int, current: int) -> None:
    for which, number in (("total", total), ("current", current)):
        progress[which].update(dict.fromkeys(progress[which], number))


def logger_step(trainer: Trainer) -> int:
    """The step under which Lightning logs: batches that ended with an optimizer step."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_logger_step(trainer: Trainer, step: int) -> None:
    """Correct the logging step of a resumed run, which Lightning may count once too often."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = step


def logs_now(trainer: Trainer) -> bool:
    """Whether Lightning logs training figures at the end of this batch.

    Logging waits for the device: what else has to be read of it is best read at the same batch.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    stepped = not trainer.fit_loop._should_accumulate()
    return bool(every) and stepped and trainer.global_step % every == 0


def is_trial(trainer: Trainer) -> bool:
    """Whether Lightning's tuner restores what it saved before it tried batch sizes or rates out."""
    trials = (".scale_batch_size_", ".lr_find_")
    return Path(trainer.ckpt_path or "").name.startswith(trials)


def start_epoch_afresh(trainer: Trainer) -> None:
    """Have a resumed run start its epoch at the first batch.

    With `--trainer.max_steps` Lightning takes every resumed epoch for one that is in progress.
    """
    trainer.fit_loop.epoch_loop.restarting = False


def end_other_processes(trainer: Trainer) -> None:
    """After an error, end the processes that this one started, if they do not do so themselves.

    An error in the first process alone leaves the others waiting for it, with their GPUs, until
    their exchange times out. Lightning ends them only when another process fails.
    """
    watched = getattr(trainer.strategy.launcher, "procs", [])
    others = list(watched)
    watched.clear()  # Lightning watches this list, and would kill this process with them
    patience = time.monotonic() + PATIENCE
    for process in others:
        try:
            process.wait(max(0.0, patience - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # in an exchange, a process sees no milder signal
            process.wait()


def slurm_environment(trainer: Trainer) -> SLURMEnvironment | None:
    """The SLURM environment of a trainer whose job is to be requeued automatically, if any."""
    environment = trainer._accelerator_connector.cluster_environment
    requeues = isinstance(environment, SLURMEnvironment) and environment.auto_requeue
    return environment if requeues else None  # type: ignore[return-value]


def leave_signals_to_us(trainer: Trainer) -> None:
    """Have Lightning not ask in every step whether the first process got SIGTERM.

    It broadcasts the answer and waits for it, with several processes, although `LastCheckpoint`
    handles that signal instead.
    """
    setattr(trainer.fit_loop.epoch_loop, SIGTERM_QUESTION, lambda: None)
