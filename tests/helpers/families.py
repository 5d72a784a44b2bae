"""Tiny random models of the encoder families, with small tokenizers trained on made-up text."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from tokenizers import ByteLevelBPETokenizer, SentencePieceUnigramTokenizer

from tests.helpers.data import TINY_VOCABULARY, squad_data

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
DISTILBERT = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}


@functools.cache
def _texts() -> list[str]:
    contexts = [
        paragraph["context"]
        for article in squad_data(12)["data"]
        for paragraph in article["paragraphs"]
    ]
    return [*contexts, "Été à Zürich: “it's 12.5%”, (they've said) naïve 東京 e\u0301 😀!"] * 3


@functools.cache
def _byte_level() -> tuple[dict[str, int], list[str]]:
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        _texts(), 600, min_frequency=2, special_tokens=[*specials, "[MASK]"], show_progress=False
    )
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


@functools.cache
def _unigram(*specials: str) -> list[tuple[str, float]]:
    trained = SentencePieceUnigramTokenizer()
    unknown = next(token for token in specials if "unk" in token.lower())
    trained.train_from_iterator(
        _texts(), 300, special_tokens=list(specials), unk_token=unknown, show_progress=False
    )
    return [tuple(piece) for piece in json.loads(trained.to_str())["model"]["vocab"]]


def _word_piece(kind: Any) -> Any:
    vocabulary = [*TINY_VOCABULARY, "<s>", "</s>", "<pad>", "<mask>"]
    return kind(vocab={token: number for number, token in enumerate(vocabulary)})


def _bpe(kind: Any) -> Any:
    vocab, merges = _byte_level()
    return kind(vocab=vocab, merges=merges)


_SPECIALS = ("[CLS]", "[SEP]", "<unk>", "<pad>", "<mask>", "[PAD]", "[MASK]", "[UNK]")

# By model_type: its configuration, what differs from SIZES in it, and its tokenizer.
FAMILIES: dict[str, tuple[str, dict[str, Any], Callable[[], Any]]] = {
    "distilbert": ("DistilBert", {}, lambda: _word_piece(transformers.DistilBertTokenizer)),
    "bert": ("Bert", {}, lambda: _word_piece(transformers.BertTokenizer)),
    "electra": (
        "Electra",
        {"embedding_size": 16},
        lambda: _word_piece(transformers.ElectraTokenizer),
    ),
    "mpnet": (
        "MPNet",
        {"max_position_embeddings": 514},
        lambda: _word_piece(transformers.MPNetTokenizer),
    ),
    "mobilebert": (
        "MobileBert",
        # Without LayerNorms its hidden states would grow beyond what float32 holds exactly.
        {
            "embedding_size": 16,
            "true_hidden_size": 16,
            "intra_bottleneck_size": 16,
            "normalization_type": "layer_norm",
            "initializer_range": 0.1,
        },
        lambda: _word_piece(transformers.MobileBertTokenizer),
    ),
    "roberta": (
        "Roberta",
        {"max_position_embeddings": 514},
        lambda: _bpe(transformers.RobertaTokenizer),
    ),
    "longformer": (
        "Longformer",
        {"max_position_embeddings": 514, "attention_window": 16},
        lambda: _bpe(transformers.LongformerTokenizer),
    ),
    "deberta": (
        "Deberta",
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
        lambda: _bpe(transformers.DebertaTokenizer),
    ),
    "modernbert": (
        "ModernBert",
        {"global_attn_every_n_layers": 2, "local_attention": 16},
        lambda: _modernbert_tokenizer(),
    ),
    "camembert": (
        "Camembert",
        {"max_position_embeddings": 514},
        lambda: transformers.CamembertTokenizer(
            vocab=_unigram("<s>", "<pad>", "</s>", "<unk>", "<mask>")
        ),
    ),
    "xlm-roberta": (
        "XLMRoberta",
        {"max_position_embeddings": 514},
        lambda: transformers.XLMRobertaTokenizer(
            vocab=_unigram("<s>", "<pad>", "</s>", "<unk>", "<mask>")
        ),
    ),
    "albert": (
        "Albert",
        {"embedding_size": 16},
        lambda: transformers.AlbertTokenizer(vocab=_unigram(*_SPECIALS)),
    ),
    "big_bird": (
        "BigBird",
        {"attention_type": "original_full"},
        lambda: transformers.BigBirdTokenizer(
            vocab=_unigram("<pad>", "</s>", "<s>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
        ),
    ),
    "deberta-v2": (
        "DebertaV2",
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
        lambda: transformers.DebertaV2Tokenizer(
            vocab=_unigram("[PAD]", "[UNK]", *_SPECIALS[:2], "[MASK]")
        ),
    ),
}


def _modernbert_tokenizer() -> Any:
    """Its tokenizer has no class of its own: a byte-level BPE with BERT's special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocab, merges = _byte_level()
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    backend.decoder = decoders.ByteLevel()
    specials = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=specials,
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")},
        model_input_names=["input_ids", "attention_mask"],
    )


@functools.cache
def tokenizer_of(family: str) -> Any:
    return FAMILIES[family][2]()


def save_family(family: str, folder: Path, *, head: bool = True, seed: int = 0) -> Path:
    """Save a tiny random model of a family, with its tokenizer; without its head if asked."""
    import torch

    name, more, _ = FAMILIES[family]
    tokenizer = tokenizer_of(family)
    sizes = DISTILBERT if family == "distilbert" else SIZES
    config = getattr(transformers, f"{name}Config")(
        **{"initializer_range": 0.5}
        | sizes
        | more
        | {"vocab_size": max(tokenizer.get_vocab().values()) + 1}
        | {
            f"{key}_token_id": getattr(tokenizer, f"{key}_token_id")
            for key in ("pad", "bos", "eos")
        }
    )
    torch.manual_seed(seed)
    kind = f"{name}ForQuestionAnswering" if head else f"{name}Model"
    model = getattr(transformers, kind)(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
