"""What training and evaluation say of data that a model cannot read whole or learn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import QUIET, TINY_WINDOWS, call
from tests.helpers.data import squad_data


@pytest.fixture
def options(tiny_encoder: Path, tmp_path: Path) -> list[Any]:
    place = ("--trainer.default_root_dir", tmp_path, "--data.cache_dir", tmp_path / "cache")
    return [*QUIET, *TINY_WINDOWS, "--model.pretrained", tiny_encoder, *place]


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_cut_questions_are_told_from_the_cache_too(options: list[Any], tmp_path: Path) -> None:
    content = squad_data(3)
    asked = content["data"][1]["paragraphs"][0]["qas"]
    asked[0]["question"] = "who " * 20 + "founded it?"
    file = write(tmp_path / "asked.json", content)
    told = "1 question longer than 16 tokens: the middle is cut out (--data.max_question_tokens): "
    told += f'"{asked[0]["id"]}"'
    for command, option in (("validate", "val"), ("validate", "val"), ("predict", "predict")):
        outcome = call(command, *options, f"--data.{option}", file)
        assert outcome.status == 0, outcome.err
        assert f"warning: {file}: {told}\n" in outcome.out
    report = tmp_path / "lightning_logs" / "validate" / "version_1" / "report.json"
    (cut,) = json.loads(report.read_text())["breakdowns"]["cut_questions"]
    assert cut["count"] == 1


def test_the_wrong_vocabulary_is_told(options: list[Any], tmp_path: Path) -> None:
    content = squad_data(3)
    for article in content["data"]:
        article["paragraphs"][0]["context"] += " 长江是亚洲第一长河" * 5
    file = write(tmp_path / "asked.json", content)
    outcome = call("predict", *options, "--data.predict", file)
    assert outcome.status == 0, outcome.err
    assert "% of the contexts' tokens and 0.0 % of the questions' are not in" in outcome.out


def test_a_model_that_learns_no_answer_from_long_contexts(
    options: list[Any], tmp_path: Path
) -> None:
    """One window in ten holds the answer: it is told at the start, and when the model collapses."""
    content = squad_data(12)
    for article in content["data"]:
        (paragraph,) = article["paragraphs"]
        paragraph["context"] += " people built a small old bridge." * 60
        del paragraph["qas"][1:]
    file = write(tmp_path / "long.json", content)
    files = ("--data.train", file, "--data.val", file, "--trainer.max_epochs", 1)
    never = ("--model.null_threshold=-1000",)  # stands for a model that says "no answer" only
    outcome = call("fit", *options, *files, *never)
    assert outcome.status == 0, outcome.err
    share = outcome.out.split("% of the windows hold no answer")[0].rsplit("train: ", 1)[1].strip()
    assert 75 < float(share) < 100
    assert "100.0 % of the questions were answered with 'no answer'" in outcome.out
    assert f"an answer, {share} % of those trained on, weigh less" in outcome.out
    weighed = call("fit", *options, *files, *never, "--model.unanswerable_share", 0.5)
    assert weighed.status == 0, weighed.err
    assert "hold no answer: a model" not in weighed.out
