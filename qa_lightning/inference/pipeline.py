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
from qa_lightning.data.window_settings import N_BEST, WindowSettings
from qa_lightning.errors import UserError
from qa_lightning.inference.answerer import Answer, Answerer
from qa_lightning.model.logits import Logits

MAX_ANSWER_TOKENS = 15
"""Longest answer in tokens unless the call says otherwise, as in the dropped pipeline."""


def pipeline(
    model: str | Path, *, precision: str | None = "32-true", **options: Any
) -> QuestionAnsweringPipeline:
    """Load a model, to be called as `transformers.pipeline("question-answering", model)` was.

        >>> ask = pipeline("deepset/roberta-base-squad2")
        >>> ask(question="Who wrote it?", context="It was written by Ada Lovelace.")["answer"]

    Args:
        model: What `Answerer.from_pretrained` takes.
        precision: Float32, as there; None takes what suits the hardware, and is needed for ONNX.
        options: `device` and `batch_size`, see `Answerer`.

    Raises:
        UserError: there is no such model or device.
    """
    answerer = Answerer.from_pretrained(model, precision=precision, **options)
    return QuestionAnsweringPipeline(
        replace(answerer, logits=log_probabilities(answerer.logits), threshold=float("-inf"))
    )


def log_probabilities(logits: Logits) -> Logits:
    """Logits that are log-probabilities over [CLS] and the context of each window, -inf elsewhere.

    They need batches with offsets.
    """

    def normalised(batch: Batch) -> Tensor:
        assert batch.offsets is not None
        possible = batch.offsets[..., 0] >= 0
        possible[:, 0] = True  # [CLS]
        scores = logits(batch).masked_fill(~possible.unsqueeze(2), float("-inf"))
        return scores.log_softmax(dim=1)

    return normalised


@dataclass(frozen=True)
class QuestionAnsweringPipeline:
    """Answers questions about contexts with dictionaries: `score`, `start`, `end`, `answer`."""

    # Its logits are log-probabilities. Its null threshold is the lowest, so that its answer always
    # is "no answer", with that score, and what it would have been stands among the candidates.
    answerer: Answerer

    def __call__(
        self,
        *examples: Any,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        top_k: int = 1,
        topk: int | None = None,
        handle_impossible_answer: bool = False,
        max_answer_len: int = MAX_ANSWER_TOKENS,
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
            top_k: How many answers to give to a question, 1 to `N_BEST`.
            topk: The same, under its older name.
            handle_impossible_answer: Whether "no answer" counts as an answer: "" from 0 to 0.
            max_answer_len: Longest answer, in tokens.
            max_seq_len: Longest window, in tokens. What the next two say too is by default what
                the model was trained with, as far as it fits into `max_seq_len`.
            doc_stride: Context tokens that a window shares with the one before it.
            max_question_len: Longest question, in tokens; a longer one loses its middle.

        Returns:
            For one question a dictionary, or a list of them where there are several answers; for
            several questions a list with that of each.

        Raises:
            UserError: an empty question or context, an argument that is out of range or none of
                those above.
        """
        count = top_k if topk is None else topk
        if not 1 <= count <= N_BEST:
            raise UserError(f"top_k must be from 1 to {N_BEST}, not {count}")
        if max_answer_len < 1:
            raise UserError(f"max_answer_len must be at least 1, not {max_answer_len}")
        answerer = replace(
            self.answerer,
            windows=self._windows(max_seq_len, doc_stride, max_question_len),
            max_answer_tokens=max_answer_len,
        )
        if examples:
            question, context = _texts(examples)
        elif question is None or context is None:
            raise UserError("give a question and a context, or dictionaries with both")
        found = answerer(question, context, top_k=count)  # type: ignore[arg-type]
        answers = found if isinstance(found, list) else [found]
        results = [_results(answer, handle_impossible_answer)[:count] for answer in answers]
        shortened = [result[0] if len(result) == 1 else result for result in results]
        return shortened[0] if len(shortened) == 1 else shortened

    def _windows(
        self, window: int | None, overlap: int | None, question: int | None
    ) -> WindowSettings:
        settings = self.answerer.windows
        sizes = {"overlap": overlap, "max_question_tokens": question}
        changes = {name: size for name, size in sizes.items() if size is not None}
        if window is not None:
            if window > (most := self.answerer.tokenizer.model_max_length):
                raise UserError(f"max_seq_len is {window}, but the model has {most} positions")
            room = {
                "overlap": min(settings.overlap, window // 2),
                "max_question_tokens": min(settings.max_question_tokens, window // 4),
            }
            changes = room | changes | {"window": window}
        try:
            return replace(settings, **changes)  # type: ignore[arg-type]
        except UserError as error:
            told = str(error).partition(". Make")[0]
            raise UserError(
                f"max_seq_len, doc_stride and max_question_len do not go together: {told}"
            ) from error


def _texts(examples: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Questions and contexts of examples, in whatever form they were given."""
    if len(examples) == 2 and all(isinstance(text, str) for text in examples):
        return [examples[0]], [examples[1]]
    if len(examples) == 1 and not isinstance(examples[0], Mapping | str):
        one = examples[0]
        is_one = hasattr(one, "question_text") or not isinstance(one, Iterable)
        examples = [one] if is_one else list(one)
    questions, contexts = [], []
    for number, example in enumerate(examples, start=1):
        if hasattr(example, "question_text"):
            example = {"question": example.question_text, "context": example.context_text}
        if not isinstance(example, Mapping) or not {"question", "context"} <= example.keys():
            raise UserError(
                f"example {number} is no dictionary with question and context, but "
                f"{str(example)[:60]!r}"
            )
        questions.append(example["question"])
        contexts.append(example["context"])
    return questions, contexts


def _results(answer: Answer, with_no_answer: bool) -> list[dict[str, Any]]:
    """The answers to a question, best first; without any span "no answer" stands alone."""
    spans = list(answer.candidates)
    every = [*spans, answer] if with_no_answer or not spans else spans
    return [
        {
            "score": math.exp(one.score),
            "start": one.start or 0,
            "end": one.end or 0,
            "answer": one.text,
        }
        for one in sorted(every, key=lambda one: -one.score)
    ]
