"""The sizes of windows and batches, stated once; imports little, for the help of the commands."""

from dataclasses import dataclass
from typing import Literal

from qa_lightning.errors import UserError

SPECIAL_TOKENS = 3
"""[CLS] and two [SEP]; some tokenizers have more tokens of neither question nor context."""

MAX_ANSWER_TOKENS = 30
"""Tokens of an answer at most, unless a model's settings say otherwise."""

N_BEST = 20
"""Candidates kept for a question."""

EVAL_BATCH_SIZE = 64
"""Windows in a batch when nothing is trained."""


@dataclass(frozen=True)
class WindowSettings:
    """How questions and contexts become windows.

    Raises:
        UserError: a size is not positive, or the overlap leaves the windows of a long context no
            room to advance.
    """

    window: int = 384  # tokens at most, special tokens included
    overlap: int = 128  # context tokens that a window shares with the one before it
    max_question_tokens: int = 64  # a longer question loses its middle
    context_first: bool = False  # put the context before the question
    # Keep a question's first window only: the rest of a long context is cut away, and an answer
    # that lies there is ignored by the loss.
    first_window_only: bool = False
    every_answer: bool = False  # label a window for each answer, not for the first alone
    # Where answers may begin and end: at whole words, or at any token.
    answer_boundaries: Literal["word", "token"] = "word"

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.max_question_tokens < 1 or self.overlap < 0:
            raise UserError(
                f"max_question_tokens must be at least 1 and overlap at least 0, not "
                f"{self.max_question_tokens} and {self.overlap}"
            )
        if self.answer_boundaries not in ("word", "token"):
            raise UserError(
                f'answer_boundaries must be "word" or "token", not "{self.answer_boundaries}"'
            )
        self.check_room(SPECIAL_TOKENS)

    def check_room(self, special: int) -> None:
        """Refuse sizes that leave no room to advance beside so many special tokens."""
        room = self.window - self.max_question_tokens - special
        if self.overlap >= room:
            raise UserError(
                f"windows cannot advance: window {self.window} less a question of up to "
                f"{self.max_question_tokens} tokens and {special} special ones leaves "
                f"{room} tokens for context, and the overlap is {self.overlap}. Make "
                f"--data.window larger, or --data.overlap smaller than {max(room, 0)}"
            )
