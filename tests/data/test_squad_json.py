"""JSON files are read as json.load reads them, or refused in a sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qa_lightning.data import squad_json
from qa_lightning.data.squad_json import ErrorCollector, iter_questions, read_json
from qa_lightning.errors import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(path: Path) -> Any:
    return read_json(path, "f.json")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=VALUES, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_gives_what_json_load_gives(
    tmp_path_factory: pytest.TempPathFactory, content: Any, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    path = tmp_path_factory.mktemp("json") / "f.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass" if ascii_only else "replace"))
    assert read(path) == json.loads(path.read_text())


@pytest.mark.parametrize("length", range(len('{"v": "1", "data": [{"a": 12}]}')))
def test_every_truncation_is_called_one(tmp_path: Path, length: int) -> None:
    path = tmp_path / "f.json"
    path.write_text('{"v": "1", "data": [{"a": 12}]}'[:length])
    with pytest.raises(UserError, match=r"f\.json: the file is (empty|cut off)"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>", "not valid JSON at line 1, column 1"),
        ('{"data": [], "data": []}', "twice"),
        ('{"data": []} x', "line 1, column 14: Extra data"),
        ('{"data": [] "v": 1}', "Expecting ',' delimiter"),
        ('{"data":\n [1 2]}', "line 2, column 5: Expecting ',' delimiter"),
        ("{data: []}", "double quotes"),
        ('{"data": [1,]}', "not valid JSON"),
        ('{"data": [' + "[" * 100_000, "nested too deeply"),
        ('{"data": [' + "9" * 5000 + "]}", "digits"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize("text", ["3", "{}", '{"data": {}}', '{"q1": "a prediction"}'])
def test_a_file_without_a_list_of_articles(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(UserError, match='f.json: there is no list "data"'):
        list(iter_questions(path, "f.json", ErrorCollector()))


HERE = "The keeper of the lighthouse was Tom Ashe until 1840."
ROWS = [
    {"id": "a", "question": "Who?", "answers": [{"text": "Tom Ashe", "answer_start": 33}]},
    {"id": "b", "question": "Why?", "answers": []},
]
FLAT = [
    {"id": "a", "question": "Who?", "answers": {"text": ["Tom Ashe"], "answer_start": [33]}},
    {"id": "b", "question": "Why?", "answers": {"text": [], "answer_start": []}},
]
PARAGRAPH = {"context": HERE, "qas": ROWS}
ARTICLE = {"title": None, "paragraphs": [PARAGRAPH]}


def lines(*values: Any) -> str:
    return "\n".join(map(json.dumps, values)) + "\n\n"


@pytest.mark.parametrize(
    ("text", "location"),
    [
        (json.dumps({"data": [ARTICLE]}, indent=1), "data[0].paragraphs[0].qas[1]"),
        (json.dumps([ARTICLE]), "[0].paragraphs[0].qas[1]"),
        (json.dumps(ARTICLE), "[0].paragraphs[0].qas[1]"),
        (json.dumps([PARAGRAPH], indent=1), "[0].qas[1]"),
        (json.dumps({"data": [PARAGRAPH]}), "data[0].qas[1]"),
        (json.dumps({"data": [{**PARAGRAPH, "qas": FLAT}]}), "data[0].qas[1]"),
        (json.dumps([{**row, "context": HERE} for row in ROWS], indent=1), "[1]"),
        (json.dumps({"data": [{**row, "context": HERE} for row in FLAT]}), "data[1]"),
        (lines(*({**row, "context": HERE, "title": None} for row in FLAT)), "line 2"),
        ("\n" + lines(*({**row, "context": HERE} for row in ROWS)), "line 3"),
        (lines({**PARAGRAPH, "qas": FLAT[:1]}, {**PARAGRAPH, "qas": ROWS[1:]}), "line 2.qas[0]"),
        (lines(ARTICLE, {"title": "none", "paragraphs": []}), "line 1.paragraphs[0].qas[1]"),
    ],
)
def test_every_shape_holds_the_same_questions(tmp_path: Path, text: str, location: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    for packed in (False, True):
        if packed:
            path.write_bytes(gzip.compress(path.read_bytes()))
        found = list(iter_questions(path, "f.json", ErrorCollector()))
        assert found[-1].location == f"f.json: {location}"
        for raw, row in zip(found, ROWS, strict=True):
            assert {key: raw.record[key] for key in row} == row
            assert (raw.context, raw.title, raw.article) == (HERE, "", 0)


def test_rows_of_a_title_are_an_article(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    titles = ["one", None, "two", "one", None]
    rows = [
        {"id": n, "title": t, "context": f"c{n}", "question": "?"} for n, t in enumerate(titles)
    ]
    path.write_text(lines(*rows))
    found = list(iter_questions(path, "f.jsonl", ErrorCollector()))
    assert [raw.article for raw in found] == [0, 1, 2, 0, 3]
    assert [raw.record["id"] for raw in found] == ["0", "1", "2", "3", "4"]


def test_a_bad_line_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    good = json.dumps({**ROWS[0], "context": HERE})
    path.write_text("\n".join([good, "", '{"id": ', "7", '{"id": "c"}', good, good[:-1]]))
    problems: list[str] = []
    assert len(list(iter_questions(path, "f.jsonl", ErrorCollector(problems)))) == 2
    assert problems == [
        "f.jsonl: not valid JSON at line 3, column 7: Expecting value",
        "f.jsonl: line 4: expected an object, found 7",
        'f.jsonl: line 5: the key "paragraphs" is missing',
        f"f.jsonl: not valid JSON at line 7, column {len(good)}: Expecting ',' delimiter",
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("f.csv", "id,context\n", r"\.csv files are not read; give SQuAD's JSON, or JSON lines"),
        ("f.parquet", "PAR1", r'Dataset\.from_parquet\("f\.parquet"\)\.to_json'),
        ("f.json", '[{"question": "?", "positive_ctxs": []}]', r"\[0\]: DPR's data are not read"),
        ("f.jsonl", lines({"header": {}}, {"context": "c"}), "line 1: MRQA's data are not read"),
        ("f.json", '[{"supporting_facts": [], "context": [["t", ["s"]]]}]', "HotpotQA's data"),
        (
            "f.jsonl",
            lines(*[{"long_answer_candidates": []}] * 2),
            "line 1: Natural Questions' data",
        ),
    ],
)
def test_other_shapes_are_refused_by_their_name(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=words):
        list(iter_questions(path, name, ErrorCollector()))


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "named-as-it-likes"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"data": ["\xc3\xa9"]}'))
    assert read(path) == {"data": ["é"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(json.dumps({"data": list(range(9999))}).encode())[:-5000], "gzip"),
        (gzip.compress(b'{"data": []}')[:-3], "gzip"),
        (b"\x1f\x8b and something else", "gzip"),
        ('{"data": ["é"]}'.encode("utf-16"), "not UTF-8"),
        (b'{"data": ["\xff"]}', "not UTF-8"),
    ],
)
def test_damaged_bytes_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize("gzipped", [False, True])
def test_a_file_that_would_take_too_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gzipped: bool
) -> None:
    """Counted after decompression: a small file can hold a large one."""
    monkeypatch.setattr(squad_json, "MAX_BYTES", 2 << 20)
    path = tmp_path / "f.json"
    for spaces in ((2 << 20) - 2, (2 << 20) - 1):
        content = b"[" + b" " * spaces + b"]"
        path.write_bytes(gzip.compress(content) if gzipped else content)
        if len(content) == 2 << 20:
            assert read(path) == []
    with pytest.raises(UserError, match="f.json: larger than 2 MiB.* split it into several files"):
        read(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(UserError, match=r"f\.json: cannot be read"):
            read(path)
