"""Claim: an epoch pads at most 5 % with length grouping, at most 1 % packed.

Counts the token positions that an epoch of training computes; nothing is trained.

    python benchmarks/padding.py --encoder FOLDER --data train-v2.0.json train-8k.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from report import record

from qa_lightning.training.datamodule import SquadDataModule

BATCHING = ("random", "grouped", "packed")


def padding(data: SquadDataModule) -> dict[str, float]:
    """Count an epoch's token positions, and those that hold no token."""
    loader = data.train_dataloader()
    sizes = np.array([loader.dataset[rows].size for rows in loader.sampler])
    tokens, padded_tokens = sizes[:, 1], sizes[:, 2]
    return {
        "windows": sizes[:, 0].sum(),
        "batches": len(sizes),
        "tokens per batch": tokens.mean(),
        "padding %": 100 * (1 - tokens.sum() / padded_tokens.sum()),
        "in the worst batch %": 100 * (1 - tokens / padded_tokens).max(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="SQuAD-format files")
    parser.add_argument("--encoder", required=True, help="folder with the tokenizer")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    rows = []
    for path in given.data:
        for size in given.batch_sizes:
            for batching in BATCHING:
                data = SquadDataModule(
                    tokenizer=given.encoder,
                    train=path,
                    val=path,
                    max_val_questions=1,
                    batch_size=size,
                    batching=batching,
                )
                trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
                trainer.state.fn = TrainerFn.FITTING
                data.trainer = trainer
                data.prepare_data()
                data.setup("fit")
                found = padding(data)
                rows.append(
                    {"data": Path(path).name, "batch size": str(size), "batching": batching}
                    | {name: f"{value:,.2f}".removesuffix(".00") for name, value in found.items()}
                )
    record("Padding in an epoch of training", rows, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
