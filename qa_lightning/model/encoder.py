"""A question-answering model, from a source's files or from a configuration.

Any encoder of transformers' question-answering models is taken, never with code of its own.

Weights are read with safetensors, or with `torch.load` restricted to tensors, so that no file can
run code. Every weight of the encoder must be in the file, so that no part of it is random without
the user's knowledge.

transformers takes seconds to import, so it is imported where it is used.
"""

from __future__ import annotations

import difflib
import json
import logging
import math
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qa_lightning.data.download import sha256_of
from qa_lightning.errors import UserError
from qa_lightning.model.from_bert import distilbert_config, distilbert_weights
from qa_lightning.model.pretrained import WEIGHTS, read_config, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

NULL_THRESHOLD = "null_threshold"
"""Key of the tuned null threshold in a saved model's config.json."""

TUNED = (NULL_THRESHOLD, "answer_temperature", "tuned_share")
"""Keys of all that is tuned on held-out questions, see `qa_lightning.evaluation.calibration`.

transformers takes a key "temperature" for a setting of text generation, and refuses it.
"""

SUPPORTED = """distilbert bert roberta camembert xlm-roberta albert electra mpnet deberta deberta-v2
modernbert mobilebert longformer big_bird""".split()
"""Architectures (model_type) that are tested here; any other encoder is tried when it is loaded."""

DISTILBERT_KEYS = """model_type vocab_size max_position_embeddings sinusoidal_pos_embds n_layers
n_heads dim hidden_dim dropout attention_dropout activation initializer_range qa_dropout
seq_classif_dropout pad_token_id eos_token_id bos_token_id tie_word_embeddings""".split()
"""What a DistilBERT's configuration may hold: the keys of DistilBertConfig that describe a model.

transformers would ignore others without a word, which hides a slip of the pen.
"""

# Keys of a config.json that say nothing of the architecture, or of another task's labels.
_NOT_OF_THE_ARCHITECTURE = {
    *("architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "_name_or_path"),
    *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "windows"),
    *("_attn_implementation", "tie_word_embeddings"),
    *TUNED,
}

# Layers that a checkpoint may hold besides the encoder and a question-answering head: the heads of
# other tasks.
_OTHER_HEADS = """pooler cls classifier pre_classifier sop_classifier score decoder head lm_head
predictions lm_predictions mask_predictions discriminator_predictions generator_predictions
generator_lm_head vocab_transform vocab_layer_norm vocab_projector""".split()

_ATTENTION_DROPOUT = re.compile(r"att\w*_dropout(_prob)?$")

_POSITIONS_BEHIND_PADDING = ("roberta", "camembert", "xlm-roberta", "longformer", "mpnet")
"""Architectures whose first position has the number behind that of the padding token."""


def load_encoder(
    pretrained: str,
    *,
    sha256: str | None = None,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    trained: bool = False,
    as_distilbert: bool = False,
) -> PreTrainedModel:
    """Load a question-answering model in float32, whatever type it was stored in.

    A question-answering head is kept when there is one; otherwise a new one is drawn from torch's
    random numbers. If the source has a tuned null threshold, `model.config.null_threshold` is it.

    Args:
        pretrained: See `qa_lightning.model.pretrained.resolve`.
        sha256: The digest that the weight file must have, in hexadecimal.
        dropout: A dropout rate in the place of the checkpoint's own.
        attention_dropout: The same for attention weights.
        trained: Refuse a source without a question-answering head.
        as_distilbert: Move a BERT-shaped model exactly into DistilBERT's architecture, see
            `qa_lightning.model.from_bert`.

    Raises:
        UserError: the source does not exist, is no encoder, is incomplete, or its weights have
            another digest, hold more than tensors, or lack the head.
    """
    folder = resolve(pretrained)
    where = str(folder / "config.json")
    source = read_config(folder)
    kind = source.get("model_type")
    _check_is_encoder(kind, where)
    file = _weight_file(folder, sha256)
    moved = as_distilbert and kind != "distilbert"
    if moved:
        if kind != "bert":
            raise UserError(
                f"{where}: --model.as_distilbert is for BERT-shaped models, not for {kind!r}"
            )
        config = distilbert_config(source, where)
    else:
        own = source.keys() - _NOT_OF_THE_ARCHITECTURE
        known = DISTILBERT_KEYS if kind == "distilbert" else own
        config = {key: value for key, value in source.items() if key in known}
    model = build_encoder(config, where, dropout=dropout, attention_dropout=attention_dropout)
    weights = _read_weights(file, "bert" if moved else model.base_model_prefix)
    if moved:
        weights = distilbert_weights(weights, str(file))
    _load_weights(model, weights, file, pretrained if trained else None)
    if kind not in SUPPORTED:
        _probe(model, where)
    for name in TUNED:
        if (value := read_number(source, name, where)) is not None:
            setattr(model.config, name, value)
    return model


