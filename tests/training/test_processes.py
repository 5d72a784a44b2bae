"""Several processes on one machine (CPU and gloo stand in for GPUs): the same commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import DistilBertForQuestionAnswering

from tests.helpers.command import QUIET, TINY_WINDOWS, call, options_of, scalars

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
def test_several_processes_train_save_and_score_as_one(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    options = options_of(tiny_encoder, squad_files, tmp_path)
    holdout = ["--data.holdout", "0.2"]
    fitted = call_outside("fit", *options, *TWO, *holdout, "--trainer.max_epochs", "1")
    assert fitted.returncode == 0, fitted.stderr
    assert "EM " in fitted.stdout + fitted.stderr
    run = tmp_path / "lightning_logs" / "version_0"
    DistilBertForQuestionAnswering.from_pretrained(run / "model")
    assert (run / "learning_curve.png").is_file()
    events = EventAccumulator(str(run)).Reload()
    assert len(events.Tensors("val/examples/text_summary")) == len(events.Scalars("val/exact"))

    scored = [
        *("--data.val", squad_files["val"], *QUIET, *TINY_WINDOWS),
        *("--data.eval_batch_size", "6", "--ckpt_path", run / "checkpoints" / "best.ckpt"),
    ]
    alone = call("validate", *scored, "--trainer.default_root_dir", tmp_path / "1")
    assert alone.status == 0, alone.err
    scores = scalars(results_of(tmp_path / "1"))
    assert scores["val/total"] == [20.0]
    for processes in (2, 3):  # neither divides the five batches
        folder = tmp_path / str(processes)
        shared = ["--trainer.devices", processes, "--trainer.strategy", "ddp"]
        together = call_outside("validate", *scored, *shared, "--trainer.default_root_dir", folder)
        assert together.returncode == 0, together.stderr
        assert scalars(results_of(folder)) == scores
        for name in (
            "answers",
            "predictions",
            "nbest_predictions",
            "null_odds",
            "scores",
            "report",
        ):
            ours, one = (results_of(place) / f"{name}.json" for place in (folder, tmp_path / "1"))
            assert ours.read_bytes() == one.read_bytes(), name


def results_of(folder: Path) -> Path:
    return folder / "lightning_logs" / "validate" / "version_0"
