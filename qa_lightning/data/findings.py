"""What a check of files finds: things to know before training, which would not stop it."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

SHOWN_IDS = 5
"""Questions that one line names."""


@dataclass(frozen=True)
class Finding:
    """Something to know about questions."""

    kind: str  # a name for programs, such as "misplaced_answers"
    message: str
    ids: tuple[str | tuple[str, ...], ...] = ()  # questions, or groups of them, in the file's order

    def __str__(self) -> str:
        """The message and the first ids, in one line."""
        if not self.ids:
            return self.message
        more = ", ..." if len(self.ids) > SHOWN_IDS else ""
        return f"{self.message}: {json.dumps(self.ids[:SHOWN_IDS], ensure_ascii=False)[1:-1]}{more}"


def findings(
    kind: str, ids: Iterable[str | tuple[str, ...]], noun: str, rest: str
) -> Iterator[Finding]:
    """A finding about so many things as there are ids, unless there are none."""
    ids = list(ids)
    if ids:
        many = f"{len(ids):,} {noun}{'' if len(ids) == 1 else 's'}"
        yield Finding(kind, f"{many} {rest}", tuple(dict.fromkeys(ids)))
