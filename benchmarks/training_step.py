"""Claim: training is several times as fast as the usual script and as the notebook.

Every variant trains on the same windows with the same optimizer, in a process of its own, and the
variants take turns. The usual script pads every window to 384 tokens; the notebook pads to the
longest of the data, and its windows may have 512. Each further variant adds one measure to the one
before it. Every run goes over its batches twice, and only the second pass is timed, when memory is
allocated and code is compiled.

    python benchmarks/training_step.py --data train.json --encoder FOLDER [--size distilbert]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from lightning.pytorch import Callback, Trainer, seed_everything
from report import record
from torch.utils.data import DataLoader

from qa_lightning.model import hardware
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QuestionAnsweringModule

BATCH = 16
DISTILBERT = {"vocab_size": 30522}
"""The defaults are the sizes of DistilBERT-base. Its weights are random, which changes no speed."""

QUESTIONS = 1000
"""Questions drawn: about as many windows as are grouped by length together."""


@dataclass(frozen=True)
class Variant:
    """One configuration of training.

    Attributes:
        batching: As `--data.batching`.
        padding: As `--data.padding`.
        window: As `--data.window`.
        precision: As `--trainer.precision`.
        keep_memory: Whether the C library keeps freed memory.
        fast_linear: Whether float32 products go to oneDNN where that is faster (`model/linear.py`).
        dropout: Rate of both kinds of dropout; None is the encoder's own.
        compiled: As `--model.compile`.
        batches: How many batches to time; when all are padded to one width, a few suffice.
    """

    batching: str = "random"
    padding: str = "window"
    window: int = 384
    precision: str = "32-true"
    keep_memory: bool = False
    fast_linear: bool = False
    dropout: float | None = None
    compiled: bool = False
    batches: int = 2


NOTEBOOK, USUAL = "notebook (pad to 512)", "usual script (pad to 384)"
GROUPED = Variant("grouped", "batch", batches=8)
KEPT = replace(GROUPED, keep_memory=True)
FAST = replace(KEPT, fast_linear=True)
UNDROPPED = replace(FAST, dropout=0.0)
PACKED = replace(UNDROPPED, batching="packed")
HALF: dict[str, Any] = {"precision": "bf16-mixed"}
VARIANTS = {
    NOTEBOOK: Variant(window=512),
    USUAL: Variant(),
    "grouped by length": GROUPED,
    "grouped, freed memory kept": KEPT,
    "grouped, kept, oneDNN": FAST,
    "grouped, kept, oneDNN, no dropout": UNDROPPED,
    "packed, kept, oneDNN, no dropout": PACKED,
    "bf16: usual script": Variant(**HALF),
    "bf16: grouped by length": replace(GROUPED, **HALF),
    "bf16: grouped, kept": replace(KEPT, **HALF),
    "bf16: grouped, kept, no dropout": replace(UNDROPPED, **HALF),
    "bf16: grouped, kept, no dropout, compiled": replace(UNDROPPED, compiled=True, **HALF),
    "bf16: packed, kept, no dropout": replace(PACKED, **HALF),
}


class Chosen(SquadDataModule):
    """The same few batches in every run, twice: taken evenly from the longest to the shortest."""

    def __init__(self, batches: int, **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        loader = super().train_dataloader()
        drawn = sorted(loader.sampler, key=lambda rows: -loader.dataset[rows].size.padded_tokens)
        every = len(drawn) / self.batches
        chosen = [drawn[int((number + 0.5) * every)] for number in range(self.batches)]
        return DataLoader(loader.dataset, sampler=chosen * 2, batch_size=None)


class Clock(Callback):
    """Counts seconds and windows, without the first `warm_up` batches."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.seconds, self.windows = 0.0, 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, number: int) -> None:
        self.begin = time.perf_counter()

    def on_train_batch_end(self, *given: Any) -> None:
        batch, number = given[3:5]
        if number >= self.warm_up:
            self.seconds += time.perf_counter() - self.begin
            self.windows += batch.size.windows


def windows_per_second(variant: Variant, given: argparse.Namespace) -> float:
    """Train with Lightning on the chosen batches and count the windows."""
    if variant.keep_memory:
        hardware.keep_freed_memory()
    seed_everything(0, verbose=False)
    data = Chosen(
        variant.batches,
        tokenizer=given.encoder,
        train=given.data,
        val=given.data,
        window=variant.window,
        batching=variant.batching,  # type: ignore[arg-type]
        padding=variant.padding,  # type: ignore[arg-type]
        batch_size=BATCH,
        max_train_questions=QUESTIONS,
        max_val_questions=1,
    )
    base = {"encoder_config": DISTILBERT} if given.size == "distilbert" else {}
    rates = {"dropout": variant.dropout, "attention_dropout": variant.dropout}
    form: Any = {"as_distilbert": True}
    module = QuestionAnsweringModule(
        given.encoder, compile=variant.compiled, **form, **base, **rates
    )
    clock = Clock(variant.batches)
    trainer = Trainer(
        accelerator="cpu",
        precision=variant.precision,  # type: ignore[arg-type]
        max_epochs=1,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        callbacks=clock,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    plain = patch.object(hardware, "mkl_leaves_width_unused", lambda: False)
    with nullcontext() if variant.fast_linear else plain:
        trainer.fit(module, datamodule=data)
    return clock.windows / clock.seconds


def in_its_own_process(name: str, options: list[str]) -> float:
    """Windows per second of one variant, timed in a fresh process."""
    command = [sys.executable, __file__, *options, "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="training questions, SQuAD format")
    parser.add_argument("--encoder", required=True, help="folder of the encoder")
    parser.add_argument("--size", choices=["as it is", "distilbert"], default="as it is")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(windows_per_second(VARIANTS[given.only], given)))
        return 0
    rates: dict[str, list[float]] = {name: [] for name in given.variants}
    options = ["--data", given.data, "--encoder", given.encoder, "--size", given.size]
    for turn in range(given.rounds):
        for name in given.variants:
            rates[name].append(in_its_own_process(name, options))
            print(f"round {turn + 1}: {name}: {rates[name][-1]:.2f} windows/s", file=sys.stderr)
    median = {name: statistics.median(found) for name, found in rates.items()}
    rows = [
        {
            "variant": name,
            "windows/s": f"{median[name]:.2f}",
            **{
                f"times {base.split(' (')[0]}": f"{median[name] / median[base]:.1f}"
                for base in (USUAL, NOTEBOOK)
                if base in median
            },
            "lowest, highest": f"{min(rates[name]):.2f}, {max(rates[name]):.2f}",
        }
        for name in given.variants
    ]
    size = "DistilBERT-base size" if given.size == "distilbert" else given.encoder
    note = f"Medians of {given.rounds} alternating runs; float32 unless bf16 is named."
    record(f"Training steps: {size}", rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
