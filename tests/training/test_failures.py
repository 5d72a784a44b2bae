"""What ends a run from outside is reported with what to change."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from qa_lightning.errors import UserError
from qa_lightning.training.failures import as_user_error, check_folder
from tests.helpers.trainer import Parts, make_parts, make_trainer


@pytest.fixture
def parts(tiny_encoder: Path, squad_files: dict[str, Path]) -> Parts:
    return make_parts(tiny_encoder, squad_files)


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
