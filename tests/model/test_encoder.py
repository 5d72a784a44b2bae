"""The encoder and its tokenizer: every kind of source, and every kind of bad one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedModel,
)

from qa_lightning.errors import UserError
from qa_lightning.model import encoder
from qa_lightning.model.encoder import (
    build_encoder,
    check_vocabulary,
    encoder_config,
    load_encoder,
    load_tokenizer,
    resolve,
    restore_tokenizer,
    tokenizer_files,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PLAIN = ["the", "tower", "was", "built", "in", "paris", "Paris", "1889", "##s", "##ing", ".", "?"]
WORDS = SPECIAL + PLAIN
TINY = {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 32,
    "n_layers": 2,
    "n_heads": 2,
    "dim": 16,
    "hidden_dim": 24,
}
TINY_BERT = {
    "vocab_size": len(WORDS),
    "max_position_embeddings": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
}
IDS = torch.tensor([[2, 5, 6, 16, 3, 5, 6, 7, 3], [2, 10, 16, 3, 9, 10, 3, 0, 0]])
MASK = (IDS != 0).long()


def randomised(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight random, LayerNorm and biases too, so that a lost one shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def tiny_distilbert(**changes: object) -> DistilBertConfig:
    return DistilBertConfig(**(TINY | changes))


def tiny_bert(**changes: object) -> BertConfig:
    return BertConfig(**(TINY_BERT | changes))


def write_vocabulary(folder: Path, words: list[str] = WORDS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def distilbert(tmp_path: Path) -> Path:
    """A folder with a tiny DistilBERT without a head, and its tokenizer."""
    folder = tmp_path / "distilbert"
    randomised(DistilBertModel(tiny_distilbert())).save_pretrained(folder)
    write_vocabulary(tmp_path / "vocabulary")
    BertTokenizer.from_pretrained(tmp_path / "vocabulary").save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def hidden(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        states = model.eval()(input_ids=IDS, attention_mask=MASK).last_hidden_state
    return states[MASK.bool()]


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


# ---- BERT-shaped checkpoints


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM, BertForQuestionAnswering])
def test_bert_becomes_a_distilbert_with_the_same_hidden_states(
    tmp_path: Path, kind: type[PreTrainedModel]
) -> None:
    torch.manual_seed(0)
    original = randomised(kind(tiny_bert()))
    original.save_pretrained(tmp_path)
    bert = getattr(original, "bert", original)
    assert bert.embeddings.token_type_embeddings.weight.abs().min() > 0
    loaded = load_encoder(str(tmp_path))
    assert (hidden(loaded.distilbert) - hidden(bert)).abs().max() < 1e-5
    if kind is BertForQuestionAnswering:
        with torch.no_grad():
            wanted = original(input_ids=IDS, attention_mask=MASK).start_logits
            got = loaded.eval()(input_ids=IDS, attention_mask=MASK).start_logits
        assert (got - wanted)[MASK.bool()].abs().max() < 1e-5


def test_bert_with_tensorflow_names_of_layer_norm(tmp_path: Path) -> None:
    original = randomised(BertModel(tiny_bert()))
    original.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    renamed = {
        "bert."
        + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v
        for k, v in weights.items()
    }
    save_file(renamed, tmp_path / "model.safetensors")
    loaded = load_encoder(str(tmp_path))
    assert (hidden(loaded.distilbert) - hidden(original)).abs().max() < 1e-5


def test_dropout_rates_of_bert_are_kept(tmp_path: Path) -> None:
    config = tiny_bert(hidden_dropout_prob=0.25, attention_probs_dropout_prob=0.35)
    BertModel(config).save_pretrained(tmp_path)
    loaded = load_encoder(str(tmp_path))
    assert (loaded.config.dropout, loaded.config.attention_dropout) == (0.25, 0.35)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "relu"),
        ("hidden_act", "gelu_new"),
        ("position_embedding_type", "relative_key"),
        ("layer_norm_eps", 1e-5),
        ("is_decoder", True),
    ],
)
def test_bert_that_distilbert_cannot_express_is_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    BertModel(tiny_bert()).save_pretrained(tmp_path)
    edit_config(tmp_path, **{key: value})
    with pytest.raises(UserError, match=f"{key} is {value!r}"):
        load_encoder(str(tmp_path))


# ---- Refused folders and files


@pytest.mark.parametrize("kind", ["roberta", "electra", "albert", None])
def test_other_architectures_are_refused(distilbert: Path, kind: str | None) -> None:
    edit_config(distilbert, model_type=kind)
    with pytest.raises(UserError, match="Accepted are DistilBERT.*MiniLM"):
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
        with pytest.raises(UserError, match="model.safetensors lacks"):
            load_encoder(str(tmp_path))


def test_half_a_head_unknown_weights_and_wrong_shapes_are_refused(distilbert: Path) -> None:
    path = distilbert / "model.safetensors"
    weights = load_file(path)
    position = "embeddings.position_embeddings.weight"
    for changes, message in (
        ({"qa_outputs.bias": torch.zeros(2)}, "lacks weights.*qa_outputs.weight"),
        ({"adapter.weight": torch.zeros(2)}, "no place in the model: distilbert.adapter.weight"),
        ({position: torch.zeros(31, 16)}, r"position_embeddings.weight \[31, 16\] instead of \[32"),
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
        ({"dim": 15}, "dim 15 cannot be shared evenly among n_heads 2"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"pad_token_id": 1000}, "pad_token_id 1000"),
        ({"activation": "gelo"}, "unknown activation 'gelo'"),
        ({"model_type": "bert"}, "model_type is 'bert'"),
    ],
)
def test_bad_config(config: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_encoder(TINY | config)
    assert message in str(caught.value)


# ---- The tokenizer


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
        assert set(candidate("the")) == {"input_ids", "attention_mask"}
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


# ---- Sources


def test_package_source_is_found_without_importing(
    distilbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    package = site / "carries_a_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    shutil.copytree(distilbert, package / "data" / "tiny")
    information = site / "Carrier_Of_Models-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: Carrier-Of-Models\nVersion: 1.0\n")
    (information / "RECORD").write_text("carries_a_model/__init__.py,,\n")
    monkeypatch.syspath_prepend(site)

    for source in ("package:carries_a_model/data/tiny", "package:carrier-of-models/data/tiny"):
        assert resolve(source) == package / "data" / "tiny"
    load_encoder("package:carries_a_model/data/tiny")
    assert "carries_a_model" not in sys.modules
    with pytest.raises(UserError, match="carries_a_model holds no folder data/other"):
        resolve("package:carries_a_model/data/other")


@pytest.mark.parametrize("source", ["package:", "package:json", "package:/x", "package:json/../x"])
def test_malformed_package_source(source: str) -> None:
    with pytest.raises(UserError, match="write package:NAME/PATH"):
        resolve(source)


def test_package_that_is_not_installed() -> None:
    with pytest.raises(UserError, match="pip install --no-deps no-such-package"):
        resolve("package:no_such_package/data")


@pytest.mark.parametrize("source", ["./x", "../x", "/no/such", "a/b/c", "~/no such", "a\\b", ""])
def test_mistyped_folder_is_never_looked_for_on_the_hub(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "_hub_folder", lambda name: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="There is no folder"):
        resolve(source)


def test_file_instead_of_folder(distilbert: Path) -> None:
    with pytest.raises(UserError, match="is a file"):
        resolve(str(distilbert / "config.json"))


# ---- The hub, played by a server on this machine


class Hub(ThreadingHTTPServer):
    """Answers as the hub does for one model, and remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served: list[str] = []
        super().__init__(("127.0.0.1", 0), HubHandler)


