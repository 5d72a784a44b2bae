"""The encoder: loaded as it is in float32, or refused with a reason."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertModel,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedModel,
)

from qa_lightning.errors import UserError
from qa_lightning.model.encoder import build_encoder, encoder_config, load_encoder
from qa_lightning.model.tokenizer import check_vocabulary, load_tokenizer
from tests.helpers.encoders import (
    IDS,
    MASK,
    TINY,
    edit_config,
    hidden,
    randomised,
    tiny_bert,
    tiny_distilbert,
)

# ---- DistilBERT checkpoints


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_distilbert_is_loaded_as_it_is_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    original = randomised(DistilBertModel(tiny_distilbert())).to(dtype)
    original.save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(hidden(loaded.distilbert), hidden(original.float()))


def test_missing_head_is_drawn_from_torch_random_numbers(distilbert: Path) -> None:
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(load_encoder(str(distilbert)).qa_outputs.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert heads[0].std() > 0


def test_default_dtype_of_torch_does_not_matter(distilbert: Path) -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        loaded, built = load_encoder(str(distilbert)), build_encoder(TINY)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for m in (loaded, built) for p in m.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", [DistilBertForMaskedLM, DistilBertForSequenceClassification])
def test_heads_of_other_tasks_are_left_out(tmp_path: Path, kind: type[PreTrainedModel]) -> None:
    original = randomised(kind(tiny_distilbert(num_labels=5)))
    original.save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path))
    assert torch.equal(hidden(loaded.distilbert), hidden(original.distilbert))
    assert loaded.qa_outputs.out_features == 2


def test_question_answering_head_is_kept_and_logits_survive_save(tmp_path: Path) -> None:
    original = randomised(DistilBertForQuestionAnswering(tiny_distilbert()))
    original.save_pretrained(tmp_path / "a")
    loaded = load_encoder(str(tmp_path / "a"))
    loaded.save_pretrained(tmp_path / "b")
    again = DistilBertForQuestionAnswering.from_pretrained(tmp_path / "b").eval()
    with torch.no_grad():
        wanted = original(input_ids=IDS, attention_mask=MASK)
        for model in (loaded.eval(), again):
            got = model(input_ids=IDS, attention_mask=MASK)
            assert torch.equal(got.start_logits, wanted.start_logits)
            assert torch.equal(got.end_logits, wanted.end_logits)


def test_loading_says_nothing_on_the_console(
    distilbert: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load_encoder(str(distilbert))
    assert capfd.readouterr() == ("", "")


def test_torch_weights_are_read_and_safetensors_preferred(distilbert: Path) -> None:
    weights = load_file(distilbert / "model.safetensors")
    torch.save({k: v + 1 for k, v in weights.items()}, distilbert / "pytorch_model.bin")
    name = "embeddings.word_embeddings.weight"
    preferred = load_encoder(str(distilbert)).distilbert.state_dict()[name]
    assert torch.equal(preferred, weights[name])
    (distilbert / "model.safetensors").unlink()
    other = load_encoder(str(distilbert)).distilbert.state_dict()[name]
    assert torch.equal(other, weights[name] + 1)


# ---- Refused folders and files


@pytest.mark.parametrize("kind", ["roberta", "electra", "albert", None])
def test_weights_of_another_architecture_are_refused(distilbert: Path, kind: str | None) -> None:
    edit_config(distilbert, model_type=kind)
    problem = "does not fit its config.json" if kind else "model_type None is not supported"
    with pytest.raises(UserError, match=problem):
        load_encoder(str(distilbert))


@pytest.mark.parametrize("bert", [True, False])
def test_missing_encoder_weights_are_never_made_up(tmp_path: Path, bert: bool) -> None:
    model = BertModel(tiny_bert()) if bert else DistilBertModel(tiny_distilbert())
    model.save_pretrained(tmp_path)
    complete = load_file(tmp_path / "model.safetensors")
    for name in complete:
        if name.startswith("pooler."):
            continue
        rest = {k: v for k, v in complete.items() if k != name}
        save_file(rest, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match="model.safetensors (does not fit.*Missing key|lacks)"):
            load_encoder(str(tmp_path))


def test_half_a_head_unknown_weights_and_wrong_shapes_are_refused(distilbert: Path) -> None:
    path = distilbert / "model.safetensors"
    weights = load_file(path)
    position = "embeddings.position_embeddings.weight"
    for changes, message in (
        ({"qa_outputs.bias": torch.zeros(2)}, "Missing key.*qa_outputs.weight"),
        ({"adapter.weight": torch.zeros(2)}, "Unexpected key.*adapter.weight"),
        (
            {position: torch.zeros(31, 16)},
            r"size mismatch .*position_embeddings.weight: .*\[31, 16\]",
        ),
    ):
        save_file(weights | changes, path)
        with pytest.raises(UserError, match=message):
            load_encoder(str(distilbert))


def test_pickled_code_is_refused_and_does_not_run(distilbert: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(trace),)

    (distilbert / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Payload()}, distilbert / "pytorch_model.bin")
    with pytest.raises(UserError, match="run code"):
        load_encoder(str(distilbert))
    assert not trace.exists()
    torch.load(distilbert / "pytorch_model.bin", weights_only=False)
    assert trace.exists(), "the payload was not armed"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_weights(distilbert: Path, name: str, share: float) -> None:
    weights = load_file(distilbert / "model.safetensors")
    (distilbert / "model.safetensors").unlink()
    path = distilbert / name
    save_file(weights, path) if name.endswith("safetensors") else torch.save(weights, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=name):
        load_encoder(str(distilbert))


def test_folder_without_weights_or_config(distilbert: Path) -> None:
    (distilbert / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        load_encoder(str(distilbert))
    (distilbert / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read as JSON"):
        load_encoder(str(distilbert))
    (distilbert / "config.json").unlink()
    with pytest.raises(UserError, match="holds no config.json"):
        load_encoder(str(distilbert))


def test_digest_of_the_weights(distilbert: Path) -> None:
    digest = hashlib.sha256((distilbert / "model.safetensors").read_bytes()).hexdigest()
    load_encoder(str(distilbert), sha256=digest.upper())
    with pytest.raises(UserError, match=f"expected: {'0' * 64}\n.*found: +{digest}"):
        load_encoder(str(distilbert), sha256="0" * 64)
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        load_encoder(str(distilbert), sha256="abc")


# ---- From a configuration


def test_config_round_trip_is_plain_json() -> None:
    model = build_encoder(TINY | {"dropout": 0.2, "activation": "relu"})
    described = encoder_config(model)
    assert json.loads(json.dumps(described)) == described
    assert described.items() >= (TINY | {"dropout": 0.2, "activation": "relu"}).items()
    again = build_encoder(described)
    assert encoder_config(again) == described
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_layer": 2}, "unknown key 'n_layer'. Did you mean n_layers"),
        ({"hidden_size": 2}, "unknown key 'hidden_size'. Did you mean dim?"),
        ({"zzz": 2}, "unknown key 'zzz'. Known:"),
        ({"dim": "16"}, "dim"),
        ({"dim": 15}, "n_heads 2 must divide config.dim 15 evenly"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ({"pad_token_id": 1000}, "Padding_idx must be within num_embeddings"),
        ({"activation": "gelo"}, "function gelo not found"),
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported, it is a decoder"),
    ],
)
def test_bad_config(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_encoder(TINY | config)
    told = str(caught.value)
    assert message in told and "\n" not in told and "configuration" in told


# ---- The real thing


def test_real_encoder(shared: Path) -> None:
    source = str(shared / "encoders" / "minilm-l6")
    model, tokenizer = load_encoder(source).eval(), load_tokenizer(source)
    check_vocabulary(model, tokenizer)
    assert {p.dtype for p in model.parameters()} == {torch.float32}

    def meaning(text: str) -> torch.Tensor:
        with torch.no_grad():
            states = model.distilbert(**tokenizer(text, return_tensors="pt")).last_hidden_state
        return torch.nn.functional.normalize(states.mean(dim=1), dim=1)[0]

    question = meaning("Who built the tower?")
    assert question @ meaning("The tower was constructed by an engineer.") > 0.5
    assert question @ meaning("Bananas are rich in potassium.") < 0.2
