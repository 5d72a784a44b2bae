"""Claim: on a GPU half of what it can multiply is used, and an epoch takes seconds.

Trains DistilBERT-base and MiniLM-L6 sizes, with random weights, in every configuration that matters
on one GPU: padded to 384 as the usual script does, grouped by length, packed, compiled or not, as
CUDA graphs, in small and large batches. First it checks that packed and padded windows give the
same logits. It needs no network, only some of the data and the encoder's folder (for its
tokenizer). On a machine without a GPU, `--accelerator cpu --steps 1 --batch-sizes 2` tries the same
code.

    python benchmarks/gpu.py --data train-8k.json --encoder FOLDER --minutes 8
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.trainer.states import TrainerFn
from report import record

from qa_lightning.data.batches import Batch
from qa_lightning.model.peak_rate import measure_peak
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.module import QuestionAnsweringModule
from qa_lightning.training.throughput import Throughput

SQUAD_WINDOWS = 131_754
"""Windows of 384 tokens of the official SQuAD 2.0 training set."""
SIZES = {
    "DistilBERT-base": {"vocab_size": 30522},
    "MiniLM-L6": {"vocab_size": 30522, "dim": 384, "hidden_dim": 1536, "n_heads": 12},
}
WARM_UP = 10


@dataclass(frozen=True)
class Variant:
    """One configuration of training: options of data and model, and the precision."""

    size: str
    precision: str
    batching: str
    padding: str = "batch"
    batch_size: int = 32
    compile: bool = False
    graphs: bool = False  # compiled, and replayed as CUDA graphs

    @property
    def name(self) -> str:
        """Its name in the table of results."""
        layout = "pad to 384" if self.padding == "window" else self.batching
        return f"{layout}{', compiled' if self.compile else ''}{', CUDA graphs' * self.graphs}"


class GraphModule(QuestionAnsweringModule):
    """Replays its encoder as CUDA graphs: rows of packed windows have nearly always one shape."""

    def on_fit_start(self) -> None:
        """Compile for graphs, each of which is recorded for one shape."""
        super().on_fit_start()
        self.encoder.distilbert.compile(mode="reduce-overhead", dynamic=False)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Add empty segments, for the same number in every batch; reads nothing of the device."""
        if batch.packing is None:
            return batch
        most = 4 * self.datamodule.hparams["batch_size"]
        missing = max(0, most + 1 - len(batch.packing.cu_seqlens))
        end = len(batch.packing.indices)
        ends = torch.nn.functional.pad(batch.packing.cu_seqlens, (0, missing), value=end)
        return batch._replace(packing=batch.packing._replace(cu_seqlens=ends))


def variants(batch_sizes: list[int]) -> list[Variant]:
    """All variants, the most important ones first, since time may run out."""
    small, *_, large = [batch_sizes[0], *batch_sizes]
    found = []
    for size in SIZES:
        found += [
            Variant(size, "32-true", "random", "window", small),
            Variant(size, "bf16-mixed", "random", "window", small),
            *(
                Variant(size, "bf16-mixed", batching, batch_size=batch)
                for batch, batching in itertools.product(batch_sizes, ("grouped", "packed"))
            ),
            *(
                Variant(size, "bf16-mixed", "packed", batch_size=n, graphs=True)
                for n in batch_sizes
            ),
            Variant(size, "bf16-mixed", "packed", batch_size=large, compile=True),
            Variant(size, "bf16-mixed", "grouped", batch_size=large, compile=True),
        ]
    return sorted(found, key=lambda variant: variant.compile or variant.graphs)


def data_of(given: argparse.Namespace, batch_size: int, batching: str, padding: str) -> Any:
    """The datamodule of one variant."""
    return SquadDataModule(
        tokenizer=given.encoder,
        train=given.data,
        val=given.data,
        max_val_questions=1,
        batch_size=batch_size,
        batching=batching,  # type: ignore[arg-type]
        padding=padding,  # type: ignore[arg-type]
    )


