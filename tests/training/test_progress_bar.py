"""The progress bar says what is worth knowing, in little room."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from rich.console import Console

from qa_lightning.training.progress_bar import FileBar, TerminalBar, progress_bar, shown
from qa_lightning.training.resume import LastCheckpoint
from tests.helpers.stopping import Crash, StopAt
from tests.helpers.trainer import make_parts, make_trainer

METRICS = {
    "windows/s": 1230.0,
    "train/loss": 1.23456,
    "val/exact": torch.tensor(52.349),
    "val/f1": 55.0,
    "val/total": 300.0,
}


def test_shows_loss_scores_and_speed_in_this_order() -> None:
    assert list(shown(METRICS).items()) == [
        *(("loss", "1.235"), ("EM", "52.3"), ("F1", "55.0"), ("windows/s", "1230")),
    ]
    assert shown({"train/loss": 2}) == {"loss": "2.000"}  # before the first validation


@pytest.mark.parametrize("bar", [TerminalBar, FileBar])
def test_both_bars_show_it(bar: Any) -> None:
    trainer: Any = SimpleNamespace(progress_bar_metrics=METRICS)
    assert bar().get_metrics(trainer, None) == shown(METRICS)


@pytest.mark.parametrize(("out", "err"), [(True, True), (True, False), (False, True)])
def test_a_bar_is_drawn_in_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, out: bool, err: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: out))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: err))
    assert isinstance(progress_bar(), TerminalBar if out and err else FileBar)


def test_it_fits_on_a_line_of_a_hundred_characters(
    tiny_encoder: Path, squad_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks.progress import rich_progress

    from qa_lightning.training.datamodule import SquadDataModule
    from qa_lightning.training.module import QuestionAnsweringModule

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich_progress, "get_console", lambda: console)
    Trainer(
        callbacks=[TerminalBar()],
        **{"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1, "logger": False},
        **{"enable_model_summary": False, "enable_checkpointing": False},
    ).fit(
        QuestionAnsweringModule(str(tiny_encoder)),
        datamodule=SquadDataModule(
            str(tiny_encoder),
            *(str(squad_files[split]) for split in ("train", "val")),
            **{"window": 64, "overlap": 16, "max_question_tokens": 16},
        ),
    )
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue().split("Epoch")[-1])
    (line,) = last.strip().splitlines()
    assert re.search(r"2/2 \d:\d\d:\d\d left loss: [\d.]+  EM: [\d.]+  F1: [\d.]+", line), line
    assert len("Epoch" + line) + len("  windows/s: 12300") <= 100
    assert "v_num" not in line


@pytest.mark.parametrize("kind", [TerminalBar, FileBar])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_validation_batch_end"])
def test_a_resumed_epoch_is_shown_where_it_stands(
    kind: Any,
    hook: str,
    tiny_encoder: Path,
    squad_files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped between batches, and in a validation between batches, which is resumed first."""
    files = {**squad_files, "val": squad_files["train"]}
    more = {"limit_val_batches": 1, "val_check_interval": 3, "enable_progress_bar": True}
    total = 16  # 64 windows, four in a batch
    number = total + 4 if hook == "on_train_batch_start" else total // 3 + 1
    stopping = [StopAt(hook, number, "crash"), LastCheckpoint(1)]
    with pytest.raises(Crash):
        fit(tiny_encoder, files, tmp_path, kind(), *stopping, **more)
    capsys.readouterr()

    bar, seen = kind(), []

    class Probe(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if kind is TerminalBar:
                task = bar.train_progress_bar
                seen.append((index, task.description.strip(), task.completed, task.total))
                assert task.speed is None  # what was done before does not count
            else:
                tqdm = bar.train_progress_bar
                seen.append((index, tqdm.desc.rstrip(": "), tqdm.n, tqdm.total))
                assert tqdm.initial == 3
            raise Crash

    with pytest.raises(Crash):
        fit(tiny_encoder, files, tmp_path, bar, Probe(), LastCheckpoint(1), resume=True, **more)
    name = "Epoch 1/1" if kind is TerminalBar else "Epoch 1"
    ((index, description, done, of),) = seen
    assert (index, done, of) == (3, 3, total)
    assert name in description
    assert "Training:" not in capsys.readouterr().out.partition("Epoch 1")[2]


def fit(
    encoder: Path,
    files: dict[str, Path],
    folder: Path,
    *callbacks: Callback,
    resume: bool = False,
    **more: Any,
) -> None:
    parts = make_parts(encoder, files)
    trainer = make_trainer(folder, *callbacks, **more)
    trainer.fit(
        *parts,
        ckpt_path=folder / "checkpoints" / "last.ckpt" if resume else None,
        weights_only=False,
    )
