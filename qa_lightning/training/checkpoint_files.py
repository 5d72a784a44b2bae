"""Checkpoint files: written whole or not at all, read without running code, found by age."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from qa_lightning.errors import UserError
from qa_lightning.model.checkpoint import read_checkpoint
from qa_lightning.model.run_folder import LAST

PARTIAL = ".partial"
"""End of the name of a file that is being written."""


def write_atomically(content: Any, path: Path) -> None:
    """Save with `torch.save`: whoever opens the file finds the old content or the new one, whole.

    Args:
        content: What to save.
        path: The file; its folder is made if there is none.

    Raises:
        UserError: it cannot be written; what was there before is still there.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # the content must reach the disk before the name does
        partial.replace(path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        # torch reports a full disk as a RuntimeError of several lines.
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UserError(
            f"cannot write the checkpoint {path}: {reason}; the one before it is untouched. "
            "Is the disk full?"
        ) from error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically, and reads nothing but tensors and plain values."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write it, see `write_atomically`, but for callbacks' states that could not be read."""
        callbacks = checkpoint.get("callbacks", {})
        plain = {name: state for name, state in callbacks.items() if _is_plain(state)}
        for name in callbacks.keys() - plain.keys():
            rank_zero_warn(
                f"the state of {name} is left out of {path}: it holds more than tensors and plain "
                "values, and a file with it could not be read safely"
            )
        write_atomically({**checkpoint, "callbacks": plain}, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read it; `weights_only` is always on, for a file must not run code."""
        content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return content


def _is_plain(state: Any) -> bool:
    """Whether a callback's state can be saved, and read again without running code."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception:  # pickle raises what the object's own class raises, too
        return False
    return True


def newest_runs_first(runs: Path) -> list[Path]:
    """The folders `version_N` in a folder, the highest number first."""
    numbered = [
        (int(folder.name.removeprefix("version_")), folder)
        for folder in runs.glob("version_*")
        if folder.name.removeprefix("version_").isdecimal() and folder.is_dir()
    ]
    return [folder for _, folder in sorted(numbered, reverse=True)]


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in a folder with the most steps, if any; among equals, `last.ckpt`.

    A file that cannot be read is skipped with a warning.

    Raises:
        UserError: there are checkpoints, but none can be read.
    """
    readable, refused = [], []
    for path in sorted(folder.glob("[!.]*.ckpt")):
        try:
            step = read_checkpoint(path)["global_step"]
        except UserError as error:
            refused.append(error)
            continue
        readable.append((step, path.name == LAST, path))
    if refused and not readable:
        raise refused[-1]
    for reason in refused:
        rank_zero_warn(f"skipped: {reason}")
    return max(readable)[2] if readable else None
