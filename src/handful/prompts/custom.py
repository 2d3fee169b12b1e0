"""A person's own template over named fields. Knows nothing of tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import ClassVar

from handful.errors import PromptError
from handful.prompts.prompt import Field, Piece, Prompt


@dataclass(frozen=True, kw_only=True)
class Custom(Prompt):
    """`template` with `{field}` where a field's text goes; `{{` and `}}` are plain braces.

    The answer follows after a space, or at once where the template ends in a space or a new line.
    """

    name: ClassVar[str] = "custom"
    template: str

    def pieces(self, label_names: Sequence[str], field_names: Sequence[str]) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as error:
            raise PromptError(
                f"the template has an unmatched brace ({error}): write {{{{ or }}}} for a plain one"
            ) from None
        for literal, name, format_spec, conversion in parts:
            if literal:
                pieces.append(literal)
            if name is None:
                continue
            if format_spec or conversion or not name:
                raise PromptError(
                    f"the template has a slot {{{name}}} with more or less than a field's name: "
                    f"write the name alone, such as {{{field_names[0]}}}"
                )
            pieces.append(Field(name))
        return tuple(pieces)
