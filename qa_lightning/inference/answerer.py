"""Answerer: a trained model, a question, a context -> answers.

The way of a question is that of evaluation: the same windows, the same batches, the same spans, so
that an answer here is the one that `predict` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from torch import Tensor

from qa_lightning.data.batches import Batch, WindowDataset
from qa_lightning.data.sampler import WindowSampler
from qa_lightning.data.tables import tables_from_texts
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import Windows, make_windows
from qa_lightning.errors import UserError
from qa_lightning.evaluation.spans import (
    Answers,
    Candidate,
    WindowScores,
    answers_of_questions,
    candidates,
    spans_of_windows,
)
from qa_lightning.model.attention import use_window_attention
from qa_lightning.model.hardware import best_device, choose_precision
from qa_lightning.model.linear import use_fast_linear
from qa_lightning.model.logits import padded_logits
from qa_lightning.model.trained_model import InferenceSettings, TrainedModel

if TYPE_CHECKING:
    from transformers import DistilBertForQuestionAnswering
    from transformers import PreTrainedTokenizerFast as FastTokenizer

BATCH_SIZE = 64
"""Windows in a batch; the default of `--data.eval_batch_size`."""

N_BEST = 20
"""Candidates kept for a question; the default of `--model.n_best`."""

MAX_ANSWER_TOKENS = 30
"""Tokens of an answer at most; the default of `--model.max_answer_tokens`."""

TOP_K = 3
"""Candidates given beside an answer, unless more are asked for."""

Logits = Callable[[Batch], Tensor]
"""Start and end logits of a batch: float32 `[windows, tokens, 2]` on the CPU, -inf at padding."""


@dataclass(frozen=True)
class Answer:
    """What the model says to a question, and what else it considered.

    Attributes:
        text: The answer; "" when the context holds none.
        start: Its first character in the context; None without an answer.
        end: One past its last character; None without an answer.
        score: Sum of start and end logit; without an answer, the null score.
        probability: Softmax over all candidates of the question, "no answer" among them.
        no_answer_probability: The same for "no answer".
        null_odds: Null score less the best span's score: above `threshold` means no answer.
        threshold: The null threshold that counted.
        candidates: The best spans, best first, whatever the verdict is.
    """

    text: str
    start: int | None
    end: int | None
    score: float
    probability: float
    no_answer_probability: float
    null_odds: float
    threshold: float
    candidates: tuple[Candidate, ...]


class Answerer:
    """Answers questions about contexts.

        >>> answerer = Answerer.from_pretrained("lightning_logs/version_0")
        >>> answerer("Who wrote it?", "It was written by Ada Lovelace.").text

    It may be used by several threads at once, if its logits may; a model's may.
    """

    def __init__(
        self,
        logits: Logits,
        tokenizer: FastTokenizer,
        windows: WindowSettings | None = None,
        *,
        threshold: float = 0.0,
        batch_size: int = BATCH_SIZE,
        max_answer_tokens: int = MAX_ANSWER_TOKENS,
    ) -> None:
        """Put an answerer together.

        Args:
            logits: The model; see `model_logits`.
            tokenizer: Its tokenizer.
            windows: How questions and contexts become windows.
            threshold: The null threshold.
            batch_size: Windows in a batch.
            max_answer_tokens: Tokens of an answer at most.

        Raises:
            UserError: a size that is not possible.
        """
        for name, value in (("batch_size", batch_size), ("max_answer_tokens", max_answer_tokens)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        self.logits = logits
        self.tokenizer = tokenizer
        self.windows = windows or WindowSettings()
        self.threshold = threshold
        self.batch_size = batch_size
        self.max_answer_tokens = max_answer_tokens

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        device: str | None = None,
        precision: str | None = None,
        threshold: float | None = None,
        **options: Any,
    ) -> Answerer:
        """Load a model.

        Args:
            model: A run's folder, a checkpoint, an exported folder or the name of a model on the
                hub; see `TrainedModel.load`. Or an ONNX model, as `export --onnx` writes it, with
                tokenizer and config.json beside it.
            device: As torch names it; the best that there is by default.
            precision: "32-true", "bf16-mixed" or "16-mixed"; by default what `fit` and `predict`
                choose on this hardware.
            threshold: The null threshold; by default the one tuned with the model, else 0.
            options: See `__init__`.

        Raises:
            UserError: there is no such model or device.
        """
        path = Path(model).expanduser()
        use: TrainedModel | InferenceSettings
        if path.suffix == ".onnx":
            if device not in (None, "cpu") or precision is not None:
                raise UserError(f"{model}: an ONNX model runs on the CPU, at its own precision")
            from qa_lightning.export.onnx import onnx_logits

            logits, use = onnx_logits(path), InferenceSettings.of_folder(str(path.parent))
        else:
            use = TrainedModel.load(model)
            logits = model_logits(use.encoder, device, precision)
        if threshold is None:
            threshold = use.null_threshold or 0.0
        return cls(logits, use.tokenizer, use.windows, threshold=threshold, **options)

    @overload  # a str is a Sequence[str] too, which the second would take for questions
    def __call__(  # type: ignore[overload-overlap]
        self, question: str, context: str, *, top_k: int = ..., threshold: float | None = ...
    ) -> Answer: ...

    @overload
    def __call__(
        self,
        question: Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = ...,
        threshold: float | None = ...,
    ) -> list[Answer]: ...

    def __call__(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        top_k: int = TOP_K,
        threshold: float | None = None,
    ) -> Answer | list[Answer]:
        """Answer one question, or many at once.

        Args:
            question: A question, or a list of them.
            context: The text to find the answer in; for a list of questions one for all of them,
                or a list of as many.
            top_k: How many candidates to give beside each answer, at most `N_BEST`.
            threshold: The null threshold, if another than the answerer's.

        Returns:
            An answer, or a list of them for a list of questions.

        Raises:
            UserError: an empty question or context, lists of different lengths, a `top_k` that is
                not possible.
        """
        if isinstance(question, str):
            if not isinstance(context, str):
                raise UserError("one question has one context; give a list of questions too")
            return self([question], context, top_k=top_k, threshold=threshold)[0]
        contexts = [context] * len(question) if isinstance(context, str) else list(context)
        if not 0 <= top_k <= N_BEST:
            raise UserError(f"top_k must be from 0 to {N_BEST}, not {top_k}")
        if len(contexts) != len(question):
            raise UserError(f"{len(question)} questions, but {len(contexts)} contexts")
        if not contexts:
            return []
        found = self.answers(self._windows(question, contexts))
        threshold = self.threshold if threshold is None else threshold
        odds = found.null_odds.tolist()
        return [
            _answer(all_of_one, null_odds, threshold, top_k)
            for all_of_one, null_odds in zip(candidates(contexts, found), odds, strict=True)
        ]

    def answers(self, windows: Windows) -> Answers:
        """Best spans and null scores of all questions of some windows, in their order.

        Args:
            windows: Windows of questions, see `qa_lightning.data.windows.make_windows`.
        """
        dataset = WindowDataset(windows, with_offsets=True)
        batches = WindowSampler(windows.lengths, self.batch_size, order="sorted")
        parts: list[list[np.ndarray]] = [[], [], [], []]
        for rows in batches:
            batch = dataset[rows]
            assert batch.offsets is not None and batch.word_starts is not None
            null, spans, scores = spans_of_windows(
                self.logits(batch),
                batch.offsets,
                batch.word_starts,
                max_tokens=self.max_answer_tokens,
                count=N_BEST,
            )
            for part, value in zip(parts, (batch.key, null, spans, scores), strict=True):
                part.append(value.numpy())
        return answers_of_questions(WindowScores(*map(np.concatenate, parts)))

    def _windows(self, questions: Sequence[str], contexts: Sequence[str]) -> Windows:
        """Windows of these questions; a context that several share is tokenised once."""
        for number, texts in enumerate(zip(questions, contexts, strict=True)):
            for name, text in zip(("question", "context"), texts, strict=True):
                which = f"{name} {number + 1}" if len(questions) > 1 else f"the {name}"
                if not isinstance(text, str):
                    raise UserError(f"{which} is not a text, but {type(text).__name__}")
                if not text.strip():
                    raise UserError(f"{which} is empty")
                if not _is_unicode(text):
                    raise UserError(f"{which} holds half a character (a lone surrogate)")
        return make_windows(tables_from_texts(questions, contexts), self.tokenizer, self.windows)


def model_logits(
    encoder: DistilBertForQuestionAnswering,
    device: str | None = None,
    precision: str | None = None,
) -> Logits:
    """Make a model ready for use, and give the function that computes logits with it.

    Args:
        encoder: The model; it is moved to the device.
        device: As torch names it; the best that there is by default.
        precision: "32-true", "bf16-mixed" or "16-mixed"; by default what suits the device.

    Raises:
        UserError: no such device or precision.
    """
    try:
        where = torch.device(device or best_device())
        encoder.eval().to(where)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {error}") from error
    precision = precision or choose_precision(where.type)[0]
    half = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    if precision not in half:
        raise UserError(f"precision must be one of {', '.join(half)}, not {precision!r}")
    dtype = half[precision]
    use_window_attention(encoder)
    use_fast_linear(encoder.distilbert)

    def logits(batch: Batch) -> Tensor:
        mask = None if batch.attention_mask is None else batch.attention_mask.to(where)
        reduced = torch.autocast(where.type, dtype=dtype) if dtype else nullcontext()
        with torch.inference_mode(), reduced:
            return padded_logits(encoder, batch.input_ids.to(where), mask).cpu()

    return logits


def _answer(
    all_of_one: Sequence[Candidate], null_odds: float, threshold: float, top_k: int
) -> Answer:
    """The verdict on a question's candidates."""
    nothing = next(one for one in all_of_one if one.start is None)
    spans = [one for one in all_of_one if one.start is not None]
    said = nothing if null_odds > threshold or not spans else spans[0]
    return Answer(
        said.text,
        said.start,
        said.end,
        said.score,
        said.probability,
        no_answer_probability=nothing.probability,
        null_odds=null_odds,
        threshold=threshold,
        candidates=tuple(spans[:top_k]),
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
