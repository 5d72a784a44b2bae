"""Where a model comes from: what the files of a run say of its training and its scores."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from qa_lightning.data.download import OFFICIAL
from qa_lightning.errors import UserError
from qa_lightning.model.trained_model import read_checkpoint

if TYPE_CHECKING:
    from qa_lightning.evaluation.report import Report

SQUAD = "rajpurkar/squad_v2"
"""The hub's name of SQuAD 2.0."""

UNKNOWN = "not known"


@dataclass(frozen=True)
class DataFile:
    """Questions that were trained on or scored, as far as they are known.

    Attributes:
        name: A path, a URL or the name of a hub dataset.
        sha256: Digest of the content.
        questions: How many there were.
    """

    name: str
    sha256: str | None = None
    questions: int | None = None

    @property
    def shown(self) -> str:
        """The name without what concerns nobody else: folders, passwords in a URL."""
        if url := re.match(r"(\w+://)(?:[^/?#]*@)?([^?#]*)", self.name):
            return url[1] + url[2]
        return self.hub_name or PureWindowsPath(self.name).name  # knows both kinds of slashes

    @property
    def official(self) -> str | None:
        """Which official SQuAD 2.0 file it is, "train" or "dev"; None if it is none."""
        return next((split for split, one in OFFICIAL.items() if one.sha256 == self.sha256), None)

    @property
    def hub_name(self) -> str | None:
        """The hub's name of the dataset that it is, or is a file of; None if there is none."""
        if self.official:
            return SQUAD
        shape = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", self.name)
        if shape and not self.name.endswith((".json", ".gz")) and not Path(self.name).exists():
            return self.name
        return None


@dataclass(frozen=True)
class Scores:
    """What a model scored on some questions.

    Attributes:
        data: The questions.
        when: When and how they were scored, in words.
        figures: What `qa_lightning.evaluation.scoring.evaluate` gave, with `zero_...` at null
            threshold 0, `tuned_...` at the tuned one, if there is one, and `no_answer_rate`.
        threshold: The null threshold in force.
        report: Where the model fails, if that was worked out.
        notes: What to know of the questions, in sentences.
    """

    data: DataFile
    when: str
    figures: Mapping[str, float]
    threshold: float
    report: Report | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Training:
    """What the files of a run say of it; empty where they say nothing.

    Attributes:
        model: Settings of the module, as `--model...` takes them.
        data: Settings of the data, as `--data...` takes them.
        trainer: Settings of the trainer.
        seed: What everything but the data was seeded with.
        record: The last entry of `run.json`, but with the weights that the first began with.
        starts: How often training was started or gone on with; 0 if unknown.
        steps: Optimizer steps behind these weights.
        validations: How many validations the best checkpoint was chosen from.
        random_weights: Whether it began with random weights, not with a trained encoder.
        scores: What these weights scored in the validation during training.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 0
    steps: int | None = None
    validations: int = 0
    random_weights: bool = False
    scores: Scores | None = None

    @property
    def precision(self) -> str | None:
        """What was computed with, as Lightning names it."""
        return self.record.get("precision") or self.trainer.get("precision")

    def source(self, split: str) -> DataFile | None:
        """The questions that were trained on ("train") or validated on ("val")."""
        known = self.record.get("data", {}).get(split, {})
        name = known.get("name") or self.data.get(split)
        count = self.scores.data.questions if split == "val" and self.scores else None
        return DataFile(name, known.get("sha256"), known.get("questions", count)) if name else None


def read_training(model: str | Path) -> Training:
    """Gather what is known of how a model was trained.

    Args:
        model: As `TrainedModel.load` takes it. Of a model from elsewhere nothing is known.

    Raises:
        UserError: a file of the run is damaged.
    """
    checkpoint, run = _find(Path(model).expanduser())
    if checkpoint is None:
        return Training()
    content = read_checkpoint(checkpoint)
    record = [] if run is None else _read_record(run / "run.json")
    config = {} if run is None else _read_config(run / "config.yaml")
    history = _history(content)
    last = checkpoint.with_name("last.ckpt")  # which knows of validations after the best one
    whole = _history(read_checkpoint(last)) if last.is_file() else history
    steps = content.get("global_step")
    own = next((entry for entry in history if entry.get("step") == steps), {})
    training = Training(
        model=content["hyper_parameters"],
        data=content.get("datamodule_hyper_parameters") or {},
        trainer=config.get("trainer") or {},
        seed=config.get("seed_everything"),
        record={**record[-1], "weights": record[0].get("weights", {})} if record else {},
        starts=len(record),
        steps=steps,
        validations=max(len(history), len(whole)),
        random_weights=len(record) == 1 and bool((config.get("model") or {}).get("encoder_config")),
    )
    figures = {
        name.removeprefix("val/"): value for name, value in own.items() if name.startswith("val/")
    }
    if "exact" not in figures:
        return training
    validated = training.source("val") or DataFile(UNKNOWN)
    scores = Scores(
        DataFile(validated.name, validated.sha256, int(figures["total"])),
        f"during training, at precision {training.precision or UNKNOWN}",
        figures,
        figures.get("null_threshold", 0.0),
    )
    return replace(training, scores=scores)


def _find(path: Path) -> tuple[Path | None, Path | None]:
    """The checkpoint that a model is from, and the folder of its run, as far as there are any."""
    if path.is_file():
        return path, path.parent.parent if path.parent.name == "checkpoints" else None
    if path.name == "model" and (path / "config.json").is_file():
        path = path.resolve().parent
    for name in ("best.ckpt", "last.ckpt"):
        if (path / "checkpoints" / name).is_file():
            return path / "checkpoints" / name, path
    return None, None


def _history(checkpoint: Mapping[str, Any]) -> list[dict[str, float]]:
    """Figures of the validations that a checkpoint knows of."""
    history: list[dict[str, float]] = (
        checkpoint.get("callbacks", {}).get("SaveBestModel", {}).get("history", [])
    )
    return history


def _read_record(path: Path) -> list[dict[str, Any]]:
    """Entries of a run's `run.json`; none where there is no such file."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path} is not the record of a run: it holds no list of objects")
    return entries


def _read_config(path: Path) -> dict[str, Any]:
    """A run's `config.yaml`; empty where there is no such file."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return config if isinstance(config, dict) else {}
