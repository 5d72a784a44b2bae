"""Excerpts show whole words on both sides of a span, and are part of the context."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qa_lightning.evaluation.markdown import excerpt

RIVER = "The Rhine rises in the Alps and flows through Basel to the North Sea."


def test_excerpt_shows_whole_words_on_both_sides() -> None:
    words = " ".join(f"word{number}" for number in range(200))
    begin = words.index("word100")
    before, marked, after = excerpt(words, begin, begin + 7)
    assert marked == "word100"
    assert before.startswith("… word9") and before.endswith(" word99 ")
    assert after.startswith(" word101 ") and after.endswith(" …")
    assert 130 < len(before + marked + after) <= 160 + 4
    assert all(word in {*words.split(), "…"} for word in (before + marked + after).split())


def test_excerpt_at_the_borders_uses_the_room_of_the_other_side() -> None:
    words = " ".join(f"word{number}" for number in range(200))
    before, marked, after = excerpt(words, 0, 5)
    assert (before, marked) == ("", "word0") and 140 < len(after) <= 157
    before, marked, after = excerpt(words, len(words) - 7, len(words))
    assert (marked, after) == ("word199", "") and 140 < len(before) <= 157
    assert excerpt(RIVER, 0, len(RIVER)) == ("", RIVER, "")


def test_excerpt_flattens_white_space_and_keeps_the_span() -> None:
    context = "\n One\n\n two\t(three\u2028 four), five \n"
    begin, end = context.index("three"), context.index(")")
    assert excerpt(context, begin, end) == ("One two (", "three four", "), five")
    assert excerpt(context, begin, end + 2) == ("One two (", "three four),", " five")
    assert excerpt("a b c", 1, 4) == ("a ", "b", " c")  # no spaces at the span's ends


def test_excerpt_counts_code_points_and_parts_no_letter_from_its_marks() -> None:
    context = "Cafe\u0301 \U0001f600 in São Paulo"
    begin = context.index("São")
    assert excerpt(context, begin, begin + 3) == ("Cafe\u0301 \U0001f600 in ", "São", " Paulo")
    # One word that is too long is cut, but not between a letter and its mark.
    for shift in range(3):
        endless = "x" * shift + "e\u0301\u0323" * 200
        before, marked, after = excerpt(endless, 300 + shift, 303 + shift)
        assert before.startswith("…e") and marked == "e\u0301\u0323"
        assert after.endswith("\u0323…")
        assert len(before + marked + after) <= 160 + 4


def test_excerpt_of_a_long_span_shortens_it_and_still_shows_what_is_around() -> None:
    context = "before it " + "long " * 60 + "after it"
    before, marked, after = excerpt(context, 10, 10 + 5 * 60 - 1)
    assert before == "before it " and after == " after it"
    assert marked.startswith("long long") and marked.endswith("long …") and len(marked) <= 162


@given(st.text(max_size=500), st.data())
def test_excerpt_is_part_of_the_context(context: str, data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(context)))
    end = data.draw(st.integers(begin, len(context)))
    shown = "".join(excerpt(context, begin, end))
    assert "\n" not in shown and len(shown) <= 2 * 160 + 6
    if "…" not in shown:
        assert shown.split() == context.split()
