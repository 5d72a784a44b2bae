"""python -m qa_lightning: the table of commands."""

import difflib
import gc
import os
import sys
from importlib import import_module

from qa_lightning.errors import UserError

TRAINER = "commands.train"
COMMANDS = {
    "check": ("commands.check", "report what is in files of questions, before training on them"),
    "fit": (TRAINER, "train a model, validate it after every epoch, save the best one"),
    "validate": (TRAINER, "score a model on the validation questions"),
    "test": (TRAINER, "score a model on the test questions"),
    "predict": (TRAINER, "answer the questions of a file and write predictions.json"),
    "answer": ("commands.answer", "ask a model about a text"),
    "export": ("commands.export", "write a model for others to use: Hugging Face, ONNX, the hub"),
    "score": ("commands.score", "the official figures of a predictions file"),
    "serve": ("commands.serve", "answer over HTTP, with a page for the browser"),
}
"""The module in this package that runs a command, and what the command does."""

EXAMPLES = """\
examples:
  python -m qa_lightning fit --config configs/quickstart.yaml
  python -m qa_lightning fit                     the full recipe on SQuAD 2.0
  python -m qa_lightning validate --ckpt_path lightning_logs/version_0/checkpoints/best.ckpt
  python -m qa_lightning answer lightning_logs/version_0 --context notes.txt
  python -m qa_lightning fit --help              every option of a command
"""


def usage() -> str:
    """What the program is and which commands it has."""
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items())
    return (
        "usage: python -m qa_lightning COMMAND [--config FILE] [options]\n\n"
        "Train and use an extractive question-answering model.\n\n"
        f"commands:\n{table}\n\n{EXAMPLES}"
    )


def main() -> int:
    """Run the command named on the command line; returns the exit status."""
    try:
        return _run(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # what reads the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str]) -> int:
    """Run a command; nothing heavy is imported before it is known to exist."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), flush=True)
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
    module, _ = COMMANDS[command]
    # Importing makes a million objects, nearly all to stay: searching them for garbage again and
    # again, now or in training, would take a second and find nothing.
    gc.disable()
    run = import_module(f"qa_lightning.{module}").run
    gc.freeze()
    gc.enable()
    return int(run() if module == TRAINER else run(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
