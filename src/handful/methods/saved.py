"""What lies beside everything that a method saved: a format version, and which labels its numbers are of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handful.errors import RunError

FORMAT = 1
SCORING_FILE = "scoring.json"


def write_scoring(
    folder: Path, label_names: Sequence[str], more: dict[str, Any], file: str = SCORING_FILE, indent: int | None = 1
) -> None:
    """Makes the folder where it is missing. more: what else its reader wants to know, as plain data."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"format": FORMAT, "label_names": list(label_names), **more}
    (folder / file).write_text(json.dumps(told, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")


def read_scoring(folder: Path, label_names: Sequence[str], file: str = SCORING_FILE) -> dict[str, Any]:
    """The inverse. Raises RunError where nothing was saved, by a later version, or for other labels than these: in
    another order every answer would be another label's.
    """
    told = read_json(folder, file)
    if told.get("format") != FORMAT:
        raise RunError(f"{folder.name}/{file} has format {told.get('format')}, this version reads {FORMAT}")
    names = told.get("label_names")
    if names != list(label_names):
        raise RunError(
            f"{folder.name} was saved for the labels {_listed(names or [])}, and the task at hand has "
            f"{_listed(label_names)}: name the same ones in the same order"
        )
    return told


def read_json(folder: Path, file: str) -> dict[str, Any]:
    """A table in a saved folder. Raises RunError where it is missing or no table."""
    try:
        told = json.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder.name} holds no {file}: name a folder that this method saved") from None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise RunError(f"{folder.name}/{file} is broken: save it again")
    return told


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
