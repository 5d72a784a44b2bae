"""Run a command of the command line inside the test's process."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

QUIET = [
    *("--trainer.accelerator", "cpu"),
    *("--trainer.precision", "32-true"),
    *("--trainer.enable_progress_bar", "false"),
    *("--trainer.enable_model_summary", "false"),
]
TINY_WINDOWS = [
    *("--data.window", "64"),
    *("--data.overlap", "16"),
    *("--data.max_question_tokens", "16"),
]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str  # standard output, what was logged and what was warned of
    err: str  # standard error


def call(command: str, *options: object) -> Outcome:
    """Run `command` as `python -m qa_lightning` would. An exception but UserError goes through."""
    from qa_lightning.commands.train import run

    out, err = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(out)
    logger = logging.getLogger("lightning")
    logger.addHandler(handler)
    try:
        with (
            mock.patch.object(sys, "argv", ["qa_lightning"]),
            redirect_stdout(out),
            redirect_stderr(err),
            warnings.catch_warnings(record=True) as warned,
        ):
            warnings.simplefilter("always", UserWarning)
            try:
                status = run([command, *map(str, options)])
            except SystemExit as stop:
                status = int(stop.code or 0)
    finally:
        logger.removeHandler(handler)
    told = "".join(f"warning: {warning.message}\n" for warning in warned)
    return Outcome(status, out.getvalue() + told, err.getvalue())


def files_under(folder: Path) -> list[Path]:
    """Every file below a folder, none if there is no such folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def options_of(tiny_encoder: Path, files: dict[str, Path], folder: Path) -> list[Any]:
    return [
        *(*TINY_WINDOWS, "--model.pretrained", tiny_encoder, "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--data.train", files["train"], "--data.val", files["val"], "--data.batch_size", 16),
        *("--trainer.max_epochs", 1, "--trainer.default_root_dir", folder),
    ]


def scalars(folder: Path) -> dict[str, list[float]]:
    """Every curve in a folder's TensorBoard events."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        name: [point.value for point in events.Scalars(name)] for name in events.Tags()["scalars"]
    }