class HubHandler(BaseHTTPRequestHandler):
    server: Hub
    commit = "c" * 40

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        files = sorted(p for p in self.server.folder.rglob("*") if p.is_file())
        names = [str(p.relative_to(self.server.folder)) for p in files]
        if path.startswith("/api/models/owner/tiny/tree/"):
            tree = [
                {"type": "file", "path": n, "size": p.stat().st_size, "oid": n.ljust(40, "0")}
                for n, p in zip(names, files, strict=True)
            ]
            self.answer(json.dumps(tree).encode())
        elif path in ("/api/models/owner/tiny", "/api/models/owner/tiny/revision/main"):
            siblings = [{"rfilename": n} for n in names]
            about = {"id": "owner/tiny", "sha": self.commit, "siblings": siblings}
            self.answer(json.dumps(about).encode())
        elif path.startswith(f"/owner/tiny/resolve/{self.commit}/"):
            name = path.split(f"{self.commit}/")[1]
            self.server.served.append(f"{self.command} {name}")
            self.answer((self.server.folder / name).read_bytes(), etag=name.ljust(40, "0"))
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def answer(self, content: bytes, etag: str = "e") -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, a hub where nothing listens, and no proxy between."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def hub(distilbert: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub(distilbert) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_hub_model_is_fetched_once_and_only_what_is_needed(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pytorch_model.bin", "tf_model.h5", "onnx/model.safetensors", "README.md"):
        (hub.folder / name).parent.mkdir(exist_ok=True)
        (hub.folder / name).write_text("not needed")
    folder = resolve("owner/tiny")
    fetched = {line.split()[1] for line in hub.served if line.startswith("GET")}
    assert fetched == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    wanted = load_encoder(str(hub.folder)).distilbert
    assert torch.equal(hidden(load_encoder(str(folder)).distilbert), hidden(wanted))

    monkeypatch.setattr(encoder, "_ask_hub_for", lambda name: pytest.fail("asked the hub"))
    hub.served.clear()
    assert resolve("owner/tiny") == folder
    assert load_tokenizer("owner/tiny")("the").input_ids == [2, 5, 3]
    assert hub.served == []


def test_hub_model_with_torch_weights_only(hub: Hub) -> None:
    weights = load_file(hub.folder / "model.safetensors")
    (hub.folder / "model.safetensors").unlink()
    torch.save(weights, hub.folder / "pytorch_model.bin")
    assert (resolve("owner/tiny") / "pytorch_model.bin").is_file()


def test_cached_model_without_a_file_is_completed(hub: Hub) -> None:
    folder = resolve("owner/tiny")
    (folder / "tokenizer.json").unlink()
    assert (resolve("owner/tiny") / "tokenizer.json").is_file()


def test_hub_name_that_does_not_exist(hub: Hub) -> None:
    with pytest.raises(UserError, match="no model of that name.*Check the spelling") as caught:
        resolve("owner/tinny")
    assert "'owner/tinny'" in str(caught.value)


def test_no_network(empty_cache: Path) -> None:
    with pytest.raises(UserError, match="cannot be reached.*--model.pretrained.*quickstart.yaml"):
        load_encoder("distilbert-base-uncased")
    assert not list(empty_cache.rglob("*.safetensors"))


def test_hub_that_never_answers(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        with pytest.raises(UserError, match=f"{address} cannot be reached"):
            resolve("owner/tiny")


def test_offline_by_choice(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids the network"):
        resolve("owner/tiny")


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
