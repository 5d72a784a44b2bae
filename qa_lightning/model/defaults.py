"""Defaults of a model in use. Plain numbers: `--help` imports no torch for them."""

EVAL_BATCH_SIZE = 64
"""Windows in a batch when nothing is trained."""

N_BEST = 20
"""Candidates kept for a question."""
