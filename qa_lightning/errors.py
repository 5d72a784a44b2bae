"""The one exception that means: the person at the keyboard can mend this."""


class UserError(Exception):
    """A mistake in what the user gave: a file, an option, a checkpoint, a missing network.

    The message says what is wrong, where (file, question id, option) and what to do. The command
    line shows it without a traceback and exits with status 2.
    """
