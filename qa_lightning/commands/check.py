"""python -m qa_lightning check: report what is in files of questions."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import PositiveInt

from qa_lightning.commands.parser import CommandParser
from qa_lightning.data.problems import grouped
from qa_lightning.data.window_settings import MAX_ANSWER_TOKENS, WindowSettings
from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from qa_lightning.data.checks import Check, FileCheck
    from qa_lightning.data.findings import Finding
    from qa_lightning.data.sources import Source

TOKENIZER = "distilbert-base-uncased"
"""That of the encoder that `fit` starts from by default."""

SHOWN = 20
"""Problems, and questions of a finding, that the text shows; JSON has all."""

KINDS = ("answerable", "unanswerable", "unlabelled")
COUNTS = ("articles", "contexts", "questions", *KINDS, "answers")

EXAMPLES = """\
exit status: 0 if each file can be trained on, 1 if one would be refused

examples:
  python -m qa_lightning check train.json dev.json
  python -m qa_lightning check train.json --tokenizer none --json > report.json
  python -m qa_lightning check train.json --fix corrected.json
"""


def run(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.fix and len(options.files) > 1:
        raise UserError(f"--fix corrects one FILE, but {len(options.files)} are given")
    sizes = (options.window, options.overlap, options.max_question_tokens)
    settings = WindowSettings(*sizes, answer_boundaries=options.answer_boundaries)
    from qa_lightning.data.checks import check_files
    from qa_lightning.data.download import default_cache_dir
    from qa_lightning.data.sources import resolve_source

    downloads = default_cache_dir() / "downloads"
    sources = [resolve_source(file, "train", downloads) for file in options.files]
    tokenizer, counted = _tokenizer(options.tokenizer, settings)
    check = check_files(sources, tokenizer, settings, options.max_answer_tokens, _log)
    _log("")
    changes = _write_corrected(sources[0], options.fix) if options.fix else []
    if options.json:
        about = {"tokenizer": (options.tokenizer or TOKENIZER) if tokenizer else None}
        names = ("window", "overlap", "max_question_tokens", "answer_boundaries")
        about |= {name: options[name] for name in (*names, "max_answer_tokens")}
        if options.fix:
            about["fix"] = {"file": options.fix, "findings": [asdict(change) for change in changes]}
        print(json.dumps(_record(check) | about, indent=1))
    else:
        lines = [*_text(check, counted), *([f"\n{options.fix}: written"] if options.fix else [])]
        text = "\n".join([*lines, *chain.from_iterable(map(_finding, changes))])
        # Ids and file names may hold what the terminal cannot show.
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding))
    return int(any(file.problems for file in check.files))


def _parser() -> CommandParser:
    parser = CommandParser(
        "check",
        "Report what is in files of questions before a model is trained on them: counts, lengths,\n"
        "mistakes, and what stands in more than one of them.",
        EXAMPLES,
    )
    what = "files in SQuAD's JSON or JSON lines, or what else fit takes as --data.train"
    parser.add_argument("files", nargs="+", metavar="FILE", help=what)
    what = "what counts the tokens: a hub name, a folder or package:NAME/PATH, as for fit; "
    what += f"'none' counts none; by default {TOKENIZER}, if it can be had"
    parser.add_argument("--tokenizer", metavar="NAME", help=what)
    for option, kind, default, what in (
        ("data.window", int, WindowSettings.window, "tokens of a window at most"),
        ("data.overlap", int, WindowSettings.overlap, "context tokens that windows share"),
        ("data.max_question_tokens", int, WindowSettings.max_question_tokens, "longest question"),
        ("model.max_answer_tokens", PositiveInt, MAX_ANSWER_TOKENS, "longest answer given"),
    ):
        name, what = f"--{option.partition('.')[2]}", f"{what}, as --{option} of fit"
        parser.add_argument(name, type=kind, default=default, metavar="N", help=what)
    what = "where answers may begin and end, as --data.answer_boundaries of fit"
    boundaries: Any = {"choices": ("word", "token"), "default": "word", "help": what}
    parser.add_argument("--answer_boundaries", **boundaries)
    what = "write a copy of FILE in SQuAD's JSON, with answer_start corrected where it can be"
    parser.add_argument("--fix", metavar="OUT.json", help=what)
    what = "print one JSON object, with the ids of all questions"
    parser.add_argument("--json", action="store_true", help=what)
    return parser


def _tokenizer(
    asked: str | None, settings: WindowSettings
) -> tuple[PreTrainedTokenizerFast | None, str]:
    """The tokenizer and how it counts, or None and why there is none."""
    if asked == "none":
        return None, "not counted (--tokenizer none)"
    from qa_lightning.model.tokenizer import load_tokenizer

    name, size = asked or TOKENIZER, settings.window
    try:
        tokenizer = load_tokenizer(name)
    except UserError as error:
        if asked:
            raise UserError(f"--tokenizer {asked}: {error}") from error
        return None, (
            f"not counted: {TOKENIZER} is neither in the local cache nor to be had from the hub. "
            "Give a tokenizer's folder with --tokenizer"
        )
    if size > (positions := tokenizer.model_max_length):
        raise UserError(
            f"--window is {size}, but the model of {name} has {positions} positions; set --window "
            f"{positions} or less"
        )
    return tokenizer, f"windows of {size} tokens, overlap {settings.overlap}; tokenizer {name}"


def _write_corrected(source: Source, out: str) -> list[Finding]:
    """Write a corrected copy of a source to a new file; returns what was changed."""
    from qa_lightning.data.correction import corrected

    content, changes = corrected(source)
    try:
        with Path(out).expanduser().open("x", encoding="utf-8") as file:
            json.dump(content, file)
    except OSError as error:
        raise UserError(f"--fix {out}: {error.strerror}; name a file that can be made") from error
    return changes


def _log(doing: str) -> None:
    """Show what is being done, in one line of the terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{doing}", end="", file=sys.stderr, flush=True)


