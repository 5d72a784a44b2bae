"""Runs that go wrong stop with advice, and leave what was good as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from qa_lightning.errors import UserError
from qa_lightning.model.run_folder import RECORD
from qa_lightning.training import guards
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.guards import FiniteLoss
from qa_lightning.training.module import QuestionAnsweringModule
from tests.helpers.command import QUIET, TINY_WINDOWS, call
from tests.helpers.trainer import Parts, make_parts, make_trainer


@pytest.fixture
def parts(tiny_encoder: Path, squad_files: dict[str, Path]) -> Parts:
    return make_parts(tiny_encoder, squad_files)


class Spoil(Callback):
    """Makes a weight infinite, or not a number, before a batch; keeps the keys of that batch."""

    def __init__(self, step: int, value: float = float("nan"), after: bool = False) -> None:
        self.step, self.value, self.after = step, value, after
        self.rows: list[int] = []
        self.seen = 0

    def spoil(self, trainer: Trainer, module: Any, batch: Any) -> None:
        if trainer.global_step == self.step:
            self.rows = batch.key[:, 0].unique().tolist()
            with torch.no_grad():
                module.encoder.qa_outputs.bias.fill_(self.value)

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
        self.seen += 1
        if not self.after:
            self.spoil(trainer, module, batch)

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, out: Any, batch: Any, i: int
    ) -> None:
        if self.after:
            self.spoil(trainer, module, batch)


def ids_of(data: SquadDataModule, rows: list[int]) -> list[str]:
    return data.windows("train").questions["id"].take(rows).to_pylist()


class TestFiniteLoss:
    def test_names_the_step_the_questions_and_what_to_try(
        self, tmp_path: Path, parts: Parts
    ) -> None:
        spoil = Spoil(step=4)
        trainer = make_trainer(tmp_path, spoil, FiniteLoss(), enable_checkpointing=False)
        with pytest.raises(UserError) as stopped:
            trainer.fit(*parts)
        message = str(stopped.value)
        assert "the loss is nan at step 5, in the batch with the questions" in message
        assert spoil.rows and all(name in message for name in ids_of(parts.data, spoil.rows))
        for advice in ("--model.learning_rate (it was 5e-05)", "gradient_clip_val"):
            assert advice in message
        assert "No checkpoint was written yet." in message
        assert spoil.seen == 6  # noticed when the losses of steps 4 to 6 were looked at

    def test_the_last_good_checkpoint_stays(self, tmp_path: Path, parts: Parts) -> None:
        saved = ModelCheckpoint(
            tmp_path, filename="last", every_n_train_steps=2, enable_version_counter=False
        )
        # Looked at every 100 steps: only saving at step 6 can notice what went wrong at step 5.
        trainer = make_trainer(tmp_path, Spoil(step=4), FiniteLoss(), saved, log_every_n_steps=100)
        path = tmp_path / "last.ckpt"
        with pytest.raises(UserError, match=rf"at step 5.*--ckpt_path {path}$"):
            trainer.fit(*parts)
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] == 4
        assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
        assert [entry.name for entry in tmp_path.glob("*.ckpt")] == ["last.ckpt"]

    def test_weights_are_looked_at_before_saving(self, tmp_path: Path, parts: Parts) -> None:
        saved = ModelCheckpoint(tmp_path, every_n_train_steps=4)
        spoil = Spoil(step=4, value=float("inf"), after=True)  # after the last loss was computed
        trainer = make_trainer(tmp_path, spoil, FiniteLoss(), saved, log_every_n_steps=100)
        with pytest.raises(UserError, match="weights that are not finite at step 4"):
            trainer.fit(*parts)
        assert not list(tmp_path.glob("*.ckpt"))

    def test_is_noticed_before_validation(self, tmp_path: Path, parts: Parts) -> None:
        trainer = make_trainer(
            tmp_path,
            Spoil(step=1),
            FiniteLoss(),
            log_every_n_steps=100,
            limit_val_batches=1.0,
            val_check_interval=3,
            enable_checkpointing=False,
        )
        with pytest.raises(UserError, match="at step 2"):
            trainer.fit(*parts)

    def test_is_noticed_at_the_end_of_an_epoch(self, tmp_path: Path, parts: Parts) -> None:
        trainer = make_trainer(
            tmp_path,
            Spoil(step=7),
            FiniteLoss(),
            log_every_n_steps=100,
            max_epochs=1,
            enable_checkpointing=False,
        )
        with pytest.raises(UserError, match="at step 8"):
            trainer.fit(*parts)

    def test_a_good_run_is_left_alone(self, tmp_path: Path, parts: Parts) -> None:
        looked_at: list[int] = []

        class Counted(FiniteLoss):
            def _check_losses(self, trainer: Any, module: Any) -> None:
                looked_at.append(len(self._recent))
                super()._check_losses(trainer, module)

        trainer = make_trainer(tmp_path, Counted(), enable_checkpointing=False)
        trainer.fit(*parts)
        assert sum(looked_at) == trainer.global_step > 6  # every loss, once
        assert max(looked_at) <= 3

    def test_stops_where_another_process_has_to(
        self, tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = make_trainer(tmp_path, FiniteLoss(), enable_checkpointing=False)
        monkeypatch.setattr(
            trainer.strategy, "reduce_boolean_decision", lambda decision, all: not decision
        )
        with pytest.raises(UserError, match="the loss of another process is not finite"):
            trainer.fit(*parts)

    def test_advice_fits_the_settings(self, tmp_path: Path, parts: Parts) -> None:
        trainer = make_trainer(tmp_path, gradient_clip_val=1.0)
        parts.module.hparams["warmup"] = 0.0
        advice = guards._advice(trainer, parts.module)
        assert "--model.warmup (it was 0)" in advice
        assert "gradient_clip_val" not in advice and "precision" not in advice


class TestCommandLine:
    @pytest.fixture
    def options(
        self, tmp_path: Path, tiny_encoder: Path, squad_files: dict[str, Path]
    ) -> list[object]:
        return [
            *(*QUIET, *TINY_WINDOWS, "--trainer.default_root_dir", tmp_path / "runs"),
            *("--model.pretrained", tiny_encoder, "--data.batch_size", 4),
            *("--data.train", squad_files["train"], "--data.val", squad_files["val"]),
        ]

    def test_a_loss_that_explodes(self, tmp_path: Path, options: list[object]) -> None:
        outcome = call("fit", *options, "--model.learning_rate", 1e30)
        assert outcome.status == 2
        assert outcome.err.count("error: ") == 1 and "Traceback" not in outcome.err
        assert "not finite" in outcome.err or "the loss is nan at step" in outcome.err
        assert "a lower --model.learning_rate (it was 1e+30)" in outcome.err
        for path in tmp_path.rglob("*.ckpt"):
            weights = torch.load(path, weights_only=True)["state_dict"]
            assert all(value.isfinite().all() for value in weights.values())

    def test_a_full_disk_is_noticed_first(
        self, tmp_path: Path, options: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        outcome = call("fit", *options)
        assert outcome.status == 2 and f"the disk of {tmp_path / 'runs'} has 1.0 kB" in outcome.err
        assert "tokenising" not in outcome.err  # before anything else
        assert not (tmp_path / "runs").exists()
        fast = call("fit", *options, "--trainer.fast_dev_run", "true")  # writes no checkpoint
        assert fast.status == 0, fast.err

    @pytest.mark.parametrize("command", ["fit", "validate"])
    def test_memory_that_runs_out(
        self, options: list[object], monkeypatch: pytest.MonkeyPatch, command: str
    ) -> None:
        def forward(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

        monkeypatch.setattr(QuestionAnsweringModule, "forward", forward)
        outcome = call(command, *options)
        assert outcome.status == 2 and "Traceback" not in outcome.err
        assert "error: out of memory (CUDA out of memory. Tried" in outcome.err

    def test_the_run_has_a_record(self, tmp_path: Path, options: list[object]) -> None:
        outcome = call(
            "fit",
            *options,
            *("--trainer.max_epochs", 1, "--trainer.accumulate_grad_batches", 2),
        )
        assert outcome.status == 0, outcome.err
        (record,) = tmp_path.rglob(RECORD)
        assert record.parent == tmp_path / "runs" / "lightning_logs" / "version_0"
        (entry,) = json.loads(record.read_text(encoding="utf-8"))
        assert entry["batch"]["effective"] == 8
        assert "effective batch size: 8 = 4 (--data.batch_size)" in outcome.out
