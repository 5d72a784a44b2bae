"""The quickstart's sample: sound files that neither question nor passage alone can solve."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLE = REPOSITORY / "qa_lightning" / "data" / "sample"
PARTS = ("train", "dev")

Row = tuple[str, dict[str, Any]]  # context, question


def load(part: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((SAMPLE / f"{part}.json").read_text(encoding="utf-8"))
    return data


def rows(part: str) -> list[Row]:
    return [
        (paragraph["context"], question)
        for article in load(part)["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


# The name inside a question, such as "the Eskune finch", "the Isle of Ulvora" or "Aldo Tasgard".
NAME = re.compile(
    r"(?<= )(?:the )?(?:(?:Isle|Star|Queen) of )?[A-Z]\w+(?: [A-Z]\w+)*"
    r"(?: (?:finch|warbler|owl|heron|thrush|plover))?"
)
# Words in upper case that go with names and stand in both parts.
KINDS = {
    *("Athletic", "Rovers", "United", "Wanderers"),
    *("Brothers", "Industries", "Manufacturing", "Works"),
    *("Bridge", "Collection", "Gallery", "Line", "Museum", "Observatory", "Railway", "River"),
    *("Carnival", "Fair", "Festival", "Island", "Isle", "Queen", "Star"),
    *("Fridays", "Mondays", "May", "October", "Roman", "Romantic", "Saturn"),
}


def form(question: str) -> str:
    """The question with its name left out: which of the forms it is."""
    question = question.replace("PhD", "phd")
    assert len(NAME.findall(question)) == 1, question
    return NAME.sub("_", question)


def gold(question: dict[str, Any]) -> str:
    return question["answers"][0]["text"] if question["answers"] else ""


def names(part: str) -> set[str]:
    """Words in upper case inside sentences: names of people, places and things."""
    text = " ".join(context for context, _ in rows(part))
    return set(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+", text))


@pytest.mark.parametrize("part", PARTS)
def test_the_file_has_the_shape_of_squad(part: str) -> None:
    data = load(part)
    assert set(data) == {"version", "data"}
    for article in data["data"]:
        assert set(article) == {"title", "paragraphs"}
        assert len(article["paragraphs"]) >= 2
        for paragraph in article["paragraphs"]:
            assert set(paragraph) == {"context", "qas"}
    for _, question in rows(part):
        keys = {"id", "question", "answers", "is_impossible"}
        keys |= {"plausible_answers"} if question["is_impossible"] else set()
        assert set(question) == keys
        assert re.fullmatch("[0-9a-f]{24}", question["id"])
        assert bool(question["answers"]) != question["is_impossible"]
        assert question["question"].endswith("?")


@pytest.mark.parametrize("part", PARTS)
def test_answers_stand_where_they_say(part: str) -> None:
    for context, question in rows(part):
        for answer in question["answers"] + question.get("plausible_answers", []):
            start = answer["answer_start"]
            assert context[start : start + len(answer["text"])] == answer["text"]
        if question["is_impossible"]:
            assert len(question["plausible_answers"]) == 1
        else:
            assert 1 <= len(question["answers"]) <= (1 if part == "train" else 3)
            assert len(re.findall(rf"\b{re.escape(gold(question))}\b", context)) == 1


@pytest.mark.parametrize("part", PARTS)
def test_a_question_is_asked_once_of_a_passage_and_has_its_own_id(part: str) -> None:
    asked = [(context, question["question"]) for context, question in rows(part)]
    assert len(set(asked)) == len(asked)
    ids = [question["id"] for each in PARTS for _, question in rows(each)]
    assert len(set(ids)) == len(ids)


def test_counts() -> None:
    train, dev = rows("train"), rows("dev")
    assert len(train) + len(dev) >= 1500
    assert 0.15 < len(dev) / (len(train) + len(dev)) < 0.30
    for part in PARTS:
        impossible = [question["is_impossible"] for _, question in rows(part)]
        assert 0.30 < sum(impossible) / len(impossible) < 0.50
    for context, _ in train + dev:
        assert 5 <= len(re.findall(r"\.(?: |$)", context)) <= 13
        assert 50 <= len(context.split()) <= 160
    size = sum((SAMPLE / f"{part}.json").stat().st_size for part in PARTS)
    assert size < 1_500_000


def test_the_parts_share_no_passage_and_no_name() -> None:
    assert not {context for context, _ in rows("train")} & {context for context, _ in rows("dev")}
    titles = [{article["title"] for article in load(part)["data"]} for part in PARTS]
    assert not titles[0] & titles[1]
    assert names("train") & names("dev") <= KINDS
    assert len(names("dev") - KINDS) > 200


def test_entities_of_the_same_kind_are_there_to_confuse() -> None:
    """Most unanswerable questions are asked word for word of something the passage does tell."""
    for part in PARTS:
        told = defaultdict(set)
        for context, question in rows(part):
            if question["is_impossible"]:
                told[context].add(question["plausible_answers"][0]["text"])
        answered = defaultdict(set)
        for context, question in rows(part):
            answered[context].add(gold(question))
        confusing = [bool(told[context] & answered[context]) for context in told]
        assert sum(confusing) / len(confusing) > 0.5


def test_answers_do_not_stand_in_the_question_and_words_differ() -> None:
    """Questions are paraphrases: no question repeats its passage's predicate."""
    shared, total = 0, 0
    for context, question in rows("dev"):
        if question["is_impossible"]:
            continue
        assert gold(question).lower() not in question["question"].lower()
        start = question["answers"][0]["answer_start"]
        before = context[:start].lower().split()[-3:]  # the predicate's words before the answer
        asked = set(re.findall("[a-z]+", question["question"].lower()))
        content = [word for word in before if len(word) > 3]
        shared += sum(word in asked for word in content)
        total += len(content)
    assert shared / total < 0.2


