"""The fast tokenizer that belongs to an encoder: loaded, carried in a checkpoint, checked."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qa_lightning.errors import UserError
from qa_lightning.model.encoder import max_positions
from qa_lightning.model.pretrained import read_config, resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers import PreTrainedTokenizerFast as FastTokenizer

WITHOUT_TYPES = ["input_ids", "attention_mask"]
"""What a tokenizer gives to a model that takes no token types."""

FILES = ("tokenizer.json", "tokenizer_config.json")
"""The files that make a fast tokenizer."""


def load_tokenizer(source: str) -> FastTokenizer:
    """Load the fast tokenizer of a source, ready for use.

    It neither truncates nor pads unless asked to, whatever settings came with it, gives no token
    types to a DistilBERT, and its `model_max_length` is what fits the model beside it.

    Raises:
        UserError: there is no tokenizer, no fast one, or it has no [CLS], [SEP] or [PAD] token.
    """
    folder = resolve(source)
    return _open(folder, where=str(folder))


def tokenizer_files(tokenizer: FastTokenizer, *, token_types: bool = True) -> dict[str, str]:
    """Give a tokenizer as the text of its files, by file name, to carry it in a checkpoint.

    Without `token_types` it gives none, as a model needs that takes none.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {name: Path(folder, name).read_text(encoding="utf-8") for name in FILES}
    if not token_types:
        config = json.loads(files["tokenizer_config.json"])
        config["model_input_names"] = WITHOUT_TYPES
        if config.get("tokenizer_class") == "BertTokenizer":  # the same, but for the token types
            config["tokenizer_class"] = "DistilBertTokenizer"
        files["tokenizer_config.json"] = json.dumps(config, indent=2, ensure_ascii=False)
    return files


def restore_tokenizer(files: Mapping[str, str]) -> FastTokenizer:
    """Make the tokenizer that `tokenizer_files` described.

    Raises:
        UserError: the files are incomplete or are not a tokenizer's.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in FILES:
            if name not in files:
                raise UserError(f"The checkpoint's tokenizer lacks {name}: it is not ours.")
            (folder / name).write_text(files[name], encoding="utf-8")
        return _open(folder, where="the checkpoint's tokenizer")


def check_vocabulary(model: PreTrainedModel, tokenizer: FastTokenizer) -> None:
    """Raise UserError when the tokenizer has ids for which the model has no embedding."""
    ids = max(tokenizer.get_vocab().values()) + 1
    rows: Any = model.get_input_embeddings().num_embeddings
    if ids > rows:
        raise UserError(
            f"The tokenizer has ids up to {ids - 1}, but the model has embeddings for {rows} "
            "tokens only: they do not belong together. Take both from one place."
        )


def _open(folder: Path, where: str) -> FastTokenizer:
    import transformers

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UserError(f"{where} holds no tokenizer: neither tokenizer.json nor vocab.txt.")
    config = read_config(folder) if (folder / "config.json").is_file() else {}
    kind = config.get("model_type")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if kind == "distilbert" and type(tokenizer) is transformers.BertTokenizer:
            tokenizer = transformers.DistilBertTokenizer.from_pretrained(folder)
    except Exception as error:  # the Rust library raises bare Exception for a bad file
        raise UserError(f"{where}: the tokenizer cannot be loaded: {error}") from error
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        raise UserError(
            f"{where}: {type(tokenizer).__name__} is not a fast tokenizer, and only these know "
            "the characters of each token. Use an encoder with tokenizer.json."
        )
    for name in ("cls_token", "sep_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            raise UserError(f"{where}: the tokenizer has no {name}, which windows are made with.")
    _clear_settings(tokenizer, types=kind != "distilbert")
    if config:
        tokenizer.model_max_length = max_positions(config)
    elif tokenizer.model_max_length > 1_000_000:  # transformers' value for "unknown"
        tokenizer.model_max_length = 512
    return tokenizer


def _clear_settings(tokenizer: FastTokenizer, types: bool) -> None:
    """Clear truncation, padding and order, also in what the tokenizer saves of itself."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    has_types = types and "token_type_ids" in tokenizer.model_input_names
    tokenizer.model_input_names = [*WITHOUT_TYPES, *(["token_type_ids"] if has_types else [])]
    tokenizer.name_or_path = ""
    saved = tokenizer.init_kwargs
    for name in """max_length stride truncation_strategy pad_to_multiple_of pad_token_type_id
    is_local local_files_only""".split():
        saved.pop(name, None)
    saved["model_input_names"] = tokenizer.model_input_names
