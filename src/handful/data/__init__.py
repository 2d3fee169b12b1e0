"""Where labelled texts come from, and which of them a cell reads.

`DATA` is the table of sources; to add one, write its file and list it here. Knows nothing of prompts,
models or methods.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

from handful.data.hub import Hub
from handful.data.imdb import Imdb
from handful.data.loading import build_dataset
from handful.data.reviews import Reviews
from handful.data.sampling import draw_split
from handful.data.source import DataSource, RawData, RawRow
from handful.data.table_file import TableFile
from handful.errors import DataError
from handful.examples import Dataset
from handful.identity import ESTIMATED

__all__ = [
    "DATA",
    "DataSource",
    "Hub",
    "Imdb",
    "RawData",
    "RawRow",
    "Reviews",
    "TableFile",
    "draw_split",
    "load_dataset",
    "outline",
    "resolve",
]

DATA: dict[str, type[DataSource]] = {
    "imdb": Imdb,
    "hub": Hub,
    "table_file": TableFile,
    "reviews": Reviews,
}

_Source = TypeVar("_Source", bound=DataSource)
_FileStamp = tuple[str, int, int]  # absolute path, modification time in ns, bytes


def load_dataset(source: DataSource) -> Dataset:
    """All texts of a source, its test side drawn; see `build_dataset` for ids, order and facts.

    The last few are kept in memory and read again when a file of theirs has changed. Raises DataError
    for whatever is wrong with the texts, and when `source.revision` names another content. A source that `outline`
    gave without its texts has stand-ins of the same lengths.
    """
    if source.revision == ESTIMATED:
        return _outlined(source)
    dataset = _load(replace(source, revision=None), _file_stamps(source))
    if source.revision not in (None, dataset.revision):
        raise DataError(
            f"{source.name}: revision {source.revision} was asked for, but the texts there now have "
            f"{dataset.revision}: they were changed, or it is another file. Bring the old texts back, or "
            "leave revision out to take these; finished runs with the old ones then do not count for them."
        )
    return dataset


def resolve(source: _Source) -> _Source:
    """The same source with `revision` filled in from its content. Raises what `load_dataset` raises."""
    if source.revision == ESTIMATED:
        raise DataError(f"{source.name}: revision {ESTIMATED!r} is for plans alone: leave revision out")
    return replace(source, revision=load_dataset(source).revision)


def outline(source: _Source) -> _Source:
    """The source for a plan: as `resolve` gives it, or with the revision ESTIMATED where its texts are not to be had
    and their lengths are known all the same. Raises what `load_dataset` raises.
    """
    source = replace(source, revision=None) if source.revision == ESTIMATED else source
    return resolve(source) if source.outline() is None else replace(source, revision=ESTIMATED)


@lru_cache(maxsize=2)
def _outlined(source: DataSource) -> Dataset:
    dataset = source.outline()
    if dataset is None:
        raise DataError(f"{source.name}: the texts can be had by now: plan the study again")
    return dataset


@lru_cache(maxsize=2)
def _load(source: DataSource, stamps: tuple[_FileStamp, ...]) -> Dataset:
    return build_dataset(source, source.read())


def _file_stamps(source: DataSource) -> tuple[_FileStamp, ...]:
    """Changes whenever a local file of the source does; a missing file is for `read` to complain about."""
    stamps: list[_FileStamp] = []
    for path in source.local_files():
        if path.exists():
            status = path.stat()
            stamps.append((str(path.absolute()), status.st_mtime_ns, status.st_size))
    return tuple(stamps)
