"""Fixtures of the tests of the data room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.squad import CONTEXT, Write


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write questions about CONTEXT (or whole articles) as a SQuAD-format file."""

    def write(*questions: Any, articles: Any = None, context: str = CONTEXT) -> Path:
        paragraphs = [{"context": context, "qas": list(questions)}]
        data = [{"title": "Music", "paragraphs": paragraphs}] if articles is None else articles
        path = tmp_path / "f.json"
        path.write_text(json.dumps({"version": "v2.0", "data": data}))
        return path

    return write
