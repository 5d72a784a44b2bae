"""What a user can get wrong: one message that says what and where, status 2, nothing left over."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.command import QUIET, TINY_WINDOWS, Outcome, call, files_under
from tests.helpers.data import TINY_VOCABULARY, squad_data


@dataclass(frozen=True)
class Place:
    """A good encoder and good files, of which a test spoils one thing."""

    folder: Path
    encoder: Path
    files: dict[str, Path]

    def run(self, command: str, *options: Any) -> Outcome:
        """Run a command that would succeed but for `options`."""
        return call(
            command,
            *QUIET,
            *TINY_WINDOWS,
            *("--trainer.default_root_dir", self.folder, "--model.pretrained", self.encoder),
            *("--data.train", self.files["train"], "--data.val", self.files["val"]),
            *options,
        )

    def write(self, content: Any) -> Path:
        """A training file with this content (text, bytes or JSON)."""
        path = self.folder / "spoilt.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def refused(self, outcome: Outcome, *fragments: object) -> None:
        """Check that the command stopped as it should, and that the message names these."""
        assert outcome.status == 2
        assert len(re.findall(r"^error: ", outcome.err, re.MULTILINE)) == 1
        message = outcome.err[outcome.err.index("error: ") :]
        for fragment in fragments:
            assert str(fragment) in message, f"{fragment!r} not in {message!r}"
        assert "Traceback" not in outcome.err + outcome.out
        assert "usage:" not in message
        assert len(message) < 1500
        assert not (self.folder / "lightning_logs").exists()
        cached = {path.name for path in files_under(self.folder / "cache")}
        assert cached <= {"train-v2.0.json.lock"}


@pytest.fixture
def place(
    tmp_path: Path,
    tiny_encoder: Path,
    squad_files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    for name in ("http_proxy", "https_proxy", "all_proxy"):  # a closed port: no network
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return Place(tmp_path, tiny_encoder, squad_files)


def first_question(content: dict[str, Any]) -> dict[str, Any]:
    return content["data"][0]["paragraphs"][0]["qas"][0]


class TestNetwork:
    def test_official_data_without_a_network(self, place: Place) -> None:
        outcome = call(
            "fit",
            *(*QUIET, *TINY_WINDOWS, "--trainer.default_root_dir", place.folder),
            *("--model.pretrained", place.encoder),
        )
        place.refused(outcome, "train-v2.0.json", "--data.train", "configs/quickstart.yaml")

    def test_a_hub_encoder_without_a_network(self, place: Place) -> None:
        outcome = place.run("fit", "--model.pretrained", "no-such-owner/no-such-model")
        place.refused(
            outcome, "no-such-owner/no-such-model", "--model.pretrained FOLDER", "quickstart.yaml"
        )


class TestEncoder:
    def test_weights_with_another_digest(self, place: Place) -> None:
        outcome = place.run("fit", "--model.weights_sha256", "0" * 64)
        place.refused(
            outcome, place.encoder / "model.safetensors", "expected: " + "0" * 64, "found:"
        )

    def test_another_architecture(self, place: Place) -> None:
        folder = place.folder / "gpt2"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
        outcome = place.run("fit", "--model.pretrained", folder)
        place.refused(outcome, folder / "config.json", "'gpt2'", "is a decoder", "distilbert")

    def test_a_folder_that_is_not_there(self, place: Place) -> None:
        outcome = place.run("fit", "--model.pretrained", place.folder / "nowhere")
        place.refused(outcome, place.folder / "nowhere")

    def test_windows_longer_than_its_positions(self, place: Place) -> None:
        outcome = place.run("fit", "--data.window", 256)
        place.refused(outcome, "--data.window is 256", "128 positions")

    def test_a_tokenizer_of_another_model(self, place: Place) -> None:
        from transformers import DistilBertTokenizer

        other = place.folder / "other-tokenizer"
        words = [*TINY_VOCABULARY, "unheard", "of"]
        DistilBertTokenizer(vocab={word: row for row, word in enumerate(words)}).save_pretrained(
            other
        )
        outcome = place.run("fit", "--data.tokenizer", other)
        place.refused(outcome, f"ids up to {len(words) - 1}", f"{len(TINY_VOCABULARY)} tokens")


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: first_question(content).pop(key)


def duplicate(content: dict[str, Any]) -> None:
    content["data"][3]["paragraphs"][0]["qas"][2]["id"] = "1-0-0"


def misplace(count: int) -> Callable[[dict[str, Any]], None]:
    def spoil(content: dict[str, Any]) -> None:
        for article in content["data"][:count]:
            article["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 5

    return spoil


class TestData:
    @pytest.mark.parametrize(
        ("content", "cause"),
        [
            ("", ""),
            ("{}", "data"),
            ("[]", ""),
            ('{"data": []}', "no questions"),
            ("once upon a time", ""),
            (json.dumps(squad_data(3))[:-200], ""),
            (b"\xff\xfe{}", ""),
            (b"\x1f\x8b broken", ""),
        ],
        ids=["empty", "no data", "a list", "no articles", "prose", "cut off", "not UTF-8", "gzip"],
    )
    def test_not_a_squad_file(self, place: Place, content: Any, cause: str) -> None:
        path = place.write(content)
        place.refused(place.run("fit", "--data.train", path), path, cause)

    @pytest.mark.parametrize(
        ("spoil", "causes"),
        [
            (without("id"), ["data[0].paragraphs[0].qas[0]", '"id" is missing']),
            (without("question"), ['question "1-0-0"', '"question" is missing']),
            (duplicate, ['question "1-0-0"', "more than once"]),
            (misplace(12), ["12 of 36 questions", '"1-0-0"', "answer_start"]),
        ],
        ids=["no id", "no question", "duplicate id", "many misplaced answers"],
    )
    def test_a_question_that_is_wrong(
        self, place: Place, spoil: Callable[[dict[str, Any]], None], causes: list[str]
    ) -> None:
        content = squad_data(12, seed=1)
        spoil(content)
        path = place.write(content)
        place.refused(place.run("fit", "--data.train", path), path, *causes)

    def test_a_few_misplaced_answers_are_told_on_every_run(self, place: Place) -> None:
        content = squad_data(12, seed=1)
        misplace(1)(content)
        path = place.write(content)
        for _ in range(2):  # the second time from the cache
            outcome = place.run("fit", "--data.train", path, "--trainer.fast_dev_run", "true")
            assert outcome.status == 0, outcome.err
            assert f"{path}: 1 answer not found where the file says" in outcome.out
            assert f"{path}: 1 question with no answer that stands where" in outcome.out
            assert outcome.out.count('"1-0-0"') == 2
            assert "train: 47 questions" in outcome.out
        outcome = place.run("validate", "--data.val", path)  # each question is scored
        assert "val: 48 questions" in outcome.out
        assert '"1-0-0"' in outcome.out

    def test_a_file_that_is_not_there(self, place: Place) -> None:
        path = place.folder / "nowhere.json"
        place.refused(place.run("fit", "--data.train", path), path, "no such file")

    @pytest.mark.parametrize(
        ("command", "split"), [("fit", "train"), ("validate", "val"), ("test", "test")]
    )
    def test_questions_without_labels_can_only_be_predicted_on(
        self, place: Place, command: str, split: str
    ) -> None:
        path = place.files["unlabelled"]
        outcome = place.run(command, f"--data.{split}", path)
        assert outcome.status == 2
        assert f"{path} holds 12 questions" in outcome.err
        assert "predict" in outcome.err
        assert not (place.folder / "lightning_logs").exists()
        # What is kept is whole and serves prediction.
        outcome = place.run("predict", "--data.predict", path)
        assert outcome.status == 0, outcome.err

    @pytest.mark.parametrize("unanswerable", ["drop", "plausible"])
    def test_nothing_left_to_train_on(self, place: Place, unanswerable: str) -> None:
        content = squad_data(2, seed=1)
        for article in content["data"]:
            paragraph = article["paragraphs"][0]
            paragraph["qas"] = [q for q in paragraph["qas"] if q["is_impossible"]]
            for question in paragraph["qas"]:
                question.pop("plausible_answers")
        path = place.write(content)
        outcome = place.run("fit", "--data.train", path, "--data.train_unanswerable", unanswerable)
        place.refused(outcome, "no question is left", unanswerable)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "causes"),
        [
            (
                ["--model.learning_rat", "1"],
                ["--model.learning_rat 1", "mean --model.learning_rate"],
            ),
            (["--trainer.max_epoch", "1"], ["--trainer.max_epoch 1", "mean --trainer.max_epochs"]),
            (["--quick"], ["--quick", "fit --help"]),
            (["--data.window", "wide"], ["data.window", "wide"]),
            (["--data.padding", "both"], ["data.padding", "both", "batch"]),
            (["--model.learning_rate=-1"], ["--model.learning_rate", "-1"]),
            (["--model.warmup", "2"], ["--model.warmup", "2"]),
            (["--data.batch_size", "0"], ["--data.batch_size", "0"]),
            (["--data.max_train_questions", "0"], ["--data.max_train_questions", "0"]),
            (["--data.window", "40", "--data.overlap", "30"], ["--data.overlap", "40", "30"]),
            (["--trainer.max_epochs", "-1"], ["--trainer.max_epochs", "needs an end"]),
            (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        ],
        ids=lambda value: value[0] if value and value[0].startswith("--") else None,
    )
    def test_impossible_or_unknown(
        self, place: Place, options: list[str], causes: list[str]
    ) -> None:
        outcome = place.run("fit", *options)
        if options[0] == "--trainer.max_epochs":  # known only once the data are
            assert (outcome.status, outcome.err.count("error: ")) == (2, 1)
            assert all(cause in outcome.err for cause in causes)
        else:
            place.refused(outcome, *causes)

    @pytest.mark.parametrize(
        ("text", "causes"),
        [
            ("model:\n  learning_rat: 1\n", ["model.learning_rat", "--model.learning_rate"]),
            ("modle:\n  learning_rate: 1\n", ["modle.learning_rate", "--model.learning_rate"]),
            ("model:\n  learning_rate: fast\n", ["run.yaml", "model.learning_rate", "fast"]),
            ("model: [\n", ["run.yaml"]),
            ("learning", ["run.yaml"]),
        ],
    )
    def test_a_config_with_a_mistake(self, place: Place, text: str, causes: list[str]) -> None:
        path = place.folder / "run.yaml"
        path.write_text(text)
        place.refused(place.run("fit", "--config", path), *causes)


class TestCheckpoint:
    @pytest.mark.parametrize("command", ["fit", "validate", "predict"])
    def test_one_that_is_not_there(self, place: Place, command: str) -> None:
        outcome = place.run(command, "--ckpt_path", place.folder / "nowhere.ckpt")
        place.refused(outcome, "--ckpt_path", place.folder / "nowhere.ckpt")

    @pytest.mark.parametrize(
        "content",
        [
            {"weights": torch.zeros(3)},
            torch.zeros(3),
            [1, 2],
            {"state_dict": {}, "hyper_parameters": {"lr": 1.0}, "pytorch-lightning_version": "2.6"},
            {"tokenizer": {}, "hyper_parameters": None},
            {"model": shutil.Error("code")},
        ],
        ids=["dict", "tensor", "list", "another module's", "no hyperparameters", "with code"],
    )
    def test_a_torch_file_that_is_not_ours(self, place: Place, content: Any) -> None:
        path = place.folder / "other.ckpt"
        torch.save(content, path)
        place.refused(place.run("validate", "--ckpt_path", path), "--ckpt_path", path)

    @pytest.mark.parametrize("content", [b"", b"once upon a time\n", b"PK\x03\x04 broken", b"{}"])
    def test_a_file_that_torch_cannot_read(self, place: Place, content: bytes) -> None:
        path = place.folder / "broken.ckpt"
        path.write_bytes(content)
        place.refused(place.run("validate", "--ckpt_path", path), "--ckpt_path", path)

    def test_a_folder(self, place: Place) -> None:
        outcome = place.run("validate", "--ckpt_path", place.encoder)
        place.refused(outcome, "--ckpt_path", place.encoder)
