"""The problems of a file, told in few lines: what is wrong in many places is told once."""

import re
from collections.abc import Sequence

EXAMPLES = 5
"""Further places that are named."""

_PROBLEM = re.compile(
    r"""(?P<place>question\ "(?:[^"\\]|\\.)*(?:"|\.\.\.)  # an id as JSON has it, or its beginning
          |(?:line|row)\ \d+\S*
          |\w*\[\d+\]\S*?)
        (?P<part>,\ \w+\[\d+\])?:\ (?P<what>.*)""",
    re.VERBOSE | re.DOTALL,
)
_VALUE = re.compile(r"(?:, but is|, found| \().*", re.DOTALL)


def grouped(problems: Sequence[str], name: str) -> list[str]:
    """One line for problems that differ only in where they are and in the value that is wrong.

    It is the first of them, with the number of the others and the places of a few. `name` is what
    the problems call the file.
    """
    groups: dict[str, list[str]] = {}
    for problem in problems:
        found = _PROBLEM.fullmatch(problem.removeprefix(f"{name}: "))
        what = _VALUE.sub("", found["what"]) if found else problem
        groups.setdefault(what, []).append(problem)
    return [_told(group, name) for group in groups.values()]


def _told(group: list[str], name: str) -> str:
    first, *others = group
    if not others:
        return first
    found = (_PROBLEM.fullmatch(one.removeprefix(f"{name}: ")) for one in others[:EXAMPLES])
    places = ", ".join(one["place"] for one in found if one)
    more = "" if len(others) <= EXAMPLES else " and others"
    where = "place" if len(others) == 1 else "places"
    return f"{first} (the same at {len(others):,} more {where}: {places}{more})"
