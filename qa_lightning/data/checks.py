"""What is in files of questions: counts, lengths, mistakes, and what stands in several of them.

A file is read by the function that training reads it with, so that both refuse the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_lightning.data.squad import (
    MAX_SHIFT,
    Source,
    SquadTables,
    iter_chunks,
    read_squad,
    require_labels,
)
from qa_lightning.data.windows import (
    TOKENISE_AT_ONCE,
    Windows,
    WindowSettings,
    make_windows,
    tokens_of_characters,
)
from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Named = str | tuple[str, ...]
"""The id of a question, or the ids of questions that belong together."""

Say = Callable[[str], object]
"""Called with what is being done."""


@dataclass(frozen=True)
class Finding:
    """Something to know before training, which would not stop it.

    Attributes:
        kind: A name for programs, such as "misplaced_answers".
        message: It in a sentence.
        ids: Questions that it is about, in the order of the file.
    """

    kind: str
    message: str
    ids: tuple[Named, ...] = ()


@dataclass(frozen=True)
class Counts:
    """How much there is in a file; a question without a label is neither answerable nor not."""

    articles: int
    contexts: int
    questions: int
    answerable: int
    unanswerable: int
    unlabelled: int
    answers: int


@dataclass(frozen=True)
class Lengths:
    """How many tokens texts have."""

    median: int
    percentile_95: int
    longest: int


@dataclass(frozen=True)
class Tokens:
    """Lengths in tokens, special ones not counted, and how many windows they make.

    Attributes:
        questions: Before long ones are cut.
        contexts: Each counted once.
        answers: All answers of all questions; None if there are none.
        windows: How many there are.
        windows_with_answer: How many of them hold the first answer of their question.
    """

    questions: Lengths
    contexts: Lengths
    answers: Lengths | None
    windows: int
    windows_with_answer: int


@dataclass(frozen=True)
class FileCheck:
    """What a file holds.

    Attributes:
        name: The file, as it was given.
        sha256: Of its content.
        problems: Why training would refuse it; training stops at the first.
        counts: What is left without the problems; None if nothing could be read.
        tokens: None without a tokenizer.
        findings: What to know before training on it.
    """

    name: str
    sha256: str
    problems: tuple[str, ...]
    counts: Counts | None = None
    tokens: Tokens | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Overlap:
    """What stands in two files; nothing should, if one is to be trained and one scored on."""

    files: tuple[str, str]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Check:
    """What several files hold, each of them and each pair."""

    files: tuple[FileCheck, ...]
    overlaps: tuple[Overlap, ...]


@dataclass(frozen=True)
class _Content:
    """What is compared between files: ids, and hashes of texts, int64 `[questions or contexts]`."""

    questions: pa.Table
    question_hashes: np.ndarray
    context_hashes: np.ndarray

    def ids(self, rows: np.ndarray | Sequence[int]) -> list[str]:
        return self.questions["id"].take(pa.array(rows, pa.int64())).to_pylist()  # type: ignore[no-any-return]


def check_files(
    sources: Sequence[Source],
    folder: Path,
    tokenizer: PreTrainedTokenizerFast | None,
    settings: WindowSettings,
    max_answer_tokens: int = 30,
    say: Say = lambda doing: None,
) -> Check:
    """Read files as training does; tell what is in them.

    Args:
        sources: The files.
        folder: Where to keep what was read meanwhile, so that it need not be in memory.
        tokenizer: Counts the tokens; None leaves out all that needs them.
        settings: How windows would be made.
        max_answer_tokens: Longest answer that a model would give.
        say: Told what is being done.
    """
    files: list[FileCheck] = []
    contents: list[_Content | None] = []
    for source in sources:
        file, content = _check_file(source, folder, tokenizer, settings, max_answer_tokens, say)
        files.append(file)
        contents.append(content)
    read = [(file.name, content) for file, content in zip(files, contents, strict=True) if content]
    overlaps = tuple(
        Overlap((one, other), tuple(_in_both(first, second)))
        for (one, first), (other, second) in combinations(read, 2)
    )
    return Check(tuple(files), overlaps)


def _check_file(
    source: Source,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast | None,
    settings: WindowSettings,
    max_answer_tokens: int,
    say: Say,
) -> tuple[FileCheck, _Content | None]:
    say(f"reading {source.name}")
    problems: list[str] = []
    try:
        tables = read_squad(source, folder, problems)
    except UserError as error:
        return FileCheck(source.name, source.digest, (*problems, str(error))), None
    try:
        require_labels(tables.questions, source.name)
    except UserError as error:
        problems.append(str(error))
    content = _content(tables)
    findings = [*_about_labels(tables), *_about_answers(tables), *_repeated(content)]
    tokens = None
    if tokenizer is not None:
        counter = _TokenCounter(tokenizer, settings, max_answer_tokens)
        counter.count(tables, lambda share: say(f"tokenising {source.name}: {share:.0%}"))
        tokens = counter.tokens()
        findings += counter.findings()
    file = FileCheck(
        source.name, source.digest, tuple(problems), _counts(tables), tokens, tuple(findings)
    )
    return file, content


# --- labels and answers ------------------------------------------------------------------------


def _counts(tables: SquadTables) -> Counts:
    report = tables.report
    return Counts(
        articles=report.articles,
        contexts=report.contexts,
        questions=report.questions,
        answerable=report.questions - report.unanswerable - report.unlabelled,
        unanswerable=report.unanswerable,
        unlabelled=report.unlabelled,
        answers=report.answers,
    )


def _about_labels(tables: SquadTables) -> Iterator[Finding]:
    counts = _counts(tables)
    if 0 < counts.unlabelled < counts.questions:
        rows = tables.questions.filter(pc.invert(tables.questions["labelled"]))
        yield Finding(
            "unlabelled_questions",
            f"{_many(counts.unlabelled, 'question')} with neither answers nor is_impossible",
            tuple(rows["id"].to_pylist()),
        )
    if counts.answerable and not counts.unanswerable:
        yield Finding(
            "no_unanswerable_questions",
            "no question is unanswerable: a model trained on them never learns to say so",
        )
    if counts.unanswerable and not counts.answerable:
        yield Finding(
            "no_answerable_questions", "no question has an answer: there is nothing to learn"
        )


def _about_answers(tables: SquadTables) -> Iterator[Finding]:
    report, affected = tables.report, tables.affected
    if report.misplaced_answers:
        yield Finding(
            "misplaced_answers",
            f"{_many(report.misplaced_answers, 'answer')} not found where the file says "
            "(answer_start): left out",
            affected.misplaced,
        )
    if report.dropped_questions:
        yield Finding(
            "dropped_questions",
            f"{_many(report.dropped_questions, 'question')} left out, having lost all answers "
            "that way",
            affected.dropped,
        )
    if report.misplaced_plausible_answers:
        yield Finding(
            "misplaced_plausible_answers",
            f"{_many(report.misplaced_plausible_answers, 'plausible answer')} not found where the "
            "file says: left out",
            affected.misplaced_plausible,
        )
    if report.shifted_answers:
        yield Finding(
            "shifted_answers",
            f"{_many(report.shifted_answers, 'answer')} found up to {MAX_SHIFT} characters before "
            "the place that the file names: put right",
            affected.shifted,
        )


# --- what is there more than once --------------------------------------------------------------


def _hash(text: str) -> int:
    """A hash of 64 bits that does not depend on case and white space."""
    return hash(" ".join(text.casefold().split()))


def _content(tables: SquadTables) -> _Content:
    contexts = np.fromiter(map(_hash, _values(tables.contexts["text"])), np.int64)
    texts = _values(tables.questions["text"])
    context_of = contexts[tables.questions["context"].to_numpy()]
    questions = (f"{context} {text}" for context, text in zip(context_of, texts, strict=True))
    return _Content(tables.questions, np.fromiter(map(_hash, questions), np.int64), contexts)


def _values(column: pa.ChunkedArray) -> Iterator[str]:
    """The texts of a column, a few at a time in memory."""
    for at in range(0, len(column), TOKENISE_AT_ONCE):
        yield from column.slice(at, TOKENISE_AT_ONCE).to_pylist()


def _groups(hashes: np.ndarray) -> list[list[int]]:
    """Rows with equal hashes, where there are several; in the order of the first of each group."""
    _, group, size = np.unique(hashes, return_inverse=True, return_counts=True)
    rows_of: dict[int, list[int]] = {}
    for row in np.flatnonzero(size[group] > 1).tolist():
        rows_of.setdefault(int(group[row]), []).append(row)
    return list(rows_of.values())


def _repeated(content: _Content) -> Iterator[Finding]:
    questions = content.questions
    groups = _groups(content.question_hashes)
    if groups:
        yield Finding(
            "repeated_questions",
            f"{_many(len(groups), 'question')} asked more than once on the same context, under "
            "different ids",
            tuple(tuple(content.ids(rows)) for rows in groups),
        )
        answered = pc.greater(pc.list_value_length(questions["answers"]), 0).to_numpy()
        labelled = questions["labelled"].to_numpy()
        at_odds = [
            rows
            for rows in groups
            if len({bool(answered[row]) for row in rows if labelled[row]}) == 2
        ]
        if at_odds:
            yield Finding(
                "contradictions",
                f"{len(at_odds):,} of them answerable under one id and unanswerable under another",
                tuple(tuple(content.ids(rows)) for rows in at_odds),
            )
    groups = _groups(content.context_hashes)
    if groups:
        contexts, first = np.unique(questions["context"].to_numpy(), return_index=True)
        first_question = dict(zip(contexts.tolist(), first.tolist(), strict=True))
        yield Finding(
            "repeated_contexts",
            f"{_many(len(groups), 'context')} there more than once (the first question on each)",
            tuple(tuple(content.ids([first_question[row] for row in rows])) for rows in groups),
        )


def _in_both(one: _Content, other: _Content) -> Iterator[Finding]:
    _, rows, matches = np.intersect1d(
        one.question_hashes, other.question_hashes, return_indices=True
    )
    if len(rows):
        order = np.argsort(rows)
        yield Finding(
            "shared_questions",
            f"{_many(len(rows), 'question')} in both: the same question on the same context",
            tuple(
                zip(one.ids(rows[order]), other.ids(matches[order]), strict=True),
            ),
        )
    found = pc.index_in(one.questions["id"], value_set=other.questions["id"].combine_chunks())
    with_id = np.flatnonzero(found.is_valid().to_numpy())
    partner = found.take(pa.array(with_id)).to_numpy()
    others = one.question_hashes[with_id] != other.question_hashes[partner]
    if others.any():
        yield Finding(
            "shared_ids",
            f"{_many(int(others.sum()), 'id')} in both, of different questions",
            tuple(one.ids(with_id[others])),
        )
    _, rows, _ = np.intersect1d(one.context_hashes, other.context_hashes, return_indices=True)
    if len(rows):
        asked = one.questions["context"].to_numpy()
        contexts, first = np.unique(asked, return_index=True)
        first_of = first[np.searchsorted(contexts, np.sort(rows))]
        yield Finding(
            "shared_contexts",
            f"{_many(len(rows), 'context')} in both (the first question on each)",
            tuple(one.ids(first_of)),
        )


# --- tokens ------------------------------------------------------------------------------------


class _TokenCounter:
    """Lays windows over a file's questions, a part at a time, and keeps lengths and ids."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, settings: WindowSettings, max_answer_tokens: int
    ) -> None:
        self._tokenizer = tokenizer
        self._settings = settings
        self._max_answer_tokens = max_answer_tokens
        self._questions: list[np.ndarray] = []
        self._contexts: list[np.ndarray] = []
        self._answers: list[np.ndarray] = []
        self._windows = 0
        self._with_answer = 0
        self._cut: list[str] = []
        self._blank: list[str] = []
        self._not_held: list[str] = []
        self._too_long: list[str] = []

    def count(self, tables: SquadTables, progress: Callable[[float], object]) -> None:
        """Take in all questions; `progress` is told the share of the texts that is done."""
        texts = tables.contexts.num_rows + tables.questions.num_rows
        done = 0

        def count_texts(number: int) -> None:
            nonlocal done
            done += number
            progress(done / texts)

        for part in iter_chunks(tables):
            windows = make_windows(part, self._tokenizer, self._settings, count_texts)
            self._add(windows)

    def _add(self, windows: Windows) -> None:
        ids = windows.questions["id"]
        lengths = windows.question_ids.lengths.copy()
        full = np.flatnonzero(lengths == self._settings.max_question_tokens)
        if len(full):  # as long as a question may be: it may have been cut
            texts = windows.questions["text"].take(pa.array(full)).to_pylist()
            encodings = self._tokenizer.backend_tokenizer.encode_batch_fast(
                [text.lstrip() for text in texts], add_special_tokens=False
            )
            lengths[full] = [len(encoding) for encoding in encodings]
        self._questions.append(lengths)
        self._contexts.append(windows.context_ids.lengths)
        self._cut += _ids(ids, lengths > self._settings.max_question_tokens)

        question, tokens = _answers_in_tokens(windows)
        count = windows.questions.num_rows
        answered, held, short_enough = (np.zeros(count, bool) for _ in range(3))
        answered[question] = True
        short_enough[question[tokens <= self._max_answer_tokens]] = True
        self._answers.append(tokens)
        self._too_long += _ids(ids, answered & ~short_enough)

        with_answer = windows.label_start > 0
        held[windows.question[with_answer]] = True
        first_answer = np.searchsorted(question, np.flatnonzero(answered))
        blank = np.zeros(count, bool)
        blank[question[first_answer]] = tokens[first_answer] == 0
        self._blank += _ids(ids, blank)
        self._not_held += _ids(ids, answered & ~held & ~blank)
        self._windows += len(windows)
        self._with_answer += int(with_answer.sum())

    def tokens(self) -> Tokens:
        """Lengths and windows of all that was taken in."""
        answers = np.concatenate(self._answers)
        return Tokens(
            questions=_lengths(np.concatenate(self._questions)),
            contexts=_lengths(np.concatenate(self._contexts)),
            answers=_lengths(answers) if len(answers) else None,
            windows=self._windows,
            windows_with_answer=self._with_answer,
        )

    def findings(self) -> Iterator[Finding]:
        """What is too long for a window, a question or an answer."""
        settings = self._settings
        if self._cut:
            yield Finding(
                "cut_questions",
                f"{_many(len(self._cut), 'question')} longer than {settings.max_question_tokens} "
                "tokens: cut there (--data.max_question_tokens)",
                tuple(self._cut),
            )
        if self._not_held:
            yield Finding(
                "answers_in_no_window",
                f"{_many(len(self._not_held), 'question')} with an answer that no window holds "
                "whole: learnt as unanswerable (--data.window, --data.overlap)",
                tuple(self._not_held),
            )
        if self._too_long:
            yield Finding(
                "long_answers",
                f"{_many(len(self._too_long), 'question')} with all answers longer than "
                f"{self._max_answer_tokens} tokens: learnt, but never given "
                "(--model.max_answer_tokens)",
                tuple(self._too_long),
            )
        if self._blank:
            yield Finding(
                "answers_without_tokens",
                f"{_many(len(self._blank), 'question')} with an answer that holds no token (white "
                "space or control characters): not learnt from",
                tuple(self._blank),
            )


def _answers_in_tokens(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Row of its question, and number of tokens, of every answer, int64 `[answers]`."""
    answers = windows.questions["answers"]
    each = pc.list_value_length(answers).to_numpy()
    question = np.repeat(np.arange(len(each)), each)
    flat = pc.list_flatten(answers)
    start = pc.struct_field(flat, "start").to_numpy().astype(np.int64)
    end = start + pc.utf8_length(pc.struct_field(flat, "text")).to_numpy()
    context = windows.questions["context"].to_numpy().astype(np.int64)[question]
    first, last = tokens_of_characters(windows.char_starts, windows.char_ends, context, start, end)
    return question, np.maximum(last - first + 1, 0)


def _ids(ids: pa.ChunkedArray, which: np.ndarray) -> list[str]:
    return ids.filter(pa.array(which)).to_pylist()  # type: ignore[no-any-return]


def _lengths(tokens: np.ndarray) -> Lengths:
    median, percentile = np.percentile(tokens, [50, 95], method="inverted_cdf")
    return Lengths(int(median), int(percentile), int(tokens.max()))


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
