"""The streaming reader agrees with json.load, wherever its window ends."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qa_lightning.data import json_stream
from qa_lightning.data.json_stream import elements
from qa_lightning.errors import UserError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(path: Path) -> list[Any]:
    return list(elements(path, "data", "f.json"))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    before=st.dictionaries(st.text(min_size=5), VALUES, max_size=2),
    data=st.lists(VALUES, max_size=5),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_gives_what_json_load_gives(
    tmp_path_factory: pytest.TempPathFactory,
    before: dict[str, Any],
    data: list[Any],
    indent: int | None,
    ascii_only: bool,
    chunk: int,
) -> None:
    text = json.dumps({**before, "data": data, "last": 1}, indent=indent, ensure_ascii=ascii_only)
    path = tmp_path_factory.mktemp("json") / "f.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass" if ascii_only else "replace"))
    expected = json.loads(path.read_text())["data"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK", chunk)
        assert read(path) == expected


@pytest.mark.parametrize("length", range(len('{"v": "1", "data": [{"a": 12}]}')))
@pytest.mark.parametrize("chunk", [3, 1000])
def test_every_truncation_is_called_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "f.json"
    path.write_text('{"v": "1", "data": [{"a": 12}]}'[:length])
    with pytest.raises(UserError, match=r"f\.json: the file is (empty|cut off)"):
        read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>", "not valid JSON at character 0"),
        ("[]", 'no list "data"'),
        ("3", 'no list "data"'),
        ("{}", 'no list "data"'),
        ('{"data": {}}', 'no list "data"'),
        ('{"data": [], "data": []}', "twice"),
        ('{"data": []} x', "more text after the end"),
        ('{"data": [] "v": 1}', "expected ','"),
        ('{"data": [1 2]}', "expected ','"),
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


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "named-as-it-likes"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"data": ["\xc3\xa9"]}'))
    assert read(path) == ["é"]


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


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(UserError, match=r"f\.json: cannot be read"):
            read(path)
