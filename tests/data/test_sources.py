"""Where questions come from: local files, the official ones, packages, the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from qa_lightning.data import sources
from qa_lightning.data.download import OFFICIAL, sha256_of
from qa_lightning.data.selection import Selection
from qa_lightning.data.sources import Source, resolve_source
from qa_lightning.data.squad import read_squad
from qa_lightning.errors import UserError
from tests.helpers.squad import CONTEXT, Write, answer, check, question


def test_local_files_are_known_by_their_content(write: Write, tmp_path: Path) -> None:
    path = write(question("a", answer("oboe")))
    source = resolve_source(str(path), "dev", tmp_path / "downloads")
    assert source == Source(str(path), path, sha256_of(path), split="train")
    assert read_squad(source).report.questions == 1
    assert not (tmp_path / "downloads").exists()


def test_a_file_of_an_installed_package(tmp_path: Path) -> None:
    name = "package:qa_lightning/data/sample/train.json"
    source = resolve_source(name, "train", tmp_path)
    assert source.name == name and source.path is not None
    assert read_squad(source).report.questions == 3024
    with pytest.raises(UserError, match="is a folder"):
        resolve_source("package:qa_lightning/data/sample", "train", tmp_path)
    with pytest.raises(UserError, match="holds no data/sample/absent.json"):
        resolve_source("package:qa_lightning/data/sample/absent.json", "train", tmp_path)


def test_nothing_means_the_official_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(url: str, folder: Path, *, sha256: str | None = None) -> Path:
        asked.append((url, folder, sha256))
        return folder / "there.json"

    monkeypatch.setattr(sources, "download", download)
    source = resolve_source(None, "dev", tmp_path)
    official = OFFICIAL["dev"]
    assert asked == [(official.url, tmp_path, official.sha256)]
    assert source == Source("dev-v2.0.json", tmp_path / "there.json", official.sha256)


@pytest.mark.parametrize(
    "absent",
    [
        "absent.json",
        "absent.jsonl",
        "org/absent.csv",
        "some/absent.json.gz",
        "/a/b/c",
        "../x",
        "a b",
        "x\0.json",
    ],
)
def test_a_missing_file_is_said_so(tmp_path: Path, absent: str) -> None:
    with pytest.raises(UserError, match=r"no such file|cannot be read"):
        resolve_source(absent, "train", tmp_path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for folder in (str(tmp_path), ""):
        with pytest.raises(UserError, match="is a folder"):
            resolve_source(folder, "train", tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Put columns on a hub that answers without a network."""
    sources._hub_split.cache_clear()
    monkeypatch.setattr(sources, "reachable", lambda url: True)

    def put(columns: dict[str, Any]) -> None:
        def load(name: str, split: str) -> datasets.Dataset:
            assert (name, split) == ("org/name", "validation")
            return datasets.Dataset.from_dict(columns)

        monkeypatch.setattr(datasets, "load_dataset", load)
        sources._hub_split.cache_clear()

    return put


def columns() -> dict[str, Any]:
    return {
        "id": ["a", "b", "c", "d"],
        "title": ["Music", "Rain", "Music", "Music"],
        "context": [CONTEXT, "It rains.", CONTEXT, CONTEXT],
        "question": ["1?", "2?", "3?", "4?"],
        "answers": [
            {"text": ["oboe", "Ana"], "answer_start": [45, 32]},
            {"text": [], "answer_start": []},
            {"text": ["cello"], "answer_start": [14]},
            None,
        ],
    }


def test_a_hub_dataset(hub: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    hub(columns())
    source = resolve_source("org/name", "dev", tmp_path)
    assert (source.path, source.name) == (None, "org/name")
    tables = read_squad(source)
    check(tables)
    assert tables.contexts.to_pylist() == [
        {"article": 0, "title": "Music", "text": CONTEXT},
        {"article": 1, "title": "Rain", "text": "It rains."},
    ]
    assert tables.questions["context"].to_pylist() == [0, 1, 0, 0]
    assert tables.questions["labelled"].to_pylist() == [True, True, True, False]
    assert tables.questions["answers"][0].as_py() == [
        {"text": "oboe", "start": 45},
        {"text": "Ana", "start": 31},
    ]
    assert tables.report.shifted == ("a",)

    sampled = Selection(max_questions=1, seed=0).of(
        tables
    )  # the rows of a context are not neighbours
    check(sampled)

    hub(columns())
    assert resolve_source("org/name", "dev", tmp_path) == source
    hub(columns() | {"question": ["1?", "2?", "3?", "4!"]})
    assert resolve_source("org/name", "dev", tmp_path).digest != source.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": [1.5, 2, 3, 4]}, 'org/name: row 0: "id" must be a string, but is 1.5'),
        (
            {"question": ["1?", None, "3?", "4?"]},
            'question "b": "question" must be a string, but is null',
        ),
        (
            {"context": [CONTEXT, None, CONTEXT, ""]},
            'row 1: "context" must be a string, but is null',
        ),
        (
            {"answers": [{"text": ["oboe"], "answer_start": []}] * 4},
            "row 0: 1 answer texts but 0 answer starts",
        ),
        ({"answers": [3, 4, 5, 6]}, '"answers" must be a list, but is 3'),
    ],
)
def test_bad_hub_datasets(
    hub: Callable[[dict[str, Any]], None], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    hub(columns() | change)
    with pytest.raises(UserError, match=message):
        read_squad(resolve_source("org/name", "dev", tmp_path))


def test_a_hub_dataset_without_squads_columns(
    hub: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    hub({"text": ["a"], "id": ["1"]})
    with pytest.raises(UserError, match="has no column context, question"):
        resolve_source("org/name", "dev", tmp_path)


def test_a_hub_out_of_reach_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sources, "reachable", lambda url: False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(
        UserError, match=r"no such file, and the hub dataset of that name .* quickstart"
    ):
        resolve_source("org/absent", "dev", tmp_path)
    assert datasets.config.HF_HUB_OFFLINE is False