def trainer_of(given: argparse.Namespace, precision: str, *callbacks: Any) -> Trainer:
    """A trainer that does nothing but train."""
    return Trainer(
        accelerator=given.accelerator,
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_steps=given.steps + WARM_UP,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def check_agreement(given: argparse.Namespace) -> None:
    """Packed logits must equal padded ones but for rounding, in full and in half precision."""
    device = torch.device("cuda" if given.accelerator == "gpu" else "cpu")
    data = data_of(given, 16, "packed", "batch")
    data.trainer = trainer_of(given, "32-true")
    data.trainer.state.fn = TrainerFn.FITTING
    data.prepare_data()
    data.setup("fit")
    loader = data.train_dataloader()
    batch = loader.dataset[next(iter(loader.sampler))]
    batch = data.transfer_batch_to_device(batch, device, 0)
    for size, config in SIZES.items():
        seed_everything(0, verbose=False)
        module = QuestionAnsweringModule(encoder_config=config).to(device).eval()
        for half, tolerance in ((False, 1e-4), (True, 0.05)):
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                padded = module(batch.input_ids, batch.attention_mask)
                packed = module(batch.input_ids, batch.attention_mask, batch.packing)
            real = batch.attention_mask
            apart = (padded[real] - packed[real]).abs().max() / padded[real].std()
            print(f"{size}, {'bfloat16' if half else 'float32'}: logits differ by {apart:.1e}")
            if apart > tolerance:
                raise SystemExit("packed and padded logits differ by more than rounding")


def run(variant: Variant, given: argparse.Namespace, peak: float) -> dict[str, str]:
    """Train a few steps; `peak` is the measured rate of matrix products, in FLOP/s."""
    seed_everything(0, verbose=False)
    on_gpu = given.accelerator == "gpu"
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    kind = GraphModule if variant.graphs else QuestionAnsweringModule
    module = kind(
        encoder_config=SIZES[variant.size], compile=variant.compile, attention_dropout=0.0
    )
    meter = Throughput(warm_up=WARM_UP)
    trainer = trainer_of(given, variant.precision, meter)
    begin = time.perf_counter()
    data = data_of(given, variant.batch_size, variant.batching, variant.padding)
    trainer.fit(module, datamodule=data)
    rates = meter.overall
    assert rates is not None
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if on_gpu else "-"
    return {
        "size": variant.size,
        "precision": variant.precision,
        "batch": str(variant.batch_size),
        "variant": variant.name,
        "windows/s": f"{rates.windows_per_s:,.4g}",
        "tokens/s": f"{rates.tokens_per_s:,.4g}",
        "padding %": f"{rates.padding:.1f}",
        "TFLOP/s": f"{rates.tflops:.4g}",
        "MFU %": f"{rates.mfu:.1f}",
        "of measured peak %": f"{100e12 * rates.tflops / peak:.1f}",
        "memory GiB": memory,
        "epoch s": f"{SQUAD_WINDOWS / rates.windows_per_s:.1f}",
        "run s": f"{time.perf_counter() - begin:.0f}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="training questions, SQuAD format")
    parser.add_argument("--encoder", required=True, help="folder with the tokenizer")
    parser.add_argument("--accelerator", choices=["gpu", "cpu"], default="gpu")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=8.0, help="start nothing new after it")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    if given.accelerator == "gpu" and not torch.cuda.is_available():
        print("error: there is no GPU; --accelerator cpu tries the script", file=sys.stderr)
        return 2
    begin = time.perf_counter()
    check_agreement(given)
    device = torch.device("cuda" if given.accelerator == "gpu" else "cpu")
    peak = measure_peak(device, torch.bfloat16).flops
    rows, left = [], []
    for variant in variants(given.batch_sizes):
        if time.perf_counter() - begin > 60 * given.minutes:
            left.append(variant)
            continue
        rows.append(run(variant, given, peak))
        print(rows[-1], file=sys.stderr)
    if not rows:
        print("error: --minutes were over before the first variant", file=sys.stderr)
        return 2
    note = (
        f"A bfloat16 matrix product reaches {peak / 1e12:.4g} TFLOP/s on this device. "
        "MFU is against the measured peak; an epoch is "
        f"{SQUAD_WINDOWS:,} windows at the rate measured."
    )
    if left:
        note += f" No time was left for {len(left)} variants: {', '.join(map(str, left))}."
    title = "One GPU" if given.accelerator == "gpu" else "The GPU benchmark, on a CPU"
    record(title, rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
