"""Claim: decoding is exact, and at least five times as fast as the usual, less exact double loop.

Decodes the logits of all windows of a SQuAD-format file with two methods in alternation: ours, as
validation does it, and the loop of the usual scripts, which tries each window's 20 best starts with
its 20 best ends. Then times all that validation does after the encoder, from logits to final
figures.

    python benchmarks/decoding.py --data dev-v2.0.json --encoder minilm-l6 --checkpoint best.ckpt
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from report import record
from torch import Tensor

from qa_lightning.data.batches import Batch, WindowDataset
from qa_lightning.data.sampler import WindowSampler
from qa_lightning.data.squad import read_squad
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import make_windows
from qa_lightning.evaluation.spans import spans_of_windows, word_boundaries
from qa_lightning.model.tokenizer import load_tokenizer
from qa_lightning.training.module import QuestionAnsweringModule

BATCH_SIZE = 64
N_BEST = 20
MAX_TOKENS = 30
TINY = {"vocab_size": 8, "dim": 8, "hidden_dim": 8, "n_layers": 1, "n_heads": 1}


class ReplayingModule(QuestionAnsweringModule):
    """The module whose evaluation is timed, with logits from a list instead of an encoder."""

    def __init__(self, logits: list[Tensor]) -> None:
        super().__init__(encoder_config=TINY, n_best=N_BEST, max_answer_tokens=MAX_TOKENS)
        self.all_logits = logits
        self.replay: Iterator[Tensor] = iter(())

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return next(self.replay)


class PlainWindow(NamedTuple):
    """A window in the form that is fastest for the loop: arrays to sort, lists to look up."""

    start: np.ndarray
    end: np.ndarray
    legal_start: list[bool]
    legal_end: list[bool]
    offsets: list[list[int]]


class PlainSpan(NamedTuple):
    score: float
    begin: int
    end: int


def trained_logits(checkpoint: Path, batches: list[Batch]) -> list[Tensor]:
    model = QuestionAnsweringModule.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    with torch.inference_mode():
        return [model(batch.input_ids, batch.attention_mask) for batch in batches]


def random_logits(batches: list[Batch]) -> list[Tensor]:
    """Noise with the spread of a trained model's logits, and one peak each for start and end."""
    random = torch.Generator().manual_seed(42)
    all_logits = []
    for batch in batches:
        windows, tokens = batch.input_ids.shape
        peak = torch.randint(tokens, (windows, 1, 1), generator=random) + torch.tensor([0, 2])
        distance = (torch.arange(tokens).view(1, -1, 1) - peak).abs()
        noise = 2 * torch.randn(windows, tokens, 2, generator=random)
        logits = noise + 7 * torch.exp(-distance / 4) - 4
        if batch.attention_mask is not None:
            logits = logits.masked_fill(~batch.attention_mask.unsqueeze(2), float("-inf"))
        all_logits.append(logits)
    return all_logits


