"""Runs commands of the command line one after the other, as one of two processes that train.

    LOCAL_RANK=0 MASTER_ADDR=... MASTER_PORT=... python -m tests.helpers.pair COMMANDS.json

Starting takes longer than a tiny run: so one start does for several.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.helpers.command import call
from tests.helpers.stopping import Crash


def main() -> int:
    """Print what each command came to: its status, or "crash"."""
    for command in json.loads(Path(sys.argv[1]).read_text()):
        try:
            outcome = call(*command)
            print(outcome.status, flush=True)
            if outcome.status:
                print(outcome.err, file=sys.stderr)
        except Crash:
            print("crash", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
