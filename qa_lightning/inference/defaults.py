"""Defaults of answering and serving. Plain numbers: `--help` imports no torch for them."""

from dataclasses import dataclass

TOP_K = 3
"""Candidates given beside an answer."""

MAX_BATCH = 32
"""Questions answered together at most."""

MAX_WAIT = 0.002
"""Seconds for which a question waits for others to be answered with, when the model is free."""

MAX_WAITING = 256
"""Questions that may wait; further ones are refused."""


@dataclass(frozen=True)
class Limits:
    """What a request to the service may hold: bytes of a body, characters of the texts."""

    body: int = 1_000_000
    context: int = 100_000
    question: int = 1_000
