"""Questions, ids and contexts that stand in a file more than once, or in several files."""

from __future__ import annotations

from collections.abc import Iterator

from qa_lightning.data.findings import Finding, findings
from qa_lightning.data.tables import SquadTables


class Content:
    """The texts of a file, without regard to case and white space, and who asks about them."""

    def __init__(self, tables: SquadTables) -> None:
        texts = [_plain(text) for text in tables.contexts["text"].to_pylist()]
        # Ids of the first question on each row of contexts with that text.
        self.contexts: dict[str, list[str]] = {}
        # Ids by context and question.
        self.questions: dict[tuple[str, str], list[str]] = {}
        self.answerable: dict[str, bool] = {}  # of those that are labelled
        seen = set()
        for row in tables.questions.to_pylist():
            context = texts[row["context"]]
            if row["context"] not in seen:
                seen.add(row["context"])
                self.contexts.setdefault(context, []).append(row["id"])
            self.questions.setdefault((context, _plain(row["text"])), []).append(row["id"])
            if row["labelled"]:
                self.answerable[row["id"]] = bool(row["answers"])

    def repeated(self) -> Iterator[Finding]:
        """What stands in the file more than once."""
        groups = [tuple(ids) for ids in self.questions.values() if len(ids) > 1]
        yield from findings(
            "repeated_questions",
            groups,
            "question",
            "asked more than once on the same context, under different ids",
        )
        yield from findings(
            "contradictions",
            (g for g in groups if len({self.answerable[i] for i in g if i in self.answerable}) > 1),
            "question",
            "answerable under one id and unanswerable under another",
        )
        yield from findings(
            "repeated_contexts",
            (tuple(ids) for ids in self.contexts.values() if len(ids) > 1),
            "context",
            "there more than once (the first question on each)",
        )

    def shared_with(self, other: Content) -> Iterator[Finding]:
        """What stands in another file too."""
        mine, theirs = self.questions, other.questions
        yield from findings(
            "shared_questions",
            ((ids[0], theirs[key][0]) for key, ids in mine.items() if key in theirs),
            "question",
            "in both: the same question on the same context",
        )
        key_of = {one: key for key, ids in theirs.items() for one in ids}
        yield from findings(
            "shared_ids",
            (one for key, ids in mine.items() for one in ids if key_of.get(one, key) != key),
            "id",
            "in both, of different questions",
        )
        yield from findings(
            "shared_contexts",
            (ids[0] for text, ids in self.contexts.items() if text in other.contexts),
            "context",
            "in both (the first question on each)",
        )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
