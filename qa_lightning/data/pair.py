"""How a tokenizer puts a question and a context into one window: special tokens and token types."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class PairLayout:
    """What stands around the two texts of a window: ``before first between second after``.

    Question and context are first and second, or the other way round. The null position, whose
    score is that of "no answer", is the window's first token.
    """

    before: tuple[int, ...]  # token ids
    between: tuple[int, ...]
    after: tuple[int, ...]
    pad: int
    # Token types of the five parts and of padding; None if the tokenizer gives none.
    types: tuple[int, int, int, int, int, int] | None

    @property
    def size(self) -> int:
        """Number of special tokens in a window."""
        return len(self.before) + len(self.between) + len(self.after)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> PairLayout:
        """Read the layout off the tokenizer's own encoding of a pair.

        Raises:
            UserError: it puts pairs together in a way that windows cannot.
        """
        encoding = tokenizer.backend_tokenizer.encode("a", "a")
        owner = list(encoding.sequence_ids)
        # Where the five parts begin and end: before the first text, at its end, and so on.
        cuts = [0, owner.index(0), owner.index(1), len(owner)]
        cuts[2:2] = [cuts[1] + owner.count(0)]
        cuts[4:4] = [cuts[3] + owner.count(1)]
        parts = [slice(*cut) for cut in pairwise(cuts)]
        before, _, between, _, after = (tuple(encoding.ids[part]) for part in parts)
        null = tokenizer.cls_token_id
        kinds = [set(encoding.type_ids[part]) for part in parts]
        if cuts != sorted(cuts) or any(len(kind) > 1 for kind in kinds):
            raise UserError("the tokenizer does not put two texts one behind the other in a pair")
        if not before or null is None or before[0] != null:
            raise UserError(
                "the tokenizer does not begin a pair with its class token, where the score of "
                '"no answer" is read; choose a model like BERT, RoBERTa or DeBERTa'
            )
        types = None
        if "token_type_ids" in tokenizer.model_input_names:
            of_part = [kind.pop() if kind else 0 for kind in kinds]
            types = (*of_part, tokenizer.pad_token_type_id)
        return cls(before, between, after, tokenizer.pad_token_id, types)  # type: ignore[arg-type]
