"""A model is evaluated, and a run resumed, with the settings that it was trained with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.command import QUIET, call, options_of


def small_run(tiny_encoder: Path, files: dict[str, Path], folder: Path) -> list[Any]:
    """Options of a run that stops after three of its steps, in the first epoch."""
    options = [*QUIET, *options_of(tiny_encoder, files, folder), "--data.batch_size", 4]
    stopped = call("fit", *options, "--trainer.max_steps", 3, "--trainer.val_check_interval", 3)
    assert stopped.status == 0, stopped.err
    return options


@pytest.fixture
def run(tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path) -> list[Any]:
    return small_run(tiny_encoder, squad_files, tmp_path)


def trained_batches(folder: Path) -> int:
    path = folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    batches: int = torch.load(path, weights_only=True)["position"]["total_batches"]
    return batches


def evaluate(files: dict[str, Path], *options: Any) -> str:
    outcome = call(
        *("validate", *QUIET, "--data.val", files["val"], "--trainer.logger", "false"), *options
    )
    assert outcome.status == 0, outcome.err
    return outcome.out


def test_a_model_is_evaluated_with_the_windows_it_was_trained_with(
    run: list[Any], squad_files: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "lightning_logs" / "version_0"
    checkpoint = folder / "checkpoints" / "best.ckpt"
    for chosen in (("--ckpt_path", checkpoint), ("--model.pretrained", folder / "model")):
        out = evaluate(squad_files, *chosen)
        assert "28 windows of 51 tokens" in out
        assert "as given" not in out


def test_a_given_window_wins_and_says_so(
    run: list[Any], squad_files: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt"
    out = evaluate(squad_files, "--ckpt_path", checkpoint, "--data.window", 48)
    assert "40 windows of 43 tokens" in out
    assert f"--data.window is 48, as given; {checkpoint} was trained with 64" in out
    config = tmp_path / "mine.yaml"  # given in a file is given too
    config.write_text("data: {overlap: 8}")
    out = evaluate(squad_files, "--ckpt_path", checkpoint, "--config", config)
    assert f"--data.overlap is 8, as given; {checkpoint} was trained with 16" in out


def test_a_resumed_run_takes_its_settings_from_the_checkpoint(
    run: list[Any], squad_files: dict[str, Path], tmp_path: Path
) -> None:
    bare = [*QUIET, "--trainer.max_epochs", 1, "--trainer.default_root_dir", tmp_path]
    resumed = call("fit", *bare, "--ckpt_path", "last")
    assert resumed.status == 0, resumed.err
    assert trained_batches(tmp_path) == 16  # of 4 windows: all 64


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--model.learning_rate", 1e-3, "is 0.001, but the run to be resumed has 5e-05"),
        ("--model.schedule", "constant", "is constant, but the run to be resumed has linear"),
        ("--data.max_train_questions", 20, "is 20, but the run to be resumed has None"),
        ("--data.seed", 7, "is 7, but the run to be resumed has 42"),
        ("--data.batching", "random", "is random, but the run to be resumed has grouped"),
        ("--data.batch_size", 2, "2 on 1 devices, but the run to be resumed has 4 on 1"),
    ],
)
def test_an_option_that_a_resumed_run_cannot_follow_is_refused(
    run: list[Any], tmp_path: Path, option: str, value: Any, told: str
) -> None:
    config = tmp_path / "lightning_logs" / "version_0" / "config.yaml"
    before = config.read_bytes()
    refused = call("fit", *run, option, value, "--ckpt_path", "last")
    assert refused.status == 2
    assert f"{option} {told}" in refused.err
    assert "start a new run" in refused.err
    assert config.read_bytes() == before
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]


def test_a_resumed_run_keeps_its_data_wherever_they_lie(
    run: list[Any], squad_files: dict[str, Path], tmp_path: Path
) -> None:
    moved = shutil.copy(squad_files["train"], tmp_path / "moved.json")
    content = json.loads(squad_files["train"].read_text())
    del content["data"][0]["paragraphs"][0]
    squad_files["train"].write_text(json.dumps(content))
    refused = call("fit", *run, "--ckpt_path", "last")
    assert refused.status == 2
    train = squad_files["train"]
    assert f"--data.train {train} does not hold the windows that the run" in refused.err
    resumed = call("fit", *run, "--data.train", moved, "--ckpt_path", "last")
    assert resumed.status == 0, resumed.err
    assert trained_batches(tmp_path) == 16
