"""Shared fixtures: where the real data is, when it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real SQuAD data, encoder and reference scores; the test skips without it."""
    folder = Path(os.environ.get("QA_LIGHTNING_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set QA_LIGHTNING_SHARED to its folder)")
    return folder
