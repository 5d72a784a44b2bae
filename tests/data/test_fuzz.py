"""A share of benchmarks/fuzz.py: wild and spoilt files are refused clearly or labelled rightly."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qa_lightning.data import windows
from tests.helpers.data import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import fuzz

FILES = 8 * len(fuzz.KINDS)


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_encoder)


def test_files_of_every_kind(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    accepted: Counter[str] = Counter()
    labels = 0
    for number in range(FILES):
        refused, checked = fuzz.examine(number, tmp_path, tokenizer)
        accepted[fuzz.spoilt(number)[0]] += not refused
        labels += checked
    # Had everything been refused, or nothing, little would have been tested.
    assert accepted["wild text"] > 5 and accepted["few misplaced"] > 5
    assert accepted["cut off"] == accepted["surrogates"] == 0
    assert labels > 10_000


def test_with_a_real_vocabulary(shared: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "encoders" / "minilm-l6")
    wild = range(FILES, FILES + 40 * len(fuzz.KINDS), len(fuzz.KINDS))
    assert sum(fuzz.examine(number, tmp_path, tokenizer)[1] for number in wild) > 200


def test_the_same_number_gives_the_same_file() -> None:
    assert [fuzz.spoilt(number) for number in range(44)] == [
        fuzz.spoilt(number) for number in range(44)
    ]


def test_a_wrong_label_would_be_seen(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = windows.tokens_of_characters

    def one_late(*arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, last = right(*arguments)
        return first + 1, last + 1

    monkeypatch.setattr(windows, "tokens_of_characters", one_late)
    with pytest.raises(AssertionError):
        fuzz.examine(0, tmp_path, tokenizer)
