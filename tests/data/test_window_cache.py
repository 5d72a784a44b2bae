"""Windows written in parts are those of the whole, and survive the way to disk and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qa_lightning.data.squad import SquadTables, iter_chunks, read_squad
from qa_lightning.data.window_cache import open_windows, save_windows
from qa_lightning.data.windows import Ragged, Windows, WindowSettings, make_windows
from qa_lightning.errors import UserError
from tests.helpers.data import squad_data

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


@pytest.mark.parametrize("questions", [1, 7, 20, 10_000])
def test_parts_on_disk_are_the_whole_in_memory(
    tables: SquadTables, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, questions: int
) -> None:
    pieces = [make_windows(part, tokenizer, SIZES) for part in iter_chunks(tables, questions)]
    assert (len(pieces) > 1) == (questions < tables.questions.num_rows)
    save_windows(iter(pieces), tables.report, tmp_path / "windows")
    assert_equal(open_windows(tmp_path / "windows"), make_windows(tables, tokenizer, SIZES))
    assert list(tmp_path.glob(".*")) == []  # nothing left of the building


def test_tables_on_disk_are_those_in_memory(tmp_path: Path, squad_files: dict[str, Path]) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    on_disk, in_memory = read_squad(squad_files["train"], folder), read_squad(squad_files["train"])
    assert on_disk.questions == in_memory.questions
    assert on_disk.contexts == in_memory.contexts
    assert on_disk.report == in_memory.report


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
    save_windows([windows], tables.report, tmp_path / "windows")
    found = open_windows(tmp_path / "windows")
    assert_equal(found, windows)
    assert (len(found.context_ids.values), found.untokenizable_answers, len(found)) == (0, 1, 1)


@pytest.mark.parametrize("name", ["context_ids.npy", "questions.arrow", "windows.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut"])
def test_a_damaged_cache_is_said_so(
    tables: SquadTables,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    name: str,
    damage: str,
) -> None:
    folder = tmp_path / "windows"
    save_windows([make_windows(tables, tokenizer, SIZES)], tables.report, folder)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "gone":
        (folder / name).write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(UserError, match="windows cannot be read .*remove that folder"):
        open_windows(folder)


def test_a_failure_leaves_nothing_behind(
    tables: SquadTables, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    def failing() -> Any:
        yield make_windows(tables, tokenizer, SIZES)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        save_windows(failing(), tables.report, tmp_path / "cache" / "windows")
    assert list((tmp_path / "cache").iterdir()) == []


@settings(max_examples=50, deadline=None)
@given(order=st.lists(st.integers(0, 11), min_size=1, max_size=40), most=st.integers(1, 50))
def test_no_context_is_in_two_parts(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], most: int
) -> None:
    """Whatever order the questions of a hub dataset have."""
    path = tmp_path_factory.getbasetemp() / "parts.json"
    path.write_text(json.dumps(squad_data(12)))
    whole = read_squad(path)
    numbers = {context: row for row, context in enumerate(dict.fromkeys(order))}
    questions = whole.questions.take([4 * context for context in order])
    column = np.array([numbers[context] for context in order], np.int32)
    questions = questions.set_column(1, whole.questions.schema.field("context"), [column])
    tables = SquadTables(whole.contexts.take(list(numbers)), questions, whole.report)

    pieces = list(iter_chunks(tables, most))
    texts = [part.contexts["text"].to_pylist() for part in pieces]
    assert [text for of_part in texts for text in of_part] == tables.contexts["text"].to_pylist()
    asked = [
        (row["id"], texts[n][row["context"]])
        for n, part in enumerate(pieces)
        for row in part.questions.to_pylist()
    ]
    all_texts = tables.contexts["text"].to_pylist()
    assert asked == [(row["id"], all_texts[row["context"]]) for row in questions.to_pylist()]
    if sorted(column) == column.tolist():
        longest = max(np.bincount(column))
        assert all(part.questions.num_rows < most + longest for part in pieces)
