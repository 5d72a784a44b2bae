"""The loss of windows, and how much windows with and without an answer weigh in it."""

import numpy as np
from torch import Tensor, nn

from qa_lightning.data.windows import IGNORED, no_answer_share
from qa_lightning.errors import UserError


def window_losses(logits: Tensor, label_start: Tensor, label_end: Tensor) -> Tensor:
    """Loss of every window: the mean of the cross-entropies of its start and of its end.

    The mean over windows is the loss of `DistilBertForQuestionAnswering`, when nothing is padded.
    Its softmax runs over padding too; ours does not (give logits of -inf there), so that the loss
    of a window does not depend on its neighbours in the batch.

    Args:
        logits: Start and end logits, float32 `[windows, tokens, 2]`.
        label_start: int64 `[windows]`; -1 is ignored.
        label_end: int64 `[windows]`; -1 is ignored.

    Returns:
        float32 `[windows]`; 0 where both labels are ignored.
    """
    start, end = (
        nn.functional.cross_entropy(of_one, label, ignore_index=IGNORED, reduction="none")
        for of_one, label in zip(logits.unbind(2), (label_start, label_end), strict=True)
    )
    return (start + end) / 2


def class_weights(label_start: np.ndarray, unanswerable_share: float) -> tuple[float, float]:
    """Importance weights of windows with and without an answer, of mean 1 over the data.

    Args:
        label_start: Labels of all training windows, `[windows]`.
        unanswerable_share: Share of the loss that windows without an answer shall carry.

    Raises:
        UserError: one of the two kinds is missing.
    """
    share = no_answer_share(label_start)
    if not 0 < share < 1:
        raise UserError(
            "--model.unanswerable_share needs training windows with an answer and windows "
            f"without one; {share:.0%} of these are without"
        )
    return (1 - unanswerable_share) / (1 - share), unanswerable_share / share
