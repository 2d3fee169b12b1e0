"""Canonical spec -> spec_id, and named seeds. Knows nothing of what the specs mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IDENTITY_VERSION = 1

DEFAULT_PROTOCOL = "holdout"
"""How labels are spent where a spec says nothing of it; it goes unsaid, so that specs from before keep their ids."""

ESTIMATED = "estimated"
"""The revision of a base or a data source in a plan, where only what ships with handful tells of it; never run."""


def canonical_json(value: Any) -> str:
    """The one JSON text of plain data: sorted keys, no spaces, no NaN. Raises ValueError on NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def spec_id(resolved: Mapping[str, Any]) -> str:
    """16 hex digits that name a resolved spec. Raises ValueError when a None is left in it."""
    _refuse_none(resolved, "spec")
    text = canonical_json({"identity": IDENTITY_VERSION, "spec": resolved})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed of its own for each named use ("sample", "init", "shuffle"), below 2**63.

    Uses never share a stream, so drawing more for one never shifts another.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def text_hash(text: str) -> str:
    """64 hex digits of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_hash(path: Path) -> str:
    """64 hex digits of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refuse_none(value: Any, where: str) -> None:
    if value is None:
        raise ValueError(f"{where} is None: a resolved spec has no open values")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_none(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_none(item, f"{where}[{index}]")
