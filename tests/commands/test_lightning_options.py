"""Options and callbacks that a Lightning user gives out of habit do what Lightning does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

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
        (["--trainer.val_check_interval", 1000], "--trainer.val_check_interval 1000 is more than"),
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


def test_a_figure_that_turns_out_not_to_be_logged_ends_in_one_sentence(options: list[Any]) -> None:
    refused = call("fit", *options, "--checkpoint.monitor", "val/tuned_f1")  # nothing is held out
    assert refused.status == 2
    assert "val/tuned_f1" in error_of(refused)


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
