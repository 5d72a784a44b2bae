"""The parser of every command: mistakes become one message, and shared options stand here once."""

from __future__ import annotations

import difflib
import re
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import ClosedUnitInterval, restricted_number_type

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from qa_lightning.inference.answerer import Answerer

Number = restricted_number_type("Number", float, [(">=", float("-inf"))])
"""Any float but NaN."""

NAMES = ("device", "precision", "threshold", "unanswerable_share")


class MistakesAsUserErrors(ArgumentParser):
    """Raises a mistake on the command line as a UserError, instead of printing pages of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the mistake, with the option that may have been meant."""
        message = re.sub(r"""(?:Parser key|option) ["']([\w.]+)["']""", r"--\1", message)
        parser = getattr(ex, "subcommand_parser", None) or self
        known = {action.dest: action.option_strings for action in parser._actions}
        # On the command line an option follows --, in a configuration file it stands in quotes.
        named = re.findall(r"(?<=--)[\w.-]+|(?<=option ')[\w.]+", message)
        names = [name.replace("-", "_") for name in named]
        unknown = [name for name in names if name not in known]
        close = difflib.get_close_matches(unknown[0], known, n=1) if unknown else []
        hint = f"Did you mean {known[close[0]][-1]}? " if close and known[close[0]] else ""
        program = parser.prog.replace(" [options]", "")
        raise UserError(f"{message}\n{hint}{program} --help lists every option.") from ex

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Parse a configuration file; a mistake is reported with the file's name."""
        try:
            return super().parse_path(path, *args, **kwargs)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the line breaks of the examples below the options."""


class CommandParser(MistakesAsUserErrors):
    """The parser of a command that needs no Lightning; `epilog` holds examples."""

    def __init__(self, command: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"python -m qa_lightning {command}",
            description=description,
            epilog=epilog,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,  # an abbreviation would be a misspelling that nobody notices
        )


def add_model_options(parser: ArgumentParser) -> None:
    """Add the options that say which model answers, and how."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run's folder, a checkpoint, an exported folder, its model.onnx, or the name of a "
        "question-answering model on the hub",
    )
    parser.add_argument(
        "--threshold",
        type=Number,
        metavar="T",
        help="null threshold; higher answers more often; by default the model's tuned one, else 0",
    )
    parser.add_argument(
        "--unanswerable_share",
        type=ClosedUnitInterval,
        metavar="S",
        help="share of your questions, 0 to 1, that you expect to have no answer; it moves the "
        "tuned threshold, and 0 answers every question",
    )
    parser.add_argument("--device", help="as torch names it; by default the best there is")
    parser.add_argument(
        "--precision",
        choices=["32-true", "bf16-mixed", "16-mixed"],
        help="by default as fit chooses it",
    )


def load_answerer(options: Namespace, **others: Any) -> Answerer:
    """Load the model that the options of `add_model_options` name."""
    quiet_transformers()
    from qa_lightning.inference.answerer import Answerer

    if options.threshold is not None and options.unanswerable_share is not None:
        raise UserError("--unanswerable_share moves the threshold: give it or --threshold")
    given = {name: options[name] for name in NAMES}
    return Answerer.from_pretrained(options.model, **given, **others)


def quiet_transformers() -> None:
    """Keep transformers' progress bars and remarks off standard error."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
