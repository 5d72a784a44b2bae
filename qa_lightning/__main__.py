"""python -m qa_lightning: the table of commands."""

from __future__ import annotations

import difflib
import gc
import sys

COMMANDS = {
    "fit": "train a model, validate it after every epoch, save the best one",
    "validate": "score a model on the validation questions",
    "test": "score a model on the test questions",
    "predict": "answer questions of a file and write predictions.json",
}

EXAMPLES = """\
examples:
  python -m qa_lightning fit --config configs/quickstart.yaml
  python -m qa_lightning fit                     the full recipe on SQuAD 2.0
  python -m qa_lightning validate --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt
  python -m qa_lightning fit --help              every option of a command
"""


def usage() -> str:
    """What the program is and which commands it has."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: python -m qa_lightning COMMAND [--config FILE] [options]\n\n"
        "Train and use an extractive question-answering model.\n\n"
        f"commands:\n{table}\n\n{EXAMPLES}"
    )


def main() -> int:
    """Run the command named on the command line; returns the exit status.

    Nothing heavy is imported before the command is known to exist.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from qa_lightning import __version__

        print(__version__)
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"error: there is no command {command!r}{hint}\n\n{usage()}", file=sys.stderr)
        return 2
    # Importing makes a million objects, nearly all to stay: searching them for garbage again and
    # again, now or in training, would take a second and find nothing.
    gc.disable()
    from qa_lightning.cli import run

    gc.freeze()
    gc.enable()
    return run()


if __name__ == "__main__":
    sys.exit(main())
