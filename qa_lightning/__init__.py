"""Fine-tune DistilBERT for extractive question answering on SQuAD 2.0 with PyTorch Lightning."""

__version__ = "0.1.0"
