"""Logits in, answers and figures out: span decoding, the official scores, the metric."""
