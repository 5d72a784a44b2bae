"""Fetch a data file once: checked against its digest, in its place only when it is whole."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from filelock import FileLock

from qa_lightning.errors import UserError

if TYPE_CHECKING:
    import requests

ANSWER_WITHIN = 8.0  # seconds, until the server answers at all
STALLED_AFTER = 30.0  # seconds without a byte in mid-download
RETRIES = 2

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


_SITE = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
OFFICIAL = {
    split: OfficialFile(f"{split}-v2.0.json", f"{_SITE}/{split}-v2.0.json", sha256)
    for split, sha256 in {
        "train": "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002",
        "dev": "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
    }.items()
}


def default_cache_dir() -> Path:
    """Where downloads and tokenised windows are kept, unless `--data.cache_dir` says otherwise."""
    root = os.environ.get("QA_LIGHTNING_CACHE")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "qa_lightning"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, folder: Path, *, sha256: str | None = None) -> Path:
    """Download `url` into `folder`, unless it is there already (with that digest).

    The file appears only when it is complete and has the SHA-256 that was given. Its name comes
    from the URL alone, so that nothing is written outside of `folder`. Processes that want the same
    file wait for the first one. Proxies are taken from the usual environment variables.

    Raises:
        UserError: No answer within 8 seconds, an error from the server, a redirect to anything
            but http or https or from https to http, a wrong digest, a folder that cannot be
            written.
    """
    import pooch  # takes a tenth of a second, and is needed here only
    import requests

    try:
        known = {official.url: official.name for official in OFFICIAL.values()}
        path = folder / (known.get(url) or pooch.utils.unique_file_name(url))
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name[:80]}.lock")):
            if path.is_file() and (sha256 is None or sha256_of(path) == sha256.lower()):
                return path
            if (failure := _no_answer(url)) is not None:
                raise failure
            downloader = pooch.HTTPDownloader(
                progressbar=sys.stderr.isatty(),
                chunk_size=1 << 16,
                timeout=(ANSWER_WITHIN, STALLED_AFTER),
                headers={"Accept-Encoding": "identity"},  # gzip is recognised on reading
                hooks={"response": _refuse},
            )
            registry, urls = {path.name: sha256}, {path.name: url}
            store = pooch.create(folder, "", registry=registry, urls=urls, retry_if_failed=RETRIES)
            store.fetch(path.name, downloader=downloader)
            path.chmod(0o644)  # pooch writes for nobody else to read
    except requests.RequestException as error:
        raise UserError(f"cannot download {url}: {error}. {WITHOUT_NETWORK}") from error
    except ValueError as error:  # a wrong digest, or no address
        raise UserError(f"{url}: {error}") from error
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}") from error
    return path


def reachable(url: str) -> bool:
    """Whether anything answers at `url` within 8 seconds, be it with an error status."""
    return _no_answer(url) is None


def _no_answer(url: str) -> requests.RequestException | None:
    """Why nothing answers at `url` within 8 seconds, or None if something does.

    Asked in a thread: name lookup ignores timeouts, and each address of a host gets its own.
    """
    import requests

    failures = [requests.RequestException(f"no answer within {ANSWER_WITHIN:g} seconds")]

    def ask() -> None:
        try:
            requests.head(url, timeout=ANSWER_WITHIN)
            failures.clear()
        except requests.RequestException as error:
            failures[0] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_WITHIN)
    return failures[0] if failures else None


def _refuse(response: requests.Response, **_: Any) -> None:
    """Stop at an answer that no retry would change."""
    if 400 <= response.status_code < 500:
        answer = f"{response.status_code} {response.reason}"
        raise UserError(f"{response.url}: the server answered {answer}. Check the address.")
    if response.is_redirect:
        target = urljoin(response.url, response.headers["location"])
        if (urlsplit(response.url).scheme, urlsplit(target).scheme) == ("https", "http"):
            raise UserError(f"{response.url}: refused a redirect from https to http ({target})")
