"""What a user puts into the Trainer takes its place beside, or instead of, what we put there."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins import CheckpointIO, Precision

from qa_lightning.training.checkpoint_files import AtomicCheckpointIO
from qa_lightning.training.progress_bar import progress_bar


def as_list(value: Any) -> list[Any]:
    """The value of an option that takes nothing, one object or several."""
    return value if isinstance(value, list) else [] if value is None else [value]


def has(kind: type, value: Any) -> bool:
    """Whether such a value holds an object of a class."""
    return any(isinstance(one, kind) for one in as_list(value))


def bar_unless_given(callbacks: Any, enabled: bool | None) -> list[Callback]:
    """Our progress bar, unless bars are switched off or the user gave one."""
    return [] if has(ProgressBar, callbacks) or enabled is False else [progress_bar()]


def plugins_and_precision(plugins: Any, given: Any, chosen: Any) -> dict[str, Any]:
    """The user's plugins; ours, and the precision that we chose, where they give none."""
    own_io = [] if has(CheckpointIO, plugins) else [AtomicCheckpointIO()]
    precision = given if has(Precision, plugins) else chosen
    return {"plugins": [*as_list(plugins), *own_io], "precision": precision}


def put_first(ours: Callback | None, trainer: Trainer) -> None:
    """Put our ModelCheckpoint before a user's: Lightning takes the first as the run's own."""
    trainer.callbacks.sort(  # type: ignore[attr-defined]
        key=lambda one: isinstance(one, ModelCheckpoint) and one is not ours
    )
