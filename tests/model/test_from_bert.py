"""A BERT moved into DistilBERT: the same hidden states, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, BertForQuestionAnswering, BertModel, PreTrainedModel

from qa_lightning.errors import UserError
from qa_lightning.model.encoder import load_encoder
from tests.helpers.encoders import IDS, MASK, edit_config, hidden, randomised, tiny_bert


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM, BertForQuestionAnswering])
def test_bert_becomes_a_distilbert_with_the_same_hidden_states(
    tmp_path: Path, kind: type[PreTrainedModel]
) -> None:
    torch.manual_seed(0)
    original = randomised(kind(tiny_bert()))
    original.save_pretrained(tmp_path)
    bert = getattr(original, "bert", original)
    assert bert.embeddings.token_type_embeddings.weight.abs().min() > 0
    loaded = load_encoder(str(tmp_path), as_distilbert=True)
    assert (hidden(loaded.distilbert) - hidden(bert)).abs().max() < 1e-5
    if kind is BertForQuestionAnswering:
        with torch.no_grad():
            wanted = original(input_ids=IDS, attention_mask=MASK).start_logits
            got = loaded.eval()(input_ids=IDS, attention_mask=MASK).start_logits
        assert (got - wanted)[MASK.bool()].abs().max() < 1e-5


def test_bert_with_tensorflow_names_of_layer_norm(tmp_path: Path) -> None:
    original = randomised(BertModel(tiny_bert()))
    original.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {
        "bert."
        + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v
        for k, v in weights.items()
    }
    save_file(renamed, tmp_path / "model.safetensors")
    loaded = load_encoder(str(tmp_path), as_distilbert=True)
    assert (hidden(loaded.distilbert) - hidden(original)).abs().max() < 1e-5


def test_dropout_rates_of_bert_are_kept(tmp_path: Path) -> None:
    config = tiny_bert(hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.35)
    BertModel(config).save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path), as_distilbert=True)
    assert (loaded.config.dropout, loaded.config.attention_dropout) == (0.25, 0.35)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "relu"),
        ("hidden_act", "gelu_new"),
        ("position_embedding_type", "relative_key"),
        ("layer_norm_eps", 1e-5),
        ("is_decoder", True),
    ],
)
def test_bert_that_distilbert_cannot_express_is_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    BertModel(tiny_bert()).save_pretrained(tmp_path)
    edit_config(tmp_path, **{key: value})
    with pytest.raises(UserError, match=f"{key} is {value!r}"):
        load_encoder(str(tmp_path), as_distilbert=True)
