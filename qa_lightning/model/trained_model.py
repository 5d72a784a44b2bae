"""A trained model with all that it is used with, from wherever it was left."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.errors import UserError
from qa_lightning.model.encoder import (
    NULL_THRESHOLD,
    build_encoder,
    check_vocabulary,
    load_encoder,
    load_tokenizer,
    read_config,
    read_null_threshold,
    resolve,
    restore_tokenizer,
)

if TYPE_CHECKING:
    from transformers import DistilBertForQuestionAnswering
    from transformers import PreTrainedTokenizerFast as FastTokenizer

WINDOWS = "windows"
"""Key of the window settings in a saved model's config.json."""

_OF_LABELS = ("every_answer",)
"""Window settings that concern labels only."""


@dataclass(frozen=True)
class InferenceSettings:
    """What a saved model's folder says of its use, beside the weights.

    Attributes:
        tokenizer: Its tokenizer.
        windows: How questions and contexts become windows.
        null_threshold: The tuned null threshold; None if none was tuned.
    """

    tokenizer: FastTokenizer
    windows: WindowSettings
    null_threshold: float | None

    @classmethod
    def of_folder(cls, name: str) -> InferenceSettings:
        """Read it.

        Args:
            name: The folder, or the name of a model on the hub.

        Raises:
            UserError: there is no such folder, it holds no tokenizer, or config.json is damaged.
        """
        tokenizer = load_tokenizer(name)
        where = resolve(name) / "config.json"
        config = read_config(where.parent)
        threshold = read_null_threshold(config, str(where))
        if WINDOWS in config:
            return cls(tokenizer, _window_settings(config[WINDOWS], str(where)), threshold)
        # Of another project: the usual ones, as far as they fit.
        usual, most = WindowSettings(), tokenizer.model_max_length
        if most < usual.window:
            usual = WindowSettings(most, most // 4, most // 4)
        return cls(tokenizer, usual, threshold)


@dataclass(frozen=True)
class TrainedModel:
    """A model, and what text has to go through before and after it.

    Attributes:
        encoder: The model, in float32.
        tokenizer: Its tokenizer.
        windows: How questions and contexts become windows.
        null_threshold: The tuned null threshold; None if none was tuned.
        source: Where it was found.
    """

    encoder: DistilBertForQuestionAnswering
    tokenizer: FastTokenizer
    windows: WindowSettings
    null_threshold: float | None
    source: str

    @classmethod
    def load(cls, model: str | Path) -> TrainedModel:
        """Load a model.

        Args:
            model: A run's folder (its best model is taken), a checkpoint that `fit` wrote, a folder
                that `export` or `save_pretrained` wrote, or the name of a DistilBERT
                question-answering model on the hub.

        Raises:
            UserError: there is no such thing, it is damaged, or it was not trained to answer.
        """
        path = Path(model).expanduser()
        if path.suffix == ".ckpt" or path.is_file():
            return cls.from_checkpoint(path)
        if path.is_dir() and not (path / "config.json").is_file():
            return cls._of_run(path)
        return cls._of_folder(str(model))

    @classmethod
    def from_checkpoint(cls, path: Path) -> TrainedModel:
        """Load a checkpoint that `fit` wrote.

        Raises:
            UserError: see `read_checkpoint`.
        """
        content = read_checkpoint(path)
        encoder = build_encoder(content["hyper_parameters"]["encoder_config"])
        prefix = "encoder."
        weights = {
            name.removeprefix(prefix): value
            for name, value in content["state_dict"].items()
            if name.startswith(prefix)
        }
        try:
            encoder.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{path}: its weights do not fit its configuration") from error
        return cls(
            encoder,
            restore_tokenizer(content["tokenizer"]),
            _window_settings(content.get("datamodule_hyper_parameters") or {}, str(path)),
            content.get(NULL_THRESHOLD),
            str(path),
        )

    @classmethod
    def _of_run(cls, run: Path) -> TrainedModel:
        if (run / "model" / "config.json").is_file():
            return cls._of_folder(str(run / "model"))
        for name in ("best.ckpt", "last.ckpt"):
            if (run / "checkpoints" / name).is_file():
                return cls.from_checkpoint(run / "checkpoints" / name)
        runs = sorted(folder.name for folder in run.glob("version_*"))
        hint = f" It holds runs; give one of them: {run / runs[-1]}" if runs else ""
        raise UserError(
            f"{run} holds no model: neither config.json, model/config.json nor "
            f"checkpoints/best.ckpt.{hint}"
        )

    @classmethod
    def _of_folder(cls, name: str) -> TrainedModel:
        encoder = load_encoder(name, trained=True)
        use = InferenceSettings.of_folder(name)
        check_vocabulary(encoder, use.tokenizer)
        return cls(encoder, use.tokenizer, use.windows, use.null_threshold, name)

    def save(self, folder: Path) -> None:
        """Save model and tokenizer as a Hugging Face folder, with threshold and window settings."""
        if self.null_threshold is not None:
            setattr(self.encoder.config, NULL_THRESHOLD, self.null_threshold)
        setattr(self.encoder.config, WINDOWS, saved_settings(self.windows))
        self.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def saved_settings(windows: WindowSettings) -> dict[str, int | bool]:
    """Window settings as config.json holds them: those that matter for use."""
    return {name: value for name, value in asdict(windows).items() if name not in _OF_LABELS}


def _window_settings(values: Any, where: str) -> WindowSettings:
    """Window settings from what a file says, among other things."""
    names = [field.name for field in fields(WindowSettings) if field.name not in _OF_LABELS]
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {WINDOWS} must be an object, not {values!r}")
    given = {name: values[name] for name in names if name in values}
    for name, value in given.items():
        if type(value) is not type(getattr(WindowSettings(), name)):
            raise UserError(f"{where}: {WINDOWS}.{name} cannot be {value!r}")
    return WindowSettings(**given)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Open a checkpoint of this project without reading its weights into memory.

    Args:
        path: A file that `fit` wrote.

    Raises:
        UserError: it does not exist, is damaged, holds code, or is not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
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
