"""Other encoders than DistilBERT, from fit to export: one path for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qa_lightning.inference.answerer import Answerer
from tests.helpers.command import QUIET, TINY_WINDOWS, call
from tests.helpers.data import squad_data
from tests.helpers.families import save_family
from tests.helpers.stopping import Crash


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("bert", ["--data.batching", "packed"]),
        ("bert", ["--model.as_distilbert", "true"]),
        ("roberta", ["--data.batching", "packed"]),
        ("deberta-v2", ["--model.layer_decay", "0.8"]),
        ("albert", []),
    ],
)
def test_train_resume_predict_and_answer(family: str, more: list[str], tmp_path: Path) -> None:
    encoder = save_family(family, tmp_path / "encoder", head=False)
    content = squad_data(7, seed=1)
    data = tmp_path / "data.json"
    data.write_text(json.dumps(content))
    options: list[Any] = [
        *(*QUIET, *TINY_WINDOWS, "--data.batch_size", 6, "--data.cache_dir", tmp_path / "cache"),
        *("--data.train", data, "--data.val", data),
    ]
    training = [*options, *more, "--model.pretrained", encoder, "--trainer.max_epochs", 2]
    stop = {
        "class_path": "tests.helpers.stopping.StopAt",
        "init_args": {"hook": "on_train_batch_start", "number": 7, "how": "crash"},
    }
    runs = [tmp_path / name / "lightning_logs" / "version_0" for name in ("whole", "stopped")]
    often = ("--checkpoint.every_n_train_steps", 2)
    whole = call("fit", *training, *often, "--trainer.default_root_dir", tmp_path / "whole")
    assert whole.status == 0, whole.err
    place = ("--trainer.default_root_dir", tmp_path / "stopped")
    with pytest.raises(Crash):
        call("fit", *training, *often, *place, "--trainer.callbacks+=" + json.dumps(stop))
    resumed = call("fit", *training, *often, *place, "--ckpt_path", "last")
    assert resumed.status == 0, resumed.err
    first, second = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in runs
    )
    assert all(torch.equal(first[name], second[name]) for name in first)

    # The encoder is no longer needed, and every way to use the model gives the same answers.
    (tmp_path / "encoder").rename(tmp_path / "gone")
    place = ("--trainer.default_root_dir", tmp_path / "predicted")
    best = runs[0] / "checkpoints" / "best.ckpt"
    predicted = call("predict", *options, *place, "--data.predict", data, "--ckpt_path", best)
    assert predicted.status == 0, predicted.err
    folder = tmp_path / "predicted" / "lightning_logs" / "predict" / "version_0"
    answers = json.loads((folder / "answers.json").read_text())
    asked = [
        (qa["id"], qa["question"], paragraph["context"])
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    ids, questions, contexts = zip(*asked, strict=True)
    for model in (runs[0], best, runs[0] / "model"):
        answerer = Answerer.from_pretrained(model, device="cpu", precision="32-true")
        found = answerer(list(questions), list(contexts))
        assert {name: one.text for name, one in zip(ids, found, strict=True)} == answers


def test_packing_is_refused_where_attention_looks_beyond_a_window(tmp_path: Path) -> None:
    encoder = save_family("deberta-v2", tmp_path / "encoder")
    data = tmp_path / "data.json"
    data.write_text(json.dumps(squad_data(3)))
    files = ("--data.train", data, "--data.val", data, "--data.cache_dir", tmp_path / "cache")
    place = ("--trainer.default_root_dir", tmp_path, "--data.batching", "packed")
    outcome = call("fit", *QUIET, *TINY_WINDOWS, *files, *place, "--model.pretrained", encoder)
    assert outcome.status == 2
    assert "--data.batching packed is not for deberta-v2" in outcome.err
