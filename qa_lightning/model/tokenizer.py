"""The fast tokenizer that belongs to an encoder: loaded, carried in a checkpoint, checked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qa_lightning.errors import UserError
from qa_lightning.model.pretrained import read_config, resolve

if TYPE_CHECKING:
    from transformers import DistilBertForQuestionAnswering
    from transformers import PreTrainedTokenizerFast as FastTokenizer

FILES = ("tokenizer.json", "tokenizer_config.json")
"""The files that make a fast tokenizer."""


def load_tokenizer(source: str) -> FastTokenizer:
    """Load the fast tokenizer of a source, ready for use with a DistilBERT.

    It neither truncates nor pads unless asked to, whatever settings came with it, gives no token
    types, and its `model_max_length` is the number of positions of the model beside it.

    Raises:
        UserError: there is no tokenizer, no fast one, or it has no [CLS], [SEP] or [PAD] token.
    """
    folder = resolve(source)
    return _open(folder, where=str(folder))


def tokenizer_files(tokenizer: FastTokenizer) -> dict[str, str]:
    """Give a tokenizer as the text of its files, by file name, to carry it in a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {name: Path(folder, name).read_text(encoding="utf-8") for name in FILES}


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


def check_vocabulary(model: DistilBertForQuestionAnswering, tokenizer: FastTokenizer) -> None:
    """Raise UserError when the tokenizer has ids for which the model has no embedding."""
    ids = max(tokenizer.get_vocab().values()) + 1
    rows = model.distilbert.embeddings.word_embeddings.num_embeddings
    if ids > rows:
        raise UserError(
            f"The tokenizer has ids up to {ids - 1}, but the model has embeddings for {rows} "
            "tokens only: they do not belong together. Take both from one place."
        )


def _open(folder: Path, where: str) -> FastTokenizer:
    import transformers

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise UserError(f"{where} holds no tokenizer: neither tokenizer.json nor vocab.txt.")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if type(tokenizer) is transformers.BertTokenizer:  # the same, but for the token types
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
    _clear_settings(tokenizer)
    if (folder / "config.json").is_file():
        tokenizer.model_max_length = int(read_config(folder).get("max_position_embeddings", 512))
    elif tokenizer.model_max_length > 1_000_000:  # transformers' value for "unknown"
        tokenizer.model_max_length = 512
    return tokenizer


def _clear_settings(tokenizer: FastTokenizer) -> None:
    """Clear truncation, padding and token types, also in what the tokenizer saves of itself."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.name_or_path = ""
    saved = tokenizer.init_kwargs
    for name in """max_length stride truncation_strategy pad_to_multiple_of pad_token_type_id
    is_local local_files_only""".split():
        saved.pop(name, None)
    saved["model_input_names"] = tokenizer.model_input_names
