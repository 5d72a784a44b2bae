"""A run's folder says what was run, on what, with which versions."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from qa_lightning import __version__
from qa_lightning.errors import UserError
from qa_lightning.model.run_folder import RECORD
from qa_lightning.training import run_record
from qa_lightning.training.run_record import RunRecord, weights_digest
from tests.helpers.trainer import make_parts, make_trainer


def test_what_it_holds(
    tmp_path: Path,
    tiny_encoder: Path,
    squad_files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(run_record, "rank_zero_info", said.append)
    logger = CSVLogger(tmp_path, name="logs", version="one")
    checkpoint = tmp_path / "run.ckpt"
    digests = []
    for path in (None, checkpoint):  # started, and resumed in the same folder
        module, data = make_parts(tiny_encoder, squad_files)
        digests.append(weights_digest(module.encoder))
        trainer = make_trainer(
            tmp_path,
            RunRecord(),
            logger=logger,
            accumulate_grad_batches=3,
            limit_train_batches=2,
            max_epochs=2 if path else 1,
            enable_checkpointing=False,
        )
        trainer.fit(module, data, ckpt_path=path, weights_only=True)
        trainer.save_checkpoint(checkpoint)
    first, second = json.loads((tmp_path / "logs" / "one" / RECORD).read_text(encoding="utf-8"))
    assert first["command"] == shlex.join(sys.orig_argv)
    assert first["versions"]["torch"] == version("torch")
    assert first["versions"]["qa_lightning"] == __version__
    assert {"python", "lightning", "transformers", "tokenizers", "datasets"} <= {*first["versions"]}
    for split in ("train", "val"):
        content = squad_files[split].read_bytes()
        assert first["data"][split] == {
            "name": str(squad_files[split]),
            "sha256": hashlib.sha256(content).hexdigest(),
            "questions": content.count(b'"question"'),
        }
    batch = {"batch_size": 4, "processes": 1, "nodes": 1, "accumulated": 3, "effective": 12}
    assert first["batch"] == batch
    assert first["precision"] == "32-true" and first["device"].startswith("cpu")
    assert first["weights"]["sha256"] == digests[0]  # of what training started from
    assert digests[0] != weights_digest(module.encoder)
    assert second["weights"] == {"checkpoint": str(checkpoint)}
    differing = {"started", "weights"}
    assert {key for key in first if first[key] != second[key]} | {"started"} == differing
    assert [line for line in said if "effective batch size: 12 = 4" in line] == said != []


@pytest.mark.parametrize("fast_dev_run", [True, False])
def test_without_a_run_folder_nothing_is_written(
    fast_dev_run: bool,
    tmp_path: Path,
    tiny_encoder: Path,
    squad_files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(run_record, "rank_zero_info", said.append)
    monkeypatch.chdir(tmp_path)
    trainer = make_trainer(
        tmp_path,
        RunRecord(),
        logger=fast_dev_run,
        fast_dev_run=fast_dev_run,
        limit_train_batches=1,
        max_epochs=1,
        enable_checkpointing=False,
    )
    trainer.fit(*make_parts(tiny_encoder, squad_files))
    assert not list(tmp_path.rglob(RECORD))
    assert said == []  # the effective batch size is what was asked for


def test_a_record_that_is_damaged_is_not_overwritten(
    tmp_path: Path, tiny_encoder: Path, squad_files: dict[str, Path]
) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    (tmp_path / RECORD).write_text("[{")
    trainer = make_trainer(tmp_path, RunRecord(), logger=logger, enable_checkpointing=False)
    with pytest.raises(UserError, match=rf"{RECORD} cannot be written"):
        trainer.fit(*make_parts(tiny_encoder, squad_files))
    assert (tmp_path / RECORD).read_text() == "[{"


def test_the_digest_tells_weights_apart() -> None:
    one = torch.nn.Linear(2, 3)
    digest = weights_digest(one)
    assert digest == weights_digest(one) and len(digest) == 64
    with torch.no_grad():
        one.weight[0, 0] += 1e-3
    assert digest != weights_digest(one)
    assert weights_digest(one.to(torch.bfloat16)) != weights_digest(one.to(torch.float32))
