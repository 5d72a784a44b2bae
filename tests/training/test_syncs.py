"""Between two logging steps, training waits neither for the device nor for other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import QUIET, TINY_WINDOWS

EVERY = 5


def syncs_of(
    folder: Path, encoder: Path, files: dict[str, Path], *options: Any
) -> dict[int, dict[str, int]]:
    """Calls in the first process, by optimizer steps that are complete."""
    counting: dict[str, Any] = {"class_path": "tests.helpers.syncs.CountSyncs"}
    counting["init_args"] = {"folder": str(folder)}
    command = [
        *(sys.executable, "-m", "qa_lightning", "fit", *QUIET, *TINY_WINDOWS),
        *(
            "--model.pretrained",
            encoder,
            "--data.train",
            files["train"],
            "--data.val",
            files["val"],
        ),
        *("--data.batch_size", 2, "--trainer.max_epochs", 1, "--trainer.log_every_n_steps", EVERY),
        *("--trainer.default_root_dir", folder, "--trainer.num_sanity_val_steps", 0),
        "--trainer.callbacks+=" + json.dumps(counting),
        *options,
    ]
    ended = subprocess.run(
        list(map(str, command)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    counts = json.loads((folder / "syncs-0.json").read_text())
    return {int(step): calls for step, calls in counts.items()}


def test_one_process_waits_when_it_logs_and_never_in_between(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    counts = syncs_of(tmp_path, tiny_encoder, squad_files)
    *steps, last = sorted(counts)
    assert last > 4 * EVERY
    # Before the first step the gradients' warm-up, after the last one validation and saving.
    assert {step % EVERY for step in steps} == {0}
    assert steps[1:] == list(range(EVERY, last, EVERY))


@pytest.mark.timeout(300)
def test_two_processes_ask_each_other_seldom_with_one_exchange(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    two = ("--trainer.devices", 2, "--trainer.strategy", "ddp")
    counts = syncs_of(tmp_path, tiny_encoder, squad_files, *two)
    *steps, last = sorted(counts)
    asked = [step for step in steps if step % EVERY]
    assert len(asked) < len(range(last)) / 3
    for step in asked:
        assert counts[step] == {"all_reduce": 1, "tolist": 1}
    # Logging looks at the losses together, too: one decision of Lightning's own.
    for step in range(EVERY, last, EVERY):
        assert counts[step]["barrier"] == 1
        assert counts[step]["all_reduce"] <= 2
        assert "broadcast" not in counts[step]


def test_the_count_sees_a_planted_read(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    planted = "--trainer.callbacks+=tests.helpers.syncs.ReadEveryLoss"
    counts = syncs_of(tmp_path, tiny_encoder, squad_files, planted)
    assert all(counts[step]["item"] >= 1 for step in range(1, 4 * EVERY))