def test_always_no_answer_scores_below_half() -> None:
    assert sum(not gold(question) for _, question in rows("dev")) / len(rows("dev")) < 0.5


def test_no_answer_given_to_a_whole_passage_scores_half() -> None:
    """Even the best single answer per passage, picked with hindsight, stays below 50 EM."""
    by_passage: dict[str, list[str]] = defaultdict(list)
    for context, question in rows("dev"):
        by_passage[context].append(gold(question))
    best = sum(max(Counter(answers).values()) for answers in by_passage.values())
    assert best / len(rows("dev")) < 0.5


SHARE = sum(question["is_impossible"] for _, question in rows("train")) / len(rows("train"))


def balanced_accuracy(guesses: list[bool]) -> float:
    """How well dev's questions are told apart, answerable and not weighing alike: 0.5 is chance."""
    truth: list[bool] = [question["is_impossible"] for _, question in rows("dev")]
    hits = [
        sum(g == t == kind for g, t in zip(guesses, truth, strict=True)) / truth.count(kind)
        for kind in (True, False)
    ]
    return sum(hits) / 2


def test_the_form_of_a_question_does_not_tell_its_answer() -> None:
    """The usual answer of the question's form in training, and its usual answerability."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    impossible: dict[str, Counter[bool]] = defaultdict(Counter)
    for _, question in rows("train"):
        answers[form(question["question"])][gold(question)] += 1
        impossible[form(question["question"])][question["is_impossible"]] += 1
    dev = [question for _, question in rows("dev")]
    forms = [form(question["question"]) for question in dev]
    assert sum(f in answers for f in forms) / len(forms) > 0.95  # the parts share their forms
    guesses = [answers[f].most_common(1)[0][0] if answers[f] else "" for f in forms]
    exact = sum(g == gold(question) for g, question in zip(guesses, dev, strict=True))
    assert exact / len(dev) < 0.5
    share = {f: counts[True] / counts.total() for f, counts in impossible.items()}
    assert balanced_accuracy([share.get(f, 0.0) > SHARE for f in forms]) < 0.6


def test_the_words_of_a_question_do_not_tell_whether_it_is_answerable() -> None:
    """A naive Bayes classifier over the question's words does little better than guessing."""
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for _, question in rows("train"):
        counts[question["is_impossible"]].update(set(form(question["question"]).lower().split()))
    totals = {kind: counter.total() for kind, counter in counts.items()}
    words = set(counts[True]) | set(counts[False])
    guesses = []
    for _, question in rows("dev"):
        odds = 0.0
        for word in set(form(question["question"]).lower().split()) & words:
            odds += math.log((counts[True][word] + 1) / (totals[True] + len(words)))
            odds -= math.log((counts[False][word] + 1) / (totals[False] + len(words)))
        guesses.append(odds > 0)
    assert balanced_accuracy(guesses) < 0.6


def test_the_same_question_is_answerable_on_one_passage_and_not_on_another() -> None:
    kinds: dict[str, set[bool]] = defaultdict(set)
    for part in PARTS:
        for _, question in rows(part):
            kinds[form(question["question"])].add(question["is_impossible"])
    assert sum(len(kind) == 2 for kind in kinds.values()) / len(kinds) > 0.95


def test_the_text_has_no_leftovers_of_its_making() -> None:
    for part in PARTS:
        for context, question in rows(part):
            for text in (context, question["question"]):
                assert not re.search(r"[{}_]|  | [.,;?]|[.,;?]{2}", text), text
                assert not re.search(r"\ba [aeiou]|\ban [^aeiou\W]|\b(\w+) \1\b", text, re.I), text
                assert not re.search(r"(?:^|[.?] )[a-z]", text), text


def test_the_generator_writes_these_very_files(tmp_path: Path) -> None:
    script = [sys.executable, str(REPOSITORY / "scripts" / "make_sample.py")]
    run = subprocess.run([*script, "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    stale = [*script, "--check", "--folder", str(tmp_path)]
    run = subprocess.run(stale, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "dev.json" in run.stderr
