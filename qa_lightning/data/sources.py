"""Where questions come from: a local file, a download, an installed package, the hub."""

import functools
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from qa_lightning.data.download import OFFICIAL, WITHOUT_NETWORK, download, reachable, sha256_of
from qa_lightning.data.packages import package_path
from qa_lightning.data.squad_json import (
    READABLE,
    ErrorCollector,
    RawQuestion,
    iter_questions,
    questions_of,
)
from qa_lightning.errors import UserError

Split = Literal["train", "dev"]
_COLUMNS = ("id", "title", "context", "question", "answers", "plausible_answers", "is_impossible")
_OF_FILES = (".json", ".jsonl", ".gz", ".csv", ".tsv", ".parquet")  # no hub dataset ends so


@dataclass(frozen=True)
class Source:
    """Data that is there to be read: a local file, or a split of a hub dataset."""

    name: str  # for messages: the path, URL or dataset name
    path: Path | None  # None for a hub dataset
    digest: str  # SHA-256 of the content
    split: Split = "train"  # of a hub dataset


def resolve_source(source: str | None, split: Split, folder: Path) -> Source:
    """Find what the user means by `source`, and download it if it is not there yet.

    Args:
        source: None for the official SQuAD 2.0 file; the path or http(s) URL of a file in SQuAD's
            JSON or JSON lines (`iter_questions`), gzipped or not, or `package:NAME/PATH` for one in
            an installed package; or the name of a hub dataset with SQuAD's columns.
        split: Which official file, or which split of a hub dataset ("dev" is its "validation").
        folder: Where downloads go.

    Raises:
        UserError: No such file or dataset, or a download that failed.
    """
    if source is None:
        official = OFFICIAL[split]
        path = download(official.url, folder, sha256=official.sha256)
        return Source(official.name, path, official.sha256)
    if re.match(r"https?://", source, re.IGNORECASE):
        path = download(source, folder)
        return Source(source, path, sha256_of(path))
    in_package = source.startswith("package:")
    path = package_path(source) if in_package else Path(source).expanduser()
    try:
        if path.is_file():
            return Source(source, path, sha256_of(path))
        is_folder = path.is_dir()
    except (OSError, ValueError) as error:
        raise UserError(f"{source!r} cannot be read: {error}") from error
    if is_folder:
        raise UserError(f"{source!r} is a folder; give a file: {READABLE}")
    if re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", source) and not source.endswith(_OF_FILES):
        return Source(source, None, _hub_split(source, split)[1], split)
    raise UserError(
        f"{source!r}: no such file. Give {READABLE}; its URL; or the name of a hub dataset."
    )


def raw_questions(source: Source, errors: ErrorCollector) -> Iterator[RawQuestion]:
    """The questions of a source in its order, unchecked; `errors` takes what has no question."""
    if source.path is None:
        return questions_of(_hub_rows(source), errors)
    return iter_questions(source.path, source.name, errors)


def _hub_rows(source: Source) -> Iterator[tuple[str, Any]]:
    """The rows of a hub dataset, each after its location."""
    table, _ = _hub_split(source.name, source.split)
    batches = (batch.to_pylist() for batch in table.to_batches(max_chunksize=1000))
    for number, row in enumerate(chain.from_iterable(batches)):
        yield f"{source.name}: row {number}", row


@functools.cache
def _hub_split(name: str, split: Split) -> tuple[pa.Table, str]:
    """The columns of a hub dataset that are SQuAD's, memory-mapped, and a SHA-256 of them."""
    import datasets  # takes two seconds, and is needed here only

    wanted = {"train": "train", "dev": "validation"}[split]
    offline = datasets.config.HF_HUB_OFFLINE
    # Without a network the hub's client tries for half a minute before it looks into its cache.
    datasets.config.HF_HUB_OFFLINE = offline or not reachable(datasets.config.HF_ENDPOINT)
    try:
        data = datasets.load_dataset(name, split=wanted)
    except Exception as error:  # a dozen kinds, of datasets, huggingface_hub and what they use
        raise UserError(
            f"{name}: no such file, and the hub dataset of that name (split {wanted!r}) could not "
            f"be loaded: {error}. {WITHOUT_NETWORK}"
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    missing = {"id", "context", "question"} - set(data.column_names)
    if missing:
        raise UserError(
            f"{name}: the hub dataset has no column {', '.join(sorted(missing))}; SQuAD's are id, "
            "title, context, question, answers"
        )
    columns = [column for column in _COLUMNS if column in data.column_names]
    table = data.select_columns(columns).with_format("arrow")[:]
    digest = hashlib.sha256(table.schema.remove_metadata().serialize())
    for batch in table.combine_chunks().to_batches():
        digest.update(batch.serialize())
    return table, digest.hexdigest()
