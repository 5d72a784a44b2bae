"""UserError: the one exception that means that the person at the keyboard can correct this."""

from collections.abc import Mapping
from typing import Any


class UserError(Exception):
    """A mistake in what the user gave: a file, an option, a checkpoint, a missing network.

    The message says what is wrong, where (file, question id, option) and what to do. The command
    line prints it without a traceback and exits with status 2.
    """


def require_valid(section: str, values: Mapping[str, Any], **valid: bool) -> None:
    """Refuse options that are out of range.

    Args:
        section: What stands before the options' names on the command line, such as "model".
        values: The options by name, among others.
        valid: Whether each of some options is valid.

    Raises:
        UserError: one is not.
    """
    for name, is_valid in valid.items():
        if not is_valid:
            raise UserError(f"--{section}.{name} cannot be {values[name]}")
