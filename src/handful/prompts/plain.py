"""The text itself, with nothing asked: for methods that read text or features.

Knows nothing of tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from handful.prompts.prompt import Piece, Prompt, text_pieces


@dataclass(frozen=True, kw_only=True)
class Plain(Prompt):
    """The text alone, in tokens where the model has a tokenizer, and no answers."""

    name: ClassVar[str] = "plain"
    asks: ClassVar[bool] = False

    def pieces(self, label_names: Sequence[str], field_names: Sequence[str]) -> tuple[Piece, ...]:
        return text_pieces(field_names)
