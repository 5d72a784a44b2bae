"""Every family of encoders: loaded, restored, used and exported as transformers has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from qa_lightning.data.batches import Batch, WindowDataset
from qa_lightning.data.sampler import WindowSampler
from qa_lightning.data.squad import read_squad
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import Windows, make_windows
from qa_lightning.errors import UserError
from qa_lightning.model.encoder import build_encoder, encoder_config, load_encoder
from qa_lightning.model.logits import PACKING, packed_logits, padded_logits, prepare_encoder
from qa_lightning.model.tokenizer import load_tokenizer, restore_tokenizer, tokenizer_files
from tests.helpers.families import FAMILIES, save_family

SETTINGS = WindowSettings(300, 8, 64)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(family, tmp_path_factory.mktemp(family))


@pytest.fixture
def windows(folder: Path, squad_files: dict[str, Path]) -> Windows:
    return make_windows(read_squad(squad_files["val"]), load_tokenizer(str(folder)), SETTINGS)


def batch_of(windows: Windows, **more: Any) -> Batch:
    return WindowDataset(windows, with_offsets=False, **more)[list(range(0, len(windows), 5))]


def test_logits_are_those_of_the_plain_model(folder: Path, windows: Windows) -> None:
    plain = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    encoder = prepare_encoder(load_encoder(str(folder), trained=True)).eval()
    batch = batch_of(windows)
    texts = windows.questions["text"].to_pylist(), windows.contexts["text"].to_pylist()
    tokenizer = load_tokenizer(str(folder))
    with torch.inference_mode():
        found = padded_logits(encoder, batch.input_ids, batch.attention_mask, batch.token_type_ids)
        for row, window in enumerate(range(0, len(windows), 5)):
            if windows.index[window] == 0 and windows.context_length[window] == len(
                tokenizer(texts[1][windows.context[window]], add_special_tokens=False)["input_ids"]
            ):
                pair = texts[0][windows.question[window]], texts[1][windows.context[window]]
                output = plain(**tokenizer(*pair, return_tensors="pt"))
                wanted = torch.stack([output.start_logits[0], output.end_logits[0]], 1)
                assert torch.allclose(found[row, : len(wanted)], wanted, atol=1e-5)
                assert found[row, len(wanted) :].isneginf().all()
                return
    raise AssertionError("no context fits a window")


def test_a_model_is_restored_from_its_description(folder: Path) -> None:
    loaded = load_encoder(str(folder))
    again = build_encoder(encoder_config(loaded))
    again.load_state_dict(loaded.state_dict())
    assert encoder_config(again) == encoder_config(loaded)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    tokenizer = load_tokenizer(str(folder))
    restored = restore_tokenizer(tokenizer_files(tokenizer))
    assert (
        restored("the old bridge?", "it's 12.5%")["input_ids"]
        == (tokenizer("the old bridge?", "it's 12.5%")["input_ids"])
    )
    assert restored.model_input_names == tokenizer.model_input_names


def test_no_weight_but_the_heads_is_made_up(family: str, tmp_path: Path) -> None:
    save_family(family, tmp_path, head=False)
    first = load_encoder(str(tmp_path))
    saved = transformers.AutoModel.from_pretrained(tmp_path).state_dict()
    base = first.base_model.state_dict()
    assert all(torch.equal(base[name], saved[name]) for name in base)
    with pytest.raises(UserError, match="no question-answering head"):
        load_encoder(str(tmp_path), trained=True)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    lost = next(name for name in weights if name.endswith("weight") and "embed" in name)
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, file)
    with pytest.raises(UserError, match=r"does not fit its config\.json"):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("family", PACKING, scope="module")
@pytest.mark.parametrize("backend", ["pad", "loop"])
def test_packed_windows_have_the_logits_of_padded_ones(
    folder: Path, windows: Windows, backend: Any
) -> None:
    encoder = prepare_encoder(load_encoder(str(folder))).eval()
    row_tokens = WindowSampler(windows.lengths, 8, order="packed").row_tokens
    batch = batch_of(windows, row_tokens=row_tokens)
    assert batch.packing is not None and batch.attention_mask is not None
    parts = batch.input_ids, batch.attention_mask, batch.token_type_ids
    with torch.inference_mode():
        padded = padded_logits(encoder, *parts)
        packed = packed_logits(encoder, *parts, batch.packing, backend, encoder)
    assert torch.equal(padded.isneginf(), packed.isneginf())
    assert torch.allclose(padded, packed, atol=1e-4)


def test_windows_of_roberta_are_as_long_as_its_positions_allow(tmp_path: Path) -> None:
    folder = save_family("roberta", tmp_path)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.model_max_length == 512
    encoder = prepare_encoder(load_encoder(str(folder))).eval()
    ids = torch.full((1, 512), 10)
    assert padded_logits(encoder, ids, torch.ones_like(ids).bool()).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gpt2", "is a decoder"),
        ("t5", "encoder-decoder"),
        ("vit", "no question-answering model"),
        (None, "no question-answering model"),
    ],
)
def test_what_is_no_encoder_is_refused_by_name(kind: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        build_encoder({"model_type": kind})
    assert "roberta" in str(refusal.value)


def test_dropout_rates_are_set_whatever_they_are_called(folder: Path) -> None:
    encoder = load_encoder(str(folder), dropout=0.25, attention_dropout=0.125)
    rates = {key: rate for key, rate in vars(encoder.config).items() if "dropout" in key}
    assert {0.25, 0.125} <= set(rates.values())
    assert all(
        rate == (0.125 if key.startswith("att") else 0.25)
        for key, rate in rates.items()
        if "classif" not in key
    )
