"""A trained model with all that it is used with, from wherever it was left."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.errors import UserError
from qa_lightning.evaluation.calibration import threshold_for_share
from qa_lightning.model.checkpoint import read_checkpoint
from qa_lightning.model.encoder import (
    TUNED,
    build_encoder,
    load_encoder,
    read_number,
)
from qa_lightning.model.pretrained import read_config, resolve
from qa_lightning.model.run_folder import MODEL, best_checkpoint
from qa_lightning.model.tokenizer import check_vocabulary, load_tokenizer, restore_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers import PreTrainedTokenizerFast as FastTokenizer

WINDOWS = "windows"
"""Key of the window settings in a saved model's config.json."""


@dataclass(frozen=True)
class InferenceSettings:
    """What a model is used with beside its weights."""

    tokenizer: FastTokenizer
    windows: WindowSettings
    null_threshold: float | None  # the tuned one; None if none was tuned
    temperature: float = 1.0  # of probabilities
    tuned_share: float | None = None  # share of unanswerable questions that the threshold is for

    @property
    def effective_null_threshold(self) -> float:
        """The null threshold that counts unless another is given: the tuned one, else 0."""
        return self.null_threshold or 0.0

    def threshold_for(self, unanswerable_share: float | None) -> float:
        """The null threshold where this share of questions is expected to be unanswerable."""
        if unanswerable_share is None:
            return self.effective_null_threshold
        if not 0 <= unanswerable_share <= 1:
            raise UserError(f"unanswerable_share must be from 0 to 1, not {unanswerable_share}")
        shares = (unanswerable_share, self.tuned_share)
        return threshold_for_share(self.effective_null_threshold, *shares, self.temperature)

    @classmethod
    def of_folder(cls, name: str) -> InferenceSettings:
        """Read the settings of a saved model: a folder, or the name of a model on the hub.

        Raises:
            UserError: there is no such folder, it holds no tokenizer, or config.json is damaged.
        """
        tokenizer = load_tokenizer(name)
        where = resolve(name) / "config.json"
        config = read_config(where.parent)
        if WINDOWS in config:
            windows = WindowSettings(**windows_of_values(config[WINDOWS], str(where)))
        else:  # a model of another project: the default settings, as far as they fit
            windows, limit = WindowSettings(), tokenizer.model_max_length
            if limit < windows.window:
                windows = WindowSettings(limit, limit // 4, limit // 4)
        return cls(tokenizer, windows, *_tuned(config, str(where)))


@dataclass(frozen=True)
class TrainedModel:
    """A model that was trained to answer, in float32, and what it is used with."""

    encoder: PreTrainedModel
    settings: InferenceSettings

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
        path = Path(os.path.expanduser(model))
        if path.suffix == ".ckpt" or path.is_file():
            return cls.from_checkpoint(path)
        if not path.is_dir() or (path / "config.json").is_file():
            return cls._of_folder(str(model))
        if (path / MODEL / "config.json").is_file():
            return cls._of_folder(str(path / MODEL))
        if checkpoint := best_checkpoint(path):
            return cls.from_checkpoint(checkpoint)
        runs = sorted(folder.name for folder in path.glob("version_*"))
        hint = f" It holds runs; give one of them: {path / runs[-1]}" if runs else ""
        raise UserError(
            f"{path} holds no model: neither config.json, model/config.json nor "
            f"checkpoints/best.ckpt.{hint}"
        )

    @classmethod
    def from_checkpoint(cls, path: Path) -> TrainedModel:
        """Load a checkpoint that `fit` wrote; it raises what `read_checkpoint` raises."""
        content = read_checkpoint(path)
        encoder = build_encoder(content["hyper_parameters"]["encoder_config"], str(path))
        weights = {
            name.removeprefix("encoder."): value
            for name, value in content["state_dict"].items()
            if name.startswith("encoder.")
        }
        try:
            encoder.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{path}: its weights do not fit its configuration") from error
        tokenizer = restore_tokenizer(content["tokenizer"])
        saved = content.get("datamodule_hyper_parameters") or {}
        windows = WindowSettings(**windows_of_values(saved, str(path)))
        settings = InferenceSettings(tokenizer, windows, *_tuned(content, str(path)))
        return cls(encoder, settings)

    @classmethod
    def _of_folder(cls, name: str) -> TrainedModel:
        encoder = load_encoder(name, trained=True)
        settings = InferenceSettings.of_folder(name)
        check_vocabulary(encoder, settings.tokenizer)
        return cls(encoder, settings)

    def save(self, folder: Path) -> None:
        """Save model and tokenizer as a Hugging Face folder, with threshold and window settings."""
        settings = self.settings
        values = (settings.null_threshold, settings.temperature, settings.tuned_share)
        for name, value in zip(TUNED, values, strict=True):
            if value is not None and settings.null_threshold is not None:
                setattr(self.encoder.config, name, value)
        setattr(self.encoder.config, WINDOWS, _without_labels(self.settings.windows))
        self.encoder.save_pretrained(folder)
        self.settings.tokenizer.save_pretrained(folder)


def _tuned(values: Mapping[str, Any], where: str) -> tuple[float | None, float, float | None]:
    """Null threshold, temperature and the share that the threshold is for, from a file."""
    threshold, temperature, share = (read_number(values, name, where) for name in TUNED)
    if temperature is not None and temperature <= 0:
        raise UserError(f"{where}: {TUNED[1]} must be above 0, not {temperature}")
    return threshold, temperature or 1.0, share


def _without_labels(windows: WindowSettings) -> dict[str, int | bool | str]:
    """The window settings that matter for use: `every_answer` concerns labels alone."""
    return {name: value for name, value in vars(windows).items() if name != "every_answer"}


def windows_of_folder(name: str) -> dict[str, Any]:
    """The window settings in the config.json of a folder or hub model; empty if it has none."""
    folder = resolve(name)
    config = read_config(folder)
    return windows_of_values(config[WINDOWS], str(folder)) if WINDOWS in config else {}


def windows_of_values(values: Any, where: str) -> dict[str, Any]:
    """Window settings, but for `every_answer`, from a file's content, which may hold other keys.

    Raises:
        UserError: a value is not of its setting's type.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {WINDOWS} must be an object, not {values!r}")
    given = {}
    for name, default in _without_labels(WindowSettings()).items():
        if name in values and type(values[name]) is not type(default):
            raise UserError(f"{where}: {WINDOWS}.{name} cannot be {values[name]!r}")
        given[name] = values.get(name, default)
    return given
