"""The chat template that comes with the model's tokenizer. Knows the messages; encoding.py renders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from handful.prompts.prompt import Message, Piece, Prompt, default_instruction, full_answers, text_pieces


@dataclass(frozen=True, kw_only=True)
class ChatTemplate(Prompt):
    """One user turn (instruction, blank line, text) in the model's own format, then its reply.

    instruction: what to do; open: a sentence that names the answers. system: a system message before it;
    "" for none, which every template accepts. The date that a template writes is always the same, and
    reasoning is turned off where the template can, since the answer follows at once.
    """

    name: ClassVar[str] = "chat_template"
    instruction: str | None = None
    system: str = ""

    def filled(self, label_names: Sequence[str], field_names: Sequence[str]) -> ChatTemplate:
        if self.instruction is not None:
            return self
        return replace(self, instruction=default_instruction(full_answers(self, label_names), field_names))

    def messages(self, label_names: Sequence[str], field_names: Sequence[str]) -> tuple[Message, ...]:
        instruction = self.filled(label_names, field_names).instruction
        content: tuple[Piece, ...] = text_pieces(field_names)
        if instruction:
            content = (f"{instruction}\n\n", *content)
        system = (Message("system", (self.system,)),) if self.system else ()
        return (*system, Message("user", content))
