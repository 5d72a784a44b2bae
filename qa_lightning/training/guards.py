"""What can go wrong in the middle of a run, told so that the person at the keyboard can mend it."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, nn

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from qa_lightning.data.batches import Batch
    from qa_lightning.training.datamodule import SquadDataModule

SHOWN_IDS = 5
CHECKPOINTS_AT_ONCE = 3
"""Checkpoints that must fit on the disk: the best, the last, and one that is being written."""


class FiniteLoss(Callback):
    """Stops training when the loss, or a weight, is not a finite number.

    The losses are looked at together every `log_every_n_steps` batches, so that no step waits for
    the device, and before each validation and checkpoint. A checkpoint with such a weight is not
    written: the one before it stays as it is.
    """

    def __init__(self) -> None:
        """Start with nothing to look at."""
        self._recent: list[tuple[int, Tensor, Tensor]] = []  # step, loss, question rows

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Put the loss by; look at the last ones when it is time to log.

        Raises:
            UserError: one is not finite.
        """
        self._recent.append((trainer.global_step, outputs["loss"], batch.key[:, 0]))
        every = trainer.log_every_n_steps or trainer.num_training_batches  # type: ignore[attr-defined]
        if (batch_idx + 1) % every == 0:
            self._check_losses(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the epoch's last losses."""
        self._check_losses(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not score weights that mean nothing, nor begin with them."""
        if trainer.state.fn == "fit":
            self._check_losses(trainer, pl_module)
            self._check_weights(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save weights that mean nothing.

        Raises:
            UserError: one is not finite.
        """
        self._check_losses(trainer, pl_module)
        self._check_weights(trainer, pl_module)

    def _check_losses(self, trainer: Trainer, module: LightningModule) -> None:
        recent, self._recent = self._recent, []
        finite = torch.stack([loss for _, loss, _ in recent]).isfinite().tolist() if recent else []
        # Weights are shared: all processes stop, or those that go on would wait for the others.
        if trainer.strategy.reduce_boolean_decision(all(finite), all=True):
            return
        if all(finite):
            raise UserError(
                "the loss of another process is not finite: its message says which questions it "
                "was about"
            )
        step, loss, rows = recent[finite.index(False)]
        data: SquadDataModule = module.datamodule  # type: ignore[assignment]
        questions = rows.unique().tolist()
        ids = data.windows("train").questions["id"].take(questions[:SHOWN_IDS]).to_pylist()
        more = f" and {len(questions) - SHOWN_IDS} more" if len(questions) > SHOWN_IDS else ""
        raise UserError(
            f"the loss is {float(loss)} at step {step}, in the batch with the questions "
            f"{', '.join(ids)}{more}. {_advice(trainer, module)}"
        )

    def _check_weights(self, trainer: Trainer, module: LightningModule) -> None:
        finite = torch.stack([weight.isfinite().all() for weight in module.parameters()]).all()
        if not trainer.strategy.reduce_boolean_decision(bool(finite), all=True):
            raise UserError(
                f"there are weights that are not finite at step {trainer.global_step}. "
                f"{_advice(trainer, module)}"
            )


def _advice(trainer: Trainer, module: LightningModule) -> str:
    """What to try after the loss went astray, and what is left to go on from."""
    tries = [f"a lower --model.learning_rate (it was {module.hparams['learning_rate']:g})"]
    if trainer.precision in ("16-mixed", "16-true"):
        tries.append(f"--trainer.precision bf16-mixed or 32-true (it was {trainer.precision})")
    if module.hparams["warmup"] < 0.05:
        tries.append(f"a longer --model.warmup (it was {module.hparams['warmup']:g})")
    if not trainer.gradient_clip_val:
        tries.append("--trainer.gradient_clip_val 1.0 (gradients were not clipped)")
    saved = [
        Path(path)
        for callback in trainer.checkpoint_callbacks
        for path in _saved_by(callback)
        if Path(path).is_file()
    ]
    left = "No checkpoint was written yet."
    if saved:
        newest = max(saved, key=lambda path: path.stat().st_mtime)
        left = f"The last checkpoint before that is whole: --ckpt_path {newest}"
    return f"Try {'; or '.join(tries)}. {left}"


def _saved_by(callback: Checkpoint) -> list[str]:
    names = ("best_model_path", "last_model_path")
    return [path for name in names if (path := getattr(callback, name, ""))]


def check_folder(folder: Path, module: nn.Module) -> None:
    """Refuse to start a run in a folder that cannot be written or has no room for checkpoints.

    Args:
        folder: Where checkpoints will be written; it need not exist yet, and is not made.
        module: What will be trained: a checkpoint holds its weights, and two averages of every
            weight that is trained (AdamW).

    Raises:
        UserError: it cannot be written, or is too full for three checkpoints.
    """
    sizes = [(weight.nbytes, weight.requires_grad) for weight in module.parameters()]
    checkpoint = sum(size * (3 if trained else 1) for size, trained in sizes)
    needed = CHECKPOINTS_AT_ONCE * checkpoint
    try:
        there = folder.absolute()
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise UserError(
            f"nothing can be written to {folder}: {error.strerror or error}. Choose another "
            "folder for the run: --trainer.default_root_dir FOLDER"
        ) from error
    if free < needed:
        raise UserError(
            f"the disk of {folder} has {_bytes(free)} left, and {CHECKPOINTS_AT_ONCE} checkpoints "
            f"of {_bytes(checkpoint)} need {_bytes(needed)}. Make room, or choose a folder on "
            "another disk: --trainer.default_root_dir FOLDER"
        )


@contextmanager
def as_user_error(folder: Path) -> Iterator[None]:
    """Turn what a run can die of into a UserError: memory, the disk, a worker that died.

    Any other exception goes through as it is.

    Args:
        folder: Where the run writes, for an error that names no file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every library has a type of its own for these
        for explain in (_worker, _memory, _disk):
            if message := explain(error, folder):
                raise UserError(message) from error
        raise


def _worker(error: Exception, folder: Path) -> str | None:
    """A loader's process that is no more; an exception in one is raised as its own type."""
    # Words of torch/utils/data/dataloader.py, of its signal handler and of shared memory.
    words = r"DataLoader worker \(pid.*|unable to (?:open shared memory|write to file </torch).*"
    found = re.search(words, str(error))
    if not found:
        return None
    return (
        f"a process that prepares batches died ({found[0]}). The system ends processes when memory "
        "runs out. Prepare batches in the main process (--data.num_workers 0), or give the run "
        "more memory (in a container also shared memory, /dev/shm)."
    )


def _memory(error: Exception, folder: Path) -> str | None:
    said = str(error).strip().splitlines()[0] if str(error).strip() else "none is left"
    words = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not known and not any(word in str(error) for word in words):
        return None
    return (
        f"out of memory ({said[:300]}). Halve --data.batch_size and double "
        "--trainer.accumulate_grad_batches, which trains alike; or shorten --data.window; or use "
        "--trainer.precision bf16-mixed where the device has it. In validation, test and "
        "prediction: a smaller --data.eval_batch_size."
    )


def _disk(error: Exception, folder: Path) -> str | None:
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        if not full and not (refused and error.filename):
            return None
        place, said = Path(error.filename or folder), error.strerror
    elif found := re.search("No space left on device|PytorchStreamWriter failed", str(error)):
        place, said = folder, found[0]  # of safetensors, of torch
    else:
        return None
    there = place.absolute()
    while not there.exists():
        there = there.parent
    return (
        f"cannot write to {place}: {said} ({_bytes(shutil.disk_usage(there).free)} left on that "
        "disk). Make room and go on from the last checkpoint (--ckpt_path), or choose another "
        "folder: --trainer.default_root_dir FOLDER"
    )


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"
