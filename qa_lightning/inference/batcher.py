"""Batcher: questions that wait at the same time are answered together.

While the model is at work, others ask. Their questions go through it in one batch next, which costs
much less than one at a time. One thread runs the model; whoever asks gets a future.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from qa_lightning.inference.defaults import MAX_BATCH, MAX_WAIT, MAX_WAITING, TOP_K

if TYPE_CHECKING:
    from qa_lightning.inference.answerer import Answer, Answerer


class TooManyWaitingError(Exception):
    """So many questions wait already that one more would wait too long."""


@dataclass(frozen=True)
class _Request:
    """A question that waits, and the future of its answer."""

    question: str
    context: str
    top_k: int
    threshold: float | None
    answer: Future[Answer] = field(default_factory=Future)


@dataclass(eq=False)
class Batcher:
    """Answers the questions of many threads in one thread, together those that wait together.

    >>> with Batcher(answerer) as batcher:
    ...     batcher.submit("Who wrote it?", "It was Ada Lovelace.").result().text
    """

    answerer: Answerer  # only the batcher's thread calls it
    _: KW_ONLY
    max_batch: int = MAX_BATCH  # questions answered together at most; 1 answers one at a time
    max_wait: float = MAX_WAIT  # seconds for which a question waits when the model is free
    max_waiting: int = MAX_WAITING  # questions that may wait

    def __post_init__(self) -> None:
        """Start the thread."""
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # Daemon: a batcher that nobody closed does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many questions wait now."""
        return len(self._waiting)

    def submit(
        self, question: str, context: str, *, top_k: int = TOP_K, threshold: float | None = None
    ) -> Future[Answer]:
        """Ask; arguments, answer and exceptions are those of `Answerer`.

        Raises:
            TooManyWaitingError: `max_waiting` questions wait.
            RuntimeError: the batcher is closed.
        """
        request = _Request(question, context, top_k, threshold)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if len(self._waiting) >= self.max_waiting:
                raise TooManyWaitingError
            self._waiting.append(request)
            self._changed.notify()
        return request.answer

    def close(self) -> None:
        """Finish the batch that is being answered, and cancel the questions that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            while self._waiting:
                self._waiting.popleft().answer.cancel()
        self._thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while batch := self._next_batch():
            # One call of the answerer has one top_k and one threshold. Nearly all questions have
            # the same; the few others are a batch of their own.
            alike: dict[tuple[int, float | None], list[_Request]] = {}
            for request in batch:
                if request.answer.set_running_or_notify_cancel():
                    alike.setdefault((request.top_k, request.threshold), []).append(request)
            for requests in alike.values():
                self._answer(requests)

    def _next_batch(self) -> list[_Request]:
        """Wait for questions; an empty batch means that the batcher was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            until = time.monotonic() + self.max_wait
            while len(self._waiting) < self.max_batch and not self._closed:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            count = min(len(self._waiting), self.max_batch)
            return [self._waiting.popleft() for _ in range(count)]

    def _answer(self, requests: Sequence[_Request]) -> None:
        """Answer questions that have top_k and threshold in common."""
        try:
            answers = self.answerer(
                [request.question for request in requests],
                [request.context for request in requests],
                top_k=requests[0].top_k,
                threshold=requests[0].threshold,
            )
        except Exception as error:
            if len(requests) == 1:
                requests[0].answer.set_exception(error)
            else:  # one bad question must not spoil the others' answers
                for request in requests:
                    self._answer([request])
        else:
            for request, answer in zip(requests, answers, strict=True):
                request.answer.set_result(answer)
