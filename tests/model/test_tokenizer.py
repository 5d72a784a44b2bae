"""The tokenizer: its settings cleared, carried as text, refused if it cannot make windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertModel, BertTokenizer

from qa_lightning.errors import UserError
from qa_lightning.model.encoder import load_encoder
from qa_lightning.model.tokenizer import (
    check_vocabulary,
    load_tokenizer,
    restore_tokenizer,
    tokenizer_files,
)
from tests.helpers.encoders import WORDS, tiny_bert, tiny_distilbert, write_vocabulary


def encodings(tokenizer: object) -> list[object]:
    texts = ["The Tower was built in Paris, by eiffel.", "paris 1889 ?", "été " * 50]
    plain = [tokenizer(t, return_offsets_mapping=True).data for t in texts]
    pairs = tokenizer("was built ?", texts[0], return_offsets_mapping=True)
    return [*plain, pairs.data, pairs.sequence_ids()]


@pytest.fixture
def settled(tmp_path: Path) -> Path:
    """A BERT's folder whose tokenizer came with truncation and padding, as MiniLM's did."""
    folder = tmp_path / "settled"
    BertModel(tiny_bert()).save_pretrained(folder)
    tokenizer = BertTokenizer.from_pretrained(write_vocabulary(tmp_path / "words"))
    tokenizer.backend_tokenizer.enable_truncation(max_length=8)
    tokenizer.backend_tokenizer.enable_padding(length=8)
    tokenizer.save_pretrained(folder)
    assert len(AutoTokenizer.from_pretrained(folder).backend_tokenizer.encode("the").ids) == 8
    return folder


def test_settings_that_came_with_a_tokenizer_are_cleared_for_good(
    settled: Path, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(settled))
    tokenizer.save_pretrained(tmp_path / "saved")
    tiny_distilbert().save_pretrained(tmp_path / "saved")
    for candidate in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / "saved")):
        assert candidate.backend_tokenizer.truncation is None
        assert candidate.backend_tokenizer.padding is None
        assert candidate.model_max_length == 32
        assert set(candidate("the")) == {"input_ids", "attention_mask", "token_type_ids"}
        assert candidate("the").input_ids == [2, 5, 3]
        assert len(candidate("the " * 20).input_ids) == 22
    saved = (tmp_path / "saved" / "tokenizer_config.json").read_text()
    assert str(tmp_path) not in saved
    assert not {"max_length", "local_files_only"} & set(json.loads(saved))


@pytest.mark.parametrize("lower", [True, False])
def test_tokenizer_travels_as_text(tmp_path: Path, lower: bool) -> None:
    folder = write_vocabulary(tmp_path / "cased")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": lower})
    )
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer("Paris").input_ids == [2, 10 if lower else 11, 3]
    tokenizer.add_tokens(["eiffel"])
    assert tokenizer("eiffel").input_ids == [2, len(WORDS), 3]
    files = tokenizer_files(tokenizer)
    assert set(files) == {"tokenizer.json", "tokenizer_config.json"}
    restored = restore_tokenizer(files)
    assert encodings(restored) == encodings(tokenizer)
    assert tokenizer_files(restored) == files
    assert restored.model_max_length == tokenizer.model_max_length == 512


def test_plain_fast_tokenizer_travels_too(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{n}_token": f"[{n.upper()}]" for n in ("unk", "cls", "sep", "pad")}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    restored = restore_tokenizer(tokenizer_files(tokenizer))
    assert tokenizer("the Paris").input_ids == [2, 5, 11, 3]
    assert encodings(restored) == encodings(tokenizer)
    assert set(restored("the")) == {"input_ids", "attention_mask"}


def test_tokenizer_without_separator_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", pad_token="[PAD]"
    ).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no sep_token"):
        load_tokenizer(str(tmp_path))


def test_absent_or_broken_tokenizer(distilbert: Path) -> None:
    (distilbert / "tokenizer.json").write_text('{"model": 3')
    with pytest.raises(UserError, match="tokenizer cannot be loaded"):
        load_tokenizer(str(distilbert))
    (distilbert / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="neither tokenizer.json nor vocab.txt"):
        load_tokenizer(str(distilbert))
    with pytest.raises(UserError, match="lacks tokenizer.json"):
        restore_tokenizer({})


def test_vocabulary_larger_than_the_model(distilbert: Path) -> None:
    model, tokenizer = load_encoder(str(distilbert)), load_tokenizer(str(distilbert))
    check_vocabulary(model, tokenizer)
    tokenizer.add_tokens(["eiffel"])
    with pytest.raises(UserError, match=f"ids up to {len(WORDS)}, .* for {len(WORDS)} tokens"):
        check_vocabulary(model, tokenizer)


def test_a_model_without_token_types_is_given_none(settled: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(settled))
    moved = restore_tokenizer(tokenizer_files(tokenizer, token_types=False))
    tiny_distilbert().save_pretrained(settled)
    for candidate in (moved, load_tokenizer(str(settled))):
        assert set(candidate("the")) == {"input_ids", "attention_mask"}
        assert type(candidate).__name__ == "DistilBertTokenizer"
        assert candidate("the", "was").input_ids == tokenizer("the", "was").input_ids
