"""What a run's folder holds: names that training writes, and that use and export read."""

from pathlib import Path

CHECKPOINTS = "checkpoints"
BEST, LAST = "best.ckpt", "last.ckpt"
MODEL = "model"
CONFIG = "config.yaml"
RECORD = "run.json"
LEARNING_CURVE = "learning_curve.png"


def best_checkpoint(run: Path) -> Path | None:
    """The checkpoint that stands for a run: the best, else the last; None if it has neither."""
    paths = (run / CHECKPOINTS / name for name in (BEST, LAST))
    return next((path for path in paths if path.is_file()), None)
