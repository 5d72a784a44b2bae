"""The same questions every time, answers as they are, and texts that stay what they are."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.data.tables import CONTEXTS, QUESTIONS
from qa_lightning.evaluation.examples import Example, choose, example, table_of
from qa_lightning.evaluation.scored_answers import scored_answers
from qa_lightning.evaluation.spans import NO_SPAN, Answers

RHINE = "The Rhine rises in the Alps and flows to the North Sea."


class TestChoice:
    def test_is_half_and_half(self) -> None:
        answerable = np.arange(100) % 4 > 0
        places = choose(answerable, 8, 42)
        assert answerable[places].tolist() == [True] * 4 + [False] * 4
        assert len(set(places.tolist())) == 8
        assert places.tolist() == choose(answerable, 8, 42).tolist()
        assert places.tolist() != choose(answerable, 8, 43).tolist()

    @settings(deadline=None)
    @given(st.lists(st.booleans()), st.integers(0, 12), st.integers(0, 5))
    def test_takes_as_many_as_there_are(self, kinds: list[bool], count: int, seed: int) -> None:
        answerable = np.array(kinds, bool)
        places = choose(answerable, count, seed).tolist()
        assert len(places) == len(set(places)) == min(count, len(kinds))
        found = answerable[places].tolist()
        assert found == sorted(found, reverse=True)
        for kind in (True, False):  # no kind is passed over for the other
            assert found.count(kind) >= min(count // 2, kinds.count(kind))


def by_hand(threshold: float) -> list[Example]:
    """Five questions about the Rhine: gold answers, best span, null odds."""
    asked = [
        (["the Alps", "Alps", "the Alps"], "the Alps", -2.0),
        (["the North Sea"], "North", -1.0),
        (["the North Sea"], "Alps", 0.5),
        ([], "Alps", 0.25),
        ([], None, 3e38),
    ]
    questions = pa.Table.from_pylist(
        [
            {
                "id": str(row),
                "context": 1,
                "text": f"question {row}?",
                "labelled": True,
                "answers": [{"text": text, "start": RHINE.index(text)} for text in golds],
                "plausible_answers": [],
            }
            for row, (golds, _, _) in enumerate(asked)
        ],
        QUESTIONS,
    )
    contexts = pa.Table.from_pylist(
        [{"article": 0, "title": "", "text": text} for text in ("Another.", RHINE)], CONTEXTS
    )
    spans = np.full((5, 2, 2), NO_SPAN, np.int32)
    scores = np.full((5, 2), -np.inf, np.float32)
    for row, (_, text, odds) in enumerate(asked):
        if text:
            spans[row, 0] = RHINE.index(text), RHINE.index(text) + len(text)
            scores[row, 0] = -odds
    answers = Answers(np.arange(5), np.zeros(5, np.float32), spans, scores)
    scored = scored_answers(questions, contexts, answers, threshold)
    return [example(scored, row) for row in range(5)]


class TestExamples:
    def test_by_hand(self) -> None:
        rows = by_hand(0.3)
        assert [each.predicted for each in rows] == ["the Alps", "North", "", "Alps", ""]
        assert [each.exact for each in rows] == [1, 0, 0, 0, 1]
        assert [each.f1 for each in rows] == [1, pytest.approx(2 / 3), 0, 0, 1]
        assert rows[0].golds == ["the Alps", "Alps"]
        # The best span is marked although it was not given.
        assert (rows[2].before, rows[2].marked) == ("The Rhine rises in the ", "Alps")
        assert (rows[4].before, rows[4].marked, rows[4].after) == ("", "", RHINE)

    def test_the_threshold_decides(self) -> None:
        assert [each.predicted for each in by_hand(-1.5)] == ["the Alps", "", "", "", ""]
        assert [each.predicted for each in by_hand(1e39)][-1] == ""  # there is no span to give

    def test_the_table_says_it(self) -> None:
        legend, _, header, _, *lines = table_of(by_hand(0.3), 0.3).splitlines()
        assert "above 0.3 mean “no answer”" in legend
        assert header == "|  | question | context | gold | predicted |"
        assert lines == [
            "| ✓ | question 0? | The Rhine rises in **the Alps** and flows to the North Sea. "
            "| the Alps / Alps | the Alps (null odds -2) |",
            "| ½ | question 1? | The Rhine rises in the Alps and flows to the **North** Sea. "
            "| the North Sea | North (null odds -1) |",
            "| ✗ | question 2? | The Rhine rises in the *Alps* and flows to the North Sea. "
            "| the North Sea | no answer (null odds +0.5) |",
            "| ✗ | question 3? | The Rhine rises in the **Alps** and flows to the North Sea. "
            "| no answer | Alps (null odds +0.25) |",
            f"| ✓ | question 4? | {RHINE} | no answer | no answer (null odds +3.4e+38) |",
        ]


class Shown(HTMLParser):
    """What a browser shows of a page: cells of tables, and the tags there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def plain(text: str) -> str:
    return flat(text).strip()


@settings(deadline=None)
@given(
    st.lists(
        st.text(
            st.sampled_from("ab *_`[]()<>&|\\!#~-+.:/\"'\n$x{}@=^")
            | st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"]),
            min_size=1,
            max_size=30,
        ),
        min_size=4,
        max_size=4,
    )
)
def test_tensorboard_shows_texts_as_they_are(texts: list[str]) -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    question, before, marked, gold = texts
    predicted = f"x{marked.strip()}"
    shown_one = Example("id", question, [gold], predicted, 50, 0, 0, 1.0, flat(before), "x", "")
    shown = Shown(markdown_to_safe_html(table_of([shown_one], 0.0)))
    assert shown.tags <= {"p", "strong", "em", "table", "thead", "tbody", "tr", "th", "td"}
    assert [plain(cell) for cell in shown.cells[5:]] == [
        "✗",
        plain(question),
        plain(before + "x"),
        plain(gold) or "",
        plain(f"{predicted} (null odds +1)"),
    ]
