"""A sentence after the text that the answer ends: for base models that follow no instruction.

Knows nothing of tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from handful.prompts.prompt import Piece, Prompt, text_pieces


@dataclass(frozen=True, kw_only=True)
class Cloze(Prompt):
    """The text, a blank line and `ending`, then the answer after a space.

    Labels that are exactly positive and negative have the answers great and terrible.
    """

    name: ClassVar[str] = "cloze"
    ending: str = "All in all, this film was"

    def default_answers(self, label_names: Sequence[str]) -> dict[str, str]:
        known = {"positive": "great", "negative": "terrible"}
        if set(label_names) == known.keys():
            return {label: known[label] for label in label_names}
        return super().default_answers(label_names)

    def pieces(self, label_names: Sequence[str], field_names: Sequence[str]) -> tuple[Piece, ...]:
        return (*text_pieces(field_names), f"\n\n{self.ending}")
