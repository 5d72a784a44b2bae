"""Defaults of answering and serving. Plain numbers: `--help` imports no torch for them."""

from dataclasses import dataclass

TOP_K = 3
"""Candidates given beside an answer."""

MAX_BATCH = 32
"""Questions answered together at most."""

MAX_WAIT = 0.002
"""Seconds for which a question waits for others to be answered with, when the model is free."""

MAX_WAITING = 256
"""Questions that may wait; further ones are refused. Long questions are counted apart."""

MAX_CHARACTERS = 500_000
"""Characters of questions and contexts that may wait, likewise. A token has one at least."""

LONG = 4_000
"""Characters of question and context above which a question is long: some five windows."""

BATCH_CHARACTERS = 32_000
"""Characters answered together at most: what comes next waits for all of them."""


@dataclass(frozen=True)
class Limits:
    """What a request to the service may hold and take."""

    body: int = 1_000_000  # bytes
    context: int = 100_000  # characters
    question: int = 1_000  # characters
    seconds: float = 60  # from the question to its answer
