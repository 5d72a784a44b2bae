"""DistilBertForQuestionAnswering and its tokenizer, from many places.

A source is the name of a model on the Hugging Face hub, a local folder, or `package:NAME/PATH`, a
folder inside an installed Python package. `resolve` turns each into a local folder; everything
after that reads files only. Weights are read with safetensors, or with `torch.load` restricted to
tensors, so that no file can run code; and every weight of the encoder must be there, so that no
part of it is ever random without anyone knowing.

transformers takes seconds to import, so it is imported where it is used.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import math
import pickle
import re
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    from transformers import DistilBertConfig, DistilBertForQuestionAnswering
    from transformers import PreTrainedTokenizerFast as FastTokenizer

log = logging.getLogger(__name__)

ACCEPTED = "DistilBERT (model_type distilbert) and BERT-shaped models such as MiniLM (bert)"
ADVICE = (
    "Give a local folder with --model.pretrained FOLDER, or run the quickstart: "
    "python -m qa_lightning fit --config configs/quickstart.yaml"
)

# Safetensors first: smaller risk, faster to read.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TEXTS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
# Seconds to wait for a first sign of the hub. Its own client retries for about 23.
_PATIENCE = 4.0

NULL_THRESHOLD = "null_threshold"
"""Key of the tuned null threshold in a saved model's config.json."""

_CONFIG_KEYS = (
    "model_type",
    "vocab_size",
    "max_position_embeddings",
    "sinusoidal_pos_embds",
    "n_layers",
    "n_heads",
    "dim",
    "hidden_dim",
    "dropout",
    "attention_dropout",
    "activation",
    "initializer_range",
    "qa_dropout",
    "seq_classif_dropout",
    "pad_token_id",
    "eos_token_id",
    "bos_token_id",
    "tie_word_embeddings",
)
_SIZES = ("vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim")

# What a checkpoint may hold besides the encoder and a question-answering head: the heads of other
# tasks, and the position numbers that older versions of transformers saved as a tensor.
_IGNORED = {
    "distilbert": re.compile(
        r"embeddings\.position_ids|(vocab_transform|vocab_layer_norm|vocab_projector"
        r"|pre_classifier|classifier)\..+"
    ),
    "bert": re.compile(r"embeddings\.position_ids|(pooler|cls|classifier)\..+"),
}

