"""Claim: as ONNX a model gives the same answers, and rounded to int8 nearly the same.

Exports a trained model and answers the questions of a SQuAD-format file with torch in float32 and
bfloat16, with ONNX in float32 and with weights of 8 bits: scores, equal answers, windows a second.

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

from qa_lightning.export.hub_folder import INT8, ONNX, read_labelled, same_answers, score
from qa_lightning.export.onnx import largest_difference, onnx_logits, quantise, write_onnx
from qa_lightning.inference.answerer import Logits, model_logits
from qa_lightning.model.trained_model import TrainedModel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a run's folder, a checkpoint, ...")
    parser.add_argument("--data", type=Path, required=True, help="labelled SQuAD-format file")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()

    trained = TrainedModel.load(given.model)
    windows, _ = read_labelled(given.data, trained)
    with tempfile.TemporaryDirectory() as temporary:
        plain, rounded = Path(temporary) / ONNX, Path(temporary) / INT8
        write_onnx(trained.encoder, plain)
        quantise(plain, rounded)
        sizes = {path.name: path.stat().st_size / 1e6 for path in (plain, rounded)}
        weights = 4e-6 * sum(weight.numel() for weight in trained.encoder.parameters())
        forms: dict[str, tuple[Logits, float]] = {
            "torch, float32": (model_logits(trained.encoder, "cpu", "32-true"), weights),
            "torch, bf16-mixed": (model_logits(trained.encoder, "cpu", "bf16-mixed"), weights),
            "ONNX, float32": (onnx_logits(plain), sizes[ONNX]),
            "ONNX, int8": (onnx_logits(rounded), sizes[INT8]),
        }
        rows, original = [], None
        for name, (logits, size) in forms.items():
            begin = time.perf_counter()
            outcome = score(logits, trained, windows)
            seconds = time.perf_counter() - begin
            original = original or outcome
            same = same_answers(outcome.verdicts, original.verdicts) / len(outcome.verdicts)
            rows.append(
                {
                    "form": name,
                    "EM": f"{outcome.figures['exact']:.2f}",
                    "F1": f"{outcome.figures['f1']:.2f}",
                    "same answers": f"{100 * same:.2f} %",
                    "windows/s": f"{len(windows) / seconds:.1f}",
                    "MB": f"{size:.1f}",
                }
            )
            print(rows[-1], file=sys.stderr)
        off = largest_difference(forms["torch, float32"][0], forms["ONNX, float32"][0], windows)
    note = (
        f"{len(windows):,} windows of {windows.questions.num_rows:,} questions, null threshold "
        f"{trained.null_threshold or 0.0:.4f}, from windows to scores. Logits of ONNX in float32 "
        f"differ from torch's by {off:.1e} at most. torch threads: {torch.get_num_threads()}."
    )
    record("ONNX beside torch", rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
