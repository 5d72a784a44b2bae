"""A model's folder onto the Hugging Face hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qa_lightning.errors import UserError


def check_upload(name: str) -> None:
    """Refuse an upload that cannot work, before anything else is done.

    Raises:
        UserError: `name` is neither OWNER/NAME nor NAME (for a model of one's own), the network is
            forbidden, or nobody is logged in.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push {name}: not the name of a model on the hub: {error}") from error
    if constants.HF_HUB_OFFLINE:
        raise UserError("--push: HF_HUB_OFFLINE forbids the network; unset it")
    if get_token() is None:
        raise UserError("--push: nobody is logged in to the hub: `hf auth login`, or set HF_TOKEN")


def upload(
    folder: Path, name: str, *, private: bool = False, log: Callable[[str], Any] = lambda line: None
) -> None:
    """Upload what `export` wrote as a model of the hub; it is created, `private` or not, if needed.

    Raises:
        UserError: see `check_upload`; or the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    check_upload(name)
    api = HfApi()
    try:
        # None leaves it to the owner's settings.
        made = api.create_repo(name, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Upload the model"
        )
    except Exception as error:  # its HTTP library, and so their type, changed between versions
        raise UserError(
            f"{folder} is written, but {api.endpoint} did not take it as {name}: "
            f"{_reason(error)} When that is fixed: hf upload {name} {folder}"
        ) from error
    log(f"uploaded: {made}")


def _reason(error: Exception) -> str:
    """What went wrong, and what to do about it."""
    reason = str(getattr(error, "server_message", None) or error).strip().rstrip(".")
    status = getattr(getattr(error, "response", None), "status_code", None)
    advice = {
        400: f"it refused what was sent: {reason}.",
        401: "it does not know the token. Run `hf auth login`, or set HF_TOKEN.",
        403: "the token may not write there. Make one that may, or take another owner or name.",
        404: "there is no such place for this token. Is the owner's name right?",
    }
    if status is not None:
        return advice.get(status, f"{reason} (status {status}).")
    return f"{reason}." if isinstance(error, ValueError) else f"{reason}. Is there a network?"
