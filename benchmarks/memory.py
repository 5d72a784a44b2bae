"""Claim: reading takes at most 10 bytes of memory per byte of a file, and a second start none.

The training file is repeated with fresh ids, in ASCII. `fit` runs on the file itself and on that,
each in a process of its own: first with an empty cache, where it reads and tokenises, then with the
cache that this left. Reading is measured by the process's peak before and after it: a text that is
parsed takes 4 bytes per character as soon as one of them is an emoji, and `fit` keeps freed memory
for later. `fit` itself is measured by its peak, with the pages of mapped files that were touched.

    python benchmarks/memory.py --data train-v2.0.json --val dev-v2.0.json --encoder minilm-l6
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from report import record

STEPS = 20
CHILD = """
import resource, sys, time
from qa_lightning.training import datamodule
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
read, prepare = datamodule.read_squad, datamodule.SquadDataModule._prepare
def measured(source):
    before = peak()
    tables = read(source)
    print("READ", source.name, peak() - before, flush=True)
    return tables
def timed(self, split, *arguments):
    begin = time.perf_counter()
    prepare(self, split, *arguments)
    print("PREPARED", split, time.perf_counter() - begin, flush=True)
datamodule.read_squad, datamodule.SquadDataModule._prepare = measured, timed
from qa_lightning.__main__ import main
sys.argv[0] = "qa_lightning"
status = main()
print("PEAK", "fit", peak())
sys.exit(status)
"""


def load(data: Path) -> dict:
    with gzip.open(data, "rb") if data.suffix == ".gz" else data.open("rb") as file:
        return json.load(file)


def repeated(data: Path, times: int, path: Path) -> None:
    """Write the file's articles several times over, with fresh ids, one article at a time."""
    articles = load(data)["data"]
    with path.open("w", encoding="utf-8") as file:
        file.write('{"version": "v2.0", "data": [\n')
        for time_ in range(times):
            for number, article in enumerate(articles):
                text = json.loads(json.dumps(article))
                for paragraph in text["paragraphs"]:
                    for question in paragraph["qas"]:
                        question["id"] += f"-{time_}"
                file.write((",\n" if time_ or number else "") + json.dumps(text))
        file.write("\n]}\n")


def fit(train: Path, given: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Run `fit`: MB of reading the training file (if it was read), seconds of preparing, MB."""
    command = [
        *(sys.executable, "-c", CHILD, "fit", *given.more),
        *("--model.pretrained", given.encoder, "--data.train", train, "--data.val", given.val),
        *("--trainer.max_steps", STEPS, "--trainer.limit_val_batches", 2),
        *("--trainer.default_root_dir", folder / "runs"),
    ]
    environment = {**os.environ, "QA_LIGHTNING_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"fit failed on {train}:\n{done.stdout}{done.stderr[-2000:]}")
    lines = [line.split() for line in done.stdout.splitlines()]
    values = {tuple(line[:2]): float(line[2]) for line in lines if len(line) == 3}
    keys = (("READ", str(train)), ("PREPARED", "train"), ("PEAK", "fit"))
    return {key[0]: values[key] for key in keys if key in values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="SQuAD-format training file")
    parser.add_argument("--val", type=Path, required=True, help="SQuAD-format validation file")
    parser.add_argument("--encoder", required=True, help="hub name or folder")
    parser.add_argument("--times", type=int, default=10, help="how often the data is repeated")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    parser.add_argument("more", nargs="*", help="further arguments of fit, behind --")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "whole.json")
        whole.write_text(json.dumps(load(given.data), ensure_ascii=False), encoding="utf-8")
        many = Path(folder, "many.json")
        repeated(given.data, given.times, many)
        for name, train in (("the file", whole), (f"{given.times} times, in ASCII", many)):
            size = train.stat().st_size / 2**20
            cold = fit(train, given, Path(folder, train.stem))
            warm = fit(train, given, Path(folder, train.stem))
            rows.append(
                {
                    "training data": name,
                    "MB": f"{size:.0f}",
                    "preprocessing, s": f"{cold['PREPARED']:.1f}",
                    "reading, MB": f"{cold['READ']:,.0f}",
                    "per byte": f"{cold['READ'] / size:.1f}",
                    "peak of the first fit, MB": f"{cold['PEAK']:,.0f}",
                    "peak of the second, MB": f"{warm['PEAK']:,.0f}",
                }
            )
            print(rows[-1], flush=True)
    title = "Memory of reading, and of a second start"
    record(title, rows, f"{STEPS} training steps each.", to_file=given.record)


if __name__ == "__main__":
    main()
