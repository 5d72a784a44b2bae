"""Figures by group are those worked out by hand; texts of any kind stay what they are."""

from __future__ import annotations

import json
import math
from dataclasses import astuple
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_lightning.data.tables import CONTEXTS, QUESTIONS
from qa_lightning.evaluation.calibration import NOT_TUNED, Tuned
from qa_lightning.evaluation.report import Report, failure_report
from qa_lightning.evaluation.scoring import evaluate
from qa_lightning.evaluation.spans import NO_SPAN, Answers, best_texts

RIVER = "The Rhine rises in the Alps and flows through Basel to the North Sea."
LONG = "Rome was founded in 753 BC . " + "word " * 60 + "."
MARKED = "a_b *c* | [d](e) <f> `g` ~h~ & \\i"


def odds_of(probability: float) -> float:
    """Score of the span, where "no answer" scores 0, that makes the span this probable."""
    return math.log(probability / (1 - probability))


def question(
    text: str, context: int, golds: list[str], plausible: list[str] | None = None
) -> dict[str, Any]:
    def found(texts: list[str]) -> list[dict[str, Any]]:
        places = (RIVER, LONG, MARKED)[context]
        return [{"text": each, "start": places.index(each)} for each in texts]

    return {
        "id": text.split()[-1],
        "context": context,
        "text": text,
        "labelled": True,
        "answers": found(golds),
        "plausible_answers": found(plausible or []),
    }


# Question; predicted span; its probability; number of windows. "No answer" has all the rest.
ASKED = [
    (question("Where does it rise? q0", 0, ["the Alps", "Alps"]), "Alps", 0.9, 1),
    (question("In what year was Rome founded? q1", 1, ["753 BC", "753"]), "753 BC .", 0.95, 2),
    (question("When was Rome founded? q2", 1, ["753 BC"]), "Rome was founded", 0.85, 5),
    (question("To whom, or what, flows it? q3", 0, ["North Sea"]), "Basel", 0.1, 1),
    (question("Who owns it? q4", 0, [], ["Basel"]), "Basel", 0.99, 1),
    (question("Why? q5", 0, [], ["the Alps", "North Sea"]), "Alps and flows", 0.75, 1),
    (question("WHAT's a b? q6", 0, [], ["Basel"]), "Basel", 0.2, 1),
    (question("Name it. q7", 2, [], None), "[d](e)", 0.6, 1),
]


def tables(asked: list[dict[str, Any]], contexts: list[str]) -> tuple[pa.Table, pa.Table]:
    return pa.Table.from_pylist(asked, QUESTIONS), pa.Table.from_pylist(
        [{"article": 0, "title": "", "text": text} for text in contexts], CONTEXTS
    )


def by_hand(
    threshold: float = 0.0,
    worst: int = 10,
    rows: list[int] | None = None,
    cut: np.ndarray | None = None,
    tuned: Tuned = NOT_TUNED,
) -> Report:
    questions, contexts = tables([asked for asked, *_ in ASKED], [RIVER, LONG, MARKED])
    rows = list(range(len(ASKED))) if rows is None else rows
    spans = np.full((len(rows), 2, 2), NO_SPAN, np.int32)
    scores = np.full((len(rows), 2), -np.inf, np.float32)
    for place, row in enumerate(rows):
        asked, text, probability, _ = ASKED[row]
        begin = (RIVER, LONG, MARKED)[asked["context"]].index(text)
        spans[place, 0] = begin, begin + len(text)
        scores[place, 0] = odds_of(probability)
    answers = Answers(np.array(rows), np.zeros(len(rows), np.float32), spans, scores)
    windows = np.array([ASKED[row][3] for row in rows])
    parts = (questions, contexts, answers, windows, threshold)
    return failure_report(*parts, tuned=tuned, cut=cut, worst=worst)


def figures(report: Report, name: str) -> dict[str, tuple[float, ...]]:
    """Count, EM, F1 and share of "no answer" by group."""
    groups = report.overall if name == "overall" else report.breakdowns[name]
    return {group.name: astuple(group)[1:] for group in groups}


# Right are q0, q1 ("753 BC ." normalises to a gold answer) and q6. q2 is a span that has no word
# of the gold answer, q3 is not answered; q4, q5 and q7 are answered and have no answer.
def test_overall_figures_by_hand() -> None:
    assert figures(by_hand(), "overall") == {
        "all": (8, 37.5, 37.5, 25.0),
        "answerable": (4, 50.0, 50.0, 25.0),
        "unanswerable": (4, 25.0, 25.0, 25.0),
    }


