"""Claim: preprocessing is at least five times as fast as the usual script's, with equal windows.

Both begin with a SQuAD-format file and end with windows and labels in files, in one process
with the same tokenizer. Ours is what `fit` does on its first run. The usual script is that of
transformers' example script: pairs of question and context are tokenised with overflow and padded
to the longest window, the answer's tokens are searched in a Python loop, and `datasets` maps and
writes it all. They run in turn; then every window and label of one is compared with the other's.

    python benchmarks/preprocessing.py --data train-v2.0.json.gz --encoder minilm-l6

The tokenizer uses all cores in both, unless TOKENIZERS_PARALLELISM is false or a number of
threads is set in RAYON_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from report import record
from transformers import PreTrainedTokenizerFast

from qa_lightning.data.batches import WindowDataset
from qa_lightning.data.window_cache import open_windows
from qa_lightning.data.windows import Windows
from qa_lightning.model.tokenizer import load_tokenizer
from qa_lightning.training.datamodule import SquadDataModule

WINDOW = 384
OVERLAP = 128


def ours(data: Path, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Windows:
    """Read, tokenise, window and write, as the first run of `fit` does."""
    module = SquadDataModule(
        train=str(data), window=WINDOW, overlap=OVERLAP, cache_dir=str(folder / "cache")
    )
    module._tokenizer = tokenizer
    module._prepare("train", folder / "windows", {})
    return open_windows(folder / "windows")


def usual(data: Path, tokenizer: PreTrainedTokenizerFast, folder: Path) -> datasets.Dataset:
    """Read, tokenise, label and write, as transformers' example script does."""
    with gzip.open(data, "rt", encoding="utf-8") if data.suffix == ".gz" else data.open() as file:
        articles = json.load(file)["data"]
    questions = [
        {
            "question": question["question"],
            "context": paragraph["context"],
            "answers": {
                "text": [answer["text"] for answer in question["answers"]],
                "answer_start": [answer["answer_start"] for answer in question["answers"]],
            },
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    examples = datasets.Dataset.from_list(questions)
    return examples.map(
        lambda batch: usual_features(batch, tokenizer),
        batched=True,
        remove_columns=examples.column_names,
        cache_file_name=str(folder / "usual.arrow"),
    )


def usual_features(examples: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> Any:
    """Windows of a thousand questions, with labels found token by token."""
    features = tokenizer(
        [question.lstrip() for question in examples["question"]],
        examples["context"],
        truncation="only_second",
        max_length=WINDOW,
        stride=OVERLAP,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )
    example_of = features.pop("overflow_to_sample_mapping")
    all_offsets = features.pop("offset_mapping")
    starts, ends = [], []
    for i, offsets in enumerate(all_offsets):
        cls = features["input_ids"][i].index(tokenizer.cls_token_id)
        answers = examples["answers"][example_of[i]]
        if not answers["answer_start"]:
            starts.append(cls)
            ends.append(cls)
            continue
        begin = answers["answer_start"][0]
        end = begin + len(answers["text"][0])
        owner = features.sequence_ids(i)
        first = 0
        while owner[first] != 1:
            first += 1
        last = len(owner) - 1
        while owner[last] != 1:
            last -= 1
        if not (offsets[first][0] <= begin and offsets[last][1] >= end):
            starts.append(cls)
            ends.append(cls)
            continue
        # The script's loop goes on to the end of the padding, and labels that, if the answer's last
        # token is the context's: `first <= limit` is ours.
        limit = last
        while first <= limit and offsets[first][0] <= begin:
            first += 1
        starts.append(first - 1)
        while offsets[last][1] >= end:
            last -= 1
        ends.append(last + 1)
    features["start_positions"] = starts
    features["end_positions"] = ends
    return features


def check_equal(windows: Windows, features: datasets.Dataset) -> int:
    """Compare token ids, their number and the labels of all windows, in order.

    Where one character is several tokens (a Korean syllable is its letters), the usual loop begins
    an answer at the last of them and ends it at the first; ours takes them all. These labels may
    differ, if they are the same characters.

    Returns:
        In how many windows they differ so.
    """
    if len(windows) != len(features):
        sys.exit(f"{len(windows):,} windows, but {len(features):,} by the usual script")
    features = features.with_format("numpy")
    batches = WindowDataset(windows, with_offsets=True, padding="window")
    split_characters = 0
    for at in range(0, len(windows), 1000):
        theirs = features[at : at + 1000]
        mine = batches[np.arange(at, min(at + 1000, len(windows)))]
        assert mine.offsets is not None
        mask = np.arange(WINDOW) < windows.lengths[at : at + 1000, None]
        equal = (mine.input_ids.numpy() == theirs["input_ids"]).all(1)
        equal &= (mask == theirs["attention_mask"]).all(1)
        same_labels = np.ones(len(equal), bool)
        for side, label in enumerate((mine.label_start.numpy(), mine.label_end.numpy())):
            other = theirs[("start_positions", "end_positions")[side]]
            character = mine.offsets.numpy()[:, :, side]
            rows = np.arange(len(label))
            equal &= character[rows, label] == character[rows, other]
            same_labels &= label == other
        split_characters += int((equal & ~same_labels).sum())
        if not equal.all():
            row = at + int(np.argmin(equal))
            name = windows.questions["id"][int(windows.question[row])]
            sys.exit(f"window {row} (question {name}) differs from the usual script's")
    return split_characters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="SQuAD-format training file")
    parser.add_argument("--encoder", required=True, help="hub name or folder of the tokenizer")
    parser.add_argument("--runs", type=int, default=3, help="of each")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    tokenizer = load_tokenizer(given.encoder)
    datasets.disable_progress_bars()

    variants: dict[str, Callable[..., Any]] = {"usual script": usual, "qa_lightning": ours}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(given.runs):
        results = []
        with tempfile.TemporaryDirectory() as folder:
            for name, prepare in variants.items():
                begin, cpu_begin = time.perf_counter(), time.process_time()
                results.append(prepare(given.data, tokenizer, Path(folder)))
                seconds[name].append(time.perf_counter() - begin)
                cpu_seconds[name].append(time.process_time() - cpu_begin)
                print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
            features, windows = results
            split_characters = check_equal(windows, features)

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [
        {
            "variant": name,
            "seconds": f"{median:.2f}",
            "CPU seconds": f"{statistics.median(cpu_seconds[name]):.2f}",
            "questions/s": f"{windows.questions.num_rows / median:,.0f}",
            "times as fast": f"{medians['usual script'] / median:.1f}",
        }
        for name, median in medians.items()
    ]
    threads = os.environ.get("TOKENIZERS_PARALLELISM", "not set")
    note = (
        f"{windows.questions.num_rows:,} questions, {len(windows):,} windows: token ids are equal "
        f"in all; so are labels in all but {split_characters}, where one character is several "
        f"tokens and ours holds them all. Medians of {given.runs} alternating runs from file to "
        f"files, reading included; TOKENIZERS_PARALLELISM {threads}, "
        f"{len(os.sched_getaffinity(0))} cores."
    )
    record("Preprocessing from cold", rows, note, to_file=given.record)


if __name__ == "__main__":
    main()
