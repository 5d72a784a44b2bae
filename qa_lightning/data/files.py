"""Folders that are complete or not there at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Build a folder beside its place, and rename it into place once it is complete.

    The block fills the empty folder that it is given. If the block raises, `path` stays as it was
    and nothing is left behind; only a killed process leaves a hidden `.NAME-...` beside `path`.
    Missing parents of `path` are made. Files get the permissions that the umask allows, even if
    their writer chose stricter ones.

    With `replace`, a folder that is at `path` by then is put aside, and comes back if the new one
    cannot take its place; for a moment there is neither. Without, it stays and the new one is
    dropped: right for folders that are named after their content, which several processes may
    build at once.

    Raises:
        OSError: the folder cannot be created or renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        yield new
        allowed = new.stat().st_mode & 0o666
        for file in new.rglob("*"):
            if file.is_file():
                file.chmod(allowed)
        if replace and path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if not replace and path.is_dir():
                return
            if old.exists():
                old.rename(path)
            raise
