"""Claim: a run killed at any moment and resumed ends with the same weights and the same figures.

Trains a tiny encoder on made-up questions once without interruption. Then starts the run again,
kills it with SIGKILL at random moments, every third one while a checkpoint is being written, and
resumes it with `--ckpt_path last` until it ends. Weights, optimizer, schedule and every logged
figure must be equal to the last bit. A run that ends before it was to be killed is repeated.

    python benchmarks/kill_and_resume.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from report import record

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

BATCHINGS = ("grouped", "random", "packed")
PLACES = ("paris", "rome", "berlin", "oslo", "lima", "cairo", "delhi", "kyoto", "quito", "dakar")
WORDS = (
    "the city of was founded in when where is museum large which old people built a small".split()
)


def make_data(path: Path, paragraphs: int, seed: int) -> None:
    """Write made-up questions, one in three unanswerable."""
    draw = random.Random(seed)
    articles = []
    for number in range(paragraphs):
        town, other = draw.sample(PLACES, 2)
        year = str(draw.randrange(1000, 2000))
        context = f"the city of {town} was founded in {year}. " + (
            "people built a small old museum. " * draw.randrange(6)
        )
        asked = [(f"when was {town} founded?", year), ("which city is old?", town)]
        asked.append((f"when was {other} founded?", ""))
        qas = [
            {
                "id": f"{seed}-{number}-{index}",
                "question": question,
                "is_impossible": not answer,
                "answers": [{"text": answer, "answer_start": context.index(answer)}] * bool(answer),
            }
            for index, (question, answer) in enumerate(asked)
        ]
        articles.append({"title": f"t{number}", "paragraphs": [{"context": context, "qas": qas}]})
    path.write_text(json.dumps({"version": "v2.0", "data": articles}), encoding="utf-8")


def make_encoder(folder: Path) -> None:
    """Write a small randomly initialised DistilBERT; its checkpoints take a while to write."""
    from transformers import DistilBertConfig, DistilBertForQuestionAnswering, DistilBertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PLACES, ".", "?", *letters]
    words += ["##" + letter for letter in letters]
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(words),
        max_position_embeddings=64,
        dim=128,
        hidden_dim=512,
        n_layers=4,
        n_heads=2,
    )
    DistilBertForQuestionAnswering(config).save_pretrained(folder)
    vocabulary = {word: row for row, word in enumerate(words)}
    DistilBertTokenizer(vocab=vocabulary).save_pretrained(folder)


@dataclass
class Killed:
    """A run that was killed and resumed.

    Attributes:
        batching: Its batching.
        kills: When it was killed, in words.
        repeats: How often it ended before it was to be killed, and was started over.
        unequal: What differs from the run that was not interrupted.
    """

    batching: str
    kills: list[str]
    repeats: int
    unequal: list[str]


def start(folder: Path, root: Path, batching: str, log: Path) -> subprocess.Popen[bytes]:
    """Start the run, or resume it."""
    options: list[Any] = [
        *("--model.pretrained", root / "encoder", "--data.cache_dir", root / "cache"),
        *("--data.train", root / "train.json", "--data.val", root / "val.json"),
        *("--data.window", 64, "--data.overlap", 16, "--data.max_question_tokens", 16),
        *("--data.batch_size", 4, "--data.batching", batching, "--model.learning_rate", "1e-3"),
        *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
        *("--trainer.max_epochs", 3, "--trainer.accumulate_grad_batches", 2),
        *("--trainer.val_check_interval", 0.5, "--trainer.log_every_n_steps", 1),
        *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
        *("--checkpoint.every_n_train_steps", 3, "--trainer.default_root_dir", folder),
        *("--ckpt_path", "last"),
    ]
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "qa_lightning", "fit", *map(str, options)],
            cwd=HERE.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def run_to_the_end(folder: Path, root: Path, batching: str, log: Path) -> float:
    """Start or resume the run and wait for its end; returns seconds since its folder was made."""
    process = start(folder, root, batching, log)
    begin = None
    while process.poll() is None:
        if begin is None and (folder / "lightning_logs").is_dir():
            begin = time.monotonic()
        time.sleep(0.01)
    if process.returncode != 0:
        sys.exit(f"the run ended with status {process.returncode}:\n{log.read_text()[-3000:]}")
    return time.monotonic() - (begin or time.monotonic())


def kill_once(
    folder: Path, root: Path, batching: str, log: Path, draw: random.Random, most: float, aim: bool
) -> str | None:
    """Start or resume the run and kill it, at most so many seconds after training began.

    Args:
        folder: The run's folder.
        root: The folder of encoder and data.
        batching: The run's batching.
        log: The file for its output.
        draw: Draws the moment.
        most: The latest moment, in seconds.
        aim: Kill it while it writes a checkpoint.

    Returns:
        When it was killed, in words; None if it ended before.
    """
    from qa_lightning.training.checkpoint_files import PARTIAL

    draw_late = draw.random() < 0.8
    process = start(folder, root, batching, log)
    seen = len(list(folder.rglob("events.out.tfevents*")))
    while process.poll() is None and len(list(folder.rglob("events.out.tfevents*"))) == seen:
        time.sleep(0.002)
    checkpoints = folder / "lightning_logs" / "version_0" / "checkpoints"
    # Four in five are killed only once there is a checkpoint to resume from.
    while process.poll() is None and draw_late and not (checkpoints / "last.ckpt").is_file():
        time.sleep(0.002)
    moment = time.monotonic() + draw.uniform(0, most)
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(0.001)
    while aim and process.poll() is None:
        if any(name.endswith(PARTIAL) for name in _names(checkpoints)):
            time.sleep(draw.uniform(0, 0.004))
            break
    process.send_signal(signal.SIGKILL)
    status = process.wait()
    if status == 0:
        return None
    if status != -signal.SIGKILL:
        sys.exit(f"the run ended with status {status}:\n{log.read_text()[-3000:]}")
    writing = any(name.endswith(PARTIAL) for name in _names(checkpoints))
    last = checkpoints / "last.ckpt"
    if not last.is_file():
        where = "before the first checkpoint"
    else:
        saved = torch.load(last, weights_only=True)
        where = f"after step {saved['global_step']}"
    return where + (", writing" if writing else "")


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that must be equal in two runs, by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # A run that was killed before its first checkpoint has started over in another folder.
    run = max((folder / "lightning_logs").glob("version_*"))
    found: dict[str, Any] = {}
    for name in ("last", "best"):
        saved = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            found[f"{name} {part}"] = saved[part]
    found["model"] = (run / "model" / "model.safetensors").read_bytes()
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    for name in events.Tags()["scalars"]:
        if name.startswith(("train/", "val/", "lr")):
            found[name] = [(point.step, point.value) for point in events.Scalars(name)]
    return found


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit, tensors included."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def kill_and_resume(
    root: Path, number: int, batching: str, kills: int, seconds: float, draw: random.Random
) -> Killed:
    """Run with kills until the end, and compare with the uninterrupted run of the same batching.

    The uninterrupted run took so many seconds; `root` holds encoder, data and runs.
    """
    folder, log = root / f"killed-{number}", root / f"killed-{number}.log"
    moments: list[str] = []
    repeats = 0
    while len(moments) < kills:
        folder.mkdir(exist_ok=True)
        aim = (number + len(moments)) % 3 == 0
        moment = kill_once(folder, root, batching, log, draw, seconds * 0.8, aim)
        if moment is None:
            shutil.rmtree(folder)
            moments.clear()
            repeats += 1
        else:
            moments.append(moment)
    run_to_the_end(folder, root, batching, log)
    found, whole = outcome(folder), outcome(root / f"whole-{batching}")
    unequal = [name for name in {**whole, **found} if not same(found.get(name), whole.get(name))]
    return Killed(batching, moments, repeats, unequal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="how many runs to kill")
    parser.add_argument("--kills", type=int, default=1, help="how often each is killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    draw = random.Random(given.seed)

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        make_encoder(root / "encoder")
        make_data(root / "train.json", 24, seed=1)
        make_data(root / "val.json", 6, seed=2)
        seconds = {
            batching: run_to_the_end(root / f"whole-{batching}", root, batching, root / "whole.log")
            for batching in BATCHINGS
        }
        steps = outcome(root / f"whole-{BATCHINGS[0]}")["last global_step"]
        results = []
        for number in range(given.runs):
            batching = BATCHINGS[number % len(BATCHINGS)]
            one = kill_and_resume(root, number, batching, given.kills, seconds[batching], draw)
            results.append(one)
            killed = "; ".join(one.kills)
            print(f"{number + 1}: {batching}, killed {killed}: {one.unequal or 'equal'}")
    rows = [
        {
            "run": str(number),
            "batching": result.batching,
            "killed": "; ".join(result.kills),
            "repeated": str(result.repeats or ""),
            "weights, optimizer, schedule, figures": "NOT EQUAL" if result.unequal else "equal",
        }
        for number, result in enumerate(results, 1)
    ]
    equal = sum(not result.unequal for result in results)
    title = "Runs killed with SIGKILL and resumed, against uninterrupted ones"
    note = (
        f"All {len(results)} were killed (those that ended before were repeated with another "
        f"moment: {sum(result.repeats for result in results)} times); {equal} are equal to the "
        f"last bit, after {steps} optimizer steps in 3 epochs with dropout; two batches per step, "
        "a checkpoint every 3 steps, two validations per epoch."
    )
    record(title, rows, note, to_file=given.record)
    return 0 if equal == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
