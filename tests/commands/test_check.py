"""`check` on the command line: its text, its JSON, its exit status."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qa_lightning.commands.check import run
from qa_lightning.errors import UserError
from tests.helpers.checks import file_of, paragraph, question
from tests.helpers.data import REPOSITORY


class TestCommand:
    def options(self, tiny_encoder: Path) -> list[str]:
        return [
            *("--tokenizer", str(tiny_encoder)),
            *("--window", "40", "--overlap", "8", "--max_question_tokens", "10"),
        ]

    def test_says_what_is_in_the_files(
        self,
        squad_files: dict[str, Path],
        tiny_encoder: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        names = [str(squad_files["train"]), str(squad_files["val"])]
        assert run([*names, *self.options(tiny_encoder)]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        lines = told.out.splitlines()
        assert lines[0] == names[0]
        assert "         48 questions: 36 answerable (75.0 %), 12 unanswerable (25.0 %)" in lines
        assert "  verdict: can be trained on" in lines
        assert "  no question, id or context stands in both" in lines
        assert lines[-1] == "all 2 files can be trained on"

    def test_one_object_of_json(
        self,
        squad_files: dict[str, Path],
        tiny_encoder: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        lost = [question(f"lost{n}", f"which {n}?", ("paris", 0)) for n in range(30)]
        squad_files["val"].write_text(json.dumps(file_of(paragraph("rome is old", *lost))))
        names = [str(squad_files["train"]), str(squad_files["val"])]
        assert run([*names, "--json", *self.options(tiny_encoder)]) == 1
        record = json.loads(capsys.readouterr().out)
        assert record["refused"] and names[1] in record["verdict"]
        first, second = record["files"]
        assert (first["name"], first["refused"], first["problems"]) == (names[0], False, [])
        assert first["counts"]["questions"] == 48
        assert first["tokens"]["windows"] >= 48
        (misplaced,) = [one for one in second["findings"] if one["kind"] == "misplaced_answers"]
        assert misplaced["ids"] == [f"lost{n}" for n in range(30)]  # all of them
        assert record["overlaps"] == [{"files": names, "findings": []}]
        assert (record["tokenizer"], record["window"]) == (str(tiny_encoder), 40)

    def test_the_text_names_twenty_and_counts_the_rest(
        self, squad_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        lost = [question(f"lost{n}", f"which {n}?", ("paris", 0)) for n in range(30)]
        squad_files["val"].write_text(json.dumps(file_of(paragraph("rome is old", *lost))))
        assert run([str(squad_files["val"]), "--tokenizer", "none"]) == 1
        out = capsys.readouterr().out
        assert "lost19" in out and "lost20" not in out and "and 10 more (--json)" in out
        assert "30 of 130 questions with answers" in " ".join(out.split())
        assert "would be refused" in out

    def test_a_mistake_that_is_made_often_is_one_line(
        self, squad_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        empty = [question(f"empty{n}", f"which {n}?", ("", 0)) for n in range(1380)]
        squad_files["val"].write_text(json.dumps(file_of(paragraph("rome is old", *empty))))
        file = str(squad_files["val"])
        assert run([file, "--tokenizer", "none"]) == 1
        out = " ".join(capsys.readouterr().out.split())
        assert out.count("an empty text") == 1 and "(the same at 1,379 more places, for" in out
        assert run([file, "--tokenizer", "none", "--json"]) == 1
        assert len(json.loads(capsys.readouterr().out)["files"][0]["problems"]) == 1380

    def test_a_corrected_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        case = str(REPOSITORY / "tests" / "cases" / "crlf.json")
        out = tmp_path / "out.json"
        options = ["--tokenizer", "none", "--fix", str(out)]
        assert run([case, *options]) == 1  # FILE as it is would still be refused
        told = " ".join(capsys.readouterr().out.split())
        assert r"a line end of two characters (\r\n) as one" in told
        assert f"{out}: written - 3 answers counted in another unit: corrected" in told
        assert run([str(out), "--tokenizer", "none"]) == 0
        capsys.readouterr()

        with pytest.raises(UserError, match=f"--fix {out}: File exists"):
            run([case, *options])
        options[-1] = str(tmp_path / "json.json")
        assert run([case, *options, "--json"]) == 1
        fix = json.loads(capsys.readouterr().out)["fix"]
        assert fix["file"] == options[-1]
        (change,) = fix["findings"]
        assert (change["kind"], change["ids"]) == (
            "counted_answers",
            ["crlf-0", "crlf-1", "crlf-2"],
        )
        with pytest.raises(UserError, match="--fix corrects one FILE, but 2 are given"):
            run([case, case, *options])

    def test_shared_questions_are_in_the_verdict(
        self, squad_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        name = str(squad_files["val"])
        assert run([name, name, "--tokenizer", "none"]) == 0
        verdict = " ".join(capsys.readouterr().out.split("\n\n")[-1].split())
        assert verdict.startswith("all 2 files can be trained on; but 20 questions stand in both")

    def test_a_file_to_predict_on(
        self, squad_files: dict[str, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run([str(squad_files["unlabelled"]), "--tokenizer", "none"]) == 1
        out = capsys.readouterr().out
        assert "can be answered (predict), but not trained on or scored" in out
        assert "12 unlabelled (100.0 %)" in out

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "the file is empty"),
            (b"{", "the file is cut off"),
            (gzip.compress(b"{}" * 1000)[:-9], "gzip"),
            (b'{"data": []}', "there are no questions in it"),
            (b"\xff\xfe", "not UTF-8"),
        ],
    )
    def test_broken_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
    ) -> None:
        path = tmp_path / "broken.json"
        path.write_bytes(content)
        assert run([str(path), "--tokenizer", "none"]) == 1
        out = " ".join(capsys.readouterr().out.split())
        assert words in out and "verdict: would be refused" in out

    def test_ids_that_a_terminal_cannot_show(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        odd = [question(identity, "who?") for identity in ("東", "a b", "\x1b[2J", "")]
        path = tmp_path / "ö.json"
        path.write_text(json.dumps(file_of(paragraph("rome is old", *odd))))
        shown = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, "ascii", write_through=True))
        assert run([str(path), "--tokenizer", "none"]) == 0
        assert rb'\u6771 = "a b" = "\u001b[2J" = ""' in shown.getvalue()
        assert rb"\xf6.json" in shown.getvalue()

    def test_the_default_tokenizer_may_be_missing(
        self,
        squad_files: dict[str, Path],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        assert run([str(squad_files["train"])]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "tokens: not counted: distilbert-base-uncased is neither" in out
        assert "48 questions" in out
        with pytest.raises(UserError, match="--tokenizer bert-base: The model"):
            run([str(squad_files["train"]), "--tokenizer", "bert-base"])

    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; sys.argv = ['qa_lightning', 'check', '--help']\n"
            "from qa_lightning.__main__ import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "print('heavy:', {'torch', 'transformers', 'numpy', 'pyarrow'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
        )
        assert "--max_question_tokens" in done.stdout
        assert done.stdout.splitlines()[-1] == "heavy: set()"

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ([], "required: files"),
            (["no-such-file.json"], "no such file"),
            (["x.json", "--windw", "3"], "Did you mean --window?"),
            (["x.json", "--max_answer_tokens", "0"], "--max_answer_tokens"),
            (["x.json", "--window", "100"], "windows cannot advance"),
        ],
    )
    def test_mistakes(self, options: list[str], words: str) -> None:
        with pytest.raises(UserError, match=words.replace("?", r"\?")):
            run(options)

    def test_a_window_longer_than_the_model(
        self, squad_files: dict[str, Path], tiny_encoder: Path
    ) -> None:
        with pytest.raises(UserError, match="--window is 384, but .* has 128 positions"):
            run([str(squad_files["train"]), "--tokenizer", str(tiny_encoder)])
