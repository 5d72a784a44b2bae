"""Export: a folder that others can use, complete or not at all, with a card that is true."""

from __future__ import annotations

import json
import shutil
import stat
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard as HubCard
from transformers import AutoTokenizer, DistilBertForQuestionAnswering

from qa_lightning.__main__ import main
from qa_lightning.data.download import sha256_of
from qa_lightning.errors import UserError
from qa_lightning.export import hub_folder, variants
from qa_lightning.export.hub_folder import export
from qa_lightning.export.model_card import CardMetadata
from qa_lightning.export.provenance import read_training
from qa_lightning.export.variants import ONNX, read_labelled, score
from qa_lightning.inference.answerer import Answerer
from qa_lightning.model.logits import model_logits
from qa_lightning.model.trained_model import TrainedModel
from tests.helpers.command import QUIET, TINY_WINDOWS, call
from tests.helpers.data import squad_data

FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
STATED = CardMetadata("tiny")


@dataclass(frozen=True)
class Run:
    """A run, the file that it was trained on, and what `validate` said of its best checkpoint."""

    folder: Path
    data: Path
    scores: dict[str, float]


@pytest.fixture(scope="module")
def run(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("run")
    data = root / "questions.json"
    data.write_text(json.dumps(squad_data(12, seed=1)))
    shared = [*QUIET, *TINY_WINDOWS, "--data.cache_dir", root / "cache"]
    shared += ["--data.val", data, "--trainer.default_root_dir", root]
    fitted = call(
        "fit",
        *(*shared, "--model.pretrained", tiny_encoder, "--data.train", data),
        *("--data.holdout", 0.25, "--model.learning_rate", 3e-3, "--data.batch_size", 8),
        *("--trainer.max_epochs", 4, "--trainer.check_val_every_n_epoch", 2),
    )
    assert fitted.status == 0, fitted.err
    folder = root / "lightning_logs" / "version_0"
    best = folder / "checkpoints" / "best.ckpt"
    scored = call("validate", *shared, "--ckpt_path", best, "--output", root / "scored")
    assert scored.status == 0, scored.err
    return Run(folder, data, json.loads((root / "scored" / "scores.json").read_text()))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def answers_of(model: Path, asked: Any) -> list[Any]:
    answerer = Answerer.from_pretrained(model, device="cpu", precision="32-true")
    return answerer(*asked)


ASKED = (["when was rome founded?", "who?"], ["rome was founded in 1234.", "paris is old. " * 30])


class TestFolder:
    def test_others_can_use_it(self, run: Run, tmp_path: Path) -> None:
        said: list[str] = []
        export(run.folder, tmp_path / "new" / "out", STATED, log=said.append)
        out = tmp_path / "new" / "out"
        assert sorted(contents(out)) == FILES
        assert [path.name for path in out.parent.iterdir()] == ["out"]
        assert said[-1] == f"{out}: {', '.join(FILES)}"
        checkpoint = torch.load(run.folder / "checkpoints" / "best.ckpt", weights_only=True)
        model = DistilBertForQuestionAnswering.from_pretrained(out)
        for name, value in model.state_dict().items():
            assert torch.equal(value, checkpoint["state_dict"][f"encoder.{name}"])
        assert model.config.null_threshold == checkpoint["null_threshold"]
        assert model.config.windows["window"] == 64
        original = TrainedModel.load(run.folder).settings.tokenizer
        text = "rome, the old city."
        assert AutoTokenizer.from_pretrained(out)(text).input_ids == original(text).input_ids
        assert answers_of(out, ASKED) == answers_of(run.folder, ASKED)

    @pytest.mark.parametrize("place", ["checkpoints/best.ckpt", "model"])
    def test_it_is_the_same_from_any_part_of_the_run(
        self, run: Run, tmp_path: Path, place: str
    ) -> None:
        export(run.folder, tmp_path / "one", STATED)
        export(run.folder / place, tmp_path / "other", STATED)
        assert contents(tmp_path / "one") == contents(tmp_path / "other")

    def test_an_exported_folder_can_be_exported(self, run: Run, tmp_path: Path) -> None:
        export(run.folder, tmp_path / "one", STATED)
        export(tmp_path / "one", tmp_path / "other", STATED)
        one, other = contents(tmp_path / "one"), contents(tmp_path / "other")
        assert "## Training\n\nNot known" in other.pop("README.md").decode()
        assert other == {name: content for name, content in one.items() if name != "README.md"}

    def test_everyone_who_may_open_the_folder_may_read_its_files(
        self, run: Run, tmp_path: Path
    ) -> None:
        export(run.folder, tmp_path / "out", STATED)
        (tmp_path / "plain").mkdir()
        (tmp_path / "plain" / "file").touch()
        usual = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "plain").rglob("*")]
        folder = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == folder
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
        assert modes == set(usual)


