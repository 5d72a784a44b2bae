"""What is known of a SLURM job, and what is asked of SLURM; `test_resume.py` has whole runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qa_lightning.model.run_folder import RECORD
from qa_lightning.training import slurm
from qa_lightning.training.run_record import is_of_job


def test_the_name_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID"):
        monkeypatch.delenv(f"SLURM_{name}", raising=False)
    assert slurm.job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert slurm.job() == "12"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm.job() == "11_3"


def test_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.requeue("12") == "scontrol cannot be run: No such file or directory"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "requeue 12" ] || { echo "$*" >&2; exit 1; }\n')
    scontrol.chmod(0o755)
    assert slurm.requeue("12") is None
    assert slurm.requeue("13") == "scontrol requeue: requeue 13"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (json.dumps([{"slurm_job": None}, {"slurm_job": "12"}]), True),
        (json.dumps([{"slurm_job": "1"}, {}]), False),
        ("[1]", False),
        ("[{", False),
        (None, False),
    ],
)
def test_the_run_of_a_job(tmp_path: Path, content: str | None, found: bool) -> None:
    if content is not None:
        (tmp_path / RECORD).write_text(content)
    assert is_of_job(tmp_path, "12") is found
