"""What TensorBoard is given while a model trains, and what a run leaves to look at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QuestionAnsweringModule
from qa_lightning.training.panels import LAYOUT, ValidationPanels
from tests.helpers.command import QUIET, TINY_WINDOWS, call
from tests.helpers.data import squad_data
from tests.helpers.stopping import Crash, StopAt


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    events.Reload()
    return events


def texts(events: EventAccumulator, tag: str) -> dict[int, str]:
    """Texts by step; a step has one."""
    found = [(each.step, each.tensor_proto.string_val[0].decode()) for each in events.Tensors(tag)]
    assert len(dict(found)) == len(found)
    return dict(found)


def fit(
    encoder: Path, files: dict[str, Path], *callbacks: Callback, **options: Any
) -> QuestionAnsweringModule:
    """Train on tiny data: three steps an epoch, two epochs."""
    seed_everything(1, verbose=False)
    module = QuestionAnsweringModule(str(encoder))
    data = SquadDataModule(
        str(encoder),
        str(files["train"]),
        str(files["val"]),
        window=64,
        overlap=16,
        max_question_tokens=16,
        batch_size=16,
        eval_batch_size=4,
    )
    usual = {
        **{"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1},
        **{"enable_progress_bar": False, "enable_model_summary": False},
        **{"enable_checkpointing": False},
    }
    trainer = Trainer(callbacks=[ValidationPanels(), *callbacks], **(usual | options))
    trainer.fit(module, datamodule=data)
    return module


@pytest.fixture(scope="module")
def shown(
    tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EventAccumulator, QuestionAnsweringModule]:
    """A run with two validations, and what it left for TensorBoard."""

    folder = tmp_path_factory.mktemp("shown")
    files = {"train": folder / "train.json", "val": folder / "val.json"}
    files["train"].write_text(json.dumps(squad_data(12, seed=1)))
    files["val"].write_text(json.dumps(squad_data(5, seed=2)))
    logger = TensorBoardLogger(folder, default_hp_metric=False)
    module = fit(tiny_encoder, files, logger=logger)
    return read(Path(logger.log_dir)), module


class TestInsight:
    def test_shows_the_same_questions_at_every_validation(
        self, shown: tuple[EventAccumulator, QuestionAnsweringModule]
    ) -> None:
        events, module = shown
        tables = texts(events, "val/examples/text_summary")
        # The steps of the scalars: whatever takes one back takes both.
        assert list(tables) == [point.step for point in events.Scalars("val/exact")]
        assert len(tables) == 2
        asked = []
        for table in tables.values():
            rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
            asked.append([row[1] for row in rows])
            golds = [row[3] == "no answer" for row in rows]
            assert golds == [False] * 4 + [True] * 4
        assert asked[0] == asked[1]
        questions = module.datamodule.windows("val").questions
        assert set(asked[0]) <= set(questions.column("text").to_pylist())

    def test_draws_the_threshold_at_every_validation(
        self, shown: tuple[EventAccumulator, QuestionAnsweringModule]
    ) -> None:
        events, _ = shown
        images = events.Images("val/no_answer")
        assert [image.step for image in images] == [
            point.step for point in events.Scalars("val/exact")
        ]
        assert {(image.width, image.height) for image in images} == {(500, 420)}

    def test_lays_out_curves_that_exist(
        self, shown: tuple[EventAccumulator, QuestionAnsweringModule]
    ) -> None:
        events, _ = shown
        (written,) = events.Tensors("custom_scalars__config__")
        layout = Layout.FromString(written.tensor_proto.string_val[0])
        charts = {
            category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
            for category in layout.category
        }
        assert charts == LAYOUT
        names = events.Tags()["scalars"]
        missing = {
            pattern
            for charts in LAYOUT.values()
            for patterns in charts.values()
            for pattern in patterns
            if not any(re.match(pattern, name) for name in names)
        }
        # Made by others: LearningRateMonitor, Throughput, and a threshold that was tuned.
        assert missing == {
            *("lr-.*pg1$", "throughput/windows_per_s$", "throughput/mfu$", "throughput/padding$"),
            *("val/tuned_exact$", "val/tuned_f1$"),
        }

    def test_part_of_the_data_is_shown_as_such(
        self, tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
    ) -> None:
        logger = TensorBoardLogger(tmp_path)
        fit(tiny_encoder, squad_files, logger=logger, max_epochs=1, limit_val_batches=1)
        (table,) = texts(read(Path(logger.log_dir)), "val/examples/text_summary").values()
        assert len([line for line in table.splitlines() if line.startswith("| ")]) == 2 + 4

    def test_without_tensorboard_nothing_is_shown(
        self,
        tiny_encoder: Path,
        squad_files: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(*_: Any) -> None:
            raise AssertionError("shown to nobody")

        monkeypatch.setattr(ValidationPanels, "_show", refuse)
        fit(tiny_encoder, squad_files, logger=CSVLogger(tmp_path), max_epochs=1)
        fit(tiny_encoder, squad_files, logger=False, max_epochs=1)
        tensorboard = TensorBoardLogger(tmp_path)
        fit(tiny_encoder, squad_files, logger=tensorboard, fast_dev_run=True)
        # The sanity check is before the training, and shows nothing.
        stop = StopAt("on_train_start", 1, "crash")
        with pytest.raises(Crash):
            fit(tiny_encoder, squad_files, stop, logger=tensorboard, num_sanity_val_steps=1)

    def test_questions_of_one_kind_have_no_figure(
        self, tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
    ) -> None:

        content = json.loads(squad_files["val"].read_text())
        for article in content["data"]:
            asked = article["paragraphs"][0]["qas"]
            article["paragraphs"][0]["qas"] = [each for each in asked if each["answers"]]
        squad_files["val"].write_text(json.dumps(content))
        logger = TensorBoardLogger(tmp_path)
        fit(tiny_encoder, squad_files, logger=logger, max_epochs=1)
        events = read(Path(logger.log_dir))
        assert texts(events, "val/examples/text_summary")
        assert "val/no_answer" not in events.Tags()["images"]


class TestCourse:
    """What `fit` leaves of its course."""

    @staticmethod
    def options(encoder: Path, files: dict[str, Path], folder: Path) -> list[Any]:
        return [
            *(*QUIET, *TINY_WINDOWS, "--model.pretrained", encoder, "--data.batch_size", 6),
            *("--data.train", files["train"], "--data.val", files["val"]),
            *("--trainer.max_epochs", 2, "--trainer.log_every_n_steps", 2),
            *("--trainer.default_root_dir", folder, "--checkpoint.every_n_train_steps", 3),
        ]

    def test_a_resumed_run_has_the_course_of_one_that_was_not_stopped(
        self, tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
    ) -> None:
        folders = {name: tmp_path / name for name in ("whole", "stopped")}
        for name, folder in folders.items():
            options = self.options(tiny_encoder, squad_files, folder)
            if name == "stopped":
                stop = (
                    '{"class_path": "tests.helpers.stopping.StopAt", "init_args": '
                    '{"hook": "on_train_batch_start", "number": 15, "how": "crash"}}'
                )
                with pytest.raises(Crash):
                    call("fit", *options, f"--trainer.callbacks+={stop}")
            outcome = call("fit", *options, "--ckpt_path", "last")
            assert outcome.status == 0, outcome.err
            run = folder / "lightning_logs" / "version_0"
            assert str(run / "learning_curve.png") in outcome.out
            with Image.open(run / "learning_curve.png") as picture:
                assert picture.size == (800, 600)
        kept = {}
        for name, folder in folders.items():
            last = folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
            kept[name] = torch.load(last, weights_only=True)["callbacks"]["SaveBestModel"]
        assert list(kept["whole"]["losses"]) == list(range(2, 23, 2))
        assert kept["stopped"]["losses"] == kept["whole"]["losses"]
        steps = [[each["step"] for each in state["history"]] for state in kept.values()]
        assert steps == [[11, 22], [11, 22]]
        events = read(folders["whole"] / "lightning_logs" / "version_0")
        logged = {point.step + 1: point.value for point in events.Scalars("train/loss")}
        assert kept["whole"]["losses"] == pytest.approx(logged)

    def test_hyperparameters_tell_runs_apart(
        self, tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
    ) -> None:
        options = self.options(tiny_encoder, squad_files, tmp_path)
        outcome = call("fit", *options, "--trainer.accumulate_grad_batches", 2)
        assert outcome.status == 0, outcome.err
        events = read(tmp_path / "lightning_logs" / "version_0")
        content = {
            name: HParamsPluginData.FromString(metadata.plugin_data.content)
            for name, metadata in events.summary_metadata.items()
            if name.startswith("_hparams_")
        }
        given = content["_hparams_/session_start_info"].session_start_info.hparams
        assert given["batch_size"].number_value == 12
        assert given["epochs"].number_value == 2
        assert given["learning_rate"].number_value == 5e-5
        assert len(given) < 20  # the page is read by people
        compared = content["_hparams_/experiment"].experiment.metric_infos
        assert {each.name.tag for each in compared} == {
            *("best/exact", "best/f1", "best/loss", "run/windows_per_s"),
        }
        scalars = {name: [p.value for p in events.Scalars(name)] for name in ("best/exact",)}
        assert scalars["best/exact"][0] in [p.value for p in events.Scalars("val/exact")]
