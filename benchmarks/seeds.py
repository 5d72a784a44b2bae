"""Claim: a recipe's scores do not depend on one lucky seed.

Runs `fit` once per seed, each in a process of its own, and prints EM and F1 of the best epoch with
their mean and standard deviation.

    python benchmarks/seeds.py --seeds 1 2 3 -- --config configs/minilm.yaml --data.train ...
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from report import record
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SHOWN = {
    "EM": "val/exact",
    "F1": "val/f1",
    "HasAns EM": "val/HasAns_exact",
    "HasAns F1": "val/HasAns_f1",
    "NoAns EM": "val/NoAns_exact",
    "no answer %": "val/no_answer_rate",
}


def figures(run: Path) -> dict[str, float]:
    """Figures of the validation with the highest EM, from a run's TensorBoard events."""
    events = EventAccumulator(str(run))
    events.Reload()
    exact = [event.value for event in events.Scalars(SHOWN["EM"])]
    best = exact.index(max(exact))
    return {name: events.Scalars(tag)[best].value for name, tag in SHOWN.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    parser.add_argument("options", nargs="*", help="options of fit, after --")
    given = parser.parse_args()
    runs = {}
    for seed in given.seeds:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "qa_lightning", "fit", *given.options]
            command += ["--seed_everything", str(seed), "--data.seed", str(seed)]
            subprocess.run([*command, "--trainer.default_root_dir", folder], check=True)
            runs[seed] = figures(Path(folder) / "lightning_logs" / "version_0")
    rows = [
        {"seed": str(seed), **{name: f"{value:.2f}" for name, value in one.items()}}
        for seed, one in runs.items()
    ]
    for title, summarise in (("mean", statistics.mean), ("deviation", statistics.stdev)):
        columns = {name: [one[name] for one in runs.values()] for name in SHOWN}
        rows.append({"seed": title, **{n: f"{summarise(v):.2f}" for n, v in columns.items()}})
    record("Several seeds of one recipe", rows, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
