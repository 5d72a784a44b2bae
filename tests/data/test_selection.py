"""Questions chosen from tables: kinds left out, samples, articles held out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_lightning.data.selection import Selection, split_articles
from qa_lightning.data.squad import read_squad
from qa_lightning.data.tables import CONTEXTS, QUESTIONS, ReadReport, SquadTables
from qa_lightning.errors import UserError
from tests.helpers.squad import CONTEXT, Write, answer, check, question


@pytest.fixture
def chosen_from(write: Write) -> SquadTables:
    """40 paragraphs in 10 articles; each has 5 questions, of which 2 have no answer."""
    articles = [
        {
            "title": f"t{a}",
            "paragraphs": [
                {
                    "context": f"{CONTEXT} {a}.{p}",
                    "qas": [
                        question(f"{a}.{p}.0", answer("cello")),
                        question(f"{a}.{p}.1", is_impossible=True),
                        question(f"{a}.{p}.2", answer("oboe"), answer("Ana")),
                        question(f"{a}.{p}.3", plausible_answers=[answer("Gent")]),
                        {"id": f"{a}.{p}.4", "question": "?"},
                    ],
                }
                for p in range(4)
            ],
        }
        for a in range(10)
    ]
    return read_squad(write(articles=articles))


def kept(tables: SquadTables) -> list[str]:
    return [name.rpartition(".")[2] for name in tables.questions["id"].to_pylist()]


def test_everything_is_kept_unless_asked(chosen_from: SquadTables) -> None:
    assert Selection().of(chosen_from) == chosen_from


def test_unanswerable_questions_dropped(chosen_from: SquadTables) -> None:
    tables = Selection(unanswerable="drop").of(chosen_from)
    check(tables)
    assert kept(tables) == ["0", "2", "4"] * 40
    assert tables.report.unanswerable == 0


def test_plausible_answers_taken_for_answers(chosen_from: SquadTables) -> None:
    tables = Selection(unanswerable="plausible").of(chosen_from)
    check(tables)
    assert kept(tables) == ["0", "2", "3", "4"] * 40
    assert tables.questions["answers"][2].as_py() == [{"text": "Gent", "start": 23}]
    assert tables.questions["labelled"].to_pylist() == [True, True, True, False] * 40


@pytest.mark.parametrize("most", [1, 2, 5, 37, 199, 200, 1000])
def test_a_sample_is_whole_paragraphs_in_the_files_order(
    chosen_from: SquadTables, most: int
) -> None:
    tables = Selection(max_questions=most).of(chosen_from)
    check(tables)
    ids = tables.questions["id"].to_pylist()
    assert len(ids) == min(most, 200)
    everything = chosen_from.questions["id"].to_pylist()
    assert ids == [name for name in everything if name in set(ids)]
    per_paragraph = np.bincount(tables.questions["context"].to_numpy())
    assert sorted(per_paragraph)[1:] == [5] * (len(per_paragraph) - 1)
    # each question still has the context it had
    texts = tables.contexts["text"].to_pylist()
    for row in tables.questions.to_pylist():
        paragraph = row["id"].rpartition(".")[0]
        assert texts[row["context"]] == f"{CONTEXT} {paragraph}"


def test_a_sample_depends_on_the_seed_alone(chosen_from: SquadTables) -> None:
    def sample(seed: int) -> list[str]:
        return list(
            Selection(max_questions=40, seed=seed).of(chosen_from).questions["id"].to_pylist()
        )

    assert sample(1) == sample(1) != sample(2)


def test_a_larger_sample_holds_the_smaller_one(chosen_from: SquadTables) -> None:
    small = Selection(max_questions=33).of(chosen_from).questions["id"].to_pylist()
    large = Selection(max_questions=90).of(chosen_from).questions["id"].to_pylist()
    assert set(small) < set(large)


def test_nothing_left_is_an_error(write: Write) -> None:
    none = read_squad(write(question("a"), question("b")))
    with pytest.raises(UserError, match="all 2 are unanswerable"):
        Selection(unanswerable="plausible").of(none)


# --- holding articles out ----------------------------------------------------------------------


def articles_of(tables: SquadTables) -> set[tuple[int, str]]:
    rows = tables.contexts.select(["article", "title"]).to_pylist()
    return {(row["article"], row["title"]) for row in rows}


@given(
    titles=st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=2, max_size=12),
    share=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**32),
)
def test_no_held_out_article_stays(titles: list[str], share: float, seed: int) -> None:
    contexts = pa.Table.from_pylist(
        [
            {"article": number, "title": title, "text": f"text {number} {paragraph}"}
            for number, title in enumerate(titles)
            for paragraph in range(2)
        ],
        CONTEXTS,
    )
    rows = [
        {
            "id": f"{context} {nth}",
            "context": context,
            "text": "who?",
            "labelled": True,
            "answers": [],
            "plausible_answers": [],
        }
        for context in range(contexts.num_rows)
        for nth in range(2)
    ]
    questions = pa.Table.from_pylist(rows, QUESTIONS)
    counts = dict.fromkeys(["articles", "contexts", "questions", "unanswerable"], 0)
    tables = SquadTables(contexts, questions, ReadReport(**counts, unlabelled=0, answers=0))
    named = {title or number for number, title in enumerate(titles)}
    if len(named) < 2:
        with pytest.raises(UserError, match="at least two"):
            split_articles(tables, share, seed)
        return
    stays, held = split_articles(tables, share, seed)
    check(stays)
    check(held)
    ids = [*stays.questions["id"].to_pylist(), *held.questions["id"].to_pylist()]
    assert sorted(ids) == sorted(row["id"] for row in rows)
    names = [{title or number for number, title in articles_of(part)} for part in (stays, held)]
    assert names[0] and names[1] and not names[0] & names[1]
    assert abs(len(names[1]) - share * len(named)) <= 1
    again = split_articles(tables, share, seed)
    assert again[1].questions.equals(held.questions)


def test_answers_without_a_place_are_left_out_of_training(write: Write) -> None:
    lost = {"text": "tuba"}
    path = write(
        question("one of two", lost, answer("oboe")),
        question("all", lost),
        question("none"),
        question("kept", answer("oboe"), answer("cello")),
    )
    tables = read_squad(path)
    chosen = Selection(placed=True).of(tables)
    rows = {row["id"]: row["answers"] for row in chosen.questions.to_pylist()}
    assert {name: [a["text"] for a in answers] for name, answers in rows.items()} == {
        "one of two": ["oboe"],
        "none": [],
        "kept": ["oboe", "cello"],
    }
    assert chosen.report.misplaced == ("one of two", "all")
    assert kept(Selection(placed=True, unanswerable="drop").of(tables)) == ["one of two", "kept"]
    assert kept(Selection().of(tables)) == ["one of two", "all", "none", "kept"]
    with pytest.raises(UserError, match="no answer stands"):
        Selection(placed=True).of(read_squad(write(question("all", lost))))
