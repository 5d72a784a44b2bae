"""A trained model from wherever it was left: a run, a checkpoint, a folder, or none at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DistilBertModel

from qa_lightning.errors import UserError
from qa_lightning.model.checkpoint import read_checkpoint
from qa_lightning.model.trained_model import WINDOWS, TrainedModel
from tests.helpers.command import call, options_of


def test_a_run_that_was_stopped_has_its_checkpoints(
    tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
) -> None:
    fitted = call("fit", *options_of(tiny_encoder, squad_files, tmp_path / "fitted"))
    assert fitted.status == 0, fitted.err
    whole = tmp_path / "fitted" / "lightning_logs" / "version_0"
    content = read_checkpoint(whole / "checkpoints" / "best.ckpt")
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    for threshold, name in enumerate(("last.ckpt", "best.ckpt")):
        torch.save({**content, "null_threshold": float(threshold)}, checkpoints / name)
        assert TrainedModel.load(tmp_path / "run").settings.null_threshold == threshold


def test_an_encoder_that_was_never_trained_to_answer(tiny_encoder: Path, tmp_path: Path) -> None:
    DistilBertModel.from_pretrained(tiny_encoder).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="was not trained to answer"):
        TrainedModel.load(tmp_path)


def test_a_model_of_another_project_gets_windows_that_fit_it(tiny_encoder: Path) -> None:
    settings = TrainedModel.load(tiny_encoder).settings  # 128 positions
    assert (settings.windows.window, settings.windows.overlap) == (128, 32)
    assert settings.null_threshold is None


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ([], "windows must be an object"),
        ({"window": "64"}, "windows.window cannot be '64'"),
        ({"window": True}, "windows.window cannot be True"),
        ({"window": 64, "overlap": 60}, "windows cannot advance"),
    ],
)
def test_settings_that_make_no_sense(
    tiny_encoder: Path, tmp_path: Path, written: Any, told: str
) -> None:
    TrainedModel.load(tiny_encoder).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, WINDOWS: written}))
    with pytest.raises(UserError, match=told):
        TrainedModel.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere/", "There is no folder|cannot be the name"),
        ("nowhere/best.ckpt", "there is no checkpoint"),
        ("empty", "holds no model"),
        ("runs", "It holds runs; give one of them: .*version_1"),
        ("noise.ckpt", "cannot be loaded as a checkpoint"),
    ],
)
def test_what_is_no_model(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "empty").mkdir()
    for number in (0, 1):
        (tmp_path / "runs" / f"version_{number}").mkdir(parents=True)
    (tmp_path / "noise.ckpt").write_bytes(b"noise")
    with pytest.raises(UserError, match=told):
        TrainedModel.load(f"{tmp_path / name}{'/' if name.endswith('/') else ''}")
