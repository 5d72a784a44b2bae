"""Uploading, against a stand-in for the hub in this process: every byte arrives, or clear words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from qa_lightning.errors import UserError
from qa_lightning.export.upload import upload
from tests.helpers.hub import TOKEN, Hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an export leaves, in small."""
    folder = tmp_path / "answers"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Täuschend echt\n")
    (folder / "config.json").write_text('{"null_threshold": 0.5}\n')
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 300)
    (folder / "model.onnx").write_bytes(b"\r\n\0" * 20_000)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub to which somebody is logged in."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_every_file_arrives(hub: Hub, folder: Path) -> None:
    said: list[str] = []
    upload(folder, "owner/answers", log=said.append)
    assert hub.files == contents(folder)
    assert hub.commits == ["Upload the model"]
    (asked,) = hub.made
    assert (asked["organization"], asked["name"]) == ("owner", "answers")
    assert asked.get("visibility") is None  # the owner's settings count
    assert set(hub.cards) == {(folder / "README.md").read_text()}
    assert said == [f"uploaded: {hub.address}/owner/answers"]


def test_large_files_arrive_too(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By git's protocol for large files; the hub's own newer one has no stand-in."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.large_from = 50_000
    upload(folder, "owner/answers")
    assert hub.files == contents(folder)
    assert len(hub.large) == 2


def test_a_model_of_ones_own_may_be_private_and_be_there_already(hub: Hub, folder: Path) -> None:
    said: list[str] = []
    upload(folder, "answers", private=True, log=said.append)
    (asked,) = hub.made
    assert (asked["organization"], asked["visibility"]) == (None, "private")
    assert said == [f"uploaded: {hub.address}/somebody/answers"]
    (folder / "config.json").write_text("{}\n")
    upload(folder, "answers")
    assert hub.files == contents(folder)


@pytest.mark.parametrize(
    ("place", "status", "match"),
    [
        ("/create", 400, "it refused what was sent: .*not here"),
        ("/create", 401, "does not know the token. Run `hf auth login`"),
        ("/create", 403, "may not write there. Make one that may"),
        ("/create", 500, r"not here \(status 500\)\. When"),
        ("/preupload/main", 404, "no such place for this token"),
        ("/commit/main", 403, "may not write there"),
    ],
)
def test_refusals_are_told_with_what_to_do(
    hub: Hub, folder: Path, place: str, status: int, match: str
) -> None:
    hub.status[place] = status
    with pytest.raises(UserError, match=match) as refused:
        upload(folder, "owner/answers")
    assert f"{folder} is written, but {hub.address} did not take it as" in str(refused.value)
    assert str(refused.value).endswith(f"hf upload owner/answers {folder}")
    assert TOKEN not in str(refused.value)
    assert hub.files == {}


def test_a_card_that_the_hub_does_not_take(hub: Hub, folder: Path) -> None:
    hub.metadata_is_good = False
    with pytest.raises(UserError, match="(?s)Invalid metadata in README.md.*no such licence"):
        upload(folder, "owner/answers")
    assert hub.files == {}


def test_a_wrong_token(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(UserError, match="it does not know the token"):
        upload(folder, "owner/answers")


def test_without_a_token_nothing_is_asked(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with pytest.raises(UserError, match="nobody is logged in .* `hf auth login`, or set HF_TOKEN"):
        upload(folder, "owner/answers")
    assert hub.made == []


def test_without_a_hub(hub: Hub, folder: Path) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UserError, match=f"{hub.address} did not take it .* Is there a network"):
        upload(folder, "owner/answers")


def test_offline_by_choice(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids the network"):
        upload(folder, "owner/answers")


@pytest.mark.parametrize("name", ["", "a/b/c", "owner/", "-x", "with space", "owner/x.git"])
def test_names_that_are_none(hub: Hub, folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="not the name of a model on the hub"):
        upload(folder, name)
