"""Two processes on one machine (CPU and gloo stand in for GPUs): the same commands, end to end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import QUIET, TINY_WINDOWS, call
from test_cli import options_of, scalars
from transformers import DistilBertForQuestionAnswering

TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]


def call_outside(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would: Lightning starts the second process itself."""
    return subprocess.run(
        [sys.executable, "-m", "qa_lightning", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.mark.timeout(600)
def test_two_processes_train_save_and_score_as_one(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    options = options_of(tiny_encoder, squad_files, tmp_path)
    holdout = ["--data.holdout", "0.2"]
    fitted = call_outside("fit", *options, *TWO, *holdout, "--trainer.max_epochs", "1")
    assert fitted.returncode == 0, fitted.stderr
    assert "EM " in fitted.stdout + fitted.stderr
    run = tmp_path / "lightning_logs" / "version_0"
    DistilBertForQuestionAnswering.from_pretrained(run / "model")

    scored = [
        *("--data.val", squad_files["val"], *QUIET, *TINY_WINDOWS),
        *("--data.eval_batch_size", "7", "--ckpt_path", run / "checkpoints" / "best.ckpt"),
    ]
    together = call_outside(
        "validate", *scored, *TWO, "--trainer.default_root_dir", tmp_path / "two"
    )
    assert together.returncode == 0, together.stderr
    alone = call("validate", *scored, "--trainer.default_root_dir", tmp_path / "one")
    assert alone.status == 0, alone.err
    one, two = (
        scalars(tmp_path / name / "lightning_logs" / "validate" / "version_0")
        for name in ("one", "two")
    )
    assert one == two
    assert one["val/total"] == [20.0]
    for name in ("predictions", "nbest_predictions", "null_odds", "scores", "report"):
        first, second = (
            tmp_path / folder / "lightning_logs" / "validate" / "version_0" / f"{name}.json"
            for folder in ("one", "two")
        )
        assert first.read_bytes() == second.read_bytes(), name
