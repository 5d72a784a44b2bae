"""What ends a run from outside, as a message that says what to change: memory, disk, a worker."""

import errno
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from rich.filesize import decimal
from torch import nn

from qa_lightning.errors import UserError

CHECKPOINTS_AT_ONCE = 3
"""Checkpoints that must fit on the disk: the best, the last, and one that is being written."""


def check_folder(folder: Path, module: nn.Module) -> None:
    """Refuse to start a run in a folder that cannot be written or has no room for checkpoints.

    The folder need not exist yet, and is not made.

    Raises:
        UserError: it cannot be written, or is too full for three checkpoints of the module.
    """
    # A checkpoint holds the weights, and two averages of every weight that is trained (AdamW).
    checkpoint = sum(
        weight.nbytes * (3 if weight.requires_grad else 1) for weight in module.parameters()
    )
    needed = CHECKPOINTS_AT_ONCE * checkpoint
    try:
        existing = _existing(folder)
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(4096))
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise UserError(
            f"nothing can be written to {folder}: {error.strerror or error}. Choose another "
            "folder for the run: --trainer.default_root_dir FOLDER"
        ) from error
    if free < needed:
        raise UserError(
            f"the disk of {folder} has {decimal(free)} left, and {CHECKPOINTS_AT_ONCE} checkpoints "
            f"of {decimal(checkpoint)} need {decimal(needed)}. Make room, or choose a folder on "
            "another disk: --trainer.default_root_dir FOLDER"
        )


@contextmanager
def as_user_error(folder: Path) -> Iterator[None]:
    """Turn what a run can die of into a UserError; any other exception goes through as it is.

    Args:
        folder: Where the run writes, for an error that names no file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # every library has a type of its own for these
        message = _worker(error) or _memory(error) or _disk(error, folder) or _configuration(error)
        if message is None:
            raise
        raise UserError(message) from error


def _worker(error: Exception) -> str | None:
    """A worker process of a loader died; an exception inside of one is raised as its own type."""
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


def _memory(error: Exception) -> str | None:
    words = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not known and not any(word in str(error) for word in words):
        return None
    reason = str(error).strip().partition("\n")[0] or "none is left"
    return (
        f"out of memory ({reason[:300]}). Halve --data.batch_size and double "
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
        place, reason = Path(error.filename or folder), error.strerror
    elif found := re.search("No space left on device|PytorchStreamWriter failed", str(error)):
        place, reason = folder, found[0]  # safetensors and torch have no error number
    else:
        return None
    free = decimal(shutil.disk_usage(_existing(place)).free)
    return (
        f"cannot write to {place}: {reason} ({free} left on that disk). Make room and resume from "
        "the last checkpoint (--ckpt_path), or choose another folder: "
        "--trainer.default_root_dir FOLDER"
    )


def _configuration(error: Exception) -> str | None:
    """Options that turn out not to fit what is trained or logged."""
    words = ("Early stopping conditioned on metric", "`val_check_interval` (")  # of other types
    known = isinstance(error, MisconfigurationException) or any(
        word in str(error) for word in words
    )
    return str(error).strip() if known else None


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(there for there in (path, *path.parents) if there.exists())
