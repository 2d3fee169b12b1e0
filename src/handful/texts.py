"""Test texts by id, from data sources that are at hand: the one thing on a report that no record holds.

Knows nothing of records or pages. Never goes to the network: a report opens and is written offline.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from handful.data import DATA, load_dataset
from handful.data.source import DataSource
from handful.errors import HandfulError
from handful.identity import canonical_json

Fields = Mapping[str, str]
Section = Mapping[str, Any]


def from_section(section: Section, ids: Collection[str]) -> dict[str, Fields]:
    """Fields of the texts of a resolved data section, by id; empty when its source is not at hand any more.

    A section does not say where files lie on this machine, so a person's own table is found only by
    `from_sources`. What came from the hub is taken from its local cache.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the library is first imported
    family: Callable[..., DataSource] | None = DATA.get(str(section.get("name")))
    if family is None:
        return {}
    knobs = {
        name: tuple(value) if isinstance(value, list) else value for name, value in section.items() if name != "name"
    }
    try:
        return _fields(family(**knobs), ids)
    except (HandfulError, TypeError):  # TypeError: a place is missing, or a knob of another version is there
        return {}


def from_sources(
    sources: Iterable[tuple[Section, DataSource]],
) -> Callable[[Section, Collection[str]], dict[str, Fields]]:
    """The same for sources that a study has just read. sources: (resolved section, its source)."""
    known = {canonical_json(section): source for section, source in sources}

    def look_up(section: Section, ids: Collection[str]) -> dict[str, Fields]:
        source = known.get(canonical_json(section))
        try:
            return {} if source is None else _fields(source, ids)
        except HandfulError:  # the file was changed or moved while the study ran
            return {}

    return look_up


def _fields(source: DataSource, ids: Collection[str]) -> dict[str, Fields]:
    dataset = load_dataset(source)
    wanted = set(ids)
    # Without a test side, texts that a cell did not draw are its test texts.
    return {example.id: example.fields for example in (*dataset.test, *dataset.train) if example.id in wanted}
