"""No prompt at all: for methods that read the fields themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from handful.prompts.prompt import Piece, Prompt


@dataclass(frozen=True, kw_only=True)
class NoPrompt(Prompt):
    """Renders nothing: examples carry their fields, and neither tokens nor answers."""

    name: ClassVar[str] = "none"
    asks: ClassVar[bool] = False

    def pieces(self, label_names: Sequence[str], field_names: Sequence[str]) -> tuple[Piece, ...]:
        return ()
