"""What a Lightning user does in Python out of habit works, with the Trainer's defaults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from qa_lightning.data.batches import Batch
from qa_lightning.data.sampler import WindowSampler
from qa_lightning.evaluation.predictions import WindowPrediction
from qa_lightning.training.evaluation_files import EvaluationFiles
from tests.helpers.data import REPOSITORY
from tests.helpers.trainer import make_parts, make_trainer


class Keys(Callback):
    """Remembers the windows of every training batch, by epoch."""

    def __init__(self) -> None:
        self.batches: dict[int, list[list[list[int]]]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.batches.setdefault(trainer.current_epoch, []).append(batch.key.tolist())


TWO_PROCESSES = """
import sys, torch
from pathlib import Path
from tests.helpers.trainer import make_parts, make_trainer
from tests.training.test_habits import Keys

module, data = make_parts(Path(sys.argv[1]), {"train": Path(sys.argv[2]), "val": Path(sys.argv[3])})
keys = Keys()
trainer = make_trainer(Path(sys.argv[4]), keys, devices=2, strategy="ddp", max_epochs=1)
trainer.fit(module, datamodule=data)
shares = [None, None]
mine = [tuple(key) for batch in keys.batches[0] for key in batch]
torch.distributed.all_gather_object(shares, mine)
if trainer.is_global_zero:
    print("RESULT", len(shares[0]), len(shares[1]), len(set(shares[0] + shares[1])))
    print("WINDOWS", len(data.windows("train")))
"""


@pytest.mark.timeout(300)
def test_two_processes_share_the_windows_with_the_default_of_use_distributed_sampler(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    arguments = map(str, (tiny_encoder, squad_files["train"], squad_files["val"], tmp_path))
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines()[-2:])
    windows = int(told["WINDOWS"])
    assert windows % 2 == 0
    assert told["RESULT"] == f"{windows // 2} {windows // 2} {windows}"


def test_overfit_batches_gives_the_same_batches_in_every_epoch(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    module, data = make_parts(tiny_encoder, squad_files)
    keys = Keys()
    trainer = make_trainer(tmp_path, keys, max_epochs=3, overfit_batches=2, limit_val_batches=1.0)
    trainer.fit(module, datamodule=data)
    assert [len(keys.batches[epoch]) for epoch in range(3)] == [2, 2, 2]
    assert keys.batches[0] == keys.batches[1] == keys.batches[2]
    loader: Any = trainer.train_dataloader
    assert isinstance(loader.sampler, WindowSampler)


def test_the_datamodule_works_without_a_trainer(
    tiny_encoder: Path, squad_files: dict[str, Path]
) -> None:
    data = make_parts(tiny_encoder, squad_files, predict=str(squad_files["unlabelled"])).data
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    keys = {tuple(key) for batch in batches for key in batch.key.tolist()}
    assert len(keys) == sum(len(batch.key) for batch in batches) == len(data.windows("train"))
    assert len(data.val_dataloader()) == 1
    data.setup("predict")
    assert len(next(iter(data.predict_dataloader())).key) == len(data.windows("predict"))


class Writer(BasePredictionWriter):
    def __init__(self) -> None:
        super().__init__("batch_and_epoch")
        self.by_batch: list[Any] = []
        self.all: Any = None

    def write_on_batch_end(self, *given: Any) -> None:
        self.by_batch.append(given[2])

    def write_on_epoch_end(self, *given: Any) -> None:
        self.all = given[2]


def test_predict_returns_the_best_span_of_every_window_and_writes_files(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    unlabelled = squad_files["unlabelled"]
    module, data = make_parts(tiny_encoder, squad_files, predict=str(unlabelled), eval_batch_size=5)
    writer, folder = Writer(), tmp_path / "answers"
    trainer = make_trainer(tmp_path, writer, EvaluationFiles(folder))
    batches: Any = trainer.predict(module, datamodule=data)
    assert batches == writer.all == writer.by_batch
    assert len(batches) == 4
    windows: list[WindowPrediction] = [window for batch in batches for window in batch]
    assert len(windows) == len(data.windows("predict")) == 16
    contexts = {
        question["id"]: paragraph["context"]
        for article in json.loads(unlabelled.read_text())["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    }
    answers, null_odds = {}, {}
    for name in contexts:
        of_question = [window for window in windows if window["id"] == name]
        assert sorted(window["window"] for window in of_question) == list(range(len(of_question)))
        best = max(of_question, key=lambda window: window["score"])
        assert best["text"] == contexts[name][best["start"] : best["end"]]
        null_odds[name] = min(window["null_score"] for window in of_question) - best["score"]
        answers[name] = "" if null_odds[name] > 0 else best["text"]
    assert json.loads((folder / "predictions.json").read_text()) == answers
    assert json.loads((folder / "null_odds.json").read_text()) == pytest.approx(null_odds)
