"""A BERT checkpoint, such as MiniLM, as the same function in DistilBERT's architecture.

A question-answering DistilBERT has no token types. BERT adds word, type and position embeddings,
and gives every token type 0 unless told otherwise. So adding row 0 of the type embeddings to every
position embedding leaves the hidden states as they are, up to rounding. Only names change besides.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qa_lightning.errors import UserError

_REQUIRED = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "layer_norm_eps": 1e-12,
    "is_decoder": False,
    "add_cross_attention": False,
}  # all of them are BERT's defaults

_CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
}

_WEIGHTS = (
    (r"^encoder\.layer\.", "transformer.layer."),
    (r"\.attention\.self\.query\.", ".attention.q_lin."),
    (r"\.attention\.self\.key\.", ".attention.k_lin."),
    (r"\.attention\.self\.value\.", ".attention.v_lin."),
    (r"\.attention\.output\.dense\.", ".attention.out_lin."),
    (r"\.attention\.output\.LayerNorm\.", ".sa_layer_norm."),
    (r"\.intermediate\.dense\.", ".ffn.lin1."),
    (r"^(transformer\.layer\.\d+)\.output\.dense\.", r"\1.ffn.lin2."),
    (r"^(transformer\.layer\.\d+)\.output\.LayerNorm\.", r"\1.output_layer_norm."),
)


def distilbert_config(bert: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Translate the BERT configuration in the config.json at the path `where` to DistilBERT's keys.

    Raises:
        UserError: DistilBERT's architecture cannot express it.
    """
    for key, required in _REQUIRED.items():
        if bert.get(key, required) != required:
            raise UserError(
                f"{where}: {key} is {bert[key]!r}, but a BERT moved into DistilBERT's architecture "
                f"must have {required!r}. Choose another encoder."
            )
    return {ours: bert[theirs] for theirs, ours in _CONFIG_KEYS.items() if theirs in bert}


def distilbert_weights(bert: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Rename the BERT weights in the file `where`, and add token type 0 to the position embeddings.

    Names come without the prefix "bert.". Token-type embeddings are `[types, dim]`, position
    embeddings `[positions, dim]`.

    Raises:
        UserError: one of these embeddings is missing.
    """
    weights = dict(bert)
    types = weights.pop("embeddings.token_type_embeddings.weight", None)
    positions = weights.get("embeddings.position_embeddings.weight")
    if types is None or positions is None or types.shape[1:] != positions.shape[1:]:
        raise UserError(f"{where} lacks BERT's token-type or position embeddings.")
    weights["embeddings.position_embeddings.weight"] = positions + types[0]
    for pattern, replacement in _WEIGHTS:
        weights = {re.sub(pattern, replacement, name): value for name, value in weights.items()}
    return weights