class TestPlace:
    def test_an_empty_folder_may_be_there(self, tiny_encoder: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        export(tiny_encoder, tmp_path / "out", STATED)
        assert sorted(contents(tmp_path / "out")) == FILES
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_what_is_there_is_kept_unless_told_otherwise(
        self, tiny_encoder: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        export(tiny_encoder, out, STATED)
        (out / "mine.txt").write_text("mine")
        before = contents(out)
        with pytest.raises(UserError, match=r"out is not empty; .*--overwrite"):
            export(tiny_encoder, out, STATED)
        assert contents(out) == before
        export(tiny_encoder, out, CardMetadata("another"), overwrite=True)
        assert sorted(contents(out)) == FILES
        assert "# another" in (out / "README.md").read_text()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_what_is_no_model_is_never_replaced(self, tiny_encoder: Path, tmp_path: Path) -> None:
        (tmp_path / "letters").mkdir()
        (tmp_path / "letters" / "a.txt").write_text("dear")
        with pytest.raises(UserError, match="it is not a model's folder"):
            export(tiny_encoder, tmp_path / "letters", STATED, overwrite=True)
        assert contents(tmp_path / "letters") == {"a.txt": b"dear"}
        with pytest.raises(UserError, match=r"a\.txt is a file"):
            export(tiny_encoder, tmp_path / "letters" / "a.txt", STATED, overwrite=True)

    def test_the_model_itself_is_never_replaced(self, tiny_encoder: Path, tmp_path: Path) -> None:
        model = shutil.copytree(tiny_encoder, tmp_path / "model")
        before = contents(model)
        with pytest.raises(UserError, match="holds the model that is to be exported"):
            export(model, model, STATED, overwrite=True)
        assert contents(model) == before

    @pytest.mark.parametrize("there", [True, False])
    def test_a_failure_leaves_nothing_behind(
        self, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
    ) -> None:
        if there:
            export(tiny_encoder, tmp_path / "out", STATED)
        before = contents(tmp_path)

        def full(facts: object) -> str:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(hub_folder, "model_card", full)
        with pytest.raises(UserError, match=r"cannot write .*out: No space left on device"):
            export(tiny_encoder, tmp_path / "out", STATED, overwrite=True)
        assert contents(tmp_path) == before
        assert (tmp_path / "out").exists() == there
        assert len(list(tmp_path.iterdir())) == there

    def test_the_old_folder_comes_back_if_the_new_one_cannot_come(
        self, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        export(tiny_encoder, out, STATED)
        before = contents(out)
        rename = Path.rename

        def refuse(self: Path, target: Path) -> Path:
            if self.name == "new":
                raise OSError(13, "Permission denied")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", refuse)
        with pytest.raises(UserError, match="Permission denied"):
            export(tiny_encoder, out, CardMetadata("another"), overwrite=True)
        assert contents(out) == before

    def test_no_such_model(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="holds no model"):
            export(tmp_path / "empty", tmp_path / "out", STATED)
        assert not (tmp_path / "out").exists()


class TestCard:
    def test_it_says_what_the_run_was(self, run: Run, tmp_path: Path, tiny_encoder: Path) -> None:
        export(run.folder, tmp_path / "out", STATED)
        text = (tmp_path / "out" / "README.md").read_text()
        (entry,) = json.loads((run.folder / "run.json").read_text())
        assert f"`{sha256_of(run.data)}`" in text and "questions.json" in text
        assert f"`{tiny_encoder.name}`, as the run's settings name it" in text
        assert f"| SHA-256 of the weights it began with | {entry['weights']['sha256']} |" in text
        assert "| peak learning rate | 0.003 |" in text
        assert "| epochs asked for | 4 |" in text
        assert "| windows in a batch | 8 |" in text
        assert "| precision | 32-true |" in text
        assert "| seed | 42 |" in text
        assert f"torch {version('torch')}" in text
        assert "25 % of its articles were held out" in text
        assert "**The model was trained on questions of this file" in text
        assert str(run.folder.parents[1]) not in text
        assert ONNX not in text

    def test_the_figures_are_those_of_the_best_validation(self, run: Run) -> None:
        training = read_training(run.folder)
        assert training.validations == 2
        scores = training.scores
        assert scores is not None
        wanted = {name: run.scores[name] for name in scores.figures if name in run.scores}
        assert {"exact", "f1", "zero_exact", "tuned_f1", "best_exact", "no_answer_rate"} <= set(
            wanted
        )
        assert {name: scores.figures[name] for name in wanted} == pytest.approx(wanted, abs=1e-4)

    def test_scoring_at_export_gives_the_figures_of_validate(
        self, run: Run, tmp_path: Path
    ) -> None:
        copy = shutil.copy(run.data, tmp_path / "copy.json")
        trained = TrainedModel.load(run.folder)
        windows = read_labelled(Path(copy), trained.settings).windows
        logits = model_logits(trained.encoder, "cpu", "32-true")
        figures = score(logits, trained.settings, windows).figures
        assert figures == pytest.approx({name: run.scores[name] for name in figures}, abs=1e-9)
        export(run.folder, tmp_path / "out", STATED, data=Path(copy))
        text = (tmp_path / "out" / "README.md").read_text()
        assert "### copy.json\n\n48 questions" in text
        assert "scored when it was exported, in float32." in text
        assert f"| all | 48 | {figures['exact']:.2f} | {figures['f1']:.2f} |" in text
        assert f"| {figures['best_exact']:.2f} | {figures['best_f1']:.2f} |" in text
        assert "% sure on average and right in" in text
        read = HubCard(text).data.eval_results
        assert {one.metric_value for one in read} == {
            round(figures["exact"], 2),
            round(figures["f1"], 2),
        }

    def test_a_checkpoint_alone_says_what_is_in_it(self, run: Run, tmp_path: Path) -> None:
        shutil.copy(run.folder / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
        training = read_training(tmp_path / "alone.ckpt")
        assert training.record == training.trainer == {}
        assert training.scores is not None
        data = training.source("train")
        assert data is not None and (data.shown, data.sha256) == ("questions.json", None)
        export(tmp_path / "alone.ckpt", tmp_path / "out", STATED)
        text = (tmp_path / "out" / "README.md").read_text()
        assert "| peak learning rate | 0.003 |" in text and "Versions: not known." in text

    @pytest.mark.parametrize(
        ("name", "content"),
        [("run.json", "{"), ("run.json", '{"a": 1}'), ("config.yaml", "a: [")],
    )
    def test_a_damaged_record_is_named(
        self, run: Run, tmp_path: Path, name: str, content: str
    ) -> None:
        (tmp_path / "checkpoints").mkdir()
        shutil.copy(run.folder / "checkpoints" / "best.ckpt", tmp_path / "checkpoints")
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=name):
            read_training(tmp_path)

    @pytest.mark.parametrize(
        ("content", "match"),
        [(None, "there is no such file"), (squad_data(2, answers=False), "holds 8 questions")],
    )
    def test_data_that_cannot_be_scored(
        self, run: Run, tmp_path: Path, content: Any, match: str
    ) -> None:
        data = tmp_path / "data.json"
        if content is not None:
            data.write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"--data .*data\.json:? {match}"):
            export(run.folder, tmp_path / "out", STATED, data=data)
        assert not (tmp_path / "out").exists()


class TestOnnx:
    @pytest.fixture(scope="class")
    def exported(
        self, run: Run, tmp_path_factory: pytest.TempPathFactory
    ) -> tuple[Path, list[str]]:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
        out = tmp_path_factory.mktemp("exported") / "out"
        said: list[str] = []
        export(run.folder, out, STATED, onnx=True, int8=True, data=run.data, log=said.append)
        return out, said

    def test_all_forms_are_there_and_compared(
        self, exported: tuple[Path, list[str]], run: Run
    ) -> None:
        out, said = exported
        assert sorted(contents(out)) == sorted([*FILES, "model.onnx", "model_int8.onnx"])
        assert said[0].startswith("model.onnx: 9 of 9 built-in questions answered as by torch")
        assert "  EM " in said[3]
        text = (out / "README.md").read_text()
        table = text[text.index("### ONNX beside the original") :].split("\n\n")[1]
        torch_row, onnx_row, int8_row = [line.split(" | ") for line in table.splitlines()[2:]]
        figures = [f"{run.scores['exact']:.2f}", f"{run.scores['f1']:.2f}"]
        assert torch_row[2:4] == onnx_row[2:4] == figures
        assert onnx_row[4] == "48 |"
        assert int8_row[0] == "| `model_int8.onnx`" and int8_row[4] != ""

    def test_another_graph_than_the_model_is_not_written(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
        write = hub_folder.write_onnx

        def wrong(encoder: DistilBertForQuestionAnswering, path: Path) -> None:
            other = DistilBertForQuestionAnswering(encoder.config)
            other.load_state_dict(encoder.state_dict())
            with torch.no_grad():
                other.qa_outputs.bias[0] += 0.01
            write(other, path)

        monkeypatch.setattr(hub_folder, "write_onnx", wrong)
        with pytest.raises(UserError, match=r"differ from torch's by 0\.01, .*nothing was written"):
            export(run.folder, tmp_path / "out", STATED, onnx=True)
        assert not list(tmp_path.iterdir())

    def test_verdicts_are_compared_question_by_question(self) -> None:
        one = np.array([[0, 4], [-1, -1], [2, 3]])
        other = np.array([[0, 4], [2, 3], [2, 4]])
        assert variants.same_answers(one, one) == 3
        assert variants.same_answers(one, other) == 1

    def test_without_the_packages_nothing_is_begun(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"pip install 'qa-lightning\[onnx\]'"):
            export("no-such-model", tmp_path / "out", STATED, onnx=True)


class TestCommand:
    def call(self, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["qa_lightning", "export", *map(str, arguments)])
        return main()

    def test_it_exports_and_says_so(
        self,
        run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "notes.md").write_text("Made-up towns.\n")
        out = tmp_path / "out"
        status = self.call(
            monkeypatch,
            *(run.folder, out, "--data", run.data, "--license", "mit", "--language", "en"),
            *("--base_model", "owner/encoder", "--notes", tmp_path / "notes.md"),
        )
        assert status == 0
        said = capsys.readouterr()
        assert said.out.splitlines() == [
            f"model.safetensors: answering 48 questions of {run.data}",
            f"  EM {run.scores['exact']:.2f}   F1 {run.scores['f1']:.2f}",
            f"{out}: {', '.join(FILES)}",
        ]
        assert said.err == ""
        card = HubCard.load(out / "README.md")
        assert (card.data.license, card.data.language) == ("mit", "en")
        assert card.data.base_model == "owner/encoder"
        assert "# out\n" in card.text
        assert "## Notes of the publisher\n\nMade-up towns.\n" in card.text

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            (["--int8"], "give --onnx too"),
            (["--onnx", "--int8"], "labelled questions with --data"),
            (["--private"], "give --push NAME too"),
            (["--notes", "nowhere.md"], "--notes nowhere.md cannot be read"),
            (["--push", "a/b/c"], "--push a/b/c: not the name of a model"),
            (["--push", "owner/answers"], "HF_HUB_OFFLINE forbids the network"),
            (["--onxn"], "Did you mean --onnx?"),
        ],
    )
    def test_mistakes_are_told_before_anything_is_done(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        options: list[str],
        match: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert self.call(monkeypatch, "no-such-model", "out", *options) == 2
        assert match in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_the_name_is_that_of_the_hub(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[Any] = []
        monkeypatch.setattr("qa_lightning.export.upload.check_upload", lambda name: None)
        monkeypatch.setattr(
            "qa_lightning.export.upload.upload",
            lambda *given, **options: sent.append((given, options)),
        )
        out = tmp_path / "out"
        assert self.call(monkeypatch, run.folder, out, "--push", "me/answers", "--private") == 0
        assert sent == [((out, "me/answers"), {"private": True, "log": print})]
        assert 'from_pretrained("me/answers")' in (out / "README.md").read_text()
