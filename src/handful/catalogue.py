"""What a study file can name: every family's members with their knobs, and the study files that ship.

Reads it all off the tables and the dataclasses, so it is never out of date. Knows no member by name, and
nothing of terminals.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from handful.spec import FAMILIES, ExecutionSpec, preset_names, type_words
from handful.training import TrainingSpec


@dataclass(frozen=True)
class Knob:
    """One setting: its key, its type in words, and its default as TOML; "" when it must be given.

    "open" is the default of a knob that is filled from the base, the data or the other knobs.
    """

    key: str
    words: str
    default: str


@dataclass(frozen=True)
class Entry:
    """A member of a family: its name, one line on it, and its knobs in their order."""

    name: str
    summary: str
    knobs: tuple[Knob, ...] = ()


TITLES = {"method": "methods", "prompt": "prompts", "data": "data", "model": "models"}
"""Key in a study file -> heading."""


def catalogue() -> dict[str, tuple[Entry, ...]]:
    """Heading -> entries: methods, prompts, data, models, settings, presets."""
    listed = {
        title: tuple(entry(name, member) for name, member in sorted(FAMILIES[family].items()))
        for family, title in TITLES.items()
    }
    listed["settings"] = (entry("training", TrainingSpec), entry("execution", ExecutionSpec))
    listed["presets"] = tuple(Entry(name, _first_comment(name)) for name in preset_names())
    return listed


def entry(name: str, member: type) -> Entry:
    """A dataclass as an entry: the first sentence of its docstring and its fields."""
    hints = typing.get_type_hints(member)
    filled = _recipe(member)
    knobs = tuple(
        Knob(field.name, type_words(hints[field.name]), _default(field, filled))
        for field in dataclasses.fields(member)
        if field.init
    )
    return Entry(name, _first_sentence(member), knobs)


def _recipe(member: type) -> Mapping[str, Any]:
    """What a method fills its open knobs with, where nothing else is said."""
    if member not in FAMILIES["method"].values():
        return {}
    cell = {"data": {}, "model": {}, "prompt": {}, "training": {}, "num_labels": 150, "seed": 0, "init_seed": None}
    filled: Mapping[str, Any] = member().resolve(cell)["method"]
    return filled


def _default(field: dataclasses.Field[Any], filled: Mapping[str, Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    if value is None:
        value = filled.get(field.name)
    return "open" if value is None else _toml(value)


def _toml(value: Any) -> str:
    """A value as a study file writes it."""
    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(str(key))} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, (bool, int, str)):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def _first_sentence(member: type) -> str:
    text = inspect.cleandoc(member.__doc__ or "")
    if not text or text.startswith(f"{member.__name__}("):
        # A dataclass without a docstring gets its signature for one; its module says what it is.
        text = inspect.cleandoc(sys.modules[member.__module__].__doc__ or "")
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.:;])\s", paragraph, maxsplit=1)[0].rstrip(".:;")


def _first_comment(preset: str) -> str:
    text = (resources.files("handful") / "presets" / f"{preset}.toml").read_text("utf-8")
    first = text.splitlines()[0] if text else ""
    return first.lstrip("# ").rstrip(".") if first.startswith("#") else ""
