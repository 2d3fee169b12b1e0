"""What the methods on an encoder share: which model and prompt their cells have. Knows no method by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

MODEL = "text_encoder"
"""The model family's member."""


def encoder_cell(cell: Mapping[str, Any], checkpoint: str | None) -> dict[str, Any]:
    """The cell on an encoder, which reads the text alone: the one that `checkpoint` names, else the cell's own
    where it has one, else the family's default. A text that is too long is cut as the cell's prompt says.
    """
    model = dict(cell["model"] or {})
    is_encoder = model.get("name") == MODEL
    if checkpoint is not None and not (is_encoder and shown_name(str(model.get("checkpoint"))) == checkpoint):
        model = {"name": MODEL, "checkpoint": checkpoint}
    elif not is_encoder:
        model = {"name": MODEL}
    asked = cell["prompt"] or {}
    prompt = asked if asked.get("name") == "plain" else {"name": "plain", **_keep(asked)}
    return {**cell, "model": model, "prompt": prompt}


def shown_name(checkpoint: str) -> str:
    """A hub name as it is, of a folder the last part: where it lies says nothing elsewhere."""
    folder = Path(checkpoint).expanduser()
    return folder.resolve().name if folder.is_dir() else checkpoint


def _keep(prompt: Mapping[str, Any]) -> dict[str, Any]:
    return {"keep": prompt["keep"]} if "keep" in prompt else {}
