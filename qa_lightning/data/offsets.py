r"""In which unit a file counts answer_start, where its answers do not stand counted in characters.

Other tools count bytes, UTF-16 units as JavaScript does, a text with "\n" where the file has
"\r\n", or one without repeated spaces.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qa_lightning.data.squad_json import shown

EXPLAINED = 0.9  # share of the misplaced answers that a unit must put in place to be the cause
TRIED = 1000  # misplaced answers that are looked at for it

Case = tuple[str, str, int]
"""A context, the text of an answer, and the answer_start at which it does not stand."""


@dataclass(frozen=True)
class Unit:
    """A way to count: some pieces of a context have another length than in characters."""

    condition: str  # "answers stand where the file says if ..."
    piece: re.Pattern[str]
    length: Callable[[re.Match[str]], int]

    def standing(self, context: str, text: str, start: int) -> tuple[str, int] | None:
        """What stands at `start`, if it is the text but for spaces and line ends, and its place."""
        place = start
        for match in self.piece.finditer(context):
            if match.start() + self.length(match) > place:
                break
            place -= self.length(match) - len(match[0])
        same = r"\s+".join(map(re.escape, re.split(r"\s+", text)))
        found = re.compile(same).match(context, place) if 0 <= place < len(context) else None
        return (found[0], place) if found else None


CHARACTERS = Unit("all spaces and line ends are taken as equal", re.compile("(?!)"), lambda _: 0)
_COUNTED: tuple[tuple[str, str, Callable[[re.Match[str]], int]], ...] = (
    ("UTF-8 bytes, not characters", r"[^\x00-\x7f]", lambda piece: len(piece[0].encode())),
    ("UTF-16 units, not characters", "[\U00010000-\U0010ffff]", lambda _: 2),
    (r"a line end of two characters (\r\n) as one", r"\r\n", lambda _: 1),
    (r"a line end of one character (\n) as two", r"(?<!\r)\n", lambda _: 2),
    ("several spaces as one, and none before the first word", r"\s+", lambda m: m.start() > 0),
)
UNITS = (
    CHARACTERS,
    *(Unit(f"answer_start counts {what}", re.compile(p), length) for what, p, length in _COUNTED),
)


def unit_of(misplaced: Sequence[Case]) -> tuple[Unit, int] | None:
    """The unit in which nearly all misplaced answers stand, and how many of those looked at."""
    tried = misplaced[:TRIED]
    standing = Counter(unit for unit in UNITS for case in tried if unit.standing(*case))
    best = standing.most_common(1)
    return best[0] if best and best[0][1] >= EXPLAINED * len(tried) else None


def explain_misplaced(misplaced: Sequence[Case]) -> str:
    """Why answers do not stand at their answer_start, and what to do; "" if nothing explains it."""
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
    wanted = text if len(text) <= 40 else f"{text[:40]}..."
    there = context[max(start, 0) :][: min(len(text), 40)]
    return f"{there!r} stands at character {shown(start)}, not {wanted!r}"
