"""Where a model comes from: what the files of a run say of its training and its scores."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from qa_lightning.data.download import OFFICIAL
from qa_lightning.errors import UserError
from qa_lightning.model.checkpoint import read_checkpoint
from qa_lightning.model.run_folder import CHECKPOINTS, CONFIG, LAST, MODEL, RECORD, best_checkpoint

if TYPE_CHECKING:
    from qa_lightning.evaluation.report import Report

SQUAD = "rajpurkar/squad_v2"  # the hub's name of SQuAD 2.0


@dataclass(frozen=True)
class DataFile:
    """Questions that were trained on or scored, as far as they are known."""

    name: str  # a path, a URL or the name of a hub dataset
    sha256: str | None = None  # of the content
    questions: int | None = None

    @property
    def shown(self) -> str:
        """The name without private parts: folders, and passwords and queries in a URL."""
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
    """What a model scored on some questions."""

    data: DataFile
    when: str  # when and how they were scored, in words
    figures: Mapping[str, float]  # see `qa_lightning.evaluation.scoring.score_questions`
    threshold: float  # the effective null threshold
    report: Report | None = None  # where the model fails, if that was worked out


@dataclass(frozen=True)
class Training:
    """What the files of a run say of it; empty where they say nothing."""

    model: Mapping[str, Any] = field(default_factory=dict)  # settings, as `--model...` takes them
    data: Mapping[str, Any] = field(default_factory=dict)  # settings, as `--data...` takes them
    trainer: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None  # of everything but the data
    # The last entry of `run.json`, but with the weights that the first started from.
    record: Mapping[str, Any] = field(default_factory=dict)
    starts: int = 0  # how often training was started or resumed; 0 if unknown
    steps: int | None = None  # optimizer steps behind these weights
    validations: int = 0  # how many the best checkpoint was chosen from
    random_weights: bool = False  # whether it started from these, not from a trained encoder
    scores: Scores | None = None  # of these weights in the validation during training

    @property
    def precision(self) -> str | None:
        """The precision of training, by Lightning's name."""
        return self.record.get("precision") or self.trainer.get("precision")

    def source(self, split: str) -> DataFile | None:
        """The questions that were trained on ("train") or validated on ("val")."""
        known = self.record.get("data", {}).get(split, {})
        name = known.get("name") or self.data.get(split)
        count = self.scores.data.questions if split == "val" and self.scores else None
        return DataFile(name, known.get("sha256"), known.get("questions", count)) if name else None


def read_training(model: str | Path) -> Training:
    """Gather what is known of how a model was trained; of one from elsewhere that is nothing.

    Raises:
        UserError: a file of the run is damaged.
    """
    checkpoint, run = _find(Path(os.path.expanduser(model)))
    if checkpoint is None:
        return Training()
    content = read_checkpoint(checkpoint)
    record = [] if run is None else _read(run / RECORD, list)
    config = {} if run is None else _read(run / CONFIG, dict)
    history = _history(content)
    last = checkpoint.with_name(LAST)  # it holds the validations after the best one too
    whole = _history(read_checkpoint(last)) if last.is_file() else history
    training = Training(
        model=content["hyper_parameters"],
        data=content.get("datamodule_hyper_parameters") or {},
        trainer=config.get("trainer") or {},
        seed=config.get("seed_everything"),
        record={**record[-1], "weights": record[0].get("weights", {})} if record else {},
        starts=len(record),
        steps=content.get("global_step"),
        validations=max(len(history), len(whole)),
        random_weights=len(record) == 1 and bool((config.get("model") or {}).get("encoder_config")),
    )
    return replace(training, scores=_validation_scores(training, history))


def _validation_scores(training: Training, history: Sequence[Mapping[str, float]]) -> Scores | None:
    """What the weights scored in the validation at their step, if there was one."""
    own = next((entry for entry in history if entry.get("step") == training.steps), {})
    figures = {name[4:]: value for name, value in own.items() if name.startswith("val/")}
    if "exact" not in figures:
        return None
    data = training.source("val") or DataFile("not known")
    return Scores(
        replace(data, questions=int(figures["total"])),
        f"during training, at precision {training.precision or 'not known'}",
        figures,
        figures.get("null_threshold", 0.0),
    )


def _find(path: Path) -> tuple[Path | None, Path | None]:
    """The checkpoint that a model is from, and the folder of its run, as far as there are any."""
    if path.is_file():
        return path, path.parent.parent if path.parent.name == CHECKPOINTS else None
    if path.name == MODEL and (path / "config.json").is_file():
        path = path.resolve().parent
    return best_checkpoint(path), path


def _history(checkpoint: Mapping[str, Any]) -> list[dict[str, float]]:
    """Figures of the validations that a checkpoint knows of."""
    return checkpoint.get("callbacks", {}).get("SaveBestModel", {}).get("history", [])


def _read(path: Path, kind: type) -> Any:
    """The content of a JSON or YAML file of the run; empty where there is no such file."""
    import yaml

    load = json.loads if path.suffix == ".json" else yaml.safe_load
    try:
        content = load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, kind):
        raise UserError(f"{path} is not what `fit` wrote: it holds no {kind.__name__}")
    return content