def test_breakdowns_by_hand_in_their_order() -> None:
    report = by_hand()
    expected = {
        "question_word": {
            "who": (2, 0.0, 0.0, 50.0),  # q3 ("whom" comes before "what"), q4
            "what": (2, 100.0, 100.0, 50.0),  # q1, q6
            "when": (1, 0.0, 0.0, 0.0),
            "where": (1, 100.0, 100.0, 0.0),
            "why": (1, 0.0, 0.0, 0.0),
            "other": (1, 0.0, 0.0, 0.0),
        },
        "answer_words": {"2": (4, 50.0, 50.0, 25.0)},
        "answer_position": {
            "first quarter": (2, 50.0, 50.0, 0.0),  # q1, q2
            "second quarter": (1, 100.0, 100.0, 0.0),  # q0: character 19 of 69
            "last quarter": (1, 0.0, 0.0, 100.0),  # q3
        },
        "context_words": {
            "under 50": (6, 100 / 3, 100 / 3, 100 / 3),
            "50–99": (2, 50.0, 50.0, 0.0),
        },
        "windows": {
            "1": (6, 100 / 3, 100 / 3, 100 / 3),
            "2": (1, 100.0, 100.0, 0.0),
            "3+": (1, 0.0, 0.0, 0.0),
        },
    }
    assert list(report.breakdowns) == list(expected)
    for name, groups in expected.items():
        assert list(figures(report, name)) == list(groups)
        for group, values in groups.items():
            assert figures(report, name)[group] == pytest.approx(values), (name, group)


def test_questions_that_were_cut_have_figures_of_their_own() -> None:
    assert "cut_questions" not in by_hand().breakdowns
    assert "cut_questions" not in by_hand(cut=np.zeros(8, bool)).breakdowns
    report = by_hand(cut=np.arange(8) < 4)  # two of these are right, one is not answered
    assert figures(report, "cut_questions") == {"cut": (4, 50.0, 50.0, 25.0)}
    assert "## Questions longer than the model reads" in report.to_markdown()


def test_f1_counts_part_of_an_answer() -> None:
    questions, contexts = tables([question("Where? q", 0, ["the North Sea"])], [RIVER])
    begin = RIVER.index("North")
    span = np.array([[[begin, begin + 5]]], np.int32)
    answers = Answers(np.array([0]), np.zeros(1, np.float32), span, np.ones((1, 1), np.float32))
    report = failure_report(questions, contexts, answers, np.array([1]), 0.0)
    assert figures(report, "overall")["all"] == pytest.approx((1, 0.0, 200 / 3, 0.0))
    assert list(figures(report, "overall")) == ["all", "answerable"]


@pytest.mark.parametrize(
    ("words", "name"),
    [(1, "1"), (3, "3"), (4, "4–5"), (5, "4–5"), (6, "6–10"), (10, "6–10"), (11, "11+")],
)
def test_answer_length_is_that_of_the_first_gold_answer(words: int, name: str) -> None:
    gold = " ".join(RIVER.split()[:words])
    questions, contexts = tables([question("How? q", 0, [gold, "Alps"])], [RIVER])
    answers = Answers(
        np.array([0]),
        np.zeros(1, np.float32),
        np.array([[[0, 3]]], np.int32),
        np.ones((1, 1), np.float32),
    )
    report = failure_report(questions, contexts, answers, np.array([1]), 0.0)
    assert list(figures(report, "answer_words")) == [name]


def test_plausible_answers_by_hand() -> None:
    plausible = by_hand().plausible
    assert plausible is not None
    # q4 takes it, q5 answers with something else, q6 does not answer though it is the best span.
    assert astuple(plausible) == pytest.approx((3, 200 / 3, 100 / 3))
    assert by_hand(rows=[0, 7]).plausible is None


def test_calibration_by_hand() -> None:
    measured = by_hand().calibration
    # Confidence: 0.9, 0.95, 0.85, 0.9 (none), 0.99, 0.75, 0.8 (none), 0.6; some are borders of bins
    # but for rounding, so which bin each is in is tested below.
    assert sum(each.count for each in measured.bins) == 8
    assert measured.confidence == pytest.approx(100 * 6.74 / 8, abs=1e-4)
    assert measured.right == 37.5


