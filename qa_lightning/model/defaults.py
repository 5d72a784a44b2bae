"""Defaults that training, export and use share. Plain numbers: `--help` imports no torch for them.

Outside this file they appear as defaults of `--data.eval_batch_size`, `--model.n_best` and
`--model.max_answer_tokens`.
"""

EVAL_BATCH_SIZE = 64
"""Windows in a batch when nothing is trained."""

N_BEST = 20
"""Candidates kept for a question."""

MAX_ANSWER_TOKENS = 30
"""Longest answer."""
