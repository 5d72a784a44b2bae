"""Shared fixtures: where the real data is, when it is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers.data import REPOSITORY, TINY_VOCABULARY, squad_data

# `pytest --hypothesis-profile=many` tries far more examples where a test names no number itself.
settings.register_profile("many", max_examples=5_000, deadline=None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real SQuAD data, encoder and reference scores; the test skips without it."""
    folder = Path(os.environ.get("QA_LIGHTNING_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set QA_LIGHTNING_SHARED to its folder)")
    return folder


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
