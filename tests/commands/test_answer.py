"""python -m qa_lightning answer: what it reads, prints and refuses."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from qa_lightning.__main__ import main
from qa_lightning.inference.answerer import Answerer
from tests.helpers.data import REPOSITORY, squad_data

CONTEXT = "the city of paris was founded in 1234. the museum of rome is large."


@pytest.fixture
def ask(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> object:
    """Run the command on the tiny model; give status, output and errors."""

    def run(*options: object, typed: str | bytes = "") -> tuple[int, str, str]:
        raw = typed.encode() if isinstance(typed, str) else typed
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        given = ["answer", tiny_encoder, "--device", "cpu", "--precision", "32-true", *options]
        monkeypatch.setattr(sys, "argv", ["qa_lightning", *map(str, given)])
        status = main()
        told = capsys.readouterr()
        return status, told.out, told.err

    return run


@pytest.fixture
def answerer(tiny_encoder: Path) -> Answerer:
    return Answerer.from_pretrained(tiny_encoder, device="cpu", precision="32-true")


QUESTION = "when was paris founded?"
CASES = REPOSITORY / "tests" / "cases"


def test_text_file_and_standard_input_are_the_same_context(ask, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "context.txt"
    file.write_text(CONTEXT, encoding="utf-8")
    options = ["--question", QUESTION, "--json", "--top_k", 2]
    outputs = [
        ask("--context", CONTEXT, *options),
        ask("--context", file, *options),
        ask("--context", "-", *options, typed=CONTEXT),
    ]
    assert len(set(outputs)) == 1
    status, out, err = outputs[0]
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert answer["question"] == QUESTION
    assert len(answer["candidates"]) == 2
    if answer["start"] is not None:
        assert CONTEXT[answer["start"] : answer["end"]] == answer["text"]


def test_the_threshold_decides(ask) -> None:  # type: ignore[no-untyped-def]
    options = ["--question", QUESTION, "--context", CONTEXT]
    _, answered, _ = ask(*options, "--threshold", "inf")
    _, refused, _ = ask(*options, "--threshold=-inf")
    assert answered.split("   (")[0] in CONTEXT
    assert refused.startswith("no answer   (")


def test_candidates_are_listed(ask, answerer: Answerer) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = ask("--question", QUESTION, "--context", CONTEXT, "--top_k", 3)
    lines = out.splitlines()
    assert len(lines) == 5
    for line, one in zip(lines[1:4], answerer(QUESTION, CONTEXT).candidates, strict=True):
        assert line.endswith(f"{one.text}  [{one.start}:{one.end}]")
    assert lines[4].endswith("no answer")


def test_questions_are_asked_for_one_by_one(ask) -> None:  # type: ignore[no-untyped-def]
    typed = f"{QUESTION}\nwhich city is old?\n\nnot read\n"
    status, out, _ = ask("--context", CONTEXT, "--json", typed=typed)
    assert status == 0
    asked = [json.loads(line)["question"] for line in out.splitlines()]
    assert asked == [QUESTION, "which city is old?"]


def test_files_of_questions(ask, answerer: Answerer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    content = squad_data(3, seed=5)
    squad = tmp_path / "asked.json"
    squad.write_text(json.dumps(content))
    each = [
        (qa["id"], qa["question"], paragraph["context"])
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    status, out, err = ask("--input", squad)
    assert (status, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    assert [one["id"] for one in found] == [identity for identity, _, _ in each]
    right = answerer([one[1] for one in each], [one[2] for one in each])
    assert [one["text"] for one in found] == [answer.text for answer in right]

    keys = ("id", "question", "context")
    lines = "\n".join(json.dumps(dict(zip(keys, one, strict=True))) for one in each)
    assert ask("--input", "-", typed=lines) == (0, out, "")
    file = tmp_path / "asked.jsonl"
    file.write_text(lines + "\n\n")
    assert ask("--input", file) == (0, out, "")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "give either --context"),
        (["--context", "a b", "--input", "x.json"], "give either --context"),
        (["--question", "q", "--input", "x.json"], "the questions of --input are its own"),
        (["--context", "-"], "reads the context where questions would be typed"),
        (["--context", "notes.txt", "--question", "q"], "there is no such file"),
        (["--context", " ", "--question", "q"], "the context is empty"),
        (["--context", "a b", "--question", ""], "the question is empty"),
        (["--input", "none.json"], "there is no such file"),
        (["--input", "none.jsonl"], "--input none.jsonl: No such file"),
        (["--context", "a b", "--top_k", "21"], "--top_k:\n  Not of type Candidates: 21 does not"),
        (
            ["--context", "a b", "--threshold", "nan"],
            "--threshold:\n  Not of type Number: nan",
        ),
        (["--context", "a b", "--thresold", "1"], "Did you mean --threshold?"),
    ],
)
def test_mistakes_are_told(ask, options: Sequence[str], told: str) -> None:  # type: ignore[no-untyped-def]
    status, out, err = ask(*options)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"{", "line 2 is not JSON"),
        (b"[1]", 'line 2: give an object with the texts "question" and "context"'),
        (b'{"question": "a"}', 'line 2: give an object with the texts "question" and "context"'),
        (b'{"question": "a", "context": 1}', "line 2: the context is not a text, but int"),
        (b'{"id": "x", "question": " ", "context": "a"}', 'line 2 (id "x"): the question is empty'),
        (b'{"id": 0, "question": "a", "context": ""}', "line 2 (id 0): the context is empty"),
        (b'{"question": "\\ud800", "context": "a"}', "line 2: the question holds half a character"),
        (b"\xff", "line 2 is not text in UTF-8"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_answered(  # type: ignore[no-untyped-def]
    ask, line: bytes, told: str
) -> None:
    good = json.dumps({"question": QUESTION, "context": CONTEXT}).encode()
    status, out, err = ask("--input", "-", typed=b"\n".join([good, line, good]))
    assert status == 1
    assert err.startswith(f"error: standard input: {told}") and err.endswith("; left out\n")
    assert [json.loads(each)["question"] for each in out.splitlines()] == [QUESTION, QUESTION]


def test_an_empty_question_among_others(ask) -> None:  # type: ignore[no-untyped-def]
    file = CASES / "one_empty_line.jsonl"
    status, out, err = ask("--input", file)
    assert status == 1
    assert err == f"error: {file}: line 2 (id 1): the question is empty; left out\n"
    assert [json.loads(line)["id"] for line in out.splitlines()] == [0, 2]


def test_a_question_that_is_too_long_is_told(ask, answerer: Answerer) -> None:  # type: ignore[no-untyped-def]
    file = CASES / "long_question.json"
    status, out, err = ask("--input", file)
    cut = json.loads(out)["question_tokens_cut"]
    assert status == 0 and cut > 0
    assert err == (
        f"warning: {file}: question a is too long for this model: {cut} tokens in its middle were "
        "not read. Ask it in fewer words\n"
    )
    most = answerer.windows.max_question_tokens
    whole, long = "who was who? " * (most // 4), "who was who? " * (most // 4) + "who?"
    _, _, silent = ask("--context", CONTEXT, "--question", whole)
    _, _, told = ask("--context", CONTEXT, "--question", long)
    assert silent == ""
    assert told.startswith('warning: the question "who was who?') and "2 tokens" in told


def test_a_mistyped_question_does_not_end_the_conversation(ask) -> None:  # type: ignore[no-untyped-def]
    status, out, err = ask("--context", CONTEXT, "--json", typed="a \ufffd\nwhich city?\n")
    assert status == 0, err
    assert len(out.splitlines()) == 2


def test_a_context_may_begin_like_a_home_folder(ask) -> None:  # type: ignore[no-untyped-def]
    status, out, err = ask("--context", "~5 km from paris.", "--question", "how far?", "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["question"] == "how far?"
