"""python -m qa_lightning check: say what is in files of questions."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_lightning.commands.arguments import Parser, number
from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from qa_lightning.data.checks import Check, FileCheck, Finding, Overlap
    from qa_lightning.data.windows import WindowSettings

TOKENIZER = "distilbert-base-uncased"
"""That of the encoder that `fit` starts from by default."""

NO_TOKENIZER = "none"
SHOWN = 20
"""Problems, and questions of a finding, that the text shows; JSON has all."""

WIDTH = 100

EXAMPLES = """\
exit status: 0 if each file can be trained on, 1 if one would be refused

examples:
  python -m qa_lightning check train.json dev.json
  python -m qa_lightning check train.json --tokenizer none --json > report.json
"""


def run(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(arguments)
    from qa_lightning.data.checks import check_files
    from qa_lightning.data.download import default_cache_dir
    from qa_lightning.data.squad import resolve_source
    from qa_lightning.data.windows import WindowSettings

    settings = WindowSettings(options.window, options.overlap, options.max_question_tokens)
    downloads = default_cache_dir() / "downloads"
    sources = [resolve_source(file, "train", downloads) for file in options.files]
    tokenizer, why_none = _tokenizer(options.tokenizer, settings)
    with tempfile.TemporaryDirectory(prefix="qa-lightning-") as folder:
        check = check_files(
            sources, Path(folder), tokenizer, settings, options.max_answer_tokens, _say
        )
    _say("")
    if options.json:
        print(json.dumps(_record(check, options, tokenizer is not None), indent=1))
    else:
        counted = why_none or (
            f"windows of {settings.window} tokens, overlap {settings.overlap}; tokenizer "
            f"{options.tokenizer or TOKENIZER}"
        )
        _print("\n".join(_text(check, counted)))
    return int(any(file.problems for file in check.files))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m qa_lightning check",
        description="Say what is in files of questions before a model is trained on them: counts, "
        "lengths, mistakes, and what stands in more than one of them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="SQuAD-format .json or .json.gz files, or what else fit takes as --data.train",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="what counts the tokens: a hub name, a folder or package:NAME/PATH, as for fit; "
        f"'{NO_TOKENIZER}' counts none (default: {TOKENIZER}, if it can be had)",
    )
    parser.add_argument(
        "--window",
        type=int,
        default=384,
        metavar="N",
        help="tokens of a window at most, as --data.window of fit (default: 384)",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=128,
        metavar="N",
        help="context tokens that windows share, as --data.overlap of fit (default: 128)",
    )
    parser.add_argument(
        "--max_question_tokens",
        type=int,
        default=64,
        metavar="N",
        help="where questions are cut, as --data.max_question_tokens of fit (default: 64)",
    )
    parser.add_argument(
        "--max_answer_tokens",
        type=number(int, "at least 1", lambda value: value >= 1),
        default=30,
        metavar="N",
        help="longest answer given, as --model.max_answer_tokens of fit (default: 30)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, with the ids of all questions"
    )
    return parser


def _tokenizer(
    asked: str | None, settings: WindowSettings
) -> tuple[PreTrainedTokenizerFast | None, str]:
    """The tokenizer, or None and why there is none."""
    if asked == NO_TOKENIZER:
        return None, f"not counted (--tokenizer {NO_TOKENIZER})"
    from qa_lightning.model.tokenizer import load_tokenizer

    try:
        tokenizer = load_tokenizer(asked or TOKENIZER)
    except UserError as error:
        if asked:
            raise UserError(f"--tokenizer {asked}: {error}") from error
        return None, (
            f"not counted: {TOKENIZER} is neither in the local cache nor to be had from the hub. "
            "Give a tokenizer's folder with --tokenizer"
        )
    if settings.window > tokenizer.model_max_length:
        raise UserError(
            f"--window is {settings.window}, but the model of {asked or TOKENIZER} has "
            f"{tokenizer.model_max_length} positions; set --window {tokenizer.model_max_length} "
            "or less"
        )
    return tokenizer, ""


def _say(doing: str) -> None:
    """Show what is being done, in one line, to who is looking."""
    if sys.stderr.isatty():
        print(f"\r\033[K{doing}", end="", file=sys.stderr, flush=True)


# --- as JSON -----------------------------------------------------------------------------------


def _record(check: Check, options: argparse.Namespace, counted: bool) -> dict[str, Any]:
    return {
        "verdict": _verdict(check),
        "refused": any(file.problems for file in check.files),
        "files": [
            {"verdict": _verdict_on(file), "refused": bool(file.problems), **asdict(file)}
            for file in check.files
        ],
        "overlaps": [asdict(overlap) for overlap in check.overlaps],
        "tokenizer": (options.tokenizer or TOKENIZER) if counted else None,
        "window": options.window,
        "overlap": options.overlap,
        "max_question_tokens": options.max_question_tokens,
        "max_answer_tokens": options.max_answer_tokens,
    }


# --- as text -----------------------------------------------------------------------------------


def _text(check: Check, counted: str) -> Iterator[str]:
    for file in check.files:
        yield from _about(file, counted)
        yield ""
    for overlap in check.overlaps:
        yield from _shared(overlap)
        yield ""
    yield from _wrapped(_verdict(check), "")


def _about(file: FileCheck, counted: str) -> Iterator[str]:
    yield file.name
    if file.counts:
        counts = file.counts
        kinds = {
            "answerable": counts.answerable,
            "unanswerable": counts.unanswerable,
            "unlabelled": counts.unlabelled,
        }
        shares = ", ".join(
            f"{count:,} {kind} ({100 * count / counts.questions:.1f} %)"
            for kind, count in kinds.items()
            if count
        )
        yield f"  {counts.articles:>9,} articles"
        yield f"  {counts.contexts:>9,} contexts"
        yield f"  {counts.questions:>9,} questions: {shares}"
        yield f"  {counts.answers:>9,} answers"
        yield ""
        if not file.tokens:
            yield from _wrapped(f"tokens: {counted}", "  ")
    if file.tokens:
        tokens = file.tokens
        yield "  tokens       median   95 % have at most   longest"
        for name in ("questions", "contexts", "answers"):
            lengths = getattr(tokens, name)
            if lengths:
                yield (
                    f"  {name:<9} {lengths.median:>9,} {lengths.percentile_95:>18,} "
                    f"{lengths.longest:>9,}"
                )
        share = 100 * tokens.windows_with_answer / tokens.windows
        yield f"  {tokens.windows:,} windows, {share:.1f} % of them with an answer"
        yield f"  ({counted})"
    if file.findings:
        yield ""
        for finding in file.findings:
            yield from _told(finding)
    if file.problems:
        yield ""
        yield "  refused, because:"
        for problem in file.problems[:SHOWN]:
            yield from _wrapped(f"- {problem.removeprefix(f'{file.name}: ')}", "  ", "    ")
        if len(file.problems) > SHOWN:
            yield f"  - and {len(file.problems) - SHOWN:,} more (--json)"
    yield ""
    yield f"  verdict: {_verdict_on(file)}"


def _shared(overlap: Overlap) -> Iterator[str]:
    yield " and ".join(overlap.files)
    if not overlap.findings:
        yield "  no question, id or context stands in both"
    for finding in overlap.findings:
        yield from _told(finding)


def _told(finding: Finding) -> Iterator[str]:
    yield from _wrapped(f"- {finding.message}", "  ", "    ")
    shown = finding.ids[:SHOWN]
    for group in shown:
        if isinstance(group, tuple):
            yield f"      {' = '.join(map(_named, dict.fromkeys(group)))}"
    single = [_named(one) for one in shown if isinstance(one, str)]
    yield from _wrapped(", ".join(single), "      ")
    if len(finding.ids) > SHOWN:
        yield f"      and {len(finding.ids) - SHOWN:,} more (--json)"


def _named(identity: str) -> str:
    """An id, in quotes where it would not be clear where it begins and ends."""
    shown = identity if len(identity) <= 60 else f"{identity[:57]}..."
    plain = shown.isprintable() and shown and not set(shown) & set(' ",=')
    return shown if plain else json.dumps(shown)


def _wrapped(text: str, indent: str, hanging: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if hanging is None else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verdict_on(file: FileCheck) -> str:
    if not file.problems:
        return "can be trained on"
    if file.counts and file.counts.unlabelled and len(file.problems) == 1:
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
    for overlap in check.overlaps:
        for finding in overlap.findings:
            if finding.kind == "shared_questions":
                one, other = overlap.files
                verdict += (
                    f"; {'and' if refused else 'but'} {len(finding.ids):,} questions stand in both "
                    f"{one} and {other}: do not train on one of them and score on the other"
                )
    return verdict


def _print(text: str) -> None:
    """Print any text, whatever the terminal can show: ids and file names are not ours."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
