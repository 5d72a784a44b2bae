"""The model card: what a stranger needs to judge a model by, and nothing that is not known.

The facts come from the files that `fit` left (the checkpoint, `run.json`, `config.yaml`), from an
evaluation at export, and from the person who exports it. What none of them says is called unknown.
The prose is in `model_card.md.jinja`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from qa_lightning.data.window_settings import MAX_ANSWER_TOKENS
from qa_lightning.export.provenance import Scores, Training
from qa_lightning.model.trained_model import TrainedModel

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData


@dataclass(frozen=True)
class CardMetadata:
    """What only a person can say of a model; None where nothing was said."""

    name: str  # what the model is called; the hub's name, if it goes there
    license: str | None = None  # the hub's name of its licence, such as "apache-2.0"
    language: str | None = None  # code of its language, such as "en"
    base_model: str | None = None  # the hub's name of the encoder that training started from
    notes: str | None = None  # what else there is to say, such as how the data came about; Markdown


@dataclass(frozen=True)
class Variant:
    """A file in which the model was written."""

    file: str  # its name
    what: str  # what it is
    size: int  # bytes
    # Exact match and F1 on the questions that all variants were scored on, if any were, and to how
    # many of them it gives the answer that the first variant gives.
    figures: Mapping[str, float] | None = None
    same: int | None = None


@dataclass(frozen=True)
class CardFacts:
    """All that goes into a card: `scores` of the export, `variants` with the original first."""

    metadata: CardMetadata
    trained: TrainedModel
    training: Training
    scores: Scores | None = None
    variants: Sequence[Variant] = ()

    @property
    def scored(self) -> list[Scores]:
        """What was scored, the newest first; the same questions once."""
        given = [one for one in (self.scores, self.training.scores) if one is not None]
        same = len(given) == 2 and given[0].data.sha256 == given[1].data.sha256 is not None
        return given[:1] if same else given

    @property
    def language(self) -> str | None:
        """Code of the model's language, if it is known."""
        data = self.training.source("train")
        return self.metadata.language or ("en" if data and data.official else None)

    @property
    def base_model(self) -> str | None:
        """The hub's name of the encoder that training started from, if it is sure."""
        name = self.training.model.get("pretrained")
        if self.metadata.base_model or not name or self.training.random_weights:
            return self.metadata.base_model
        return name if _is_in_hub_cache(name) else None

    @property
    def pretrained_name(self) -> str:
        """What the run's settings call the encoder, without folders; "" if they do not say."""
        return PureWindowsPath(self.training.model.get("pretrained") or "").name

    def was_used(self, scores: Scores, split: str) -> bool:
        """Whether the scored file is known to be the one of a split, "train" or "val"."""
        used = self.training.source(split)
        return used is not None and used.sha256 == scores.data.sha256 is not None


def model_card(facts: CardFacts) -> str:
    """The text of README.md."""
    from huggingface_hub import ModelCard

    template = str(Path(__file__).with_suffix(".md.jinja"))
    known: dict[str, Any] = {"facts": facts, "max_answer_tokens": MAX_ANSWER_TOKENS, "cell": _cell}
    return str(ModelCard.from_template(_front_matter(facts), template_path=template, **known))


def _front_matter(facts: CardFacts) -> ModelCardData:
    """What the hub reads."""
    from huggingface_hub import ModelCardData

    data = facts.training.source("train")
    return ModelCardData(
        language=facts.language,
        license=facts.metadata.license,
        library_name="transformers",
        pipeline_tag="question-answering",
        base_model=facts.base_model,
        datasets=[data.hub_name] if data and data.hub_name else None,
        metrics=["exact_match", "f1"],
        tags=["extractive-qa", "qa-lightning"],
        model_name=facts.metadata.name,
        eval_results=_eval_results(facts.scored) or None,
    )


def _eval_results(scored: Sequence[Scores]) -> list[EvalResult]:
    """Exact match and F1 on each set of questions: the hub's index has one of a kind for each."""
    from huggingface_hub import EvalResult

    splits = {"train": "train", "dev": "validation"}
    results: dict[object, EvalResult] = {}
    for data, figures in ((scores.data, scores.figures) for scores in scored):
        for kind, name, key in (("exact_match", "Exact match", "exact"), ("f1", "F1", "f1")):
            result = EvalResult(
                task_type="question-answering",
                task_name="Extractive question answering",
                dataset_type=data.hub_name or data.shown,  # the hub tells them apart by it
                dataset_name=data.shown,
                dataset_split=splits.get(data.official or ""),
                metric_type=kind,
                metric_name=name,
                metric_value=round(figures[key], 2),
            )
            results.setdefault((result.unique_identifier, kind), result)
    return list(results.values())


def _is_in_hub_cache(name: str) -> bool:
    """Whether a model of that name was downloaded from the hub: it is no folder and no typo."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name).exists():
        return False
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def _cell(value: Any) -> str:
    """A value as a Markdown table may hold it: on one line, without bars."""
    return " ".join(str(value).split()).replace("|", "\\|")
