"""The problems of a file, told in few lines: what is wrong in many places is told once."""

import re
from collections import defaultdict
from collections.abc import Sequence

EXAMPLES = 5  # further places that are named

_PROBLEM = re.compile(
    r"""(?P<place>question\ "(?:[^"\\]|\\.)*(?:"|\.\.\.)  # an id as JSON has it, or its beginning
          |(?:line|row)\ \d+\S*
          |\w*\[\d+\]\S*?)
        (?:,\ \w+\[\d+\])?:\ (?P<what>.*?)(?:(?:,\ but\ is|,\ found|\ \().*)?""",
    re.VERBOSE | re.DOTALL,
)


def grouped(problems: Sequence[str], name: str) -> list[str]:
    """One line for problems that differ only in where they are and in the value that is wrong.

    It is the first of them, with the number of the others and the places of a few. `name` is what
    the problems call the file.
    """
    groups = defaultdict[str, list[tuple[str, str]]](list)
    for problem in problems:
        found = _PROBLEM.fullmatch(problem.removeprefix(f"{name}: "))
        what, place = (found["what"], found["place"]) if found else (problem, "")
        groups[what].append((problem, place))
    told = []
    for (first, _), *others in groups.values():
        more = f"{len(others):,} more place{'' if len(others) == 1 else 's'}"
        places = ", ".join(place for _, place in others[:EXAMPLES])
        some = ": " if len(others) <= EXAMPLES else ", for instance "
        told.append(f"{first} (the same at {more}{some}{places})" if others else first)
    return told
