"""Windows -> batches -> logits -> spans -> answers: how a model in use answers questions."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from qa_lightning.data.batches import WindowDataset
from qa_lightning.data.sampler import WindowSampler
from qa_lightning.data.window_settings import EVAL_BATCH_SIZE, MAX_ANSWER_TOKENS, N_BEST
from qa_lightning.data.windows import Windows
from qa_lightning.evaluation.spans import (
    Answers,
    WindowScores,
    answers_of_questions,
    spans_of_windows,
)
from qa_lightning.model.logits import Logits


def answer_windows(
    logits: Logits,
    windows: Windows,
    *,
    batch_size: int = EVAL_BATCH_SIZE,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
) -> Answers:
    """Best spans and null scores of all questions of some windows, as evaluation finds them.

    They come in the order of the questions, `N_BEST` spans each. `batch_size` counts windows.
    """
    return answers_of_batches(scored_batches(logits, windows, batch_size, max_answer_tokens))


def scored_batches(
    logits: Logits, windows: Windows, batch_size: int, max_answer_tokens: int
) -> Iterator[tuple[Tensor, ...]]:
    """Columns of `WindowScores`, batch by batch: between two, one may do other work, or stop."""
    dataset = WindowDataset(windows, with_offsets=True)
    for rows in WindowSampler(windows.lengths, batch_size, order="sorted"):
        batch = dataset[rows]
        assert batch.offsets is not None and batch.word_starts is not None
        parts = (logits(batch), batch.offsets, batch.word_starts)
        scored = spans_of_windows(*parts, max_tokens=max_answer_tokens, count=N_BEST)
        yield batch.key, *scored


def answers_of_batches(batches: Iterable[tuple[Tensor, ...]]) -> Answers:
    """Best spans and null scores of questions, from those of all their windows."""
    columns = (torch.cat(column).numpy() for column in zip(*batches, strict=True))
    return answers_of_questions(WindowScores(*columns))
