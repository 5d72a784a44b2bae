"""Shared fixtures: where the real data is, when it is there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real SQuAD data, encoder and reference scores; the test skips without it."""
    folder = Path(os.environ.get("QA_LIGHTNING_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set QA_LIGHTNING_SHARED to its folder)")
    return folder


WORDS = """the a of in was is by to and who what when where which how many river city king queen
bridge museum built founded north south east west born died wrote painted year century people
small large old new first last paris rome berlin oslo lima cairo delhi kyoto quito dakar
##s ##ed ##ing ##er ##land ##town
1 2 3 4 5 6 7 8 9 0 ##1 ##2 ##3 ##4 ##5 ##6 ##7 ##8 ##9 ##0 . , ? ! ' - ( ) : ;""".split()

TINY_VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *WORDS,
    *(letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in WORDS),
    *("##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"),
]


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny randomly initialised DistilBERT and its uncased WordPiece tokenizer."""
    import torch
    from transformers import DistilBertConfig, DistilBertForQuestionAnswering, DistilBertTokenizer

    folder = tmp_path_factory.mktemp("tiny-encoder")
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(TINY_VOCABULARY),
        max_position_embeddings=128,
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=2,
    )
    DistilBertForQuestionAnswering(config).save_pretrained(folder)
    vocabulary = {token: row for row, token in enumerate(TINY_VOCABULARY)}
    DistilBertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return folder


PLACES = ("paris", "rome", "berlin", "oslo", "lima", "cairo", "delhi", "kyoto", "quito", "dakar")


def squad_data(paragraphs: int = 12, seed: int = 0, answers: bool = True) -> dict[str, Any]:
    """SQuAD 2.0-shaped data about made-up towns: four questions a paragraph, one unanswerable."""
    import random

    draw = random.Random(seed)
    articles = []
    for number in range(paragraphs):
        town, other = draw.sample(PLACES, 2)
        year = str(draw.randrange(1000, 2000))
        context = (
            f"the city of {town} was founded in {year}. "
            + "people built a small old bridge in the north. " * draw.randrange(6)
            + f"the museum of {other} is large."
        )
        asked = [
            (f"when was {town} founded?", year, None),
            ("which city is old?", town, None),
            (f"where is the museum {number}?", other, None),
            (f"when was {other} founded?", None, year),
        ]
        qas = []
        for index, (question, answer, plausible) in enumerate(asked):
            qa: dict[str, Any] = {"id": f"{seed}-{number}-{index}", "question": question}
            if answers:
                given = [answer] if answer else []
                qa["answers"] = [{"text": t, "answer_start": context.index(t)} for t in given]
                qa["is_impossible"] = answer is None
                if plausible:
                    start = context.index(plausible)
                    qa["plausible_answers"] = [{"text": plausible, "answer_start": start}]
            qas.append(qa)
        articles.append({"title": f"t{number}", "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "v2.0", "data": articles}


@pytest.fixture
def squad_files(tmp_path: Path) -> dict[str, Path]:
    """Small training, validation and unlabelled files in SQuAD's format."""
    files = {
        "train": squad_data(12, seed=1),
        "val": squad_data(5, seed=2),
        "unlabelled": squad_data(3, seed=3, answers=False),
    }
    paths = {}
    for name, content in files.items():
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text(json.dumps(content), encoding="utf-8")
    return paths


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache, or reaches for the hub."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return cache
