"""DistilBertForQuestionAnswering, from a source's files or from a configuration.

Weights are read with safetensors, or with `torch.load` restricted to tensors, so that no file can
run code. Every weight of the encoder must be in the file, so that no part of it is random without
the user's knowledge.

transformers takes seconds to import, so it is imported where it is used.
"""

from __future__ import annotations

import difflib
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
    from transformers import DistilBertForQuestionAnswering

log = logging.getLogger(__name__)

NULL_THRESHOLD = "null_threshold"
"""Key of the tuned null threshold in a saved model's config.json."""

TUNED = (NULL_THRESHOLD, "answer_temperature", "tuned_share")
"""Keys of all that is tuned on held-out questions, see `qa_lightning.evaluation.calibration`.

transformers takes a key "temperature" for a setting of text generation, and refuses it.
"""

CONFIG_KEYS = """model_type vocab_size max_position_embeddings sinusoidal_pos_embds n_layers n_heads
dim hidden_dim dropout attention_dropout activation initializer_range qa_dropout seq_classif_dropout
pad_token_id eos_token_id bos_token_id tie_word_embeddings""".split()
"""What an encoder's configuration may hold: the keys of DistilBertConfig that describe a model."""

# What a checkpoint may hold besides the encoder and a question-answering head: the heads of other
# tasks, and the position numbers that older versions of transformers saved as a tensor.
_IGNORED = {
    "distilbert": re.compile(
        r"embeddings\.position_ids|(vocab_transform|vocab_layer_norm|vocab_projector"
        r"|pre_classifier|classifier)\..+"
    ),
    "bert": re.compile(r"embeddings\.position_ids|(pooler|cls|classifier)\..+"),
}


def load_encoder(
    pretrained: str,
    *,
    sha256: str | None = None,
    changes: Mapping[str, Any] | None = None,
    trained: bool = False,
) -> DistilBertForQuestionAnswering:
    """Load a DistilBertForQuestionAnswering in float32, whatever type it was stored in.

    A DistilBERT checkpoint is loaded as it is, a BERT-shaped one is moved exactly into DistilBERT's
    architecture (see `qa_lightning.model.from_bert`). A question-answering head is kept when there
    is one; otherwise a new one is drawn from torch's random numbers. If the source has a tuned null
    threshold, `model.config.null_threshold` is it.

    Args:
        pretrained: See `qa_lightning.model.pretrained.resolve`.
        sha256: The digest that the weight file must have, in hexadecimal.
        changes: Values of DistilBertConfig in place of the checkpoint's own, such as dropout rates.
        trained: Refuse a source without a question-answering head.

    Raises:
        UserError: the source does not exist, has another architecture, is incomplete, or its
            weights have another digest, hold more than tensors, or lack the head.
    """
    folder = resolve(pretrained)
    where = str(folder / "config.json")
    source = read_config(folder)
    kind = source.get("model_type")
    if kind not in _IGNORED:
        raise UserError(
            f"{where}: model_type {kind!r} is not supported. Accepted are DistilBERT (model_type "
            "distilbert) and BERT-shaped models such as MiniLM (bert)."
        )
    file = _weight_file(folder, sha256)
    weights = _read_weights(file, kind)
    if trained and not any(name.startswith("qa_outputs.") for name in weights):
        raise UserError(
            f"{file} has no question-answering head: this model was not trained to answer. "
            f"Train it: python -m qa_lightning fit --model.pretrained {pretrained}"
        )
    if kind == "bert":
        config = distilbert_config(source, where)
        weights = distilbert_weights(weights, str(file))
    else:
        config = {key: source[key] for key in CONFIG_KEYS if key in source}
    model = build_encoder(config | dict(changes or {}), where)
    _load_weights(model, weights, file)
    for name in TUNED:
        if (value := read_number(source, name, where)) is not None:
            setattr(model.config, name, value)
    return model


def build_encoder(
    config: Mapping[str, Any], where: str = "the encoder's configuration"
) -> DistilBertForQuestionAnswering:
    """Build a DistilBertForQuestionAnswering with random weights, in float32.

    Args:
        config: Keys of DistilBertConfig, such as `dim`, `n_layers` or `vocab_size`; those left out
            have DistilBERT-base's values. What `encoder_config` gives is accepted.
        where: Where the configuration comes from, for messages.

    Raises:
        UserError: an unknown key, or a value that makes no model.
    """
    from transformers import DistilBertConfig, DistilBertForQuestionAnswering

    for key in config:
        if key not in CONFIG_KEYS:  # transformers would ignore it
            alias = DistilBertConfig.attribute_map.get(key)
            close = [alias] if alias else difflib.get_close_matches(key, CONFIG_KEYS)
            hint = f"Did you mean {' or '.join(close)}?" if close else f"Known: {CONFIG_KEYS}."
            raise UserError(f"{where}: unknown key {key!r}. {hint}")
    values = dict(config)
    if values.pop("model_type", "distilbert") != "distilbert":
        raise UserError(f"{where}: model_type is {config['model_type']!r}, not 'distilbert'.")
    try:
        checked = DistilBertConfig(**values)
        if checked.n_layers < 1:  # transformers builds a model that reads no context
            raise ValueError(f"n_layers is {checked.n_layers}, it must be at least 1")
        model = DistilBertForQuestionAnswering(checked)
    except Exception as error:  # of many kinds: raised by transformers and by torch's modules
        raise UserError(f"{where} makes no model: {' '.join(str(error).split())}") from error
    # float(): Lightning builds models under another default type when a precision asks for it.
    return model.float()


def encoder_config(model: DistilBertForQuestionAnswering) -> dict[str, Any]:
    """Describe a model's architecture in plain values, as `build_encoder` takes it."""
    return {key: getattr(model.config, key) for key in CONFIG_KEYS}


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


def _read_weights(path: Path, kind: str) -> dict[str, Tensor]:
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
        name = str(name).removeprefix(f"{kind}.")
        # Checkpoints converted from TensorFlow name LayerNorm's parameters as TensorFlow does.
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if not _IGNORED[kind].fullmatch(name):
            weights[name] = tensor.float()
    return weights


def _load_weights(
    model: DistilBertForQuestionAnswering, weights: Mapping[str, Tensor], path: Path
) -> None:
    """Fill the model; only its head may be missing, and no weight may be left over."""
    found = {
        name if name.startswith("qa_outputs.") else f"distilbert.{name}": tensor
        for name, tensor in weights.items()
    }
    head = {f"qa_outputs.{name}": value for name, value in model.qa_outputs.named_parameters()}
    if not head.keys() & found.keys():
        log.info("%s has no question-answering head: a new, random one is trained.", path)
        found |= head
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit its config.json. Is it a complete model, and are the weights and "
            f"config.json of one kind? {shorten(str(error), 500)}"
        ) from error
