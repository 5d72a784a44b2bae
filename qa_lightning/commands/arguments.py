"""What the commands have in common."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from typing import NoReturn, TypeVar

from qa_lightning.errors import UserError

_N = TypeVar("_N", int, float)


class Parser(argparse.ArgumentParser):
    """Tells a mistake in a sentence, where argparse would print the usage first."""

    def error(self, message: str) -> NoReturn:
        """Raise the mistake as a UserError, with the option that may have been meant."""
        known = [option for action in self._actions for option in action.option_strings]
        words = message.split()
        unknown = [word for word in words if word.startswith("--") and word not in known]
        close = difflib.get_close_matches(unknown[0], known, n=1) if unknown else []
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UserError(f"{message}\n{hint}{self.prog} --help lists every option.")


def number(kind: Callable[[str], _N], what: str, fits: Callable[[_N], bool]) -> Callable[[str], _N]:
    """A type of argparse: a number that fits.

    Args:
        kind: int or float.
        what: What fits, in words.
        fits: Whether a number does.
    """

    def read(text: str) -> _N:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return read


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Let a command be told which model answers, and how: what `Answerer.from_pretrained` takes."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run's folder, a checkpoint, an exported folder, its model.onnx, or the name of a "
        "DistilBERT question-answering model on the hub",
    )
    parser.add_argument(
        "--threshold",
        type=number(float, "a number", lambda value: value == value),
        metavar="T",
        help="null threshold: higher answers more often (default: the model's tuned one, else 0)",
    )
    parser.add_argument("--device", help="as torch names it (default: the best there is)")
    parser.add_argument(
        "--precision", choices=["32-true", "bf16-mixed", "16-mixed"], help="(default: as fit)"
    )


def quieten() -> None:
    """Leave standard error to what a person needs to read; transformers is imported for it."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
