"""Batches in, logits and loss out: the DistilBERT encoder and its Lightning module."""
