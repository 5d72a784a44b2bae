"""A tiny module, its data and a quiet trainer, as Python code would put them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, Trainer

from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QuestionAnsweringModule


class Parts(NamedTuple):
    module: QuestionAnsweringModule
    data: SquadDataModule


def make_parts(encoder: Path, files: dict[str, Path], **more: Any) -> Parts:
    data = SquadDataModule(
        tokenizer=str(encoder),
        train=str(files["train"]),
        val=str(files["val"]),
        window=64,
        overlap=16,
        max_question_tokens=16,
        batch_size=4,
        **more,
    )
    return Parts(QuestionAnsweringModule(str(encoder)), data)


def make_trainer(folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "log_every_n_steps": 3,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return Trainer(**{**settings, **more}, callbacks=list(callbacks))
