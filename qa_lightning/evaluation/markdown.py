"""Texts from the data shown in Markdown: as they are, on one line, no longer than there is room."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from html import escape

EXCERPT = 160
"""Characters of an excerpt, about."""


def excerpt(context: str, begin: int, end: int) -> tuple[str, str, str]:
    """Cut a span with some text on both sides out of a context.

    White space becomes single spaces. Cuts fall between words (inside one only where a word alone
    is too long, and never before a combining mark) and show as "…".

    Args:
        context: The text.
        begin: First character of the span.
        end: One past its last character.

    Returns:
        Text before the span, the span, and text after it; about 160 characters together.
    """
    # Emphasis in Markdown must not begin or end with a space.
    begin += len(context[begin:end]) - len(context[begin:end].lstrip())
    end = begin + len(context[begin:end].rstrip())
    before, span, after = map(_flat, (context[:begin], context[begin:end], context[end:]))
    span = _head(span, EXCERPT)
    # A long span leaves some room all the same; what one side does not need, the other gets.
    room = max(EXCERPT - len(span), EXCERPT // 4)
    side = min(len(before), max(room // 2, room - len(after)))
    return _tail(before.lstrip(), side), span, _head(after.rstrip(), room - side)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, of_figures: bool = True) -> str:
    """A table.

    Args:
        header: Names of the columns.
        rows: Cells, already escaped, as many in each row as in the header.
        of_figures: Whether all columns but the first hold figures, which stand to the right.
    """
    rule = ["---", *(("---:" if of_figures else "---") for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def shown(text: str) -> str:
    """A text on one line, escaped, cut after about 160 characters."""
    return escaped(_head(_flat(text), EXCERPT))


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, also in a table: no emphasis, link, code or tag."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(text, quote=False)).replace("~", "&#126;")


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _head(text: str, width: int) -> str:
    """The whole words that fit into the first characters, and "…" if anything is left out."""
    if len(text) <= width:
        return text
    end = text.rfind(" ", 0, width + 1)
    if end >= 0:
        return text[:end] + " …"
    end = width
    while end and _joins(text[end]):
        end -= 1
    return text[:end] + "…"


def _tail(text: str, width: int) -> str:
    """The whole words that fit into the last characters, and "…" if anything is left out."""
    if len(text) <= width:
        return text
    begin = text.find(" ", len(text) - width - 1) + 1
    if begin:
        return "… " + text[begin:]
    begin = len(text) - width
    while begin < len(text) and _joins(text[begin]):
        begin += 1
    return "…" + text[begin:]


def _joins(character: str) -> bool:
    """Whether a character is a mark on the one before it."""
    return unicodedata.category(character).startswith("M")
