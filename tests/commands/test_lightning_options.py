"""Options and callbacks that a Lightning user gives out of habit do what Lightning does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision

from qa_lightning.model.trained_model import TrainedModel
from qa_lightning.training.monitors import LOGGED
from tests.helpers.command import QUIET, Outcome, call, files_under, options_of, scalars


@pytest.fixture
def options(tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path) -> list[Any]:
    return [*QUIET, *options_of(tiny_encoder, squad_files, tmp_path / "runs")]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "lightning_logs" / "version_0"


def error_of(outcome: Outcome) -> str:
    """The one line that a mistake ends in, below the progress of what came before."""
    line = outcome.err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_the_lowest_loss_is_the_best(options: list[Any], run: Path) -> None:
    fitted = call(
        *("fit", *options, "--checkpoint.monitor", "val/loss", "--trainer.max_epochs", 3),
        *("--model.learning_rate", 0.05),  # so large that the loss rises and falls
    )
    assert fitted.status == 0, fitted.err
    losses = scalars(run)["val/loss"]
    assert len(set(losses)) == 3 and min(losses) != losses[-1]
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    (best,) = [state for key, state in saved["callbacks"].items() if "ModelCheckpoint" in key]
    assert float(best["best_model_score"]) == pytest.approx(min(losses))


def test_what_can_be_monitored_is_what_is_logged(options: list[Any], run: Path) -> None:
    fitted = call("fit", *options, "--data.holdout", 0.2)
    assert fitted.status == 0, fitted.err
    logged = {name for name in scalars(run) if name.startswith("val/")}
    assert logged == {name for name in LOGGED if name.startswith("val/")}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--checkpoint.monitor", "val/exat"], "--checkpoint.monitor val/exat is not logged; did"),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/los"],
            "monitor of EarlyStopping: val/los is not logged; did you mean val/loss?",
        ),
        (["--trainer.barebones", "true"], "--trainer.barebones true trains without checkpoints"),
    ],
)
def test_what_cannot_be_is_refused_before_there_is_a_run(
    options: list[Any], tmp_path: Path, given: list[Any], told: str
) -> None:
    refused = call("fit", *options, *given)
    assert refused.status == 2
    assert told in error_of(refused)
    assert files_under(tmp_path / "runs") == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--checkpoint.monitor", "val/tuned_f1"], "monitor='val/tuned_f1'"),  # none are held out
        (["--trainer.val_check_interval", 1000], "`val_check_interval` (1000) must be less than"),
    ],
)
def test_what_turns_out_not_to_fit_the_data_ends_in_one_sentence(
    options: list[Any], given: list[Any], told: str
) -> None:
    refused = call("fit", *options, *given)
    assert refused.status == 2
    assert told in error_of(refused)


def test_a_progress_bar_takes_the_place_of_ours(options: list[Any]) -> None:
    fitted = call(
        *("fit", *options, "--trainer.enable_progress_bar", "true"),
        "--trainer.callbacks+=RichProgressBar",
    )
    assert fitted.status == 0, fitted.err


def test_a_second_checkpoint_leaves_ours_the_best_and_the_last(
    options: list[Any], run: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    given = ["--trainer.callbacks+=ModelCheckpoint", f"--trainer.callbacks.dirpath={mine}"]
    fitted = call("fit", *options, *given)
    assert fitted.status == 0, fitted.err
    assert f"checkpoint      {run / 'checkpoints' / 'best.ckpt'}" in fitted.out
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
    assert [path.suffix for path in mine.iterdir()] == [".ckpt"]
    resumed = call("fit", *options, *given, "--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert resumed.status == 0, resumed.err
    assert f"--ckpt_path last: {run / 'checkpoints' / 'last.ckpt'}" in resumed.out


def test_plugins_take_the_place_of_what_we_chose(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path, run: Path
) -> None:
    options = options_of(tiny_encoder, squad_files, tmp_path / "runs")
    precision = f"{MixedPrecision.__module__}.MixedPrecision"
    fitted = call(
        *("fit", *options, "--trainer.plugins+=TorchCheckpointIO"),
        *(f"--trainer.plugins+={precision}", "--trainer.plugins.precision=bf16-mixed"),
        "--trainer.plugins.device=cpu",
    )
    assert fitted.status == 0, fitted.err
    assert '"precision": "bf16-mixed"' in (run / "run.json").read_text()


@pytest.mark.parametrize(
    "given",
    [
        ["--trainer.gradient_clip_algorithm", "value", "--trainer.precision", "bf16-mixed"],
        [
            *("--trainer.callbacks+=ModelPruning", "--trainer.callbacks.amount=0.3"),
            *("--trainer.callbacks.pruning_fn=l1_unstructured", "--trainer.max_epochs", 2),
        ],
    ],
    ids=["clipping by value in mixed precision", "pruning"],
)
def test_what_acts_on_gradients_and_weights_trains(
    options: list[Any], run: Path, given: list[Any]
) -> None:
    fitted = call("fit", *options, *given)
    assert fitted.status == 0, fitted.err
    assert (run / "model" / "config.json").is_file()


def test_a_batch_size_that_is_found_is_trained_with(options: list[Any], run: Path) -> None:
    finder = ["--trainer.callbacks+=BatchSizeFinder", "--trainer.callbacks.max_trials=3"]
    fitted = call("fit", *options, *finder)
    assert fitted.status == 0, fitted.err
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["datamodule_hyper_parameters"]["batch_size"] == 8
    assert saved["position"]["total_batches"] == 8  # 64 windows


def test_a_run_that_never_validates_saves_its_last_model(options: list[Any], run: Path) -> None:
    fitted = call("fit", *options, "--trainer.max_steps", 2)
    assert fitted.status == 0, fitted.err
    assert "val/exact was never logged: the model is that of last.ckpt" in fitted.out
    assert f"model           {run / 'model'}" in fitted.out
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    model = TrainedModel.load(run / "model").encoder.state_dict()
    assert all(torch.equal(value, saved[f"encoder.{name}"]) for name, value in model.items())


def test_checkpoints_that_would_overwrite_each_other_are_refused(
    options: list[Any], run: Path
) -> None:
    every = ["--checkpoint.save_top_k", -1]
    refused = call("fit", *options, *every)
    assert refused.status == 2
    assert "--checkpoint.save_top_k -1 would write them all to best.ckpt" in error_of(refused)
    named = ["--checkpoint.filename={epoch}", "--trainer.max_epochs", 2]
    fitted = call("fit", *options, *every, *named)
    assert fitted.status == 0, fitted.err
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        *("epoch=0.ckpt", "epoch=1.ckpt", "last.ckpt")
    }


class Odd(Callback):
    """A callback whose state is an object of a class that nobody else knows."""

    def state_dict(self) -> dict[str, Any]:
        return {"state": Odd()}


def test_a_state_that_could_not_be_read_is_left_out_of_the_checkpoint(
    options: list[Any], run: Path
) -> None:
    fitted = call("fit", *options, f"--trainer.callbacks+={__name__}.Odd")
    assert fitted.status == 0, fitted.err
    assert "the state of Odd is left out" in fitted.out
    resumed = call("fit", *options, "--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert resumed.status == 0, resumed.err


@pytest.mark.timeout(300)
def test_processes_can_be_spawned(options: list[Any], run: Path) -> None:
    two = ["--trainer.devices", 2, "--trainer.strategy", "ddp_spawn"]
    done = subprocess.run(
        [sys.executable, "-m", "qa_lightning", "fit", *map(str, [*options, *two])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert (run / "model" / "config.json").is_file()
