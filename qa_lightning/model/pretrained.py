"""Where a model's files are: every kind of source becomes a local folder.

A source is the name of a model on the Hugging Face hub, a local folder, or `package:NAME/PATH`, a
folder inside an installed Python package. Everything after `resolve` reads local files only.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

from qa_lightning.data.packages import package_path
from qa_lightning.errors import UserError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of weight files; safetensors first, since it holds no code and is faster to read."""

_ADVICE = (
    "Give a local folder with --model.pretrained FOLDER, or run the quickstart: "
    "python -m qa_lightning fit --config configs/quickstart.yaml"
)
_TEXTS = [
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.txt"),
]
_HUB_TIMEOUT = 4.0  # seconds; the hub's own client would retry for about 23


def resolve(pretrained: str) -> Path:
    """Give the local folder that holds a source's configuration, weights and tokenizer.

    A hub model that is already in the cache is used without touching the network.

    Raises:
        UserError: there is no such folder, package or hub model, or the hub cannot be reached.
    """
    in_package = pretrained.startswith("package:")
    folder = package_path(pretrained) if in_package else Path(os.path.expanduser(pretrained))
    if pretrained and folder.is_dir():
        return folder
    if pretrained and folder.exists():
        raise UserError(f"{pretrained} is a file: give the folder that holds config.json.")

    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(pretrained)
    except HFValidationError:
        raise UserError(
            f"There is no folder {pretrained!r}, and it cannot be the name of a model on the hub "
            "(NAME or OWNER/NAME). Check the spelling of the path."
        ) from None
    return _hub_folder(pretrained)


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json.

    Raises:
        UserError: there is none, or it is not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no config.json: it is not a model's folder.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a model's configuration: it holds no JSON object.")
    return config


def _hub_folder(name: str) -> Path:
    """Find a hub model in the cache, or download what is needed of it; give its folder."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=_TEXTS, local_files_only=True))
        if _is_complete(folder):
            return folder
    except LocalEntryNotFoundError:
        pass

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"The model {name!r} is not in the local cache, there is no folder of that name, and "
            f"HF_HUB_OFFLINE forbids the network. {_ADVICE}"
        )
    _check_on_hub(name)
    try:
        for weights in WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*_TEXTS, weights]))
            if (folder / weights).is_file():
                return folder
    except Exception as error:  # three libraries raise exceptions of their own
        raise UserError(
            f"The model {name!r} could not be downloaded from {constants.ENDPOINT}: {error}\n"
            f"Run the command again to resume the download. {_ADVICE}"
        ) from error
    raise UserError(f"The hub's model {name!r} has neither {' nor '.join(WEIGHTS)}.")


def _is_complete(folder: Path) -> bool:
    """Whether a cached hub folder holds all that is needed of a model."""
    needed = (("config.json",), ("tokenizer.json", "vocab.txt"), WEIGHTS)
    return all(any((folder / file).is_file() for file in files) for files in needed)


def _check_on_hub(name: str) -> None:
    """Raise UserError, within seconds, unless the hub answers that it has the model.

    The hub's client makes this one request without retries, with the user's proxies, HF_ENDPOINT
    and token. It runs in a thread, because no timeout covers a name server that does not answer.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RepositoryNotFoundError

    failure: list[Exception | None] = [TimeoutError(f"no answer in {_HUB_TIMEOUT:g} seconds")]

    def ask() -> None:
        try:
            HfApi().model_info(name, timeout=_HUB_TIMEOUT)
            failure[0] = None
        except Exception as error:  # reported below
            failure[0] = error

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_TIMEOUT)
    match failure[0]:
        case None:
            return
        case RepositoryNotFoundError():
            message = (
                f"is no folder, and {constants.ENDPOINT} has no model of that name that you may "
                "read. Check the spelling; a private model needs `hf auth login`."
            )
        case error:
            message = (
                f"is not in the local cache, and {constants.ENDPOINT} cannot be reached ({error}). "
                f"{_ADVICE}"
            )
    raise UserError(f"The model {name!r} {message}") from failure[0]
