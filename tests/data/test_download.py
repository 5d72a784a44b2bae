"""Downloads against a server in this process: whole, checked files or a clear refusal."""

from __future__ import annotations

import hashlib
import http.server
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import requests.adapters

from qa_lightning.data import download as module
from qa_lightning.data.download import OFFICIAL, OfficialFile, download, reachable, sha256_of
from qa_lightning.errors import UserError

CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the first part of the path says how."""

    server: Server

    def do_HEAD(self) -> None:  # whether anybody answers
        if self.path.startswith("/slow"):
            threading.Event().wait(0.6)
        self.send_error(405)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        kind = self.path.split("/")[1]
        if kind == "to":
            self.send_response(302)
            self.send_header("Location", self.server.target)
            self.end_headers()
        elif kind == "absent":
            self.send_error(404)
        elif kind == "broken":
            self.send_error(500)
        else:
            self.serve(kind)

    def serve(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        if kind == "named":
            self.send_header("Content-Disposition", 'attachment; filename="../../evil.json"')
        self.end_headers()
        # "breaks" hangs up half way the first time, "always-breaks" every time
        broken = kind == "always-breaks" or (kind == "breaks" and len(self.server.asked) == 1)
        self.wfile.write(CONTENT[: 50_000 if broken else None])

    def log_message(self, *arguments: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    """The server, what was asked of it, and where it redirects to."""

    asked: list[str]
    target: str

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.target = [], ""
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A URL at a port where nobody listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/f.json"


def left(folder: Path) -> list[str]:
    """What is in a folder, but for the empty files that locks leave."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_verified_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    url = server.url("plain/train.json.gz")
    path = download(url, tmp_path / "new" / "folder", sha256=DIGEST.upper())
    assert path.read_bytes() == CONTENT
    assert path.parent == tmp_path / "new" / "folder"
    assert path.name.endswith("-train.json.gz")
    assert left(path.parent) == [path.name]
    server.shutdown()
    assert download(url, path.parent, sha256=DIGEST) == path
    assert len(server.asked) == 1


def test_a_file_without_a_digest_is_fetched_once(server: Server, tmp_path: Path) -> None:
    url = server.url("plain/a.json")
    assert download(url, tmp_path).read_bytes() == CONTENT
    assert download(url, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    url = server.url("plain/a.json")
    path = download(url, tmp_path, sha256=DIGEST)
    path.write_bytes(b"damaged")
    assert download(url, tmp_path, sha256=DIGEST).read_bytes() == CONTENT


@pytest.mark.parametrize("digest", [DIGEST, None])
def test_a_broken_download_is_begun_again(
    server: Server, tmp_path: Path, digest: str | None
) -> None:
    path = download(server.url("breaks/a.json"), tmp_path, sha256=digest)
    assert path.read_bytes() == CONTENT and left(tmp_path) == [path.name]
    assert len(server.asked) == 2


def test_a_download_that_breaks_every_time_is_given_up(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot download .*50000 bytes read"):
        download(server.url("always-breaks/a.json"), tmp_path)
    assert left(tmp_path) == []
    assert len(server.asked) == 1 + module.RETRIES


def test_a_wrong_digest_is_refused_and_the_file_removed(server: Server, tmp_path: Path) -> None:
    wrong = "0" * 64
    with pytest.raises(UserError, match=f"expected {wrong} but got {DIGEST}"):
        download(server.url("plain/a.json"), tmp_path, sha256=wrong)
    assert left(tmp_path) == []


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.target = server.url("plain/elsewhere.json")
    path = download(server.url("to/a.json"), tmp_path, sha256=DIGEST)
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-a.json")


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a", "gopher://x/"])
def test_redirects_out_of_http_are_refused(server: Server, tmp_path: Path, target: str) -> None:
    server.target = target
    with pytest.raises(UserError, match="No connection adapters"):
        download(server.url("to/a.json"), tmp_path)
    assert left(tmp_path) == []


def test_redirects_in_a_circle_are_given_up(server: Server, tmp_path: Path) -> None:
    server.target = server.url("to/a.json")
    with pytest.raises(UserError, match="Exceeded 30 redirects"):
        download(server.target, tmp_path)


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (["https://a.org/f", "http://a.org/f"], "refused a redirect from https to http"),
        (["https://a.org/f", "//b.org/f", "http://b.org/f"], "from https to http"),
        (["http://a.org/f", "https://b.org/f", "http://a.org/f"], "from https to http"),
        (["HTTPS://a.org/f", "HTTP://a.org/f"], "from https to http"),
        (["https://a.org/f", "file:///etc/hostname"], "No connection adapters"),
        (["https://a.org/f", "/g", "ftp://a.org/f"], "No connection adapters"),
        (["https://a.org/f", "data:,x"], "No connection adapters"),
    ],
)
def test_a_redirect_to_a_lesser_scheme_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, addresses: list[str], message: str
) -> None:
    asked = []

    def send(_: Any, request: requests.PreparedRequest, **__: Any) -> requests.Response:
        response = requests.Response()
        response.request, response.url = request, str(request.url)
        response.raw, response.status_code = io.BytesIO(), 200
        if request.method == "GET":
            asked.append(request.url)
            response.status_code = 302
            response.headers["Location"] = addresses[len(asked)]
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    monkeypatch.setattr(module, "RETRIES", 0)
    with pytest.raises(UserError, match=message):
        download(addresses[0], tmp_path)
    assert len(asked) == len(addresses) - 1  # the last one was not asked
    assert left(tmp_path) == []


