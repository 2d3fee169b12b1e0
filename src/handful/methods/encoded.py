"""What the methods on an encoder share: which model and prompt their cells have. Knows no method by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODEL = "text_encoder"
"""The model family's member."""


def encoder_cell(cell: Mapping[str, Any], checkpoint: str | None) -> dict[str, Any]:
    """The cell on an encoder, which reads the text alone: the one that `checkpoint` names, else the cell's own
    where it has one, else the family's default. A text that is too long is cut as the cell's prompt says.
    """
    model = dict(cell["model"] or {})
    if checkpoint is not None:
        model = {"name": MODEL, "checkpoint": checkpoint}
    elif model.get("name") != MODEL:
        model = {"name": MODEL}
    asked = cell["prompt"] or {}
    prompt = asked if asked.get("name") == "plain" else {"name": "plain", **_keep(asked)}
    return {**cell, "model": model, "prompt": prompt}


def _keep(prompt: Mapping[str, Any]) -> dict[str, Any]:
    return {"keep": prompt["keep"]} if "keep" in prompt else {}
