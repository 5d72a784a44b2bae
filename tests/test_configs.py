"""Every recipe that is shipped: it parses, it is commented, and it says what it claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.command import call
from tests.helpers.data import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
NAMES = [path.name for path in CONFIGS]


def parsed(*options: object) -> dict[str, Any]:
    """The whole configuration that `fit` would run with."""
    outcome = call("fit", *options, "--print_config")
    assert outcome.status == 0, outcome.err
    return yaml.safe_load(outcome.out)


def leaves(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as `{"a.b": value}`."""
    flat = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def test_the_recipes_are_there() -> None:
    expected = "squad2 notebook minilm quickstart debug roberta deberta".split()
    assert {f"{name}.yaml" for name in expected} <= set(NAMES)


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_a_recipe_parses_and_every_value_arrives(path: Path) -> None:
    below = ["--config", REPOSITORY / "configs" / "quickstart.yaml"]
    overlay = below if path.name == "debug.yaml" else []
    whole = leaves(parsed(*overlay, "--config", path))
    wanted = leaves(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert wanted
    assert {key: whole[key] for key in wanted} == wanted


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_every_key_is_commented(path: Path) -> None:
    """A comment stands above a key, or above the keys that it explains together."""
    explained = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if text.startswith("#"):
            explained = True
        elif not text or text.endswith(":"):  # a section, whose keys need words of their own
            explained = False
        else:
            assert explained, f"{path.name}:{number}: {text}"


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_a_recipe_says_how_to_run_it(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("\n\n")[0]
    assert f"--config configs/{path.name}" in head


def test_squad2_spells_out_the_defaults() -> None:
    defaults = leaves(parsed())
    recipe = leaves(yaml.safe_load((REPOSITORY / "configs/squad2.yaml").read_text()))
    assert recipe == {key: defaults[key] for key in recipe}


def test_the_default_recipe() -> None:
    defaults = leaves(parsed())
    expected = {
        "seed_everything": 42,
        "model.pretrained": "distilbert-base-uncased",
        "model.schedule": "linear",
        "model.weight_decay": 0.01,
        "data.window": 384,
        "data.overlap": 128,
        "trainer.max_epochs": 3,
        "trainer.gradient_clip_val": 1.0,
        "trainer.precision": None,
        "checkpoint.save_last": True,
        "checkpoint.save_top_k": 1,
    }
    assert {key: defaults[key] for key in expected} == expected
    assert defaults["model.warmup"] > 0


def test_notebook_has_the_notebooks_settings() -> None:
    recipe = leaves(parsed("--config", REPOSITORY / "configs/notebook.yaml"))
    expected = {
        "model.pretrained": "distilbert-base-uncased",
        "model.learning_rate": 5e-5,
        "model.schedule": "constant",
        "model.warmup": 0.0,
        "data.context_first": True,
        "data.window": 512,
        "data.first_window_only": True,
        "data.padding": "window",
        "data.batching": "random",
        "data.batch_size": 16,
        "data.train_unanswerable": "plausible",
        "data.val_unanswerable": "plausible",
        "data.every_answer": True,
        "data.train": None,
        "data.val": None,
        "trainer.max_epochs": 1,
        "trainer.gradient_clip_val": None,
    }
    assert {key: recipe[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("roberta", ("FacebookAI/roberta-base", 3e-5, 2, 96, 386)),
        ("deberta", ("microsoft/deberta-v3-base", 2e-5, 4, 12, 512)),
    ],
)
def test_what_was_published_by_others_and_not_run_here(
    name: str, published: tuple[object, ...]
) -> None:
    path = REPOSITORY / f"configs/{name}.yaml"
    recipe = leaves(parsed("--config", path))
    keys = "model.pretrained model.learning_rate trainer.max_epochs data.batch_size data.window"
    assert tuple(recipe[key] for key in keys.split()) == published
    assert (recipe["model.warmup"], recipe["data.max_question_tokens"]) == (0.2, 64)
    head = path.read_text(encoding="utf-8").split("\n\n")[0].replace("\n#", "")
    assert "has not been run here" in head


def test_debug_keeps_nothing() -> None:
    recipe = leaves(parsed("--config", REPOSITORY / "configs/debug.yaml"))
    assert recipe["trainer.logger"] is False
    assert recipe["trainer.enable_checkpointing"] is False
    assert recipe["trainer.limit_train_batches"] <= 10
