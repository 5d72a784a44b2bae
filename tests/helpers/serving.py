"""A service for tests: an answerer without a model, and the HTTP service in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.types import ASGIApp

from qa_lightning.evaluation.spans import Candidate
from qa_lightning.inference.answerer import Answer
from qa_lightning.inference.server import Server


class LastWord:
    """Answers with the last word of the question, wherever the context holds it."""

    def __init__(self) -> None:
        """Begin to count."""
        self.batches: list[list[str]] = []

    def __call__(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        *,
        top_k: int = 3,
        threshold: float | None = None,
    ) -> list[Answer]:
        """Answer as `Answerer` would."""
        self.batches.append(list(questions))
        return [
            self._answer(question, context, top_k, 0.0 if threshold is None else threshold)
            for question, context in zip(questions, contexts, strict=True)
        ]

    def steps(self, *arguments: Any, **options: Any) -> Iterator[list[Answer]]:
        """Answer in one step, as `Answerer.steps` may."""
        yield self(*arguments, **options)

    def _answer(self, question: str, context: str, top_k: int, threshold: float) -> Answer:
        word = question.split()[-1].rstrip("?") if question.split() else ""
        starts = []
        at = context.find(word) if word else -1
        while at >= 0 and len(starts) < top_k:
            starts.append(at)
            at = context.find(word, at + 1)
        if not starts:
            return Answer("", None, None, 4.0, 0.9, 0.9, 8.0, threshold, ())
        shares = [0.9 / 2 ** (rank + 1) for rank in range(len(starts))]
        found = tuple(
            Candidate(word, start, start + len(word), 10 * share, share)
            for start, share in zip(starts, shares, strict=True)
        )
        best = found[0]
        nothing = 1 - sum(shares)
        return Answer(
            best.text,
            best.start,
            best.end,
            best.score,
            best.probability,
            no_answer_probability=nothing,
            null_odds=-3.0,
            threshold=threshold,
            candidates=found,
            question_tokens_cut=max(len(question.split()) - 20, 0),
        )


@contextmanager
def running(app: ASGIApp, stop: Callable[[], Any] = lambda: None) -> Iterator[str]:
    """Serve an application at a free port of this machine; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(app, stop)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
