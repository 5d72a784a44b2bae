"""Fine-tune DistilBERT for extractive question answering on SQuAD 2.0 with PyTorch Lightning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qa_lightning.inference.answerer import Answerer
    from qa_lightning.inference.pipeline import pipeline
    from qa_lightning.training.datamodule import SquadDataModule
    from qa_lightning.training.module import QuestionAnsweringModule

__version__ = "0.1.0"

__all__ = ["Answerer", "QuestionAnsweringModule", "SquadDataModule", "__version__", "pipeline"]

_HOMES = {
    "Answerer": "qa_lightning.inference.answerer",
    "QuestionAnsweringModule": "qa_lightning.training.module",
    "SquadDataModule": "qa_lightning.training.datamodule",
    "pipeline": "qa_lightning.inference.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch and Lightning take seconds to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
