"""What is in files of questions: counts, lengths, mistakes, and what stands in several of them.

A file is read by the function that training reads it with, so that both refuse the same files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from qa_lightning.data.correction import misplaced_findings
from qa_lightning.data.duplicates import Content
from qa_lightning.data.findings import Finding, findings
from qa_lightning.data.sources import Source
from qa_lightning.data.squad import MAX_SHIFT, read_squad
from qa_lightning.data.squad_json import ErrorCollector
from qa_lightning.data.tables import ReadReport, SquadTables, require_labels, require_places
from qa_lightning.data.token_checks import Tokens, check_tokens
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import make_windows
from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class FileCheck:
    """What a file holds."""

    name: str
    sha256: str
    problems: tuple[str, ...]  # why training would refuse it; training stops at the first
    report: ReadReport | None = None  # on what is left without the problems, if anything
    tokens: Tokens | None = None  # None without a tokenizer
    findings: tuple[Finding, ...] = ()  # what to know before training on it


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


def check_files(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerFast | None,
    settings: WindowSettings,
    max_answer_tokens: int,
    log: Callable[[str], object] = lambda doing: None,
) -> Check:
    """Read files as training does, and report what is in them.

    Without a tokenizer, all that needs tokens is left out. `settings` say how windows would be
    made, and `max_answer_tokens` is the longest answer that a model would give. `log` is called
    with what is being done.
    """
    files, contents = [], []
    for source in sources:
        log(f"reading {source.name}")
        problems: list[str] = []
        try:
            tables = read_squad(source, problems)
        except UserError as error:
            problems.append(str(error))
            about = (source.name, source.digest, tuple(problems))
            files.append(FileCheck(*about, findings=tuple(misplaced_findings(source))))
            continue
        with ErrorCollector(problems):
            require_labels(tables.questions, source.name)
        with ErrorCollector(problems):
            require_places(tables.report, source.name)
        content = Content(tables)
        contents.append((source.name, content))
        tokens, of_tokens = None, list[Finding]()
        if tokenizer is not None:
            log(f"tokenising {source.name}")
            windows = make_windows(tables, tokenizer, settings)
            tokens, of_tokens = check_tokens(windows, tokenizer, max_answer_tokens)
        found = [*_about_tables(tables, tokens), *content.repeated()]
        if tables.report.misplaced or tables.report.misplaced_plausible:
            found += misplaced_findings(source)
        found += of_tokens
        about = (source.name, source.digest, tuple(problems))
        files.append(FileCheck(*about, tables.report, tokens, tuple(found)))
    overlaps = tuple(
        Overlap((name, other_name), tuple(content.shared_with(other)))
        for (name, content), (other_name, other) in combinations(contents, 2)
    )
    return Check(tuple(files), overlaps)


def reading_findings(report: ReadReport) -> Iterator[Finding]:
    """What reading left out or corrected."""
    rest = "not found where the file says (answer_start): scored by its text, not trained on"
    yield from findings("misplaced_answers", report.misplaced, "answer", rest)
    rest = "with no answer that stands where the file says: scored, but left out of training"
    yield from findings("unplaced_questions", report.unplaced, "question", rest)
    rest = "left out: without text, or over a context without text"
    yield from findings("empty_questions", report.empty, "question", rest)
    rest = f"found up to {MAX_SHIFT} characters before the place that the file names: corrected"
    yield from findings("shifted_answers", report.shifted, "answer", rest)


def _about_tables(tables: SquadTables, tokens: Tokens | None) -> Iterator[Finding]:
    report = tables.report
    if report.unlabelled < report.questions:
        unlabelled = tables.questions.filter(pc.invert(tables.questions["labelled"]))["id"]
        rest = "with neither answers nor is_impossible"
        yield from findings("unlabelled_questions", unlabelled.to_pylist(), "question", rest)
    if report.answerable and not report.unanswerable:
        message = "no question is unanswerable: a model learns to say so only from windows of long "
        message += "contexts that lack the answer"
        if tokens is not None:
            share = 1 - tokens.windows_with_answer / tokens.windows
            message += f", {100 * share:.1f} % of the windows"
        yield Finding("no_unanswerable_questions", message)
    if report.unanswerable and not report.answerable:
        message = "no question has an answer: there is nothing to learn"
        yield Finding("no_answerable_questions", message)
    yield from reading_findings(report)
    kind, rest = "misplaced_plausible_answers", "not found where the file says: left out"
    yield from findings(kind, report.misplaced_plausible, "plausible answer", rest)