def build_encoder(
    config: Mapping[str, Any],
    where: str = "the encoder's configuration",
    *,
    dropout: float | None = None,
    attention_dropout: float | None = None,
) -> PreTrainedModel:
    """Build a question-answering model with random weights, in float32.

    Args:
        config: Keys of the architecture's configuration in transformers, `model_type` among them
            (by default distilbert); those left out have its default values. What `encoder_config`
            gives is accepted.
        where: Where the configuration comes from, for messages.
        dropout: Rate of dropout; by default that of the configuration.
        attention_dropout: The same for attention weights.

    Raises:
        UserError: no encoder, an unknown key, or a value that makes no model.
    """
    from transformers import AutoModelForQuestionAnswering
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = dict(config)
    kind = values.pop("model_type", "distilbert")
    _check_is_encoder(kind, where)
    if kind == "distilbert":
        _check_keys(values, where)
    try:
        checked = CONFIG_MAPPING[kind](**values)
        if checked.num_hidden_layers < 1:  # transformers builds a model that reads no context
            name = checked.attribute_map.get("num_hidden_layers", "num_hidden_layers")
            raise ValueError(f"{name} is {checked.num_hidden_layers}, it must be at least 1")
        if getattr(checked, "is_decoder", False):
            raise ValueError("is_decoder is true: it does not see the text behind a token")
        _set_dropout(checked, dropout, attention_dropout)
        model = AutoModelForQuestionAnswering.from_config(checked, trust_remote_code=False)
    except Exception as error:  # of many kinds: raised by transformers and by torch's modules
        raise UserError(f"{where} makes no model: {' '.join(str(error).split())}") from error
    # float(): Lightning builds models under another default type when a precision asks for it.
    return model.float()  # type: ignore[no-any-return]


