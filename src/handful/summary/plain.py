"""Values out of plain mappings, None where they are not there.

Knows nothing of what the mappings mean, but for the few names by which a planned cell is read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from handful.identity import canonical_json
from handful.results import RunRecord


def without_cell_axes(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A cell as asked, but for what tells the cells of one row apart."""
    return {name: value for name, value in asked.items() if name not in ("num_labels", "seed", "init_seed")}


def reads_labels(cell: Mapping[str, Any]) -> bool:
    """Whether a planned cell reads labelled texts."""
    return bool(cell["spec"].get("num_labels") != 0)


def seed_of(cell: Mapping[str, Any]) -> int:
    """The seed as asked."""
    return int(cell["asked"].get("seed", 0))


def init_seed_of(cell: Mapping[str, Any]) -> int | None:
    """The seed of the start as its run resolved it; None where it is the cell's seed."""
    value = cell["spec"].get("init_seed")
    return None if value is None else int(value)


def method_name(asked: Mapping[str, Any]) -> str:
    """The name of the method as asked."""
    method = asked.get("method")
    return str(method.get("name", "")) if isinstance(method, Mapping) else str(method)


def is_none(part: Any) -> bool:
    """Whether a section stands for nothing: no model, no prompt."""
    name = part.get("name") if isinstance(part, Mapping) else part
    return part is None or name == "none"


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """("prompt.name", "alpaca") for every leaf of nested mappings; lists are leaves."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def mapping(plain: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A mapping inside another; empty when it is not there."""
    value = plain.get(name)
    return value if isinstance(value, Mapping) else {}


def number(plain: Mapping[str, Any], name: str) -> float | None:
    """A finite number, else None."""
    value = plain.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def whole(plain: Mapping[str, Any], name: str) -> int | None:
    """A number rounded, else None."""
    value = number(plain, name)
    return None if value is None else round(value)


def length(plain: Mapping[str, Any], name: str) -> int | None:
    """How many items a list holds, None when it is not there."""
    value = plain.get(name)
    return len(value) if isinstance(value, (list, tuple)) else None


def mean(values: Sequence[float | None]) -> float | None:
    """The mean, None when any value is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def extent(values: Sequence[int | None]) -> tuple[int, int] | None:
    """(smallest, largest) of the known values."""
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def plain_text(value: Any) -> str:
    """Text as it is, anything else as its canonical JSON."""
    return value if isinstance(value, str) else canonical_json(value)


def distinct(values: Iterable[Any]) -> tuple[str, ...]:
    """The distinct values as text, in order, empty ones left out."""
    return tuple(dict.fromkeys(plain_text(value) for value in values if value not in (None, "", {})))


def agreed(names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What all say, or nothing."""
    return names[0] if names and all(other == names[0] for other in names) else ()


def facts_of(finished: Iterable[RunRecord]) -> dict[str, tuple[Any, ...]]:
    """Each fact's distinct values over the records."""
    facts: dict[str, dict[str, Any]] = {}
    for record in finished:
        for name, value in record.facts.items():
            facts.setdefault(str(name), {})[canonical_json(value)] = value
    return {name: tuple(values.values()) for name, values in facts.items()}


def reads_test(rule: str) -> bool:
    """Whether a record's `chosen_by` names the test texts ("test accuracy", "last of best_on_test")."""
    return "test" in re.findall(r"[a-z]+", rule.lower())
