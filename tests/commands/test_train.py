"""The commands, end to end on tiny data: what they write, say and reproduce."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from qa_lightning.commands import score, train
from qa_lightning.model import hardware
from qa_lightning.training.module import QuestionAnsweringModule
from tests.helpers.command import (
    QUIET,
    TINY_WINDOWS,
    Outcome,
    call,
    files_under,
    options_of,
    scalars,
)
from tests.helpers.data import REPOSITORY, squad_data


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = weights_of(one), weights_of(other)
    assert mine.keys() == theirs.keys()
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


@dataclass(frozen=True)
class Fitted:
    """A finished run, the encoder of which is gone."""

    outcome: Outcome
    run: Path
    labelled: Path
    unlabelled: Path
    shared: list[Any]  # options that every command on it needs

    @property
    def best(self) -> Path:
        return self.run / "checkpoints" / "best.ckpt"

    def figures(self) -> dict[str, float]:
        """What was logged of the best validation."""
        curves = {name: values for name, values in scalars(self.run).items() if "val/" in name}
        best = curves["val/exact"].index(max(curves["val/exact"]))
        return {name: values[best] for name, values in curves.items()}

    def call(self, command: str, folder: Path, *options: Any) -> tuple[Outcome, dict[str, float]]:
        """Run a command on the best checkpoint; give the figures that it logged."""
        outcome = call(
            command,
            *self.shared,
            *("--trainer.default_root_dir", folder, "--ckpt_path", self.best),
            *options,
        )
        assert outcome.status == 0, outcome.err
        curves = scalars(folder / "lightning_logs" / command / "version_0")
        return outcome, {name: value for name, (value,) in curves.items() if "/" in name}


@pytest.fixture(scope="module")
def fitted(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Learn a small file by heart, validating on that very file."""
    root = tmp_path_factory.mktemp("fitted")
    encoder = shutil.copytree(tiny_encoder, root / "encoder")
    labelled, unlabelled = root / "labelled.json", root / "unlabelled.json"
    labelled.write_text(json.dumps(squad_data(12, seed=1)))
    unlabelled.write_text(json.dumps(squad_data(3, seed=3, answers=False)))
    shared = [*QUIET, *TINY_WINDOWS, "--data.cache_dir", root / "cache"]
    outcome = call(
        "fit",
        *shared,
        *("--model.pretrained", encoder, "--data.train", labelled, "--data.val", labelled),
        *("--model.learning_rate", 3e-3, "--data.batch_size", 8),
        *("--trainer.max_epochs", 40, "--trainer.check_val_every_n_epoch", 10),
        *("--trainer.default_root_dir", root),
    )
    assert outcome.status == 0, outcome.err
    shutil.rmtree(encoder)
    return Fitted(outcome, root / "lightning_logs" / "version_0", labelled, unlabelled, shared)