def _check_is_encoder(kind: Any, where: str) -> None:
    """Refuse what transformers cannot use for extractive question answering, or only a decoder."""
    from transformers.models.auto import modeling_auto as auto

    if kind not in auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES:
        problem = "transformers has no question-answering model of it"
    elif kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        problem = "it is an encoder-decoder"
    elif (
        kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        problem = "it is a decoder, which does not see the text behind a token"
    else:
        return
    raise UserError(
        f"{where}: model_type {kind!r} is not supported, {problem}. Take an encoder: "
        f"{', '.join(SUPPORTED)}"
    )


def _check_keys(config: Mapping[str, Any], where: str) -> None:
    from transformers import DistilBertConfig

    for key in config:
        if key not in DISTILBERT_KEYS:
            alias = DistilBertConfig.attribute_map.get(key)
            close = [alias] if alias else difflib.get_close_matches(key, DISTILBERT_KEYS)
            hint = f"Did you mean {' or '.join(close)}?" if close else f"Known: {DISTILBERT_KEYS}."
            raise UserError(f"{where}: unknown key {key!r}. {hint}")


def _set_dropout(config: Any, dropout: float | None, attention_dropout: float | None) -> None:
    """Set the rates, whatever an architecture calls them."""
    for key in vars(config):
        attention = _ATTENTION_DROPOUT.match(key)
        rate = attention_dropout if attention else dropout
        other = re.search(r"dropout(_prob)?$", key) and "classif" not in key
        if rate is not None and (attention or other):
            setattr(config, key, rate)


def encoder_config(model: PreTrainedModel) -> dict[str, Any]:
    """Describe a model's architecture in plain values, as `build_encoder` takes it."""
    if model.config.model_type == "distilbert":
        return {key: getattr(model.config, key) for key in DISTILBERT_KEYS}
    plain: dict[str, Any] = json.loads(json.dumps(model.config.to_dict(), default=str))
    return {key: plain[key] for key in plain if key not in _NOT_OF_THE_ARCHITECTURE}


def max_positions(config: Mapping[str, Any]) -> int:
    """Tokens of a window at most, special ones included, by a model's configuration."""
    positions = int(config.get("max_position_embeddings") or 512)
    return positions - first_position(config.get("model_type"), config.get("pad_token_id"))


def first_position(model_type: str | None, pad_token_id: int | None) -> int:
    """The number of a window's first position."""
    behind_padding = model_type in _POSITIONS_BEHIND_PADDING
    return (1 if pad_token_id is None else pad_token_id) + 1 if behind_padding else 0


def layer_sizes(config: Any) -> tuple[int, int]:
    """Width of a model's hidden states and of its feed-forward layers."""
    width = config.hidden_size
    return width, getattr(config, "intermediate_size", getattr(config, "hidden_dim", 4 * width))


def drops_attention(config: Any) -> bool:
    """Whether attention weights are dropped in training."""
    return any(bool(value) for key, value in vars(config).items() if _ATTENTION_DROPOUT.match(key))


def _probe(model: PreTrainedModel, where: str) -> None:
    """Try an architecture that is not tested here: it must give two logits for every token."""
    ids = torch.zeros(1, 8, dtype=torch.int64)
    try:
        with torch.inference_mode():
            output = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
        shapes = {output.start_logits.shape, output.end_logits.shape}
        problem = "" if shapes == {ids.shape} else f"its logits have the shape {shapes}"
    except Exception as error:  # whatever a model needs that it is not given
        problem = " ".join(str(error).split()) or type(error).__name__
    if problem:
        raise UserError(
            f"{where}: model_type {model.config.model_type!r} was tried, and {problem}. Tested "
            f"architectures: {', '.join(SUPPORTED)}"
        )
    model.train()


def read_number(config: Mapping[str, Any], name: str, where: str) -> float | None:
    """A number in the config.json at the path `where`; None if it is not there.

    Raises:
        UserError: it is not a finite number.
    """
    value = config.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: {name} must be a number, not {value!r}")
    return float(value)


def _weight_file(folder: Path, sha256: str | None) -> Path:
    """Find a folder's weights, and check their digest if one is given."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} holds no weights: neither {' nor '.join(WEIGHTS)}.")
    if sha256 is not None:
        if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise UserError(f"{sha256!r} is not a SHA-256 digest: it has 64 hexadecimal digits.")
        if (found := sha256_of(path)) != sha256.lower():
            raise UserError(
                f"{path} has other content than expected.\n"
                f"  SHA-256 expected: {sha256.lower()}\n"
                f"  SHA-256 found:    {found}\n"
                "Fetch the file again, or change the digest if you meant to use these weights."
            )
    return path


def _read_weights(path: Path, prefix: str) -> dict[str, Tensor]:
    """Read a weight file's tensors, in float32 and under today's names without the prefix."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            stored = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is damaged, and was not loaded: such a file can "
            "run code. Use an encoder with model.safetensors."
        ) from error
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} cannot be read, it may be cut short: {error}") from error
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise UserError(f"{path} does not hold a model's weights by name.")
    weights = {}
    for name, tensor in stored.items():
        name = str(name).removeprefix(f"{prefix}.")
        # Checkpoints converted from TensorFlow name LayerNorm's parameters as TensorFlow does.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        weights[name] = tensor.float()
    return weights


def _load_weights(
    model: PreTrainedModel, weights: Mapping[str, Tensor], path: Path, trained: str | None
) -> None:
    """Fill the model; only layers of its head may be missing, and no weight be left over.

    Heads of other tasks are left out, and so are position numbers, which older versions of
    transformers saved as a tensor. `trained` is the name of a source whose head must be there.
    """
    prefix = f"{model.base_model_prefix}."
    wanted, found, left_over = model.state_dict(), {}, []
    for name, tensor in weights.items():
        full = next((each for each in (prefix + name, name) if each in wanted), None)
        if full is not None:
            found[full] = tensor
        elif name.split(".")[0] not in _OTHER_HEADS and not name.endswith("position_ids"):
            left_over.append(name)
    head = {name: value for name, value in wanted.items() if not name.startswith(prefix)}
    # Half of a layer is not made up.
    whole = {name.split(".")[0] for name in head} - {name.split(".")[0] for name in found}
    missing = [name for name in head if name.split(".")[0] in whole]
    if trained is not None and missing:
        raise UserError(
            f"{path} has no question-answering head: this model was not trained to answer. "
            f"Train it: python -m qa_lightning fit --model.pretrained {trained}"
        )
    if missing:
        log.info("%s has no question-answering head: a new, random one is trained.", path)
        found |= {name: head[name] for name in missing}
    try:
        model.load_state_dict(found | {name: weights[name] for name in left_over})
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit its config.json. Is it a complete model, and are the weights and "
            f"config.json of one kind? {shorten(str(error), 500)}"
        ) from error