def test_an_error_of_the_server_is_passed_on(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="answered 404 Not Found"):
        download(server.url("absent/a.json"), tmp_path)
    assert left(tmp_path) == []
    assert len(server.asked) == 1  # asking again would not change it


def test_an_error_that_may_pass_is_tried_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="500 Server Error"):
        download(server.url("broken/a.json"), tmp_path)
    assert len(server.asked) == 1 + module.RETRIES


def test_no_network(nowhere: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data\.train and --data\.val, or run the quickstart"):
        download(nowhere, tmp_path)
    assert left(tmp_path) == []


def test_silence_is_not_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.ANSWER_WITHIN < 10
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.2)
    with pytest.raises(UserError, match=r"no answer within 0\.2 seconds.*quickstart"):
        download(server.url("slow/a.json"), tmp_path)


def test_what_can_be_reached(server: Server, nowhere: str) -> None:
    assert reachable(server.url("absent/"))
    assert not reachable(nowhere)


def test_two_at_once_fetch_one_file(server: Server, tmp_path: Path) -> None:
    url = server.url("plain/a.json")
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(download(url, tmp_path, sha256=DIGEST)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 4 and len(set(paths)) == 1
    assert paths[0].read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "path",
    ["../../evil.json", "%2e%2e%2f%2e%2e%2fevil", "..", "", "a%00b", "C:%5Cevil", "x" * 999, "é/"],
)
def test_files_stay_in_the_folder(server: Server, tmp_path: Path, path: str) -> None:
    folder = tmp_path / "folder"
    found = download(server.url(f"plain/{path}"), folder)
    assert found.parent == folder and found.read_bytes() == CONTENT
    assert left(folder) == [found.name] and left(tmp_path) == ["folder"]


def test_links_do_not_lead_out_of_the_folder(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    url = server.url("plain/a.json")
    name = download(url, folder).name
    outside = tmp_path / "outside"
    outside.write_bytes(CONTENT[:100])
    (folder / name).unlink()
    (folder / name).symlink_to(outside)
    found = download(url, folder, sha256=DIGEST)
    assert found.read_bytes() == CONTENT and not found.is_symlink()
    assert outside.read_bytes() == CONTENT[:100]


def test_a_name_that_the_server_gives_is_not_used(server: Server, tmp_path: Path) -> None:
    path = download(server.url("named/good.json"), tmp_path / "folder")
    assert path.parent == tmp_path / "folder" and path.name.endswith("-good.json")
    assert left(tmp_path) == ["folder"]


def test_others_may_read_what_was_downloaded(server: Server, tmp_path: Path) -> None:
    path = download(server.url("plain/a.json"), tmp_path)
    assert path.stat().st_mode & 0o777 == 0o644


def test_files_of_one_name_do_not_meet(server: Server, tmp_path: Path) -> None:
    urls = [server.url(f"plain/{path}") for path in ("a/f.json", "b/f.json", "b/f.json?v=2")]
    assert len({download(url, tmp_path) for url in urls}) == 3


def test_an_official_file_keeps_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OfficialFile("train-v2.0.json", server.url("plain/train-v2.0.json"), DIGEST)
    monkeypatch.setitem(OFFICIAL, "train", file)
    assert download(file.url, tmp_path, sha256=file.sha256) == tmp_path / "train-v2.0.json"


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "http://[::1", "x"])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError):
        download(url, tmp_path)
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_made(nowhere: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        download(nowhere, tmp_path / "file" / "folder")


@pytest.mark.parametrize("variable", ["socks9://x", "http://[::1"])
def test_unusable_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("ALL_PROXY", variable)
    with pytest.raises(UserError, match="cannot download"):
        download("http://example.com/a", tmp_path)


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    assert sha256_of(tmp_path / "f") == DIGEST
