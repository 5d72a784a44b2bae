"""A run that is stopped, however that happens, ends as the one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from qa_lightning import checkpoints
from qa_lightning.checkpoints import (
    AtomicCheckpointIO,
    LastCheckpoint,
    newest_checkpoint,
    random_state,
    restore_random_state,
    write_atomically,
)
from qa_lightning.data.batches import WindowSampler
from qa_lightning.errors import UserError
from tests.command import QUIET, TINY_WINDOWS, Outcome, call, files_under
from tests.conftest import squad_data
from tests.stopping import Crash


@contextmanager
def as_if_killed() -> Iterator[None]:
    """Nothing is written of a run that ends with a crash, as if it had been killed."""
    with mock.patch.object(LastCheckpoint, "on_exception"), pytest.raises(Crash):
        yield


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every curve that time does not enter."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [(point.step, point.value) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
        if name.startswith(("train/", "val/", "lr"))
    }


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, tensors included."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_same_end(run: Path, whole: Path) -> None:
    """Both runs ended alike, and left the same curves."""
    mine, theirs = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
        for folder in (run, whole)
    )
    for part in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers"):
        assert same(mine[part], theirs[part]), part
    assert same(mine["position"], theirs["position"])
    assert same(mine["loops"]["fit_loop"], theirs["loops"]["fit_loop"])
    for name, state in theirs["callbacks"].items():
        if name == "SaveBestModel":
            timeless = [
                [
                    {key: value for key, value in entry.items() if key.startswith(("val/", "step"))}
                    for entry in history
                ]
                for history in (mine["callbacks"][name]["history"], state["history"])
            ]
            assert timeless[0] == timeless[1]
        if name.startswith("ModelCheckpoint"):
            assert same(mine["callbacks"][name]["best_model_score"], state["best_model_score"])
    best = [
        torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for folder in (run, whole)
    ]
    assert same(*best)
    assert curves(run) == curves(whole)
    assert (run / "model" / "model.safetensors").read_bytes() == (
        whole / "model" / "model.safetensors"
    ).read_bytes()


@dataclass
class Course:
    """Runs with the same data, and those of them that nothing stopped."""

    root: Path
    options: list[Any]
    whole: dict[tuple[Any, ...], Path] = field(default_factory=dict)

    def fit(self, folder: Path, *options: Any, stop: tuple[str, int, str] | None = None) -> Outcome:
        """Train."""
        moment: list[str] = []
        if stop:
            names = dict(zip(("hook", "number", "how"), stop, strict=True))
            described = {"class_path": "tests.stopping.StopAt", "init_args": names}
            moment = ["--trainer.callbacks+=" + json.dumps(described)]
        return call(
            "fit", *self.options, "--trainer.default_root_dir", folder, *options, *moment
        )

    def reference(self, *options: Any) -> Path:
        """The run with these options that nothing stopped."""
        if options not in self.whole:
            folder = self.root / f"whole-{len(self.whole)}"
            outcome = self.fit(folder, *options)
            assert outcome.status == 0, outcome.err
            self.whole[options] = folder / "lightning_logs" / "version_0"
        return self.whole[options]


@pytest.fixture(scope="module")
def course(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Course:
    root = tmp_path_factory.mktemp("course")
    train, val = root / "train.json", root / "val.json"
    train.write_text(json.dumps(squad_data(7, seed=1)))
    val.write_text(json.dumps(squad_data(3, seed=2)))
    return Course(
        root,
        [
            *QUIET,
            *TINY_WINDOWS,
            *("--data.cache_dir", root / "cache", "--model.pretrained", tiny_encoder),
            *("--data.train", train, "--data.val", val, "--data.batch_size", 6),
            *("--model.learning_rate", "3e-3", "--model.dropout", 0.2),
            *("--trainer.max_epochs", 3, "--trainer.log_every_n_steps", 1),
            *("--checkpoint.every_n_train_steps", 2),
        ],
    )


OFTEN = ("--trainer.val_check_interval", 2)
ACCUMULATED = ("--trainer.accumulate_grad_batches", 2)
EPOCHS_DO_NOT_COUNT = ("--trainer.max_steps", 17)
SELDOM = ("--trainer.check_val_every_n_epoch", 2)


class TestResuming:
    @pytest.mark.parametrize(
        ("hook", "number", "options"),
        [
            ("on_train_batch_start", 5, ()),
            ("on_train_batch_start", 12, ("--data.batching", "random")),
            ("on_before_optimizer_step", 9, ("--data.batching", "packed")),
            ("on_train_batch_end", 9, ("--data.num_workers", 2)),
            ("on_train_batch_start", 10, (*ACCUMULATED, "--data.batching", "random")),
            ("on_before_zero_grad", 6, (*ACCUMULATED, *OFTEN)),
            ("on_validation_batch_end", 1, ()),  # the last batch of an epoch is done
            ("on_train_epoch_start", 2, ()),
            ("on_train_batch_end", 7, OFTEN),  # some of these are behind a validation
            ("on_validation_batch_end", 4, OFTEN),
            ("on_train_batch_start", 13, EPOCHS_DO_NOT_COUNT),
            ("on_train_batch_start", 8, SELDOM),
            ("on_train_end", 1, ()),
        ],
    )
    @pytest.mark.parametrize("killed", [True, False], ids=["killed", "crashed"])
    def test_ends_as_if_it_had_not_stopped(
        self, course: Course, tmp_path: Path, hook: str, number: int, options: Any, killed: bool
    ) -> None:
        whole = course.reference(*options)
        with as_if_killed() if killed else pytest.raises(Crash):
            course.fit(tmp_path, *options, stop=(hook, number, "crash"))
        resumed = course.fit(tmp_path, *options, "--ckpt_path", "last")
        assert resumed.status == 0, resumed.err
        assert_same_end(tmp_path / "lightning_logs" / "version_0", whole)
        assert not (tmp_path / "lightning_logs" / "version_1").exists()