def test_worst_errors_are_wrong_and_the_surest_first() -> None:
    report = by_hand()
    assert [mistake.id for mistake in report.mistakes] == ["q4", "q3", "q2", "q5", "q7"]
    sure = [mistake.confidence for mistake in report.mistakes]
    assert sure == pytest.approx([99.0, 90.0, 85.0, 75.0, 60.0], abs=1e-4)
    assert by_hand(worst=2).mistakes == report.mistakes[:2]

    answered, unanswered = report.mistakes[:2]
    assert (answered.predicted, answered.golds, answered.marked) == ("Basel", [], "Basel")
    assert answered.before + answered.marked + answered.after == RIVER
    assert (unanswered.predicted, unanswered.golds) == ("", ["North Sea"])
    assert (unanswered.marked, unanswered.after) == ("North Sea", ".")


def test_threshold_decides_what_was_answered() -> None:
    always, never = by_hand(math.inf), by_hand(-math.inf)
    assert figures(always, "overall")["all"][3] == 0.0
    assert figures(never, "overall")["all"] == (8, 50.0, 50.0, 100.0)
    # A verdict that is always given is sure of itself among the choices that are left.
    assert all(mistake.predicted for mistake in always.mistakes)
    assert [mistake.confidence for mistake in never.mistakes] == [100.0] * 4
    assert (always.to_dict()["threshold"], never.to_dict()["threshold"]) == ("inf", "-inf")


def test_part_of_the_questions_is_reported_as_if_there_were_no_others() -> None:
    report = by_hand(rows=[1, 3])
    assert figures(report, "overall") == {
        "all": (2, 50.0, 50.0, 50.0),
        "answerable": (2, 50.0, 50.0, 50.0),
    }
    assert list(figures(report, "question_word")) == ["who", "what"]
    assert [mistake.id for mistake in report.mistakes] == ["q3"]


def test_a_question_without_legal_span_is_unanswered_at_any_threshold() -> None:
    questions, contexts = tables([question("Where? q", 0, ["Alps"])], [RIVER])
    answers = Answers(
        np.array([0]),
        np.full(1, -3.0, np.float32),
        np.full((1, 2, 2), NO_SPAN, np.int32),
        np.full((1, 2), -np.inf, np.float32),
    )
    report = failure_report(questions, contexts, answers, np.array([1]), math.inf)
    assert figures(report, "overall")["all"] == (1, 0.0, 0.0, 100.0)
    (mistake,) = report.mistakes
    assert (mistake.predicted, mistake.marked, mistake.confidence) == ("", "Alps", 100.0)


def test_refuses_what_it_cannot_report_on() -> None:
    with pytest.raises(ValueError, match="no questions"):
        by_hand(rows=[])
    questions, contexts = tables([ASKED[0][0]], [RIVER])
    answers = Answers(np.array([0]), np.zeros(1), np.zeros((1, 1, 2), int), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="2 numbers of windows for 1 questions"):
        failure_report(questions, contexts, answers, np.array([1, 1]), 0.0)


# ---- any data

TEXTS = st.text(st.sampled_from("ab .,'\n\u0301é|*_`<the"), min_size=1, max_size=40)


@st.composite
def evaluated(draw: st.DrawFn) -> tuple[pa.Table, pa.Table, Answers, np.ndarray, float]:
    contexts = draw(st.lists(TEXTS, min_size=1, max_size=3))

    def a_span(text: str) -> tuple[int, int]:
        begin = draw(st.integers(0, len(text) - 1))
        return begin, draw(st.integers(begin + 1, len(text)))

    asked, spans = [], []
    for row in range(draw(st.integers(1, 8))):
        context = draw(st.integers(0, len(contexts) - 1))
        text = contexts[context]
        record: dict[str, Any] = {"id": f"id{row}", "context": context, "labelled": True}
        record["text"] = draw(st.sampled_from(["Who?", "how so", "a|b", "", "which why\n"]))
        for name in ("answers", "plausible_answers"):
            places = [a_span(text) for _ in range(draw(st.integers(0, 2)))]
            record[name] = [{"text": text[begin:end], "start": begin} for begin, end in places]
        asked.append(record)
        spans.append(draw(st.sampled_from([a_span(text), (NO_SPAN, NO_SPAN)])))
    score = st.floats(-20, 20, width=32)
    best = [draw(score) if begin != NO_SPAN else -math.inf for begin, _ in spans]
    answers = Answers(
        np.arange(len(asked)),
        np.array([draw(score) for _ in asked], np.float32),
        np.array(spans, np.int32)[:, None],
        np.array(best, np.float32)[:, None],
    )
    windows = np.array([draw(st.integers(1, 5)) for _ in asked])
    return *tables(asked, contexts), answers, windows, draw(st.sampled_from([0.0, -3.0, math.inf]))


