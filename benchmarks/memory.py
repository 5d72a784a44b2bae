"""Claim: with ten times the data, preprocessing takes ten times as long, and `fit` no more memory.

The training file is repeated with fresh ids; `fit` then runs on it and on the file itself, each in
a process of its own and with an empty cache: reading, tokenising and a few training steps. Memory
is the process's peak, as the system counts it: with the pages of mapped files that were touched
(which it takes back when memory is short), and without them.

    python benchmarks/memory.py --data train-v2.0.json --val dev-v2.0.json --encoder minilm-l6
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from report import record

STEPS = 20
TIMED = """
import sys, time
from qa_lightning.training.datamodule import SquadDataModule
prepare = SquadDataModule._prepare
def timed(self, split, folder):
    begin = time.perf_counter()
    prepare(self, split, folder)
    print(f"PREPARED {split} {time.perf_counter() - begin}", flush=True)
SquadDataModule._prepare = timed
from qa_lightning.__main__ import main
sys.argv[0] = "qa_lightning"
sys.exit(main())
"""


class Run(NamedTuple):
    seconds: float  # of preprocessing the training file
    peak: float  # MB
    own_peak: float  # MB, without mapped files


def repeated(data: Path, times: int, path: Path) -> None:
    """Write the file's articles several times over, with fresh ids, one article at a time."""
    with gzip.open(data, "rt", encoding="utf-8") if data.suffix == ".gz" else data.open() as file:
        articles = json.load(file)["data"]

    def copies() -> Iterator[str]:
        for time_ in range(times):
            for article in articles:
                text = json.loads(json.dumps(article))
                for paragraph in text["paragraphs"]:
                    for question in paragraph["qas"]:
                        question["id"] += f"-{time_}"
                yield json.dumps(text)

    with path.open("w", encoding="utf-8") as file:
        file.write('{"version": "v2.0", "data": [\n')
        for number, text in enumerate(copies()):
            file.write((",\n" if number else "") + text)
        file.write("\n]}\n")


def megabytes(pid: int) -> dict[str, float]:
    """Memory of a running process by the names in /proc."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = (line.split(":") for line in lines if line.endswith("kB"))
    return {name: int(value.split()[0]) / 1024 for name, value in pairs}


def fit(train: Path, given: argparse.Namespace, folder: Path) -> Run:
    """Run `fit` from cold; watch its memory from outside."""
    command = [
        *(sys.executable, "-c", TIMED, "fit", *given.more),
        *("--model.pretrained", given.encoder, "--data.train", train, "--data.val", given.val),
        *("--trainer.max_steps", STEPS, "--trainer.limit_val_batches", 2),
        *("--trainer.default_root_dir", folder / "runs"),
    ]
    environment = {**os.environ, "QA_LIGHTNING_CACHE": str(folder / "cache")}
    folder.mkdir()
    errors = folder / "stderr"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    peak = own_peak = 0.0

    def watch() -> None:
        nonlocal peak, own_peak
        while process.poll() is None:
            try:
                now = megabytes(process.pid)
            except OSError:
                return
            peak = max(peak, now.get("VmHWM", 0))
            own_peak = max(own_peak, now.get("RssAnon", 0))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.stdout.read() if process.stdout else ""
    watcher.join()
    if process.wait():
        sys.exit(f"fit failed on {train}:\n{output}{errors.read_text()[-2000:]}")
    seconds = next(
        float(line.split()[2]) for line in output.splitlines() if line.startswith("PREPARED train ")
    )
    return Run(seconds, peak, own_peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="SQuAD-format training file")
    parser.add_argument("--val", type=Path, required=True, help="SQuAD-format validation file")
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--times", type=int, default=10, help="how often the data is repeated")
    parser.add_argument("--runs", type=int, default=1, help="of each size, by turns")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    parser.add_argument("more", nargs="*", help="further arguments of fit, behind --")
    given = parser.parse_args()

    runs: dict[int, list[Run]] = {1: [], given.times: []}
    with tempfile.TemporaryDirectory() as folder:
        for times in runs:
            repeated(given.data, times, Path(folder, f"{times}.json"))
        for turn in range(given.runs):
            for times, of_size in runs.items():
                here = Path(folder, f"{times}-{turn}")
                of_size.append(fit(Path(folder, f"{times}.json"), given, here))
                print(f"{times} times: {of_size[-1]}", flush=True)

    medians = {
        times: Run(*map(statistics.median, zip(*of_size, strict=True)))
        for times, of_size in runs.items()
    }
    rows = [
        {
            "training data": "the file" if times == 1 else f"{times} times",
            "preprocessing, s": f"{median.seconds:.1f}",
            "peak of fit, MB": f"{median.peak:,.0f}",
            "without mapped files, MB": f"{median.own_peak:,.0f}",
        }
        for times, median in medians.items()
    ]
    ratios = (
        f"{more / one:.2f}" for more, one in zip(medians[given.times], medians[1], strict=True)
    )
    rows.append(dict(zip(rows[0], ("ratio", *ratios), strict=True)))
    note = f"Medians of {given.runs} alternating runs from cold, {STEPS} training steps each."
    record("Ten times the data", rows, note, to_file=given.record)


if __name__ == "__main__":
    main()
