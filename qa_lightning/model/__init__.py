"""Batches in, logits out: the encoder, its tokenizer, and a trained model from its files."""
