"""What `check` says of files: every finding, and that it refuses what training refuses."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qa_lightning.commands.check import run
from qa_lightning.data.checks import Check, FileCheck, Finding, Lengths, check_files
from qa_lightning.data.squad import Source, read_squad, require_labels
from qa_lightning.data.windows import WindowSettings
from qa_lightning.errors import UserError
from tests.helpers.data import REPOSITORY, squad_data

Json = dict[str, Any]
SETTINGS = WindowSettings(window=40, overlap=8, max_question_tokens=10)


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.fixture
def check(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Callable[..., Check]:
    """Checks files with these contents, called 0.json, 1.json and so on."""

    def call(*contents: Json, tokens: bool = True) -> Check:
        sources = []
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.json"
            path.write_text(json.dumps(content), encoding="utf-8")
            sources.append(Source(path.name, path, "digest"))
        return check_files(sources, tmp_path, tokenizer if tokens else None, SETTINGS, 5)

    return call


def paragraph(context: str, *qas: Json) -> Json:
    return {"context": context, "qas": list(qas)}


def question(identity: str, text: str, *answers: tuple[str, int], **more: Any) -> Json:
    given = [{"text": answer, "answer_start": start} for answer, start in answers]
    return {"id": identity, "question": text, "answers": given, **more}


def file_of(*paragraphs: Json) -> Json:
    """One article; and one more, of a hundred good questions, so that few mistakes are few."""
    good = [question(f"good{n}", f"who was born {n}?", ("ana", 0)) for n in range(100)]
    return {
        "data": [
            {"title": "one", "paragraphs": list(paragraphs)},
            {"title": "good", "paragraphs": [paragraph("ana was born in rome.", *good)]},
        ]
    }


def found(file: FileCheck) -> dict[str, Finding]:
    return {finding.kind: finding for finding in file.findings}


class TestOneFile:
    def test_counts(self, check: Callable[..., Check]) -> None:
        content = squad_data(12)
        content["data"][0]["paragraphs"][0]["qas"].append({"id": "new", "question": "who?"})
        (file,) = check(content).files
        counts = file.counts
        assert counts is not None
        assert (counts.articles, counts.contexts, counts.questions) == (12, 12, 49)
        assert (counts.answerable, counts.unanswerable, counts.unlabelled) == (36, 12, 1)
        assert counts.answers == 36
        assert found(file)["unlabelled_questions"].ids == ("new",)

    def test_a_good_file_has_nothing_to_tell(self, check: Callable[..., Check]) -> None:
        (file,) = check(squad_data(12)).files
        assert (file.problems, found(file)) == ((), {})

    def test_lengths_and_windows(self, check: Callable[..., Check]) -> None:
        """Checked against tokens counted by hand: a word or a mark each."""
        long = "rome is old. " * 20  # 80 tokens
        content = {
            "data": [
                {
                    "paragraphs": [
                        paragraph(long, question("a", "what is old?", ("rome", 0))),
                        paragraph(
                            "paris is a large city",
                            question("b", "is it?", ("large city", 11), ("paris", 0)),
                            question("c", "who was the king of the city of paris in a year?"),
                        ),
                    ]
                }
            ]
        }
        (file,) = check(content).files
        tokens = file.tokens
        assert tokens is not None
        assert tokens.questions == Lengths(median=4, percentile_95=13, longest=13)
        assert tokens.contexts == Lengths(median=5, percentile_95=80, longest=80)
        assert tokens.answers == Lengths(median=1, percentile_95=2, longest=2)
        # 40 - 3 - 4 = 33 tokens of context in a window, each 25 further: 0-33, 25-58, 50-80.
        assert tokens.windows == 3 + 1 + 1
        assert tokens.windows_with_answer == 1 + 1
        assert found(file)["cut_questions"].ids == ("c",)

    def test_without_a_tokenizer_the_rest_is_told(self, check: Callable[..., Check]) -> None:
        content = squad_data(2)
        with_tokens, without = (check(content, tokens=t).files[0] for t in (True, False))
        assert without.tokens is None
        assert without.counts == with_tokens.counts

    def test_misplaced_and_shifted_answers(self, check: Callable[..., Check]) -> None:
        here = "rome is old"
        (file,) = check(
            file_of(
                paragraph(
                    here,
                    question("lost", "which?", ("paris", 0)),
                    question("half", "what?", ("old", 8), ("rome", 7)),
                    question("late", "who?", ("old", 10)),
                    question("no", "is it?", plausible_answers=[{"text": "x", "answer_start": 0}]),
                )
            )
        ).files
        findings = found(file)
        assert file.problems == ()
        assert findings["misplaced_answers"].ids == ("lost", "half")
        assert findings["misplaced_answers"].message.startswith("2 answers ")
        assert findings["dropped_questions"].ids == ("lost",)
        assert findings["shifted_answers"].ids == ("late",)
        assert findings["misplaced_plausible_answers"].ids == ("no",)

    def test_all_ids_are_told_even_if_the_file_is_refused(
        self, check: Callable[..., Check]
    ) -> None:
        lost = [question(f"lost{n}", f"which {n}?", ("paris", 0)) for n in range(30)]
        (file,) = check(file_of(paragraph("rome is old", *lost))).files
        assert len(file.problems) == 1 and "30 of 130 questions" in file.problems[0]
        assert found(file)["misplaced_answers"].ids == tuple(f"lost{n}" for n in range(30))

    def test_repeated_questions_and_contexts(self, check: Callable[..., Check]) -> None:
        (file,) = check(
            file_of(
                paragraph(
                    "rome is old",
                    question("a", "what is old?", ("rome", 0)),
                    question("b", "what is new?"),
                    question("c", "What  is OLD?", ("rome", 0)),  # case and spaces do not count
                ),
                paragraph("oslo is old", question("d", "what is old?", ("oslo", 0))),
                paragraph(
                    "rome is\nold",
                    question("e", "what is new?", ("rome", 0)),
                    question("f", "is it?"),
                ),
            )
        ).files
        findings = found(file)
        assert findings["repeated_questions"].ids == (("a", "c"), ("b", "e"))
        assert findings["contradictions"].ids == (("b", "e"),)
        assert findings["repeated_contexts"].ids == (("a", "e"),)

    def test_answers_too_long_or_blank(self, check: Callable[..., Check]) -> None:
        long = "rome is old. " * 20
        (file,) = check(
            file_of(
                paragraph(
                    long + " \0 ",
                    question("whole", "what?", (long.strip(), 0)),
                    question("long", "is it?", ("rome is old. rome is", 0)),
                    question("one is short", "who?", ("rome is old. rome is", 0), ("rome", 0)),
                    question("blank", "where?", ("\0", len(long) + 1)),
                )
            )
        ).files
        findings = found(file)
        assert findings["answers_in_no_window"].ids == ("whole",)
        assert findings["long_answers"].ids == ("whole", "long")
        assert findings["answers_without_tokens"].ids == ("blank",)

    @pytest.mark.parametrize("kind", ["no_unanswerable_questions", "no_answerable_questions"])
    def test_questions_of_one_kind(self, check: Callable[..., Check], kind: str) -> None:
        answers = [("rome", 0)] if kind == "no_unanswerable_questions" else []
        one = paragraph("rome is old", question("a", "what is old?", *answers))
        (file,) = check({"data": [{"paragraphs": [one]}]}).files
        assert list(found(file)) == [kind]


class TestSeveralFiles:
    def test_what_stands_in_both(self, check: Callable[..., Check]) -> None:
        first = file_of(
            paragraph(
                "rome is old",
                question("a", "what is old?", ("rome", 0)),
                question("b", "what is new?"),
                question("c", "who is it?"),
            )
        )
        second = squad_data(2)
        second["data"][0]["paragraphs"] += [
            paragraph(
                "Rome is old",
                question("b", "what is large?"),  # the id of another question
                question("x", "what is old?", ("Rome", 0)),  # the same one, with another id
                question("c", "who is it?"),  # the same one, with its id
            ),
        ]
        (overlap,) = check(first, second).overlaps
        findings = {finding.kind: finding.ids for finding in overlap.findings}
        assert overlap.files == ("0.json", "1.json")
        assert findings == {
            "shared_questions": (("a", "x"), ("c", "c")),
            "shared_ids": ("b",),
            "shared_contexts": ("a",),
        }

    def test_nothing_in_both(self, check: Callable[..., Check]) -> None:
        overlaps = check(squad_data(3, seed=1), squad_data(3, seed=2), squad_data(3, seed=3))
        assert [one.files for one in overlaps.overlaps] == [
            ("0.json", "1.json"),
            ("0.json", "2.json"),
            ("1.json", "2.json"),
        ]
        assert not any(one.findings for one in overlaps.overlaps)

    def test_a_broken_file_does_not_keep_others_from_being_compared(
        self, check: Callable[..., Check]
    ) -> None:
        done = check(squad_data(2), {"data": 3}, squad_data(2))
        assert [bool(file.problems) for file in done.files] == [False, True, False]
        (overlap,) = done.overlaps
        assert overlap.files == ("0.json", "2.json")
        assert overlap.findings[0].message.startswith("8 questions in both")


# --- refused as by training --------------------------------------------------------------------

TEXTS = st.sampled_from(["rome is old", "rome", "old", "", " ", "ö\0"]) | st.text(max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What belongs there, and once in a while anything."""
    return st.integers(0, 63).flatmap(lambda drawn: ANYTHING if drawn == 17 else usual)


