"""Claim: `--help` and a mistyped option are answered at once, and training starts within seconds.

Runs each command in a fresh process, in alternation, and times it until it ends, or for training
until the first optimizer step is done: imports, model, data from a warm cache, the sanity check,
one batch. CPU seconds (of all threads) are the cost even on a machine that is busy otherwise. The
first round fills the caches and is not counted.

    python benchmarks/startup.py --train train-8k.json --val dev-2k.json --encoder minilm-l6
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from report import record

HERE = Path(__file__).resolve().parent


class FirstStep(Callback):
    """Ends the process when the first training step is done."""

    def on_train_batch_end(self, *_: Any) -> None:
        print("first step", flush=True)
        os._exit(0)


@dataclass(frozen=True)
class Command:
    what: str
    arguments: list[str]
    limit: float | None  # seconds that the claim allows
    answer: str  # what its output must hold


def timed(command: Command) -> tuple[float, float]:
    """Wall-clock and CPU seconds until the command has ended."""
    with tempfile.TemporaryFile("w+") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "qa_lightning", *command.arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=HERE.parent,
            env={**os.environ, "PYTHONPATH": str(HERE)},
        )
        _, _, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        output.seek(0)
        text = output.read()
    if command.answer not in text:
        sys.exit(f"{command.what}: expected {command.answer!r} in\n{text}")
    return seconds, usage.ru_utime + usage.ru_stime


def commands(given: argparse.Namespace, folder: str) -> list[Command]:
    train = [
        *("--config", "configs/minilm.yaml", "--model.pretrained", str(given.encoder.resolve())),
        *("--data.train", str(given.train.resolve()), "--data.val", str(given.val.resolve())),
        *("--data.cache_dir", f"{folder}/cache", "--trainer.default_root_dir", folder),
        "--trainer.callbacks+=startup.FirstStep",
    ]
    mistyped = ["fit", "--model.lerning_rate", "1e-4"]
    return [
        Command("`--help`", ["--help"], 1, "commands:"),
        Command("an unknown command", ["fti"], 1, "did you mean fit?"),
        Command("a mistyped option", mistyped, None, "Did you mean --model.learning_rate?"),
        Command("`fit --help`", ["fit", "--help"], 6, "--model.learning_rate"),
        Command("`fit` to the end of its first step", ["fit", *train], 12, "first step"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="SQuAD-format file")
    parser.add_argument("--val", type=Path, required=True, help="SQuAD-format file")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of a small encoder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        rounds = [
            [timed(command) for command in commands(given, folder)]
            for _ in range(1 + given.repeats)
        ][1:]
        rows = []
        for command, results in zip(
            commands(given, folder), zip(*rounds, strict=True), strict=True
        ):
            seconds, cpu = (statistics.median(figures) for figures in zip(*results, strict=True))
            rows.append(
                {
                    "command": command.what,
                    "seconds": f"{seconds:.2f}",
                    "CPU seconds": f"{cpu:.2f}",
                    "limit": "" if command.limit is None else f"{command.limit:g}",
                }
            )
    title = "From start to answer"
    note = f"Medians of {given.repeats} alternating fresh processes."
    record(title, rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
