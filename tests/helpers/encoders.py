"""Tiny encoders with random weights, and what they make of two windows."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import BertConfig, DistilBertConfig, PreTrainedModel

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PLAIN = ["the", "tower", "was", "built", "in", "paris", "Paris", "1889", "##s", "##ing", ".", "?"]
WORDS = SPECIAL + PLAIN
TINY = {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 32,
    "n_layers": 2,
    "n_heads": 2,
    "dim": 16,
    "hidden_dim": 24,
}
TINY_BERT = {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
}
IDS = torch.tensor([[2, 5, 6, 16, 3, 5, 6, 7, 3], [2, 10, 16, 3, 9, 10, 3, 0, 0]])
MASK = (IDS != 0).long()


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight random, LayerNorm and biases too, so that a lost one shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def tiny_distilbert(**changes: object) -> DistilBertConfig:
    return DistilBertConfig(**(TINY | changes))


def tiny_bert(**changes: object) -> BertConfig:
    return BertConfig(**(TINY_BERT | changes))


def write_vocabulary(folder: Path, words: list[str] = WORDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def hidden(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        states = model.eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
    return states[MASK.bool()]
