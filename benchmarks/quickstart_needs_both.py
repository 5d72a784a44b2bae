"""Claim: the sample can be learned, but from neither its questions nor its contexts alone.

Trains the quickstart's recipe three times: as it is, with every token of the contexts replaced by
[MASK], and with every token of the questions replaced. Prints exact match on the validation part.

    python benchmarks/quickstart_needs_both.py
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from lightning.pytorch import Trainer, seed_everything
from report import record

from qa_lightning.data.tokens import Ragged
from qa_lightning.model.precision import choose_precision
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QuestionAnsweringModule

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"


class MaskingDataModule(SquadDataModule):
    """The same windows, with one part of every window masked."""

    masked = ""  # "question_ids", "context_ids" or nothing

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if not self.masked:
            return
        for split, windows in self._windows.items():
            tokens: Ragged = getattr(windows, self.masked)
            mask = np.full_like(tokens.values, self.tokenizer.mask_token_id)
            masked = Ragged(mask, tokens.bounds)
            self._windows[split] = dataclasses.replace(windows, **{self.masked: masked})


def train(masked: str) -> tuple[float, float]:
    """Exact match on the validation part, and seconds of training."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    seed_everything(42, verbose=False)
    model = QuestionAnsweringModule(**config["model"])
    data = MaskingDataModule(tokenizer=config["model"]["pretrained"], **config["data"])
    data.masked = masked
    sizes = model.encoder.config
    trainer = Trainer(
        **config["trainer"],
        precision=choose_precision("auto", sizes.dim, sizes.hidden_dim)[0],
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    start = time.perf_counter()
    trainer.fit(model, datamodule=data)
    return float(trainer.callback_metrics["val/exact"]), time.perf_counter() - start


MASKED = {
    "question and context": "",
    "question only": "context_ids",
    "context only": "question_ids",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sees", nargs="+", choices=MASKED, default=list(MASKED))
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    rows = []
    for sees in given.sees:
        exact, seconds = train(MASKED[sees])
        rows.append({"the model sees": sees, "EM": f"{exact:.2f}", "seconds": f"{seconds:.0f}"})
    record("The sample needs both question and context", rows, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
