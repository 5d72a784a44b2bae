"""A stand-in for the hub's HTTP interface, as far as an upload needs it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_ofthetests"


class Hub(ThreadingHTTPServer):
    """Remembers what was uploaded, and refuses what it is told to refuse."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.made: list[dict[str, Any]] = []  # what was asked for when models were made
        self.files: dict[str, bytes] = {}  # of the one model, as last committed
        self.large: dict[str, bytes] = {}  # contents by digest, that a commit may name
        self.commits: list[str] = []
        self.cards: list[str] = []  # front matter that was sent to be checked
        self.large_from = 10**9  # bytes from which a file is to come by itself
        self.metadata_is_good = True
        self.status: dict[str, int] = {}  # what to answer, by the end of the path, instead of 200

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body, path = self.body(), urlsplit(self.path).path
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        for end, status in self.server.status.items():
            if path.endswith(end):
                return self.answer({"error": "not here"}, status)
        if path == "/api/repos/create":
            asked = json.loads(body)
            self.server.made.append(asked)
            name = f"{asked['organization'] or 'somebody'}/{asked['name']}"
            return self.answer({"url": f"{self.server.address}/{name}", "name": name})
        if path == "/api/validate-yaml":
            self.server.cards.append(json.loads(body)["content"])
            errors = [] if self.server.metadata_is_good else [{"message": "no such licence"}]
            return self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            return self.answer({"files": [self.mode(one) for one in json.loads(body)["files"]]})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.answer(
                {"objects": [self.place(one) for one in json.loads(body)["objects"]]}
            )
        if re.fullmatch(r"/api/models/[^/]+/[^/]+/commit/main", path):
            return self.commit([json.loads(line) for line in body.splitlines()])
        self.answer({"error": f"no such place: {path}"}, 404)

    def do_PUT(self) -> None:
        content = self.body()
        digest = self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.large[digest] = content
        self.answer({})

    def mode(self, file: dict[str, Any]) -> dict[str, Any]:
        large = file["size"] >= self.server.large_from
        return {
            "path": file["path"],
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": False,
        }

    def place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.server.address}/put/{wanted['oid']}"
        return {**wanted, "actions": {"upload": {"href": href}}}

    def commit(self, lines: list[dict[str, Any]]) -> None:
        header, *files = lines
        self.server.commits.append(header["value"]["summary"])
        for line in files:
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
            else:
                content = self.server.large[value["oid"]]
                assert len(content) == value["size"]
            self.server.files[value["path"]] = content
        name = "/".join(self.path.split("/")[3:5])
        url = f"{self.server.address}/{name}/commit/{'c' * 40}"
        self.answer({"commitUrl": url, "commitOid": "c" * 40})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass
