"""pipeline: the calls of transformers' dropped question-answering pipeline, answered by `Answerer`.

Its score is the probability that the answer starts where it does times the probability that it ends
there; in each window the tokens of the context and [CLS] share a probability of 1. Logits turned
into the logarithms of these probabilities give just that, for spans and for "no answer".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from qa_lightning.data.batches import Batch
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.errors import UserError
from qa_lightning.inference.answerer import Answerer
from qa_lightning.model.logits import Logits


def pipeline(
    model: str | Path, *, precision: str | None = "32-true", **options: Any
) -> QuestionAnsweringPipeline:
    """Load a model, to be called as `transformers.pipeline("question-answering", model)` was.

    Arguments and errors are those of `Answerer.from_pretrained`, with float32 as the default, as
    there; for an ONNX model `precision` is None.
    """
    answerer = Answerer.from_pretrained(model, precision=precision, **options)
    return QuestionAnsweringPipeline(
        replace(answerer, logits=log_probabilities(answerer.logits), threshold=float("-inf"))
    )


def log_probabilities(logits: Logits) -> Logits:
    """Log-probabilities over [CLS] and the context of each window, for batches with offsets."""

    def normalised(batch: Batch) -> Tensor:
        assert batch.offsets is not None
        possible = batch.offsets[..., 0] >= 0
        possible[:, 0] = True  # [CLS]
        return logits(batch).masked_fill(~possible.unsqueeze(2), float("-inf")).log_softmax(dim=1)

    return normalised


@dataclass(frozen=True)
class QuestionAnsweringPipeline:
    """Answers questions with dictionaries: `score`, `start`, `end`, `answer`.

    >>> ask = pipeline("deepset/roberta-base-squad2")
    >>> ask(question="Who wrote it?", context="It was written by Ada Lovelace.")["answer"]
    """

    # Its logits are log-probabilities. By its threshold its answer always is "no answer", with that
    # score; the spans are its candidates.
    answerer: Answerer

    def __call__(
        self,
        *examples: Any,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        top_k: int = 1,
        topk: int | None = None,
        handle_impossible_answer: bool = False,
        max_answer_len: int = 15,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        max_question_len: int | None = None,
    ) -> Any:
        """Answer one question, or many at once.

        Args:
            examples: In place of the two keywords: a question and its context; or dictionaries with
                `question` and `context`, or objects with `question_text` and `context_text`, one
                or several or a list of them.
            question: A question, or a list of them.
            context: Its context; for a list of questions one for all of them, or a list of as many.
            top_k: Answers to a question, 1 to `N_BEST`.
            topk: The older name of `top_k`.
            handle_impossible_answer: Whether "no answer" counts as an answer: "" from 0 to 0.
            max_answer_len: Longest answer, in tokens.
            max_seq_len: Longest window, in tokens, by default that of the model's training.
            doc_stride: Context tokens that two windows share, and
            max_question_len: Longest question in tokens: as in training, if there is room.

        Returns:
            For one question a dictionary, or a list of them where there are several answers; for
            several questions a list with that of each.

        Raises:
            UserError: an empty question or context, or an argument that is not one of those above.
        """
        count = top_k if topk is None else topk
        if count < 1 or max_answer_len < 1:
            raise UserError("top_k and max_answer_len must be at least 1")
        windows = self._windows(max_seq_len, doc_stride, max_question_len)
        answerer = replace(self.answerer, windows=windows, max_answer_tokens=max_answer_len)
        if examples:
            question, context = _texts(examples)
        elif question is None or context is None:
            raise UserError("give a question and a context, or dictionaries with both")
        found = answerer(question, context, top_k=count)  # type: ignore[arg-type]
        results = []
        for answer in found if isinstance(found, list) else [found]:
            no_answer = [answer] if handle_impossible_answer or not answer.candidates else []
            every = sorted([*answer.candidates, *no_answer], key=lambda one: -one.score)[:count]
            best = [
                {
                    "score": math.exp(one.score),
                    "start": one.start or 0,
                    "end": one.end or 0,
                    "answer": one.text,
                }
                for one in every
            ]
            results.append(best[0] if len(best) == 1 else best)
        return results[0] if len(results) == 1 else results

    def _windows(
        self, window: int | None, overlap: int | None, question: int | None
    ) -> WindowSettings:
        own, most = self.answerer.windows, self.answerer.tokenizer.model_max_length
        size = own.window if window is None else window
        half, quarter = (size // 2, size // 4) if window else (size, size)
        overlap = min(own.overlap, half) if overlap is None else overlap
        question = min(own.max_question_tokens, quarter) if question is None else question
        if size > most:
            raise UserError(f"max_seq_len is {size}, but the model has {most} positions")
        try:
            return replace(own, window=size, overlap=overlap, max_question_tokens=question)
        except UserError as error:
            told = str(error).partition(". Make")[0]
            raise UserError(f"max_seq_len, doc_stride, max_question_len: {told}") from error


def _texts(examples: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Questions and contexts of examples, in whatever form they were given."""
    if len(examples) == 2 and all(isinstance(text, str) for text in examples):
        return [examples[0]], [examples[1]]
    if len(examples) == 1 and isinstance(examples[0], Iterable):
        examples = examples if isinstance(examples[0], Mapping | str) else list(examples[0])
    pairs: list[tuple[Any, Any]] = []
    for number, example in enumerate(examples, start=1):
        if isinstance(example, Mapping):
            pair = example.get("question"), example.get("context")
        else:
            pair = getattr(example, "question_text", None), getattr(example, "context_text", None)
        if None in pair:
            raise UserError(
                f"example {number} lacks a question or a context: {str(example)[:60]!r}"
            )
        pairs.append(pair)
    return [question for question, _ in pairs], [context for _, context in pairs]
