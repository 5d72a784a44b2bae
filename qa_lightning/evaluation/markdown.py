"""Texts from the data shown in Markdown: as they are, on one line, no longer than there is room."""

import re
import unicodedata
from collections.abc import Sequence
from html import escape

EXCERPT = 160  # characters, about


def excerpt(context: str, begin: int, end: int) -> tuple[str, str, str]:
    """Cut a span with some text on both sides out of a context, about 160 characters together.

    White space becomes single spaces. Cuts fall between words (inside one only where a word alone
    is too long, and never before a combining mark) and show as "…".

    Returns:
        Text before the span, the span, and text after it.
    """
    # Emphasis in Markdown must not begin or end with a space.
    begin += len(context[begin:end]) - len(context[begin:end].lstrip())
    end = begin + len(context[begin:end].rstrip())
    before, span, after = map(_flat, (context[:begin], context[begin:end], context[end:]))
    span = _head(span, EXCERPT)
    # Even a long span leaves some room; what one side does not need, the other gets.
    room = max(EXCERPT - len(span), EXCERPT // 4)
    side = min(len(before), max(room // 2, room - len(after)))
    return _tail(before.lstrip(), side), span, _head(after.rstrip(), room - side)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, of_figures: bool = True) -> str:
    """A table of escaped cells; figures, in all columns but the first, are aligned right."""
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
    if (space := text.rfind(" ", 0, width + 1)) >= 0:
        return text[:space] + " …"
    while width and _is_mark(text[width]):
        width -= 1
    return text[:width] + "…"


def _tail(text: str, width: int) -> str:
    """The whole words that fit into the last characters, and "…" if anything is left out."""
    if len(text) <= width:
        return text
    begin = len(text) - width
    if (space := text.find(" ", begin - 1)) >= 0:
        return "…" + text[space:]
    while begin < len(text) and _is_mark(text[begin]):
        begin += 1
    return "…" + text[begin:]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")
