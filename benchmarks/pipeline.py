"""Claim: `qa_lightning.pipeline` answers as the pipeline that transformers has dropped.

Runs twice: first with transformers 4.57, in an environment of its own, to write down what its
question-answering pipeline answers; then here, to compare. That pipeline adds up the scores of
answers that read the same, in two places or in two windows; its answers without that are written
down too. Questions are asked one at a time in both, and timed; here also all at once.

    python -m venv old && old/bin/pip install 'transformers==4.57.*' torch
    old/bin/python benchmarks/pipeline.py --model MODEL --data dev-2k.json --write old.json
    python benchmarks/pipeline.py --model MODEL --data dev-2k.json --read old.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from report import record

Given = dict[str, Any]
"""An answer: score, start, end, answer."""

ALLOWED, APART = "handle_impossible_answer", "question, context, not added up there"


def questions_of(path: Path) -> list[dict[str, str]]:
    """The questions of a SQuAD-format file, read without this project: it is not in both places."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    return [
        {"question": qa["question"], "context": paragraph["context"]}
        for paragraph in paragraphs
        for qa in paragraph["qas"]
    ]


def seconds_of(pipe: Callable[..., Any], asked: list[dict[str, str]]) -> float:
    """Seconds of the processor for some questions, one at a time, after a few that warm up."""
    for one in asked[:5]:
        pipe(**one)
    begin = time.process_time()
    for one in asked:
        pipe(**one)
    return time.process_time() - begin


def write(model: str, asked: list[dict[str, str]], timed: int, path: Path) -> None:
    """Write down what the pipeline of this environment's transformers answers."""
    import transformers

    pipe = transformers.pipeline("question-answering", model=model, device="cpu")
    answers = {"question, context": [pipe(**one) for one in asked]}
    answers[ALLOWED] = [pipe(**one, handle_impossible_answer=True) for one in asked]
    seconds = seconds_of(pipe, asked[:timed])
    pipe.get_answer = lambda answers, target: None  # "there is no answer yet that reads the same"
    answers[APART] = [pipe(**one) for one in asked]
    content = {"version": transformers.__version__, "seconds": seconds, "answers": answers}
    path.write_text(json.dumps(content), encoding="utf-8")


def compared(old: list[Given], new: list[Given]) -> dict[str, str]:
    """How many answers agree, and how close the scores of those are."""
    pairs = list(zip(old, new, strict=True))
    place = [(a["start"], a["end"]) == (b["start"], b["end"]) for a, b in pairs]
    close = [abs(a["score"] - b["score"]) < 1e-4 for a, b in pairs]
    return {
        "same text": f"{sum(a['answer'] == b['answer'] for a, b in pairs):,} of {len(pairs):,}",
        "same place": f"{sum(place):,}",
        "same place and score, to 1e-4": f"{sum(map(all, zip(place, close, strict=True))):,}",
    }


def compare(
    model: str, asked: list[dict[str, str]], timed: list[dict[str, str]], old: Any, show: int
) -> tuple[list[dict[str, str]], str]:
    """The table and what to say of it; prints some of the differences."""
    from qa_lightning import pipeline

    pipe = pipeline(model, device="cpu")
    # The two best of all answers: whether or not "no answer" may be the best, that is among them.
    two = [
        best if isinstance(best, list) else [best]
        for best in pipe(asked, top_k=2, handle_impossible_answer=True)
    ]
    rows = []
    for call, theirs in old["answers"].items():
        new = [next(one for one in best if call == ALLOWED or one["answer"]) for best in two]
        rows.append({"call": call} | compared(theirs, new))
        both = zip(asked, theirs, new, strict=True)
        unlike = ((one["question"], a, b) for one, a, b in both if a["answer"] != b["answer"])
        for difference in islice(unlike, show):
            print(*difference, sep="\n  ")
    one_at_a_time = seconds_of(pipe, timed)
    begin = time.process_time()
    pipe(timed)
    at_once = time.process_time() - begin
    return rows, (
        f"Questions per second of the processor, {len(timed)} questions: "
        f"{len(timed) / old['seconds']:.1f} with transformers {old['version']}, "
        f"{len(timed) / one_at_a_time:.1f} here one at a time, {len(timed) / at_once:.1f} all at "
        f"once; float32, torch threads: {torch.get_num_threads()}."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder of a question-answering model")
    parser.add_argument("--data", type=Path, required=True, help="SQuAD-format file")
    parser.add_argument("--timed", type=int, default=200, help="questions that are timed")
    parser.add_argument("--write", type=Path, help="write the old pipeline's answers to this file")
    parser.add_argument("--read", type=Path, help="compare with the answers of this file")
    parser.add_argument("--show", type=int, default=0, help="differences to print")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()

    asked = questions_of(given.data)
    if given.write:
        write(given.model, asked, given.timed, given.write)
        return 0

    old = json.loads(given.read.read_text(encoding="utf-8"))
    rows, note = compare(given.model, asked, asked[: given.timed], old, given.show)
    title = f"The pipeline of transformers {old['version']} beside ours, {given.data.name}"
    record(title, rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
