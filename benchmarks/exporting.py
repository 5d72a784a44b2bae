"""Claim: as ONNX a model gives the same answers, and quantised to int8 nearly the same.

Exports a trained model and answers the questions of a SQuAD-format file with torch in float32 and
bfloat16, with ONNX in float32 and with weights of 8 bits: scores, equal answers, windows per
second.

    python benchmarks/exporting.py --model lightning_logs/version_0 --data dev-2k.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from report import record

from qa_lightning.export.onnx import largest_difference, quantise, write_onnx
from qa_lightning.export.variants import INT8, ONNX, read_labelled, same_answers, score
from qa_lightning.model.logits import Logits, model_logits
from qa_lightning.model.onnx_session import onnx_logits
from qa_lightning.model.trained_model import TrainedModel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a run's folder, a checkpoint, ...")
    parser.add_argument("--data", type=Path, required=True, help="labelled SQuAD-format file")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()

    trained = TrainedModel.load(given.model)
    windows = read_labelled(given.data, trained.settings).windows
    with tempfile.TemporaryDirectory() as temporary:
        plain, quantised = Path(temporary) / ONNX, Path(temporary) / INT8
        write_onnx(trained.encoder, plain)
        quantise(plain, quantised)
        sizes = {path.name: path.stat().st_size / 1e6 for path in (plain, quantised)}
        weights = 4e-6 * sum(weight.numel() for weight in trained.encoder.parameters())
        variants: dict[str, tuple[Logits, float]] = {
            "torch, float32": (model_logits(trained.encoder, "cpu", "32-true"), weights),
            "torch, bf16-mixed": (model_logits(trained.encoder, "cpu", "bf16-mixed"), weights),
            "ONNX, float32": (onnx_logits(plain), sizes[ONNX]),
            "ONNX, int8": (onnx_logits(quantised), sizes[INT8]),
        }
        rows, original = [], None
        for name, (logits, size) in variants.items():
            begin = time.perf_counter()
            result = score(logits, trained.settings, windows)
            seconds = time.perf_counter() - begin
            original = original or result
            same = same_answers(result.verdicts, original.verdicts) / len(result.verdicts)
            rows.append(
                {
                    "variant": name,
                    "EM": f"{result.figures['exact']:.2f}",
                    "F1": f"{result.figures['f1']:.2f}",
                    "same answers": f"{100 * same:.2f} %",
                    "windows/s": f"{len(windows) / seconds:.1f}",
                    "MB": f"{size:.1f}",
                }
            )
            print(rows[-1], file=sys.stderr)
        off = largest_difference(
            variants["torch, float32"][0], variants["ONNX, float32"][0], windows
        )
    note = (
        f"{len(windows):,} windows of {windows.questions.num_rows:,} questions, null threshold "
        f"{trained.settings.effective_null_threshold:.4f}, from windows to scores. Logits of ONNX "
        f"in float32 differ from torch's by {off:.1e} at most. torch threads: "
        f"{torch.get_num_threads()}."
    )
    record("ONNX beside torch", rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
