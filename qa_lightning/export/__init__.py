"""A trained model for others: a Hugging Face folder with a model card, ONNX, the hub."""