ANSWER = st.sampled_from([("rome", 0), ("is", 6), ("old", 8), ("old", 0)]).flatmap(
    lambda good: st.fixed_dictionaries(
        {"text": mostly(st.just(good[0])), "answer_start": mostly(st.just(good[1]))}
    )
)
QUESTION = st.fixed_dictionaries(
    {
        "id": mostly(st.uuids().map(str)),
        "question": mostly(TEXTS),
        "answers": mostly(st.lists(ANSWER, max_size=2)),
    },
    optional={
        "is_impossible": mostly(st.booleans()),
        "plausible_answers": mostly(st.lists(ANSWER, max_size=1)),
    },
)
PARAGRAPH = st.fixed_dictionaries(
    {
        "context": mostly(st.sampled_from(["rome is old", "rome is old. " * 20])),
        "qas": mostly(st.lists(mostly(QUESTION), min_size=1, max_size=2)),
    }
)
ARTICLE = st.fixed_dictionaries(
    {"paragraphs": mostly(st.lists(mostly(PARAGRAPH), min_size=1, max_size=2))},
    optional={"title": mostly(TEXTS)},
)
FILE = mostly(st.fixed_dictionaries({"data": st.lists(ARTICLE, min_size=1, max_size=2)}))


def refusal(path: Path) -> str | None:
    """What training would say of a file; None if it would take it."""
    try:
        require_labels(read_squad(path).questions, str(path))
    except UserError as error:
        return str(error)
    return None


