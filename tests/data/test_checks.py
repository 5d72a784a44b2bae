"""What a check finds in files, and that it refuses what training refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qa_lightning.data.checks import Check, FileCheck, check_files
from qa_lightning.data.findings import Finding
from qa_lightning.data.problems import grouped
from qa_lightning.data.sources import Source
from qa_lightning.data.squad import read_squad
from qa_lightning.data.tables import require_labels, require_places
from qa_lightning.data.token_checks import Lengths
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.errors import UserError
from tests.helpers.checks import Json, file_of, paragraph, question
from tests.helpers.data import squad_data
from tests.helpers.hostile import KINDS, files

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
        return check_files(sources, tokenizer if tokens else None, SETTINGS, 5)

    return call


def found(file: FileCheck) -> dict[str, Finding]:
    return {finding.kind: finding for finding in file.findings}


class TestOneFile:
    def test_counts(self, check: Callable[..., Check]) -> None:
        content = squad_data(12)
        content["data"][0]["paragraphs"][0]["qas"].append({"id": "new", "question": "who?"})
        (file,) = check(content).files
        counts = file.report
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
        assert without.report == with_tokens.report

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
        assert findings["unplaced_questions"].ids == ("lost",)
        assert findings["shifted_answers"].ids == ("late",)
        assert findings["misplaced_plausible_answers"].ids == ("no",)

    def test_all_ids_are_told_even_if_the_file_is_refused(
        self, check: Callable[..., Check]
    ) -> None:
        lost = [question(f"lost{n}", f"which {n}?", ("paris", 0)) for n in range(30)]
        (file,) = check(file_of(paragraph("rome is old", *lost))).files
        assert len(file.problems) == 1 and "30 of 130 questions" in file.problems[0]
        assert found(file)["misplaced_answers"].ids == tuple(f"lost{n}" for n in range(30))

    def test_empty_questions(self, check: Callable[..., Check]) -> None:
        content = file_of(paragraph("rome is old", question("a", " "), question("b", "why?")))
        (file,) = check(content).files
        assert (file.problems, found(file)["empty_questions"].ids) == ((), ("a",))

    @pytest.mark.parametrize("boundaries", ["word", "token"])
    def test_answers_inside_words_are_never_given(
        self, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, boundaries: Any
    ) -> None:
        context = 'it cost 300crowns in "oslo". 東京 founded'
        answers = {
            "part of a word": "300",  # tokens 3, ##0, ##0 and so on: a letter each
            "part of a token": "foun",
            "whole words": "300crowns in",
            "without its quotation mark": 'oslo"',
            "one of the words": "東",
        }
        qas = [question(name, "?", (text, context.index(text))) for name, text in answers.items()]
        qas.append(question("either", "?", ("foun", context.index("foun")), ("cost", 3)))
        path = tmp_path / "f.json"
        path.write_text(json.dumps(file_of(paragraph(context, *qas))))
        settings = dataclasses.replace(SETTINGS, answer_boundaries=boundaries)
        file = check_files([Source("f", path, "")], tokenizer, settings, 30).files[0]
        never = found(file)["answers_inside_words"].ids
        within_tokens = ("part of a token",)
        assert never == (
            ("part of a word", *within_tokens) if boundaries == "word" else within_tokens
        )

    def test_why_answers_are_misplaced(self, check: Callable[..., Check]) -> None:
        here = "Zoë sang in Köln. Ana played in Gent, Éva ran."
        bytes_before = [(word, len(here[: here.index(word)].encode())) for word in ("ran", "Gent")]
        lost = [question(f"q{n}", f"{n}?", ("ran", 46 + 3)) for n in range(9)]
        lost[3]["answers"] = [{"text": "ran", "answer_start": bytes_before[0][1]}]
        (file,) = check(file_of(paragraph(here, lost[0]))).files
        assert found(file)["misplaced_places"].message == (
            "in the context of question \"q0\", for instance, '' stands at character 49, not 'ran'"
        )
        (file,) = check(file_of(paragraph(here, lost[3]))).files
        assert "answer_start counts UTF-8 bytes" in found(file)["misplaced_places"].message

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

    def test_long_contexts_teach_no_answer(self, check: Callable[..., Check]) -> None:
        """Windows of 33 tokens of context, 25 further each: one of 10 holds the answer, or of 3."""
        for sentences, share in ((63, "90.0 %"), (20, None)):
            one = paragraph("rome is old. " * sentences, question("a", "what is old?", ("rome", 0)))
            (file,) = check({"data": [{"paragraphs": [one]}]}).files
            findings = found(file)
            assert "lack the answer, " in findings["no_unanswerable_questions"].message
            danger = findings.get("few_windows_with_answer")
            assert (danger is not None) == (share is not None)
            if danger and share:
                assert danger.message.startswith(f"{share} of the windows hold no answer")
                assert "--model.unanswerable_share" in danger.message
                assert share in findings["no_unanswerable_questions"].message

    def test_the_wrong_vocabulary(self, check: Callable[..., Check]) -> None:
        chinese = "长江是亚洲第一长河. rome is old. " + "who " * 10
        one = paragraph(chinese, question("a", "what is old?", ("rome", chinese.index("rome"))))
        (file,) = check({"data": [{"paragraphs": [one]}]}).files
        # Each of nine characters is a token of its own that the vocabulary lacks; 15 others.
        told = found(file)["unknown_tokens"].message
        assert told.startswith("37.5 % of the contexts' tokens and 0.0 % of the questions'")
        (good,) = check({"data": [{"paragraphs": [{**one, "context": "rome is old"}]}]}).files
        assert "unknown_tokens" not in found(good)


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


def refusal(path: Path) -> str | None:
    """What training would say of a file; None if it would take it."""
    try:
        tables = read_squad(path)
        require_labels(tables.questions, str(path))
        require_places(tables.report, str(path))
    except UserError as error:
        return str(error)
    return None


@given(content=st.sampled_from(list(KINDS)).flatmap(files))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_refuses_what_training_refuses_with_the_same_words(
    content: bytes, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "any.json"
    path.write_bytes(content)
    source = Source(str(path), path, "")
    (file,) = check_files([source], tokenizer, SETTINGS, 30).files
    assert next(iter(grouped(file.problems, str(path))), None) == refusal(path)


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
    assert file.report is not None and file.report.questions == 102
