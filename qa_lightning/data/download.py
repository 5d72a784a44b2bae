"""Fetch a data file once: resumed, checked, and put in its place only when it is whole."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from urllib.parse import unquote

import httpx2
from filelock import FileLock
from tqdm import tqdm

from qa_lightning.errors import UserError

# Name lookup ignores a client's timeouts, and each address of a host gets its own: only a limit
# over all of it together keeps "no network" from taking a minute to be noticed.
ANSWER_WITHIN = 8.0  # seconds, from the call to the first bytes of the answer
STALLED_AFTER = 30.0  # seconds without a byte in mid-download
MAX_REDIRECTS = 5

WITHOUT_NETWORK = (
    "Without a network, give local files with --data.train and --data.val, or run the quickstart: "
    "python -m qa_lightning fit --config configs/quickstart.yaml"
)


@dataclass(frozen=True)
class OfficialFile:
    """One file of the official SQuAD 2.0 release."""

    name: str
    url: str
    sha256: str
    size: int  # bytes


OFFICIAL: dict[str, OfficialFile] = {
    "train": OfficialFile(
        name="train-v2.0.json",
        url="https://rajpurkar.github.io/SQuAD-explorer/dataset/train-v2.0.json",
        sha256="68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002",
        size=42_123_633,
    ),
    "dev": OfficialFile(
        name="dev-v2.0.json",
        url="https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
        sha256="80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
        size=4_370_528,
    ),
}


def default_cache_dir() -> Path:
    """Where downloads and tokenised windows are kept, unless `--data.cache_dir` says otherwise."""
    root = os.environ.get("QA_LIGHTNING_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qa_lightning"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, folder: Path, *, sha256: str | None = None) -> Path:
    """Download `url` into `folder` and return the file's path.

    The file appears under its final name only when it is complete and its digest is right. What a
    broken connection left is kept as `.part` and continued by the next call if a digest is given;
    without one nothing could tell a file put together from two versions from a good one, so then
    the download begins anew. Nothing is written outside of `folder`: the name comes from the URL
    alone, and links are not followed. A file that is there already (and has the digest) is used as
    it is, without the network. Processes that want the same file wait for the first one.

    Args:
        url: An http or https address. Proxies are taken from the usual environment variables.
        folder: Where the file goes; made if need be.
        sha256: The digest the file must have, in hexadecimal.

    Raises:
        UserError: No answer within 8 seconds, an error from the server, a redirect to anything
            but http or https or from https to http, a wrong digest, a folder that cannot be
            written.
    """
    path = folder / _file_name(url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):
            if path.is_file() and (sha256 is None or sha256_of(path) == sha256.lower()):
                return path
            part = path.with_name(f"{path.name}.part")
            if sha256 is None or part.is_symlink():  # a link may lead out of the folder
                part.unlink(missing_ok=True)
            resumed = _fetch(url, part)
            if sha256 is not None:
                if resumed and sha256_of(part) != sha256.lower():
                    part.unlink()  # the earlier piece may be to blame: once more, from the start
                    _fetch(url, part)
                if (found := sha256_of(part)) != sha256.lower():
                    part.unlink()
                    raise UserError(
                        f"{url}: the downloaded file has the wrong SHA-256 and was removed "
                        f"(expected {sha256.lower()}, got {found}). Something on the way changed "
                        "it; try again, or give a local copy of the file."
                    )
            os.replace(part, path)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}") from error
    return path


def reachable(url: str) -> bool:
    """Whether anything answers at `url` within 8 seconds, be it with an error status."""
    try:
        with _client() as client:
            _answer(client, url, 0).close()
    except UserError:
        return False
    return True


def _client() -> httpx2.Client:
    try:
        return httpx2.Client(timeout=httpx2.Timeout(STALLED_AFTER, connect=ANSWER_WITHIN))
    except (
        httpx2.InvalidURL,
        ImportError,
        ValueError,
    ) as error:  # a proxy variable that cannot be used
        raise UserError(f"the proxy settings in the environment are unusable: {error}") from error


def _file_name(url: str) -> str:
    """A plain file name for `url`: the official one, or a hash of the URL and a tame last part."""
    for official in OFFICIAL.values():
        if url == official.url:
            return official.name
    try:
        path = httpx2.URL(url).path
    except (httpx2.InvalidURL, ValueError) as error:
        raise UserError(f"{url!r} is not a valid address: {error}") from error
    last = re.sub(r"[^A-Za-z0-9._-]", "_", PurePosixPath(unquote(path)).name)[-80:]
    return f"{hashlib.sha256(url.encode(errors='replace')).hexdigest()[:12]}-{last or 'file'}"


def _fetch(url: str, part: Path) -> bool:
    """Write the content of `url` to `part`, continuing what is there; True if it was continued."""
    offset = part.stat().st_size if part.exists() else 0
    with _client() as client:
        try:
            response = _answer(client, url, offset)
            if offset and response.status_code != 200 and not _continues(response, offset):
                response.close()
                offset = 0
                response = _answer(client, url, 0)
            if response.status_code not in (200, 206):
                raise UserError(
                    f"{url}: the server answered {response.status_code} "
                    f"{response.reason_phrase}. Check the address."
                )
            if response.status_code == 200:
                offset = 0
            _write(response, part, offset)
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            done = part.stat().st_size if part.exists() else 0
            raise UserError(
                f"{url}: the connection broke off after {done:,} bytes ({_said(error)}). "
                "Run the same command again."
            ) from error
    return offset > 0


def _continues(response: httpx2.Response, offset: int) -> bool:
    """Whether an answer to a range request carries on exactly at `offset`."""
    return response.status_code == 206 and response.headers.get("content-range", "").startswith(
        f"bytes {offset}-"
    )


def _write(response: httpx2.Response, part: Path, offset: int) -> None:
    length = response.headers.get("content-length", "")
    with (
        part.open("ab" if offset else "wb") as file,
        tqdm(
            desc=f"Downloading {part.name.removesuffix('.part')}",
            total=offset + int(length) if length.isdecimal() else None,
            initial=offset,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=None,  # no bar where nobody watches
        ) as bar,
    ):
        # The bytes as they travel: a range counts those, and gzip is recognised on reading.
        for piece in response.iter_raw():
            file.write(piece)
            bar.update(len(piece))


def _answer(client: httpx2.Client, url: str, offset: int) -> httpx2.Response:
    """The server's answer, its body unread; asked in a thread so that the wait has an end."""
    box: SimpleQueue[httpx2.Response | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            box.put(_follow(client, url, offset))
        except Exception as error:
            box.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = box.get(timeout=ANSWER_WITHIN)
    except Empty:
        raise UserError(
            f"cannot download {url}: no answer within {ANSWER_WITHIN:g} seconds. {WITHOUT_NETWORK}"
        ) from None
    if isinstance(answer, (httpx2.HTTPError, httpx2.InvalidURL)):
        raise UserError(f"cannot download {url}: {_said(answer)}. {WITHOUT_NETWORK}") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _follow(client: httpx2.Client, url: str, offset: int) -> httpx2.Response:
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = client.build_request("GET", url, headers=headers)
    for _ in range(MAX_REDIRECTS + 1):
        if request.url.scheme not in ("http", "https"):
            raise UserError(f"{url}: only http and https are followed, not {request.url}")
        response = client.send(request, stream=True)
        if response.next_request is None:
            return response
        response.close()
        if (request.url.scheme, response.next_request.url.scheme) == ("https", "http"):
            raise UserError(
                f"{url}: refused a redirect from https to http ({response.next_request.url})"
            )
        request = response.next_request
    raise UserError(f"{url}: more than {MAX_REDIRECTS} redirects")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
