"""Claim: the service answers more questions per second when it batches those that wait.

Starts `serve` twice, each in a process of its own: with dynamic batching as it comes, and with
`--max_batch 1`, one question at a time. Clients in threads of this process, each with a connection
that stays open, ask questions of a file as fast as they get answers; the services take turns. Every
answer is compared with that of `Answerer`.

    python benchmarks/serving.py --model lightning_logs/version_0 --data dev-2k.json

With `--before FOLDER`, a checkout of an older commit, its service is compared with this one.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from report import record

from qa_lightning.inference.answerer import Answerer

REPOSITORY = Path(__file__).resolve().parents[1]
VARIANTS = {"together": [], "one at a time": ["--max_batch", "1"]}
"""Names and options of the two services."""


@dataclass(frozen=True)
class Asked:
    question: str
    context: str


@dataclass(frozen=True)
class Round:
    seconds: float  # from the first request to the last answer
    latencies: list[float]  # seconds, of every request
    errors: int  # replies that are no answer
    other_texts: int  # answers with another text or place than the answerer's
    off_by: float  # largest difference of a score to the answerer's


def read_questions(path: Path, count: int) -> list[Asked]:
    """Questions from everywhere in a SQuAD-format file."""
    asked = [
        Asked(qa["question"], paragraph["context"])
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    return random.Random(0).sample(asked, min(count, len(asked)))


def start(model: str, options: Sequence[str], package: Path, stack: ExitStack) -> str:
    """Start the service of a checkout, to end with the stack; gives its address."""
    command = [sys.executable, "-m", "qa_lightning", "serve", model, "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=package, env=environment
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    assert process.stdout is not None
    address = re.search(r"http://\S+", process.stdout.readline())
    if address is None:
        sys.exit("the service did not start")
    return address[0]


def load(address: str, asked: Sequence[Asked], clients: int, expected: Sequence[Any]) -> Round:
    """Ask all questions with so many clients at once."""
    latencies: list[float] = []
    replies: list[Any] = [None] * len(asked)
    left = iter(range(len(asked)))
    begin = threading.Barrier(clients + 1)

    def client() -> None:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
        connection.connect()
        begin.wait()
        for number in left:  # the interpreter lock lets one thread at a time take the next
            body = json.dumps(asdict(asked[number])).encode()
            sent = time.perf_counter()
            try:
                connection.request("POST", "/answer", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
            except OSError:
                connection.close()  # it opens again by itself
                continue
            finally:
                latencies.append(time.perf_counter() - sent)
            if response.status == 200:
                replies[number] = json.loads(content)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    answered = [pair for pair in zip(replies, expected, strict=True) if pair[0] is not None]
    return Round(
        seconds,
        latencies,
        errors=len(asked) - len(answered),
        other_texts=sum(
            (reply["text"], reply["start"]) != (answer.text, answer.start)
            for reply, answer in answered
        ),
        off_by=max((abs(reply["score"] - answer.score) for reply, answer in answered), default=0),
    )


def row(variant: str, clients: int, rounds: Sequence[Round]) -> dict[str, str]:
    """Medians over rounds."""
    rates = [len(one.latencies) / one.seconds for one in rounds]
    percentiles = [np.percentile(one.latencies, [50, 99]) * 1000 for one in rounds]
    middle, late = np.median(percentiles, axis=0)
    return {
        "answered": variant,
        "clients": str(clients),
        "requests/s": f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})",
        "median, ms": f"{middle:.0f}",
        "99th percentile, ms": f"{late:.0f}",
        "errors": str(sum(one.errors for one in rounds)),
        "other answers": str(sum(one.other_texts for one in rounds)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="as for `serve`")
    parser.add_argument("--data", type=Path, required=True, help="SQuAD-format file")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--questions", type=int, default=320, help="of the file, a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", help="as for `serve`; 32-true rounds least")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="compare with its service")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()

    asked = read_questions(given.data, given.questions)
    questions, contexts = [one.question for one in asked], [one.context for one in asked]
    expected = Answerer.from_pretrained(given.model, precision=given.precision)(questions, contexts)
    rows, rounds = [], []
    with ExitStack() as stack:
        precision = [] if given.precision is None else ["--precision", given.precision]
        variants = {name: (options, REPOSITORY) for name, options in VARIANTS.items()}
        if given.before is not None:
            variants = {"before": ([], given.before.resolve()), "now": ([], REPOSITORY)}
        services = {
            variant: start(given.model, [*options, *precision], package, stack)
            for variant, (options, package) in variants.items()
        }
        for address in services.values():
            load(address, asked[:32], max(given.clients), expected[:32])  # warm up
        for clients in given.clients:
            taken: dict[str, list[Round]] = {variant: [] for variant in variants}
            for _ in range(given.rounds):
                for variant, address in services.items():
                    taken[variant].append(load(address, asked, clients, expected))
            rows += [row(variant, clients, results) for variant, results in taken.items()]
            rounds += [one for results in taken.values() for one in results]
    title = "The service under load"
    note = (
        f"Medians (and range) of {given.rounds} rounds by turns, {len(asked)} questions each, as "
        "fast as the clients get answers; the clients run on the same cores. Other answers: text "
        "or place is not that of `Answerer` for all questions at once. Scores are off by "
        f"{max(one.off_by for one in rounds):.1g} at most."
    )
    record(title, rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
