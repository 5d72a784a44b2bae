"""What is taken from inside Lightning is still there, and means the same."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.tuner import batch_size_scaling, lr_finder

from qa_lightning.training import lightning_private
from qa_lightning.training.lightning_private import Position, normalize_loop_state

WHERE = (
    f"lightning {lightning.__version__} has other loop state than the version that "
    "qa_lightning/training/lightning_private.py was written for: adapt that file, then "
    "tests/training/test_resume.py tells whether runs still resume exactly"
)

COUNTERS = {"ready", "completed", "started", "processed"}


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(BoringModel())
    return trainer


def state_of(trainer: Trainer) -> dict[str, Any]:
    return copy.deepcopy(trainer.fit_loop.state_dict())


def test_the_saved_loop_state_has_the_known_shape(trainer: Trainer) -> None:
    state = state_of(trainer)
    assert set(state) == {
        "state_dict",
        "epoch_loop.state_dict",
        "epoch_loop.batch_progress",
        "epoch_loop.scheduler_progress",
        "epoch_loop.automatic_optimization.state_dict",
        "epoch_loop.automatic_optimization.optim_progress",
        "epoch_loop.manual_optimization.state_dict",
        "epoch_loop.manual_optimization.optim_step_progress",
        "epoch_loop.val_loop.state_dict",
        "epoch_loop.val_loop.batch_progress",
        "epoch_progress",
    }, WHERE
    assert state["epoch_loop.state_dict"] == {"_batches_that_stepped": 6}, WHERE
    assert set(state["epoch_progress"]["total"]) == COUNTERS, WHERE
    progress = state["epoch_loop.batch_progress"]
    assert set(progress) == {"total", "current", "is_last_batch"}, WHERE
    assert set(progress["current"]) == COUNTERS, WHERE
    optimizer = state["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    assert set(optimizer) == {"step", "zero_grad"}, WHERE


def test_the_logging_step_can_be_read_and_set(trainer: Trainer) -> None:
    assert lightning_private.logger_step(trainer) == 6, WHERE
    lightning_private.set_logger_step(trainer, 4)
    assert lightning_private.logger_step(trainer) == 4, WHERE
    assert lightning_private.slurm_environment(trainer) is None, WHERE


def test_the_question_for_sigterm_can_be_left_out(trainer: Trainer) -> None:
    assert callable(getattr(trainer.fit_loop.epoch_loop, lightning_private.SIGTERM_QUESTION)), WHERE
    lightning_private.leave_signals_to_us(trainer)
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor()


def test_what_the_tuner_saves_is_told_by_its_name(trainer: Trainer) -> None:
    for module, name in ((batch_size_scaling, ".scale_batch_size_1"), (lr_finder, ".lr_find_1")):
        assert f'"{name[:-1]}{{' in inspect.getsource(module), WHERE
        trainer.ckpt_path = f"runs/{name}.ckpt"
        assert lightning_private.is_trial(trainer)
    for path in (None, "runs/last.ckpt"):
        trainer.ckpt_path = path
        assert not lightning_private.is_trial(trainer)


def test_normalizing_keeps_the_shape_and_states_the_position(trainer: Trainer) -> None:
    state, before = state_of(trainer), state_of(trainer)
    normalize_loop_state(state, Position(1, 2, 5, 5, validating=True))
    assert set(state) == set(before)
    assert state["epoch_progress"]["current"] == {
        "ready": 2,
        "started": 2,
        "processed": 1,
        "completed": 1,
    }
    batches = state["epoch_loop.batch_progress"]
    assert set(batches["total"].values()) == {5} and set(batches["current"].values()) == {2}
    assert state["epoch_loop.state_dict"]["_batches_that_stepped"] == 4
    validation = state["epoch_loop.val_loop.batch_progress"]["current"]
    assert validation == {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    trainer.fit_loop.load_state_dict(state)  # Lightning takes it back
