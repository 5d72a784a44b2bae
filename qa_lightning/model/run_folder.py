"""What a run's folder holds: names that training writes, and that use and export read."""

CHECKPOINTS = "checkpoints"
BEST, LAST = "best.ckpt", "last.ckpt"
MODEL = "model"
CONFIG = "config.yaml"
RECORD = "run.json"
LEARNING_CURVE = "learning_curve.png"