class TestFit:
    def test_writes_the_run_folder(self, fitted: Fitted) -> None:
        names = {str(path.relative_to(fitted.run)) for path in files_under(fitted.run)}
        events = {name for name in names if name.startswith("events.out.tfevents")}
        assert events
        assert names - events == {
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "config.yaml",
            "hparams.yaml",
            "learning_curve.png",
            "model/config.json",
            "model/model.safetensors",
            "model/tokenizer.json",
            "model/tokenizer_config.json",
            "run.json",
        }

    def test_logs_every_curve(self, fitted: Fitted) -> None:
        curves = scalars(fitted.run)
        wanted = {"train/loss", "val/loss", "val/token_accuracy", "val/no_answer_rate"}
        for group in ("", "HasAns_", "NoAns_"):
            wanted |= {f"val/{group}exact", f"val/{group}f1", f"val/{group}total"}
        wanted |= {"val/best_exact", "val/best_exact_thresh", "val/best_f1", "val/best_f1_thresh"}
        assert wanted <= curves.keys()
        assert {len(curves[name]) for name in wanted - {"train/loss"}} == {4}
        rates = next(values for name, values in curves.items() if name.startswith("lr-"))
        assert max(rates) <= 3e-3
        assert rates[-1] < rates[len(rates) // 2]
        assert curves["val/total"] == [48.0] * 4

    def test_learns(self, fitted: Fitted) -> None:
        losses = scalars(fitted.run)["train/loss"]
        assert losses[-1] < losses[0] / 2
        figures = fitted.figures()
        assert figures["val/exact"] > 50  # always "no answer" gives 25
        assert figures["val/HasAns_exact"] > 60
        assert 0 < figures["val/no_answer_rate"] < 100

    def test_the_best_checkpoint_is_the_best(self, fitted: Fitted) -> None:
        content = torch.load(fitted.best, weights_only=True)
        states = content["callbacks"]
        (kept,) = (states[name] for name in states if "'monitor': 'val/exact'" in name)
        assert kept["best_model_score"].item() == max(scalars(fitted.run)["val/exact"])

    def test_the_last_checkpoint_is_the_newest_even_if_it_is_not_the_best(
        self, fitted: Fitted
    ) -> None:
        scores = scalars(fitted.run)["val/exact"]
        newest, best = (
            torch.load(fitted.run / "checkpoints" / f"{name}.ckpt", weights_only=True)[
                "global_step"
            ]
            for name in ("last", "best")
        )
        assert newest == 40 * 8
        assert best == (1 + scores.index(max(scores))) * 10 * 8

    def test_prints_a_summary(self, fitted: Fitted) -> None:
        figures = fitted.figures()
        out = fitted.outcome.out
        summary = out[out.index("Best model") :]
        assert f"EM {figures['val/exact']:.2f}   F1 {figures['val/f1']:.2f}" in summary
        assert f" answerable: EM {figures['val/HasAns_exact']:.2f}" in summary
        assert f"unanswerable: EM {figures['val/NoAns_exact']:.2f}" in summary
        assert f"'no answer': {figures['val/no_answer_rate']:.1f} %" in summary
        assert str(fitted.best) in summary
        assert str(fitted.run / "model") in summary
        assert str(fitted.run / "learning_curve.png") in summary
        assert f"tensorboard --logdir {fitted.run.parent}" in summary

    def test_hyperparameters_stand_beside_the_final_figures(self, fitted: Fitted) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        events = EventAccumulator(str(fitted.run))
        events.Reload()
        start = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        kept = HParamsPluginData.FromString(start).session_start_info.hparams
        assert kept["learning_rate"].number_value == 3e-3  # of the module
        assert kept["window"].number_value == 64  # of the datamodule
        final = scalars(fitted.run)
        assert final["best/exact"] == [fitted.figures()["val/exact"]]
        assert "hp_metric" not in final

    def test_the_model_folder_gives_the_same_logits(self, fitted: Fitted) -> None:
        from transformers import AutoTokenizer, DistilBertForQuestionAnswering

        module = QuestionAnsweringModule.load_from_checkpoint(fitted.best, map_location="cpu")
        module.eval()
        loaded = DistilBertForQuestionAnswering.from_pretrained(fitted.run / "model").eval()
        tokenizer = AutoTokenizer.from_pretrained(fitted.run / "model")
        encoded = tokenizer("which city is old?", "the city of paris is old.", return_tensors="pt")
        assert set(encoded) == {"input_ids", "attention_mask"}
        with torch.no_grad():
            theirs = loaded(**encoded)
            ours = module(encoded["input_ids"], encoded["attention_mask"].bool())
        expected = torch.stack([theirs.start_logits, theirs.end_logits], 2)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


class TestScoring:
    def test_validate_gives_what_fit_logged(self, fitted: Fitted, tmp_path: Path) -> None:
        """The checkpoint is enough: its encoder's folder is gone, and so is the cache."""
        outcome, figures = fitted.call(
            "validate",
            tmp_path,
            *("--data.val", fitted.labelled, "--data.cache_dir", tmp_path / "cache"),
        )
        assert figures == fitted.figures()
        assert "val: reading" in outcome.out

    def test_test_scores_under_its_own_name(self, fitted: Fitted, tmp_path: Path) -> None:
        _, figures = fitted.call("test", tmp_path, "--data.test", fitted.labelled)
        expected = fitted.figures()
        assert figures == {f"test/{name[4:]}": value for name, value in expected.items()}

    @pytest.mark.parametrize(("threshold", "no_answer_rate"), [(-1000.0, 100.0), (1000.0, 0.0)])
    def test_a_changed_null_threshold_counts(
        self, fitted: Fitted, tmp_path: Path, threshold: float, no_answer_rate: float
    ) -> None:
        _, figures = fitted.call(
            "validate",
            tmp_path,
            *("--data.val", fitted.labelled, f"--model.null_threshold={threshold}"),
        )
        assert figures["val/no_answer_rate"] == no_answer_rate
        assert figures["val/NoAns_exact"] == no_answer_rate
        best = fitted.figures()
        for name in ("val/best_exact", "val/best_f1", "val/loss"):  # these know no threshold
            assert figures[name] == best[name]

    def test_part_of_the_data_is_scored_as_such(self, fitted: Fitted, tmp_path: Path) -> None:
        _, figures = fitted.call(
            "validate",
            tmp_path,
            *("--data.val", fitted.labelled, "--data.eval_batch_size", 5),
            *("--trainer.limit_val_batches", 2),
        )
        assert 0 < figures["val/total"] <= 10

    def test_the_model_folder_scores_the_same(self, fitted: Fitted, tmp_path: Path) -> None:
        outcome = call(
            "validate",
            *fitted.shared,
            *("--model.pretrained", fitted.run / "model", "--data.val", fitted.labelled),
            *("--trainer.default_root_dir", tmp_path),
        )
        assert outcome.status == 0, outcome.err
        figures = scalars(tmp_path / "lightning_logs/validate/version_0")
        for name, value in fitted.figures().items():
            assert figures[name] == [value], name

    def test_no_configuration_is_saved_for_scoring(self, fitted: Fitted, tmp_path: Path) -> None:
        fitted.call("validate", tmp_path, "--data.val", fitted.labelled)
        assert not list(tmp_path.rglob("config.yaml"))

    def test_a_second_start_tokenises_nothing(
        self, fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("tokenised again")

        monkeypatch.setattr("qa_lightning.training.datamodule.make_windows", refuse)
        monkeypatch.setattr("qa_lightning.training.datamodule.read_squad", refuse)
        outcome, _ = fitted.call("validate", tmp_path, "--data.val", fitted.labelled)
        assert "val: windows found in the cache, nothing to tokenise" in outcome.out
        assert "tokenising" not in outcome.err


class TestPredict:
    @staticmethod
    def predict(
        fitted: Fitted, folder: Path, source: Path
    ) -> tuple[dict[str, str], dict[str, float]]:
        outcome = call(
            "predict",
            *fitted.shared,
            *("--trainer.default_root_dir", folder, "--ckpt_path", fitted.best),
            *("--data.predict", source),
        )
        assert outcome.status == 0, outcome.err
        written = folder / "lightning_logs" / "predict" / "version_0"
        assert str(written / "answers.json") in outcome.out
        return tuple(
            json.loads((written / f"{name}.json").read_text()) for name in ("answers", "null_odds")
        )

    def test_answers_every_question_in_the_files_order(
        self, fitted: Fitted, tmp_path: Path
    ) -> None:
        predictions, odds = self.predict(fitted, tmp_path, fitted.unlabelled)
        asked = {
            question["id"]: paragraph["context"]
            for article in json.loads(fitted.unlabelled.read_text())["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        }
        assert list(predictions) == list(odds) == list(asked)
        for name, text in predictions.items():
            assert text in asked[name]
            assert (text == "") == (odds[name] > 0)
        assert any(predictions.values())

    def test_its_files_score_as_validation_logged(
        self, fitted: Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.predict(fitted, tmp_path, fitted.labelled)
        written = tmp_path / "lightning_logs" / "predict" / "version_0" / "answers.json"
        assert score.run([str(fitted.labelled), str(written)]) == 0
        official = json.loads(capsys.readouterr().out)
        logged = fitted.figures()
        assert official
        assert official == pytest.approx({name: logged[f"val/{name}"] for name in official})


class TestReproducing:
    def test_seed_and_saved_config_fix_the_outcome(
        self, tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
    ) -> None:
        options = [
            *options_of(tiny_encoder, squad_files, tmp_path),
            "--trainer.precision",
            "32-true",
        ]
        assert call("fit", *options).status == 0
        runs = tmp_path / "lightning_logs"
        assert call("fit", "--config", runs / "version_0" / "config.yaml").status == 0
        assert call("fit", *options, "--seed_everything", 7).status == 0
        assert call("fit", *options, "--data.seed", 7).status == 0
        first, again, seeded, shuffled = (
            runs / f"version_{number}" / "checkpoints" / "last.ckpt" for number in range(4)
        )
        assert same_weights(first, again)
        assert scalars(runs / "version_0") == scalars(runs / "version_1")
        assert not same_weights(first, seeded)
        assert not same_weights(first, shuffled)

    def test_a_run_gone_on_from_keeps_what_it_wrote(
        self, tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
    ) -> None:
        options = [
            *(*options_of(tiny_encoder, squad_files, tmp_path), "--trainer.precision", "32-true"),
            *("--model.schedule", "constant", "--model.warmup", 0),
        ]
        runs = tmp_path / "lightning_logs"
        assert call("fit", *options).status == 0
        half = runs / "version_0" / "checkpoints" / "last.ckpt"
        content = half.read_bytes()
        assert call("fit", *options, "--trainer.max_epochs", 2).status == 0
        resumed = call("fit", *options, "--trainer.max_epochs", 2, "--ckpt_path", half)
        assert resumed.status == 0, resumed.err
        whole, joined = (
            runs / f"version_{number}" / "checkpoints" / "last.ckpt" for number in (1, 2)
        )
        assert same_weights(joined, whole)
        assert half.read_bytes() == content


class TestOverlays:
    def test_debug_writes_nothing(
        self,
        tiny_encoder: Path,
        squad_files: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        working = tmp_path / "working"
        working.mkdir()
        monkeypatch.chdir(working)
        outcome = call(
            "fit",
            *("--config", REPOSITORY / "configs" / "squad2.yaml"),
            *("--config", REPOSITORY / "configs" / "debug.yaml"),
            *QUIET,
            *TINY_WINDOWS,
            *("--model.pretrained", tiny_encoder, "--data.batch_size", 4),
            *("--data.train", squad_files["train"], "--data.val", squad_files["val"]),
        )
        assert outcome.status == 0, outcome.err
        assert files_under(working) == []
        assert "Best model" not in outcome.out

    def test_a_trial_run_writes_nothing(
        self, tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
    ) -> None:
        outcome = call(
            "fit",
            *options_of(tiny_encoder, squad_files, tmp_path),
            *("--trainer.fast_dev_run", "true"),
        )
        assert outcome.status == 0, outcome.err
        assert not (tmp_path / "lightning_logs").exists()

    def test_without_validation_the_newest_model_is_kept(
        self, tiny_encoder: Path, squad_files: dict[str, Path], tmp_path: Path
    ) -> None:
        outcome = call(
            "fit",
            *options_of(tiny_encoder, squad_files, tmp_path),
            *("--trainer.limit_val_batches", 0),
        )
        assert outcome.status == 0, outcome.err
        run = tmp_path / "lightning_logs" / "version_0"
        assert (run / "model" / "model.safetensors").is_file()
        assert same_weights(run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt")

    def test_the_later_config_wins_and_the_command_line_over_all(self, tmp_path: Path) -> None:
        contents = (
            {"model": {"learning_rate": 1e-3, "warmup": 0.3}, "data": {"window": 100}},
            {"model": {"learning_rate": 2e-3}, "data": {"window": 101}},
        )
        configs: list[Any] = []
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.yaml"
            path.write_text(yaml.safe_dump(content))
            configs += ["--config", path]
        outcome = call("fit", *configs, "--data.window", 102, "--print_config")
        assert outcome.status == 0, outcome.err
        printed = yaml.safe_load(outcome.out)
        assert printed["model"]["learning_rate"] == 2e-3
        assert printed["model"]["warmup"] == 0.3
        assert printed["data"]["window"] == 102

    @pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
    def test_help_explains_every_option_of_ours(self, command: str) -> None:
        outcome = call(command, "--help")
        assert outcome.status == 0
        assert "python -m qa_lightning" in outcome.out
        for section in ("model", "data"):
            explained = [
                entry
                for entry in outcome.out.split(f"\n  --{section}.")[1:]
                if len(entry.split("\n  --")[0].split()) > 6
            ]
            assert len(explained) == outcome.out.count(f"\n  --{section}.") > 8


class TestPrecision:
    @pytest.mark.parametrize(
        ("asked", "announced"),
        [
            ([], "precision: 32-true (this CPU has no fast bfloat16)"),
            (["--trainer.precision", "bf16-mixed"], None),
        ],
    )
    def test_it_is_announced_unless_it_was_asked_for(
        self,
        tiny_encoder: Path,
        squad_files: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        asked: Sequence[str],
        announced: str | None,
    ) -> None:
        used = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(hardware, "cpu_has_fast_bfloat16", lambda: False)

        def remember(self: train.QuestionAnsweringCLI, subcommand: str) -> None:
            used.append(self.trainer.precision)

        monkeypatch.setattr(train.QuestionAnsweringCLI, "_run_subcommand", remember)
        outcome = call("fit", *options_of(tiny_encoder, squad_files, tmp_path), *asked)
        assert outcome.status == 0, outcome.err
        if announced:
            assert announced in outcome.out
            assert used == ["32-true"]
        else:
            assert "precision:" not in outcome.out
            assert used == ["bf16-mixed"]
