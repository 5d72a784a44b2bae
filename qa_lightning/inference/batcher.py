"""Batcher: questions that wait at the same time are answered together.

While the model is at work, others ask. Their questions go through it in one batch next, which costs
much less than one at a time. One thread runs the model; whoever asks gets a future. To cancel it is
to take the question back, even while it is being answered.

A question about a long text would keep the others waiting. It is answered on its own, step by step,
and the others take their turns between its steps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from qa_lightning.inference.defaults import (
    BATCH_CHARACTERS,
    LONG,
    MAX_BATCH,
    MAX_CHARACTERS,
    MAX_WAIT,
    MAX_WAITING,
    TOP_K,
)

if TYPE_CHECKING:
    from qa_lightning.inference.answerer import Answer, Answerer


class TooManyWaitingError(Exception):
    """So many questions wait already that one more would wait too long."""


class ClosedError(RuntimeError):
    """The batcher takes no more questions."""


@dataclass(frozen=True, eq=False)
class _Request:
    """A question that waits, and the future of its answer."""

    question: str
    context: str
    top_k: int
    threshold: float | None
    answer: Future[Answer] = field(default_factory=Future)

    @property
    def characters(self) -> int:
        return len(self.question) + len(self.context)


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
    max_waiting: int = MAX_WAITING  # questions that may wait; long ones are counted apart
    max_characters: int = MAX_CHARACTERS  # of questions and contexts that may wait, likewise

    def __post_init__(self) -> None:
        """Start the thread."""
        self._short: deque[_Request] = deque()  # these two wait
        self._long: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._company = True  # whether questions came together when one was answered last
        # Daemon: a batcher that nobody closed does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many questions wait now."""
        return len(self._short) + len(self._long)

    def submit(
        self, question: str, context: str, *, top_k: int = TOP_K, threshold: float | None = None
    ) -> Future[Answer]:
        """Ask; arguments, answer and exceptions are those of `Answerer`.

        Raises:
            TooManyWaitingError: `max_waiting` questions or `max_characters` wait.
            ClosedError: the batcher is closed.
        """
        request = _Request(question, context, top_k, threshold)
        queue = self._long if request.characters > LONG else self._short
        with self._changed:
            if self._closed:
                raise ClosedError("the batcher is closed")
            characters = sum(one.characters for one in queue) + request.characters
            if len(queue) >= self.max_waiting or (queue and characters > self.max_characters):
                raise TooManyWaitingError
            queue.append(request)
            self._changed.notify()
        request.answer.add_done_callback(lambda _: self._forget(request, queue))
        return request.answer

    def stop(self) -> None:
        """Take no more questions, and cancel those that wait and the long one at work."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            for queue in (self._short, self._long):
                while queue:
                    queue.popleft().answer.cancel()

    def close(self) -> None:
        """Stop, and finish the batch that is being answered."""
        self.stop()
        self._thread.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self, request: _Request, queue: deque[_Request]) -> None:
        """Let a question that was taken back wait no longer."""
        with self._changed:
            if request in queue:
                queue.remove(request)

    def _work(self) -> None:
        """Answer a batch of short questions and a step of a long one by turns."""
        long: Iterator[bool] | None = None
        while (batch := self._next_batch(wait=long is None)) is not None:
            # One call of the answerer has one top_k and one threshold. Nearly all questions have
            # the same; the few others are a batch of their own.
            alike: dict[tuple[int, float | None], list[_Request]] = {}
            for request in batch:
                alike.setdefault((request.top_k, request.threshold), []).append(request)
            for requests in alike.values():
                for _ in self._answer(requests):
                    pass
            if long is None and (requests := self._take(self._long, 1)):
                long = self._answer(requests)
            if long is not None and not next(long, False):
                long = None
        if long is not None:
            long.close()  # type: ignore[attr-defined]

    def _next_batch(self, *, wait: bool) -> list[_Request] | None:
        """Short questions; with `wait`, once any question waits. None: the batcher is closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self.waiting or self._closed)
            # A client that asks alone would wait for nobody.
            until = time.monotonic() + self.max_wait * self._company
            while wait and len(self._short) < self.max_batch and not (self._long or self._closed):
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            if self._closed:
                return None
            batch = self._take(self._short, self.max_batch)
            if batch:
                self._company = len(batch) > 1
            return batch

    def _take(self, queue: deque[_Request], count: int) -> list[_Request]:
        """The next questions, at most so many and of `BATCH_CHARACTERS`, but one at least."""
        taken: list[_Request] = []
        characters = 0
        with self._changed:
            while queue and len(taken) < count:
                characters += queue[0].characters
                if taken and characters > BATCH_CHARACTERS:
                    break
                taken.append(queue.popleft())
        return taken

    def _answer(self, requests: Sequence[_Request]) -> Iterator[bool]:
        """Answer questions that have top_k and threshold in common; gives True after every step."""
        answers: list[Answer] = []
        try:
            for answers in self.answerer.steps(
                [request.question for request in requests],
                [request.context for request in requests],
                top_k=requests[0].top_k,
                threshold=requests[0].threshold,
            ):
                if all(request.answer.cancelled() for request in requests):
                    return  # nobody waits for the rest
                if not answers:
                    yield True
            for request, answer in zip(requests, answers, strict=True):
                if request.answer.set_running_or_notify_cancel():
                    request.answer.set_result(answer)
        except Exception as error:
            if len(requests) == 1:
                if requests[0].answer.set_running_or_notify_cancel():
                    requests[0].answer.set_exception(error)
            else:  # one bad question must not spoil the others' answers
                for request in requests:
                    yield from self._answer([request])
        finally:  # the batcher was closed: nobody may wait for ever
            for request in requests:
                request.answer.cancel()