def decode(batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Characters and scores of every window's best spans, exactly, as validation finds them."""
    assert batch.offsets is not None and batch.word_starts is not None
    _, spans, scores = spans_of_windows(
        logits, batch.offsets, batch.word_starts, max_tokens=MAX_TOKENS, count=N_BEST
    )
    return spans, scores


def plain_windows(batch: Batch, logits: Tensor) -> Iterator[PlainWindow]:
    assert batch.offsets is not None and batch.word_starts is not None
    start, end = (np.ascontiguousarray(one.numpy()) for one in logits.unbind(2))
    legal_start, legal_end = word_boundaries(batch.offsets, batch.word_starts)
    lists = (legal_start.tolist(), legal_end.tolist(), batch.offsets.tolist())
    return (PlainWindow(*row) for row in zip(start, end, *lists, strict=True))


def decode_by_loop(window: PlainWindow) -> list[PlainSpan]:
    """Best spans among the 20 best starts and ends, by the same rules of what is legal."""
    spans = []
    starts = np.argsort(window.start)[::-1][:N_BEST].tolist()
    ends = np.argsort(window.end)[::-1][:N_BEST].tolist()
    for first in starts:
        for last in ends:
            if not window.legal_start[first] or not window.legal_end[last]:
                continue
            if last < first or last - first + 1 > MAX_TOKENS:
                continue
            score = float(window.start[first] + window.end[last])
            spans.append(PlainSpan(score, window.offsets[first][0], window.offsets[last][1]))
    return sorted(spans, key=lambda span: span.score, reverse=True)[:N_BEST]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that the work took, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def run_steps(model: ReplayingModule, batches: list[Batch]) -> None:
    for number, batch in enumerate(batches):
        model.test_step(batch, number)


def evaluation_seconds(model: ReplayingModule, batches: list[Batch]) -> dict[str, float]:
    """What follows the encoder in a validation: seconds of the parts and of the whole."""
    model.metric.reset()
    model.replay = iter(model.all_logits)
    steps, _ = timed(lambda: run_steps(model, batches))
    computing, _ = timed(model.metric.compute)
    # `compute` joins the windows first; that is done once more to time its two parts separately.
    joining, _ = timed(model.metric.answers)
    return {
        "evaluation steps (decoding, losses)": steps,
        "joining windows": joining,
        "scoring": computing - joining,
        "all, logits to figures": steps + computing,
    }


def disagreement(
    ours: list[tuple[Tensor, Tensor]], loop: list[list[PlainSpan]]
) -> dict[str, float]:
    """Shares of the windows in which the loop finds other spans, or worse ones, than ours."""
    spans = torch.cat([found[:, 0] for found, _ in ours]).numpy()
    scores = torch.cat([found for _, found in ours]).numpy()
    nothing = PlainSpan(float("-inf"), -1, -1)
    padded = np.array([(found + [nothing] * N_BEST)[:N_BEST] for found in loop])
    worse = padded[..., 0] < scores
    assert not (padded[..., 0] > scores).any(), "the loop found a better span: ours is not exact"
    return {
        "another best span": float((padded[:, 0, 1:] != spans).any(1).mean()),
        "a worse best span": float(worse[:, 0].mean()),
        f"worse among the {N_BEST} best": float(worse.any(1).mean()),
    }


def rows_of_decoding(
    fast: list[float], slow: list[float], shares: dict[str, float]
) -> list[dict[str, str]]:
    """The table: median seconds of both methods, and how the loop's spans differ."""
    ours, loop = statistics.median(fast), statistics.median(slow)
    exact = {"method": "ours", "seconds": f"{ours:.3f}", "times as fast": f"{loop / ours:.1f}"}
    usual = {"method": "loop", "seconds": f"{loop:.3f}", "times as fast": "1"}
    return [
        exact | {name: "" for name in shares},
        usual | {name: f"{share:.3%}" for name, share in shares.items()},
    ]


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="SQuAD-format file")
    parser.add_argument("--encoder", required=True, help="folder with the tokenizer")
    parser.add_argument("--checkpoint", type=Path, help="trained model; random logits without")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()

    tokenizer = load_tokenizer(given.encoder)
    windows = make_windows(read_squad(given.data), tokenizer, WindowSettings())
    dataset = WindowDataset(windows, with_offsets=True)
    sampler = WindowSampler(windows.lengths, BATCH_SIZE, order="sorted")
    batches = [dataset[rows] for rows in sampler]
    if given.checkpoint:
        logits = trained_logits(given.checkpoint, batches)
    else:
        logits = random_logits(batches)
    pairs = list(zip(batches, logits, strict=True))
    plain = [window for pair in pairs for window in plain_windows(*pair)]
    model = ReplayingModule(logits)
    model.metric.attach(windows.questions, windows.contexts)
    gc.collect()
    gc.freeze()  # otherwise the loop's many lists slow down every garbage collection

    fast, slow, parts = [], [], []
    for _ in range(given.repeats):
        seconds, ours = timed(lambda: [decode(*pair) for pair in pairs])
        fast.append(seconds)
        seconds, loop = timed(lambda: [decode_by_loop(window) for window in plain])
        slow.append(seconds)
        parts.append(evaluation_seconds(model, batches))
    decoding = rows_of_decoding(fast, slow, disagreement(ours, loop))
    whole = [
        {"part": name, "seconds": f"{statistics.median(one[name] for one in parts):.3f}"}
        for name in parts[0]
    ]
    source = "a trained model's" if given.checkpoint else "random"
    note = (
        f"{len(windows):,} windows of {windows.questions.num_rows:,} questions, {source} logits; "
        f"medians of {given.repeats} alternating runs; torch threads: {torch.get_num_threads()}."
    )
    for title, rows in (
        ("Decoding against the usual double loop", decoding),
        ("From logits to final figures", whole),
    ):
        record(title, rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
