"""Runs that go wrong stop with advice, and leave what was good as it was."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors import SafetensorError

from qa_lightning.errors import UserError
from qa_lightning.model.run_folder import RECORD
from qa_lightning.training import guards
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.failures import as_user_error, check_folder
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


class TestFolder:
    def test_room_for_three_checkpoints(
        self, tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights = sum(weight.nbytes for weight in parts.module.parameters())
        needed = 3 * 3 * weights  # weights and two averages of each

        def with_free(free: int) -> None:
            usage = shutil.disk_usage(tmp_path)._replace(free=free)
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)

        with_free(needed)
        folder = tmp_path / "not" / "there"
        check_folder(folder, parts.module)
        assert not folder.parent.exists()
        with_free(needed - 1)
        with pytest.raises(UserError, match=rf"{folder} has .* left.*--trainer\.default_root_dir"):
            check_folder(folder, parts.module)

    def test_three_checkpoints_are_not_more(self, tmp_path: Path, parts: Parts) -> None:
        """What is asked for is about what a checkpoint takes."""
        trainer = make_trainer(tmp_path, max_epochs=1, limit_train_batches=2)
        trainer.fit(*parts)
        (path,) = tmp_path.rglob("*.ckpt")
        weights = sum(weight.nbytes for weight in parts.module.parameters())
        assert 3 * weights < path.stat().st_size < 3 * weights + 100_000

    def test_weights_that_are_not_trained_need_less(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layer = torch.nn.Linear(10, 10, bias=False).requires_grad_(False)
        usage = shutil.disk_usage(tmp_path)._replace(free=3 * 400)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        check_folder(tmp_path, layer)
        with pytest.raises(UserError, match=r"1\.2 kB left.*1\.2 kB need 3\.6 kB"):
            check_folder(tmp_path, layer.requires_grad_(True))

    def test_one_that_cannot_be_written(self, tmp_path: Path, parts: Parts) -> None:
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "runs"
        with pytest.raises(UserError, match=f"nothing can be written to {folder}"):
            check_folder(folder, parts.module)
        assert [path.name for path in tmp_path.iterdir() if path.name == "file"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_one_without_permission(self, tmp_path: Path, parts: Parts) -> None:
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(UserError, match="nothing can be written"):
                check_folder(tmp_path / "runs", parts.module)
        finally:
            tmp_path.chmod(0o700)


class TestExplained:
    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nSee more"),
            RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
            ),
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            MemoryError(),
        ],
    )
    def test_memory(self, error: Exception) -> None:
        with pytest.raises(UserError, match="out of memory") as told, as_user_error(Path("runs")):
            raise error
        for option in (
            *("--data.batch_size", "--trainer.accumulate_grad_batches", "--data.window"),
            *("--trainer.precision", "--data.eval_batch_size"),
        ):
            assert option in str(told.value)
        assert "See more" not in str(told.value)
        assert told.value.__cause__ is error

    def test_memory_that_is_really_not_there(self) -> None:
        with pytest.raises(UserError, match="out of memory"), as_user_error(Path("runs")):
            torch.empty(2**60, dtype=torch.uint8)

    @pytest.mark.parametrize(
        ("error", "place"),
        [
            (OSError(errno.ENOSPC, "No space left on device"), "runs"),
            (OSError(errno.ENOSPC, "No space left on device", "runs/last.ckpt"), "runs/last.ckpt"),
            (OSError(errno.EDQUOT, "Disk quota exceeded"), "runs"),
            (OSError(errno.EROFS, "Read-only file system", "runs/x"), "runs/x"),
            (PermissionError(errno.EACCES, "Permission denied", "runs/x"), "runs/x"),
            (RuntimeError("PytorchStreamWriter failed writing file data/3"), "runs"),
            (SafetensorError("I/O error: No space left on device (os error 28)"), "runs"),
        ],
    )
    def test_disk(self, error: Exception, place: str) -> None:
        with pytest.raises(UserError) as told, as_user_error(Path("runs")):
            raise error
        assert str(told.value).startswith(f"cannot write to {place}: ")
        assert "left on that disk" in str(told.value) and "--ckpt_path" in str(told.value)

    # Only opened, never handed over by name: some libraries put a new file in the place of the old.
    @pytest.mark.skipif(
        not Path("/dev/full").is_char_device(), reason="no device that is always full"
    )
    def test_a_disk_that_is_really_full(self) -> None:
        with (
            pytest.raises(UserError, match="cannot write to .*No space left on device"),
            as_user_error(Path("runs")),
            open("/dev/full", "wb") as file,
        ):
            torch.save({"weights": torch.zeros(100_000)}, file)

    @pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shapes"), OSError(22, "x")])
    def test_other_mistakes_go_through(self, error: Exception) -> None:
        with pytest.raises(type(error)) as same, as_user_error(Path("runs")):
            raise error
        assert same.value is error

    def test_a_user_error_stays(self) -> None:
        with pytest.raises(UserError, match="^mine$"), as_user_error(Path("runs")):
            raise UserError("mine")


class TestWorkers:
    def fit(self, folder: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
        from qa_lightning.data.batches import WindowDataset

        right = WindowDataset.__getitem__
        main = os.getpid()

        def spoilt(self: WindowDataset, rows: Any) -> Any:
            if os.getpid() != main:
                act()
            return right(self, rows)

        monkeypatch.setattr(WindowDataset, "__getitem__", spoilt)
        trainer = make_trainer(folder, max_epochs=1, enable_checkpointing=False)
        with as_user_error(folder):
            trainer.fit(*parts)

    @pytest.fixture
    def with_worker(self, tiny_encoder: Path, squad_files: dict[str, Path]) -> Parts:
        return make_parts(tiny_encoder, squad_files, num_workers=1)

    def test_one_that_is_killed(
        self, tmp_path: Path, with_worker: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        with pytest.raises(UserError, match=r"process that prepares batches died.*num_workers 0"):
            self.fit(tmp_path, with_worker, monkeypatch, die)

    @pytest.mark.parametrize(
        "said",
        [
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory.",
            "unable to write to file </torch_7_8>: No space left on device (28)",
            "unable to open shared memory object </torch_7_8> in read-write mode",
        ],
    )
    def test_shared_memory(self, said: str) -> None:
        with pytest.raises(UserError, match="/dev/shm") as told, as_user_error(Path("runs")):
            raise RuntimeError(said)
        assert said.split(".")[0] in str(told.value)

    def test_one_with_an_error_of_its_own(
        self, tmp_path: Path, with_worker: Parts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise IndexError("row 7 of 3")

        with pytest.raises(IndexError, match=r"row 7 of 3"):
            self.fit(tmp_path, with_worker, monkeypatch, fail)


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
        assert outcome.status == 2 and f"the disk of {tmp_path / 'runs'} has 1 kB" in outcome.err
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
