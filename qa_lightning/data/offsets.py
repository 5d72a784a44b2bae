r"""In which unit a file counts answer_start, where its answers do not stand counted in characters.

Many tools count something else: bytes, UTF-16 units as JavaScript does, a text with "\n" where the
file has "\r\n", or one without repeated spaces.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qa_lightning.data.squad_json import shown

EXPLAINED = 0.9
"""Share of the misplaced answers that a unit must put in place to be named as the cause."""

TRIED = 1000
"""Misplaced answers that are looked at for the cause."""

SHOWN = 40
"""Characters of an answer that a message shows."""

Case = tuple[str, str, int]
"""A context, the text of an answer, and the answer_start at which it does not stand."""


@dataclass(frozen=True)
class Unit:
    """A way to count: some pieces of a context have another length than in characters."""

    condition: str  # "answers stand where the file says if ..."
    piece: re.Pattern[str]
    length: Callable[[re.Match[str]], int]

    def character(self, context: str, start: int) -> int:
        """The character of the context that is at `start`, counted in this unit."""
        longer = 0
        for match in self.piece.finditer(context):
            if match.start() + longer + self.length(match) > start:
                break
            longer += self.length(match) - len(match[0])
        return start - longer

    def standing(self, context: str, text: str, start: int) -> tuple[str, int] | None:
        """What stands at `start`, if it is the text but for spaces and line ends, and its place."""
        place = self.character(context, start)
        if not 0 <= place < len(context):
            return None
        same = r"\s+".join(map(re.escape, re.split(r"\s+", text)))
        found = re.compile(same).match(context, place)
        return (found[0], place) if found else None


CHARACTERS = Unit(
    "spaces and line ends of any kind are taken as equal", re.compile(r"(?!)"), lambda piece: 0
)
UNITS = (
    CHARACTERS,
    Unit(
        "answer_start counts UTF-8 bytes, not characters",
        re.compile(r"[^\x00-\x7f]"),
        lambda piece: len(piece[0].encode()),
    ),
    Unit(
        "answer_start counts UTF-16 units, not characters",
        re.compile("[\U00010000-\U0010ffff]"),
        lambda piece: 2,
    ),
    Unit(
        r"answer_start counts a line end of two characters (\r\n) as one",
        re.compile(r"\r\n"),
        lambda piece: 1,
    ),
    Unit(
        r"answer_start counts a line end of one character (\n) as two",
        re.compile(r"(?<!\r)\n"),
        lambda piece: 2,
    ),
    Unit(
        "answer_start counts several spaces as one, and none before the first word",
        re.compile(r"\s+"),
        lambda piece: int(piece.start() > 0),
    ),
)


def unit_of(misplaced: Sequence[Case]) -> tuple[Unit, int] | None:
    """The unit in which nearly all of the misplaced answers stand, and how many of those tried."""
    tried = misplaced[:TRIED]
    standing = Counter(unit for unit in UNITS for case in tried if unit.standing(*case))
    if not standing:
        return None
    unit, count = standing.most_common(1)[0]
    return (unit, count) if count >= EXPLAINED * len(tried) else None


def explain_misplaced(misplaced: Sequence[Case]) -> str:
    """A sentence on why answers do not stand at their answer_start; "" if nothing explains it."""
    if (found := unit_of(misplaced)) is None:
        return ""
    unit, count = found
    tried = f"the first {TRIED:,}" if len(misplaced) > TRIED else f"{len(misplaced):,}"
    return (
        f"{count:,} of {tried} misplaced answers stand where the file says if {unit.condition}: "
        "python -m qa_lightning check FILE --fix OUT.json writes a corrected file"
    )


def at_the_place(context: str, text: str, start: int) -> str:
    """What stands where an answer should, for messages."""
    there = context[max(start, 0) :][: min(len(text), SHOWN)]
    wanted = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return f"{there!r} stands at character {shown(start)}, not {wanted!r}"
