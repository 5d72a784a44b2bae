"""A folder with a tiny encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertTokenizer, DistilBertModel

from tests.helpers.encoders import randomised, tiny_distilbert, write_vocabulary


@pytest.fixture
def distilbert(tmp_path: Path) -> Path:
    """A folder with a tiny DistilBERT without a head, and its tokenizer."""
    folder = tmp_path / "distilbert"
    randomised(DistilBertModel(tiny_distilbert())).save_pretrained(folder)
    write_vocabulary(tmp_path / "vocabulary")
    BertTokenizer.from_pretrained(tmp_path / "vocabulary").save_pretrained(folder)
    return folder
