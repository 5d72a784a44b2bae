"""Questions, ids and contexts that stand in a file more than once, or in several files."""

from __future__ import annotations

from collections.abc import Iterator

from qa_lightning.data.findings import Finding, findings
from qa_lightning.data.tables import SquadTables


class Content:
    """The texts of a file, without regard to case and white space, and who asks about them."""

    def __init__(self, tables: SquadTables) -> None:
        texts = [_plain(text) for text in tables.contexts["text"].to_pylist()]
        self.contexts: dict[str, list[str]] = {}  # to the first question on each of its rows
        self.questions: dict[tuple[str, str], list[str]] = {}  # context and question to ids
        self.answerable: dict[str, bool] = {}  # by id, of those that are labelled
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
        rest = "asked more than once on the same context, under different ids"
        yield from findings("repeated_questions", groups, "question", rest)
        known = self.answerable
        at_odds = [g for g in groups if len({known[one] for one in g if one in known}) > 1]
        rest = "answerable under one id and unanswerable under another"
        yield from findings("contradictions", at_odds, "question", rest)
        groups = [tuple(ids) for ids in self.contexts.values() if len(ids) > 1]
        rest = "there more than once (the first question on each)"
        yield from findings("repeated_contexts", groups, "context", rest)

    def shared_with(self, other: Content) -> Iterator[Finding]:
        """What stands in another file too."""
        mine, theirs = self.questions, other.questions
        pairs = [(ids[0], theirs[key][0]) for key, ids in mine.items() if key in theirs]
        rest = "in both: the same question on the same context"
        yield from findings("shared_questions", pairs, "question", rest)
        key_of = {one: key for key, ids in theirs.items() for one in ids}
        ids = [one for key, ids in mine.items() for one in ids if key_of.get(one, key) != key]
        yield from findings("shared_ids", ids, "id", "in both, of different questions")
        ids = [ids[0] for text, ids in self.contexts.items() if text in other.contexts]
        rest = "in both (the first question on each)"
        yield from findings("shared_contexts", ids, "context", rest)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
