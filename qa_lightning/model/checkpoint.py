"""Checkpoints that `fit` wrote, opened safely."""

import pickle
from pathlib import Path
from typing import Any

import torch

from qa_lightning.errors import UserError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a checkpoint of this project without reading its weights into memory.

    Raises:
        UserError: it does not exist, is damaged, holds code, or is not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{path} cannot be loaded as a checkpoint: damaged, or not one of ours ({reason})"
        ) from error
    ours = isinstance(checkpoint, dict) and "tokenizer" in checkpoint
    if not ours or "encoder_config" not in (checkpoint.get("hyper_parameters") or {}):
        raise UserError(
            f"{path} is a checkpoint, but not of a QuestionAnsweringModule: it holds "
            "no encoder_config and no tokenizer"
        )
    return checkpoint
