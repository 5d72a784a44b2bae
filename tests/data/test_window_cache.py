"""Windows survive the way to disk and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qa_lightning.data.squad import read_squad
from qa_lightning.data.tables import SquadTables
from qa_lightning.data.tokens import Ragged
from qa_lightning.data.window_cache import open_windows, save_windows
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import Windows, make_windows
from qa_lightning.errors import UserError

SIZES = WindowSettings(window=32, overlap=8, max_question_tokens=8)


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture
def tables(squad_files: dict[str, Path]) -> SquadTables:
    return read_squad(squad_files["train"])


def assert_equal(found: Windows, expected: Windows) -> None:
    for field in dataclasses.fields(Windows):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(other, Ragged):
            assert np.array_equal(one.values, other.values), field.name
            assert np.array_equal(one.bounds, other.bounds), field.name
            assert one.values.dtype == other.values.dtype
        elif isinstance(other, np.ndarray):
            assert np.array_equal(one, other), field.name
            assert one.dtype == other.dtype
        else:
            assert one == other, field.name


def test_windows_on_disk_are_those_in_memory(
    tables: SquadTables, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    windows = make_windows(tables, tokenizer, SIZES)
    save_windows(windows, tmp_path / "windows")
    assert_equal(open_windows(tmp_path / "windows"), windows)
    assert list(tmp_path.glob(".*")) == []  # nothing left of the building


def test_no_token_and_no_window_of_a_label(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Columns may be empty."""
    path = tmp_path / "f.json"
    qas = [{"id": "a", "question": "\u0007", "answers": [{"text": "\u0007", "answer_start": 1}]}]
    content = {"data": [{"paragraphs": [{"context": "\u0007\u0007", "qas": qas}]}]}
    path.write_text(json.dumps(content))
    tables = read_squad(path)
    windows = make_windows(tables, tokenizer, SIZES)
    save_windows(windows, tmp_path / "windows")
    found = open_windows(tmp_path / "windows")
    assert_equal(found, windows)
    assert (len(found.context_ids.values), found.untokenizable_answers, len(found)) == (0, 1, 1)


@pytest.mark.parametrize(
    "name", ["context_ids.npy", "word_starts.bounds.npy", "questions.arrow", "windows.json"]
)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_a_damaged_cache_is_said_so(
    tables: SquadTables,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    name: str,
    damage: str,
) -> None:
    folder = tmp_path / "windows"
    save_windows(make_windows(tables, tokenizer, SIZES), folder)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "gone":
        (folder / name).write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(UserError, match="windows cannot be read .*remove that folder"):
        open_windows(folder)


def test_a_failure_leaves_nothing_behind(
    tables: SquadTables,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = []

    def failing(path: Path, values: np.ndarray) -> None:
        written.append(path)
        if len(written) == 3:
            raise RuntimeError("half way")

    monkeypatch.setattr(np, "save", failing)
    with pytest.raises(RuntimeError, match="half way"):
        save_windows(make_windows(tables, tokenizer, SIZES), tmp_path / "cache" / "windows")
    assert list((tmp_path / "cache").iterdir()) == []


def test_windows_that_another_process_wrote_meanwhile_are_left(
    tables: SquadTables, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "windows"
    windows = make_windows(tables, tokenizer, SIZES)
    save_windows(windows, folder)
    written = (folder / "windows.json").stat().st_ino
    save_windows(windows, folder)
    assert (folder / "windows.json").stat().st_ino == written
    assert [path.name for path in folder.parent.iterdir()] == ["windows"]