def _record(check: Check) -> dict[str, Any]:
    """The check for `--json`."""
    files = []
    for file in check.files:
        fields = asdict(file)
        counted = fields.pop("report") and {name: getattr(file.report, name) for name in COUNTS}
        fields["counts"] = counted
        files.append({"verdict": _verdict_on(file), "refused": bool(file.problems), **fields})
    return {
        "verdict": _verdict(check),
        "refused": any(file.problems for file in check.files),
        "files": files,
        "overlaps": [asdict(overlap) for overlap in check.overlaps],
    }


def _text(check: Check, counted: str) -> Iterator[str]:
    for file in check.files:
        yield file.name
        yield from _sizes(file, counted)
        if file.findings:
            yield ""
        for finding in file.findings:
            yield from _finding(finding)
        if file.problems:
            yield from ("", "  refused, because:")
        problems = grouped(file.problems, file.name)
        for problem in problems[:SHOWN]:
            yield from _wrapped(f"- {problem.removeprefix(f'{file.name}: ')}", "  ")
        if len(problems) > SHOWN:
            yield f"  - and {len(problems) - SHOWN:,} of other kinds (--json)"
        yield from ("", f"  verdict: {_verdict_on(file)}", "")
    for overlap in check.overlaps:
        yield " and ".join(overlap.files)
        if not overlap.findings:
            yield "  no question, id or context stands in both"
        for finding in overlap.findings:
            yield from _finding(finding)
        yield ""
    yield from _wrapped(_verdict(check), "")


def _sizes(file: FileCheck, counted: str) -> Iterator[str]:
    report, tokens = file.report, file.tokens
    if report is None:
        return
    shares = ", ".join(
        f"{count:,} {kind} ({100 * count / report.questions:.1f} %)"
        for kind in KINDS
        if (count := getattr(report, kind))
    )
    yield f"  {report.articles:>9,} articles"
    yield f"  {report.contexts:>9,} contexts"
    yield f"  {report.questions:>9,} questions: {shares}"
    yield f"  {report.answers:>9,} answers"
    yield ""
    if tokens is None:
        yield from _wrapped(f"tokens: {counted}", "  ")
        return
    yield "  tokens       median   95 % have at most   longest"
    for name in ("questions", "contexts", "answers"):
        if (of := getattr(tokens, name)) is not None:
            yield f"  {name:<9} {of.median:>9,} {of.percentile_95:>18,} {of.longest:>9,}"
    share = 100 * tokens.windows_with_answer / tokens.windows
    yield f"  {tokens.windows:,} windows, {share:.1f} % of them with an answer"
    yield f"  ({counted})"


def _finding(finding: Finding) -> Iterator[str]:
    yield from _wrapped(f"- {finding.message}", "  ")
    shown = finding.ids[:SHOWN]
    for group in shown:
        if isinstance(group, tuple):
            yield f"      {' = '.join(map(_id, dict.fromkeys(group)))}"
    single = [_id(one) for one in shown if isinstance(one, str)]
    yield from _wrapped(", ".join(single), "      ")
    if len(finding.ids) > SHOWN:
        yield f"      and {len(finding.ids) - SHOWN:,} more (--json)"


def _id(identity: str) -> str:
    """An id, in quotes where it would not be clear where it begins and ends."""
    shown = identity if len(identity) <= 60 else f"{identity[:57]}..."
    plain = shown.isprintable() and shown and not set(shown) & set(' ",=')
    return shown if plain else json.dumps(shown)


def _wrapped(text: str, indent: str) -> list[str]:
    """Lines of a paragraph or of an item of a list, with whole words."""
    hanging = f"{indent}  " if text.startswith("- ") else indent
    whole: Any = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, 100, initial_indent=indent, subsequent_indent=hanging, **whole)


def _verdict_on(file: FileCheck) -> str:
    if not file.problems:
        return "can be trained on"
    if file.report and file.report.unlabelled and len(file.problems) == 1:
        return "can be answered (predict), but not trained on or scored"
    return "would be refused"


def _verdict(check: Check) -> str:
    refused = [file.name for file in check.files if file.problems]
    if refused:
        verdict = f"cannot be trained on: {', '.join(refused)}"
    elif len(check.files) == 1:
        verdict = f"{check.files[0].name} can be trained on"
    else:
        verdict = f"all {len(check.files)} files can be trained on"
    both = [(one, each) for one in check.overlaps for each in one.findings]
    for overlap, finding in both:
        if finding.kind == "shared_questions":
            verdict += (
                f"; {'and' if refused else 'but'} {len(finding.ids):,} questions stand in both "
                f"{' and '.join(overlap.files)}: do not train on one of them and score on the other"
            )
    return verdict
