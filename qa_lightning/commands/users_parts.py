"""What a user puts into the Trainer keeps its place beside what we put there."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins import CheckpointIO, Precision

from qa_lightning.training.checkpoint_files import AtomicCheckpointIO
from qa_lightning.training.progress_bar import progress_bar


def as_list(value: Any) -> list[Any]:
    """The value of an option that takes nothing, one object or several."""
    return value if isinstance(value, list) else [] if value is None else [value]


def bar_unless_given(callbacks: Any, enabled: bool | None) -> list[Callback]:
    """Our progress bar, unless bars are switched off or the user gave one."""
    given = any(isinstance(callback, ProgressBar) for callback in as_list(callbacks))
    return [] if given or enabled is False else [progress_bar()]


def plugins_and_precision(plugins: Any, given: Any, chosen: Any) -> dict[str, Any]:
    """Options `plugins` and `precision`: a user's plugin takes the place of our own choice.

    Args:
        plugins: The user's.
        given: The precision that the user gave, None if none.
        chosen: What was chosen for the hardware, where none was given.
    """
    every = as_list(plugins)
    if not any(isinstance(plugin, CheckpointIO) for plugin in every):
        every = [*every, AtomicCheckpointIO()]
    own = any(isinstance(plugin, Precision) for plugin in every)
    return {"plugins": every, "precision": given if own else chosen}


def put_first(ours: Callback | None, trainer: Trainer) -> None:
    """Put our ModelCheckpoint before a user's: Lightning takes the first as the run's own.

    So the best model and `last.ckpt` are ours whatever else is written.
    """
    trainer.callbacks.sort(  # type: ignore[attr-defined]
        key=lambda one: isinstance(one, ModelCheckpoint) and one is not ours
    )
