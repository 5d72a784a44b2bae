"""What `fit` and an evaluation print about their outcome."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qa_lightning.model.run_folder import LEARNING_CURVE, MODEL


def lines_by_threshold(figures: Mapping[str, Any], split: str) -> list[str]:
    """The scores of "val" or "test" at three null thresholds, each named for what it is."""
    meanings = {
        "zero": "at null threshold 0",
        "tuned": "at the threshold tuned on held-out training articles",
        "best": "at the best threshold for these very questions: an oracle, not a result",
    }
    return [
        f"    EM {figures[f'{split}/{name}_exact']:.2f}   F1 {figures[f'{split}/{name}_f1']:.2f}   "
        f"{meaning}"
        for name, meaning in meanings.items()
        if f"{split}/{name}_exact" in figures
    ]


def best_model_summary(
    figures: Mapping[str, float], best: Path, run: Path, where: Mapping[str, str]
) -> str:
    """What `fit` prints at its end; `figures` is empty if nothing was validated.

    `where` says by logger where the curves are to be seen.
    """
    lines = ["", "Best model"]
    if "val/exact" in figures:
        lines.append(f"  EM {figures['val/exact']:.2f}   F1 {figures['val/f1']:.2f}")
        for group, name in (("HasAns", "answerable"), ("NoAns", "unanswerable")):
            if f"val/{group}_exact" in figures:
                lines.append(
                    f"    {name}: EM {figures[f'val/{group}_exact']:.2f}   "
                    f"F1 {figures[f'val/{group}_f1']:.2f}"
                )
        lines.append(f"  answered with 'no answer': {figures['val/no_answer_rate']:.1f} %")
        lines += lines_by_threshold(figures, "val")
        lines.append(f"  token accuracy {figures['val/token_accuracy']:.4f}")
    lines += [
        f"  run             {run}",
        f"  checkpoint      {best}",
        f"  model           {run / MODEL}   (AutoModelForQuestionAnswering.from_pretrained)",
        f"  learning curve  {run / LEARNING_CURVE}",
        *(f"  {name:<14}  {place}" for name, place in where.items()),
    ]
    return "\n".join(lines)