@given(content=FILE)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_refuses_what_training_refuses_with_the_same_words(
    content: Any, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    source = Source(str(path), path, "")
    (file,) = check_files([source], tmp_path, tokenizer, SETTINGS).files
    assert next(iter(file.problems), None) == refusal(path)


def test_every_mistake_is_told_at_once(check: Callable[..., Check]) -> None:
    content = file_of(
        paragraph(
            "rome is old",
            question("twice", "what?", ("rome", 0)),
            question("twice", "who?", ("rome", 0)),
            question("marked", "is it?", ("rome", 0), is_impossible=True),
            question("empty", "where?", ("", 0)),
            question("good", "which?", ("old", 8)),
        ),
        {"context": "no questions"},
    )
    content["data"].append("no article")
    (file,) = check(content).files
    assert len(file.problems) == 5
    for problem, words in zip(
        file.problems,
        [
            '"twice": this id appears more',
            '"marked": "is_imp',
            "empty text",
            '"qas" is m',
            "data[2]",
        ],
        strict=True,
    ):
        assert words in problem
    assert file.counts is not None and file.counts.questions == 102


# --- the command -------------------------------------------------------------------------------


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
            ([], "FILE"),
            (["no-such-file.json"], "no such file"),
            (["x.json", "--windw", "3"], "Did you mean --window?"),
            (["x.json", "--max_answer_tokens", "0"], "not at least 1"),
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