_BERT_TO_DISTILBERT = (
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


# ---- Where the files are -----------------------------------------------------------------------


def resolve(pretrained: str) -> Path:
    """Give the local folder that holds a source's configuration, weights and tokenizer.

    Args:
        pretrained: a local folder, `package:NAME/PATH`, or the name of a model on the hub. A hub
            model that is already in the cache is used without touching the network.

    Raises:
        UserError: there is no such folder, package or hub model, or the hub cannot be reached.
    """
    if pretrained.startswith("package:"):
        return _package_folder(pretrained)
    folder = Path(pretrained).expanduser()
    if pretrained and folder.is_dir():
        return folder
    if pretrained and folder.exists():
        raise UserError(f"{pretrained} is a file: give the folder that holds config.json.")

    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(pretrained)
    except HFValidationError:
        raise UserError(
            f"There is no folder {pretrained!r}, and it cannot be the name of a model on the hub "
            "(NAME or OWNER/NAME). Check the spelling of the path."
        ) from None
    return _hub_folder(pretrained)


def _package_folder(source: str) -> Path:
    """Find the folder of `package:NAME/PATH` without importing, and so without running, NAME."""
    name, _, path = source.removeprefix("package:").partition("/")
    if not name or not path or PurePosixPath(path).is_absolute() or ".." in path.split("/"):
        raise UserError(f"{source!r}: write package:NAME/PATH, PATH being a folder inside NAME.")
    roots = _package_roots(name)
    if not roots:
        raise UserError(
            f"{source!r}: the Python package {name} is not installed. Its data is enough: "
            f"pip install --no-deps {name.replace('_', '-')}"
        )
    for root in roots:
        if (root / path).is_dir():
            return root / path
    raise UserError(f"{source!r}: the installed package {name} holds no folder {path}.")


def _package_roots(name: str) -> list[Path]:
    """The folders of an import name or of a distribution, without importing anything."""
    if name.isidentifier():  # find_spec would import the parents of a dotted name
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # a module without a spec, such as __main__
            spec = None
        if spec is not None and spec.submodule_search_locations:
            return [Path(location) for location in spec.submodule_search_locations]
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return []
    tops = {file.parts[0] for file in distribution.files or () if len(file.parts) > 1}
    return [Path(str(distribution.locate_file(top))) for top in sorted(tops)]


def _hub_folder(name: str) -> Path:
    """Fetch what is needed of a hub model, or find it in the cache; give its folder."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_TEXTS], local_files_only=True))
        if _is_complete(folder):
            return folder
    except LocalEntryNotFoundError:
        pass

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"The model {name!r} is not in the local cache, there is no folder of that name, and "
            f"HF_HUB_OFFLINE forbids the network. {ADVICE}"
        )
    _ask_hub_for(name)
    try:
        for weights in _WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*_TEXTS, weights]))
            if (folder / weights).is_file():
                return folder
    except Exception as error:  # of three libraries; whichever it is, the model did not arrive
        raise UserError(
            f"The model {name!r} could not be downloaded from {constants.ENDPOINT}: {error}\n"
            f"Run the command again to go on. {ADVICE}"
        ) from error
    raise UserError(f"The hub's model {name!r} has neither {' nor '.join(_WEIGHTS)}.")


def _is_complete(folder: Path) -> bool:
    """Whether a cached hub folder holds all that is needed of a model."""
    has_tokenizer = any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt"))
    has_weights = any((folder / file).is_file() for file in _WEIGHTS)
    return (folder / "config.json").is_file() and has_weights and has_tokenizer


def _ask_hub_for(name: str) -> None:
    """Raise UserError, within seconds, unless the hub answers that it has the model.

    One question, which the hub's client asks without retries, so that proxies, HF_ENDPOINT and
    tokens count. It is asked in a thread because no timeout of a request covers a name server that
    does not answer.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    failures: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(name, timeout=_PATIENCE)
            failures.append(None)
        except Exception as error:  # told to the user below
            failures.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    failure = failures[0] if failures else TimeoutError(f"no answer in {_PATIENCE:g} seconds")
    if failure is None:
        return
    if isinstance(failure, GatedRepoError):
        raise UserError(
            f"The hub's model {name!r} is gated: accept its terms on its page, then "
            "log in with `hf auth login`."
        ) from failure
    if isinstance(failure, RepositoryNotFoundError):
        raise UserError(
            f"There is no folder {name!r}, and no model of that name that you may read at "
            f"{constants.ENDPOINT}. Check the spelling; a private model needs `hf auth login`."
        ) from failure
    raise UserError(
        f"The model {name!r} is not in the local cache, and {constants.ENDPOINT} cannot be "
        f"reached ({failure}). {ADVICE}"
    ) from failure


# ---- The model ---------------------------------------------------------------------------------


def load_encoder(
    pretrained: str,
    *,
    sha256: str | None = None,
    changes: Mapping[str, Any] | None = None,
    trained: bool = False,
) -> DistilBertForQuestionAnswering:
    """Load a DistilBertForQuestionAnswering in float32, whatever type it was stored in.

    A DistilBERT checkpoint is loaded as it is. A BERT-shaped one is moved exactly into DistilBERT's
    architecture: layers are renamed, and row 0 of the token-type embeddings is added to every
    position embedding, so that the hidden states stay the same up to rounding. A
    question-answering head is kept when there is one; otherwise a new one is drawn from torch's
    random numbers.

    Args:
        pretrained: see `resolve`.
        sha256: the digest that the weight file must have, in hexadecimal.
        changes: values of DistilBertConfig that take the place of the checkpoint's own, such as
            dropout rates.
        trained: refuse a source without a question-answering head.

    Returns:
        The model; where the source has a tuned null threshold, `model.config.null_threshold` is it.

    Raises:
        UserError: the source is not there, of another architecture, incomplete, or its weights
            have another digest, cannot be read as plain tensors, or lack the head asked for.
    """
    folder = resolve(pretrained)
    source = read_config(folder)
    kind = source.get("model_type")
    if kind not in _IGNORED:
        raise UserError(
            f"{folder / 'config.json'}: model_type {kind!r} is not supported. "
            f"Accepted are {ACCEPTED}."
        )
    if kind == "bert":
        config = _distilbert_config_of_bert(source, folder)
    else:
        config = {key: source[key] for key in _CONFIG_KEYS if key in source}

    weights_file = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights_file is None:
        raise UserError(f"{folder} holds no weights: neither {' nor '.join(_WEIGHTS)}.")
    if sha256 is not None:
        _check_digest(weights_file, sha256)
    weights = _read_weights(weights_file, kind)
    if trained and not any(name.startswith("qa_outputs.") for name in weights):
        raise UserError(
            f"{weights_file} has no question-answering head: this model was not trained to answer. "
            f"Train it: python -m qa_lightning fit --model.pretrained {pretrained}"
        )
    if kind == "bert":
        weights = _distilbert_weights_of_bert(weights, weights_file)

    config.update(changes or {})
    model = _new_model(config, where=str(folder / "config.json"))
    _fill(model, weights, weights_file)
    threshold = read_null_threshold(source, str(folder / "config.json"))
    if threshold is not None:
        setattr(model.config, NULL_THRESHOLD, threshold)
    return model


def build_encoder(config: Mapping[str, Any]) -> DistilBertForQuestionAnswering:
    """Build a DistilBertForQuestionAnswering with random weights, in float32.

    Args:
        config: keys of DistilBertConfig, such as `dim`, `n_layers` or `vocab_size`; those left out
            have DistilBERT-base's values. What `encoder_config` gives is accepted.

    Raises:
        UserError: an unknown key, or a value that makes no model.
    """
    return _new_model(config, where="the encoder's configuration")


def encoder_config(model: DistilBertForQuestionAnswering) -> dict[str, Any]:
    """Describe a model's architecture in plain values, as `build_encoder` takes it."""
    return {key: getattr(model.config, key) for key in _CONFIG_KEYS}


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no config.json: it is not a model's folder.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a model's configuration: it holds no JSON object.")
    return config


def read_null_threshold(config: Mapping[str, Any], where: str) -> float | None:
    """The tuned null threshold of a configuration, None if it has none.

    Args:
        config: see `read_config`.
        where: the file, for the message.

    Raises:
        UserError: it is not a number.
    """
    threshold = config.get(NULL_THRESHOLD)
    if threshold is None:
        return None
    if not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise UserError(f"{where}: {NULL_THRESHOLD} must be a number, not {threshold!r}")
    return float(threshold)


def _distilbert_config_of_bert(bert: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Translate a BERT configuration, refusing what DistilBERT's architecture cannot express."""
    demands = {  # key: (what it must be, what transformers assumes when it is missing)
        "hidden_act": ("gelu", "gelu"),
        "position_embedding_type": ("absolute", "absolute"),
        "layer_norm_eps": (1e-12, 1e-12),
        "is_decoder": (False, False),
        "add_cross_attention": (False, False),
    }
    for key, (demanded, default) in demands.items():
        if bert.get(key, default) != demanded:
            raise UserError(
                f"{folder / 'config.json'}: {key} is {bert[key]!r}, but a BERT moved into "
                f"DistilBERT's architecture must have {demanded!r}. Choose another encoder."
            )
    names = {
        "vocab_size": "vocab_size",
        "max_position_embeddings": "max_position_embeddings",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
    }
    missing = [key for key in names if key not in bert]
    if missing:
        raise UserError(f"{folder / 'config.json'} lacks {', '.join(missing)}.")
    optional = {
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "initializer_range": "initializer_range",
        "pad_token_id": "pad_token_id",
    }
    return {ours: bert[theirs] for theirs, ours in (names | optional).items() if theirs in bert}


def _check_digest(path: Path, expected: str) -> None:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", expected):
        raise UserError(f"{expected!r} is not a SHA-256 digest: it has 64 hexadecimal digits.")
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected.lower():
        raise UserError(
            f"{path} has other content than expected.\n"
            f"  SHA-256 expected: {expected.lower()}\n"
            f"  SHA-256 found:    {actual}\n"
            "Fetch the file again, or change the digest if you meant to use these weights."
        )


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
        short = str(name).removeprefix(f"{prefix}.")
        # Checkpoints converted from TensorFlow name LayerNorm's parameters as TensorFlow does.
        short = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", short)
        short = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", short)
        if not _IGNORED[prefix].fullmatch(short):
            weights[short] = tensor.float()
    return weights


def _distilbert_weights_of_bert(bert: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename a BERT's weights and fold its token types into its positions.

    A question-answering DistilBERT has no token types: every token has type 0 (MiniLM and BERT see
    them so whenever none are given). BERT adds word, type and position embeddings, so adding row 0
    of the type embeddings, [types, dim], to each row of the position embeddings,
    [positions, dim], gives the same sum.
    """
    types = bert.pop("embeddings.token_type_embeddings.weight", None)
    positions = bert.get("embeddings.position_embeddings.weight")
    if types is None or positions is None or types.shape[1:] != positions.shape[1:]:
        raise UserError(f"{path} lacks BERT's token-type or position embeddings.")
    bert["embeddings.position_embeddings.weight"] = positions + types[0]
    weights = {}
    for name, tensor in bert.items():
        for pattern, replacement in _BERT_TO_DISTILBERT:
            name = re.sub(pattern, replacement, name)
        weights[name] = tensor
    return weights


def _new_model(config: Mapping[str, Any], where: str) -> DistilBertForQuestionAnswering:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import DistilBertConfig, DistilBertForQuestionAnswering

    _check_keys(config, DistilBertConfig, where)
    if config.get("model_type", "distilbert") != "distilbert":
        raise UserError(f"{where}: model_type is {config['model_type']!r}, not 'distilbert'.")
    values = {key: value for key, value in config.items() if key != "model_type"}
    try:
        checked = DistilBertConfig(**values)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from error
    _check_values(checked, where)
    # float(): Lightning builds models under another default type when a precision asks for it.
    return DistilBertForQuestionAnswering(checked).float()


def _check_keys(
    config: Mapping[str, Any], config_class: type[DistilBertConfig], where: str
) -> None:
    for key in config:
        if key in _CONFIG_KEYS:
            continue
        close = difflib.get_close_matches(key, _CONFIG_KEYS)
        if key in config_class.attribute_map:  # BERT's name for the same thing
            close = [config_class.attribute_map[key]]
        advice = f"Did you mean {' or '.join(close)}?" if close else f"Known: {_CONFIG_KEYS}."
        raise UserError(f"{where}: unknown key {key!r}. {advice}")


def _check_values(config: DistilBertConfig, where: str) -> None:
    from transformers.activations import ACT2FN

    for key in _SIZES:
        if getattr(config, key) < 1:
            raise UserError(f"{where}: {key} is {getattr(config, key)}, it must be at least 1.")
    for key in ("dropout", "attention_dropout", "qa_dropout"):
        if not 0 <= getattr(config, key) < 1:
            raise UserError(f"{where}: {key} is {getattr(config, key)}, it must be in [0, 1).")
    if config.dim % config.n_heads:
        raise UserError(
            f"{where}: dim {config.dim} cannot be shared evenly among n_heads {config.n_heads}."
        )
    if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
        raise UserError(
            f"{where}: pad_token_id {config.pad_token_id} is not in a vocabulary of "
            f"vocab_size {config.vocab_size}."
        )
    if config.activation not in ACT2FN:
        raise UserError(f"{where}: unknown activation {config.activation!r}; DistilBERT has gelu.")


def _fill(model: DistilBertForQuestionAnswering, weights: dict[str, Tensor], path: Path) -> None:
    """Put the weights into the model; the head alone may be missing, and nothing may be left."""
    weights = {
        name if name.startswith("qa_outputs.") else f"distilbert.{name}": tensor
        for name, tensor in weights.items()
    }
    wanted = model.state_dict()
    head = {name for name in wanted if name.startswith("qa_outputs.")}
    missing = set(wanted) - set(weights)
    if missing == head:
        log.info("%s has no question-answering head: a new, random one is trained.", path)
        missing = set()
    wrong_shape = [
        f"{name} {list(weights[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    for complaint, names in (
        ("lacks weights that its config.json asks for", sorted(missing)),
        ("holds weights that have no place in the model", sorted(set(weights) - set(wanted))),
        ("holds weights of other shapes than its config.json says", wrong_shape),
    ):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise UserError(
                f"{path} {complaint}: {', '.join(names[:4])}{more}. "
                "Is it a complete model, and are the weights and config.json of one kind?"
            )
    model.load_state_dict(weights, strict=False)


# ---- The tokenizer -----------------------------------------------------------------------------


def load_tokenizer(source: str) -> FastTokenizer:
    """Load the fast tokenizer of a source, ready to go with a DistilBERT.

    It neither truncates nor pads unless asked to, whatever settings came with it, gives no token
    types, and its `model_max_length` is the number of positions of the model beside it.

    Args:
        source: see `resolve`.

    Raises:
        UserError: there is no tokenizer, no fast one, or it has no [CLS], [SEP] or [PAD] token.
    """
    folder = resolve(source)
    return _open_tokenizer(folder, where=str(folder))


def tokenizer_files(tokenizer: FastTokenizer) -> dict[str, str]:
    """Give a tokenizer as the text of its files, by file name, to carry it in a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {
            name: (Path(folder) / name).read_text(encoding="utf-8")
            for name in ("tokenizer.json", "tokenizer_config.json")
        }


def restore_tokenizer(files: Mapping[str, str]) -> FastTokenizer:
    """Make the tokenizer that `tokenizer_files` described.

    Raises:
        UserError: the files are incomplete or are not a tokenizer's.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if name not in files:
                raise UserError(f"The checkpoint's tokenizer lacks {name}: it is not ours.")
            (Path(folder) / name).write_text(files[name], encoding="utf-8")
        return _open_tokenizer(Path(folder), where="the checkpoint's tokenizer")


def check_vocabulary(model: DistilBertForQuestionAnswering, tokenizer: FastTokenizer) -> None:
    """Raise UserError when the tokenizer has ids for which the model has no embedding."""
    ids = max(tokenizer.get_vocab().values()) + 1
    rows = model.distilbert.embeddings.word_embeddings.num_embeddings
    if ids > rows:
        raise UserError(
            f"The tokenizer has ids up to {ids - 1}, but the model has embeddings for {rows} "
            "tokens only: they do not belong together. Take both from one place."
        )


def _open_tokenizer(folder: Path, where: str) -> FastTokenizer:
    from transformers import (
        AutoTokenizer,
        BertTokenizer,
        DistilBertTokenizer,
        PreTrainedTokenizerFast,
    )

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UserError(f"{where} holds no tokenizer: neither tokenizer.json nor vocab.txt.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if type(tokenizer) is BertTokenizer:  # the same, but for the token types
            tokenizer = DistilBertTokenizer.from_pretrained(folder)
    except Exception as error:  # the Rust library raises bare Exception for a bad file
        raise UserError(f"{where}: the tokenizer cannot be loaded: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"{where}: {type(tokenizer).__name__} is not a fast tokenizer, which alone knows the "
            "characters that each token stands for. Use an encoder with tokenizer.json."
        )
    for name in ("cls_token", "sep_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            raise UserError(f"{where}: the tokenizer has no {name}, which windows are made with.")

    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.name_or_path = ""
    # Saved with the tokenizer otherwise: the settings just cleared, and how it came here.
    for name in (
        "max_length",
        "stride",
        "truncation_strategy",
        "pad_to_multiple_of",
        "pad_token_type_id",
        "is_local",
        "local_files_only",
    ):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    if (folder / "config.json").is_file():
        positions = read_config(folder).get("max_position_embeddings", 512)
        tokenizer.model_max_length = int(positions)
    elif tokenizer.model_max_length > 1_000_000:  # transformers' stand-in for "not said"
        tokenizer.model_max_length = 512
    return tokenizer
