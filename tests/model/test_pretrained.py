"""Where a model's files come from: folders, packages, and the hub with all its failures."""

from __future__ import annotations

import json
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
from safetensors.torch import load_file

from qa_lightning.errors import UserError
from qa_lightning.model import pretrained
from qa_lightning.model.encoder import load_encoder
from qa_lightning.model.pretrained import resolve
from qa_lightning.model.tokenizer import load_tokenizer
from tests.helpers.encoders import hidden


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
    with pytest.raises(UserError, match="carries_a_model holds no data/other"):
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
    monkeypatch.setattr(pretrained, "_hub_folder", lambda name: pytest.fail("asked the hub"))
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

    monkeypatch.setattr(pretrained, "_check_on_hub", lambda name: pytest.fail("asked the hub"))
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
    monkeypatch.setattr(pretrained, "_HUB_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        with pytest.raises(UserError, match=f"{address} cannot be reached"):
            resolve("owner/tiny")


def test_offline_by_choice(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids the network"):
        resolve("owner/tiny")