@given(evaluated())
def test_groups_add_up_to_the_official_figures(
    case: tuple[pa.Table, pa.Table, Answers, np.ndarray, float],
) -> None:
    questions, contexts, answers, windows, threshold = case
    report = failure_report(questions, contexts, answers, windows, threshold)
    golds = [[each["text"] for each in given] for given in questions["answers"].to_pylist()]
    texts = best_texts(
        answers, [contexts["text"][row].as_py() for row in questions["context"].to_pylist()]
    )
    official = evaluate(golds, texts, null_odds=answers.null_odds, threshold=threshold)
    overall = {group.name: group for group in report.overall}
    for name, prefix in (("all", ""), ("answerable", "HasAns_"), ("unanswerable", "NoAns_")):
        assert (name in overall) == (f"{prefix}total" in official)
        if name in overall:
            assert overall[name].count == official[f"{prefix}total"]
            assert overall[name].exact == pytest.approx(official[f"{prefix}exact"])
            assert overall[name].f1 == pytest.approx(official[f"{prefix}f1"])
    for name, groups in report.breakdowns.items():
        covered = overall["answerable" if name.startswith("answer") else "all"]
        assert sum(group.count for group in groups) == covered.count
        for figure in ("exact", "f1", "no_answer"):
            weighted = sum(group.count * getattr(group, figure) for group in groups)
            assert weighted / covered.count == pytest.approx(getattr(covered, figure))

    measured = report.calibration
    assert sum(each.count for each in measured.bins) == overall["all"].count
    assert measured.right == pytest.approx(overall["all"].exact)
    assert 0 <= measured.ece <= 100
    wrong = round(overall["all"].count * (1 - overall["all"].exact / 100))
    assert len(report.mistakes) == wrong
    if report.plausible:
        assert report.plausible.taken <= report.plausible.answered <= 100

    content = report.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    lines = report.to_markdown().splitlines()
    cells = {line.count("|") for line in lines if line.startswith("| ")}
    assert cells <= {5, 6}  # as many in every row as in its header


# ---- Markdown


def test_markdown_shows_texts_as_they_are() -> None:
    markdown = by_hand().to_markdown()
    assert r"**\[d\](e)**" in markdown
    assert (
        r"Context: a\_b \*c\* \| **\[d\](e)** &lt;f&gt; \`g\` &#126;h&#126; &amp; \\i" in markdown
    )


def test_markdown_says_where_the_model_fails() -> None:
    markdown = by_hand().to_markdown()
    lines = markdown.splitlines()
    assert "| all | 8 | 37.5 | 37.5 | 25.0 |" in lines
    assert "| second quarter | 1 | 100.0 | 100.0 | 0.0 |" in lines
    assert "| 3+ | 1 | 0.0 | **0.0** | 0.0 |" in lines  # the lowest F1 of its table
    assert "| 2 | 4 | 50.0 | 50.0 | 25.0 |" in lines  # the only group is not pointed out
    assert "Questions: 3. Answered at all: 66.7 %. Answered with the plausible answer: 33.3 %." in (
        lines
    )
    at = lines.index("2. Question: To whom, or what, flows it? q3 (q3)<br>")
    assert lines[at + 1 :][:2] == [
        "   Answer: no answer, 90.0 % sure. Gold: North Sea<br>",
        "   Context: The Rhine rises in the Alps and flows through Basel to the *North Sea*.",
    ]
    assert "Worst" not in by_hand(rows=[0]).to_markdown()


def test_small_groups_are_not_pointed_out() -> None:
    rows = [0] * 30 + [7] + [4] * 3
    lines = by_hand(rows=rows).to_markdown().splitlines()
    assert "| other | 1 | 0.0 | 0.0 | 0.0 |" in lines
    assert "| who | 3 | 0.0 | **0.0** | 0.0 |" in lines
