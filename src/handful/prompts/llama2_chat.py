"""The chat format of Llama-2, with a system message. Knows nothing of tokenizers, which add the `<s>`.

Source: Touvron et al. 2023 and meta-llama/llama, `generation.py` (B_INST, B_SYS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from handful.prompts.prompt import Piece, Prompt, choice, default_instruction, full_answers, text_pieces


@dataclass(frozen=True, kw_only=True)
class Llama2Chat(Prompt):
    """System message and one user turn (instruction, blank line, text), then the answer after a space.

    instruction: what to do; open: a sentence that names the answers. system: how to answer; open: a
    sentence that asks for the answer alone; "" leaves the system message out.
    """

    name: ClassVar[str] = "llama2_chat"
    instruction: str | None = None
    system: str | None = None

    def filled(self, label_names: Sequence[str], field_names: Sequence[str]) -> Llama2Chat:
        answers = full_answers(self, label_names)
        instruction, system = self.instruction, self.system
        if instruction is None:
            instruction = default_instruction(answers, field_names)
        if system is None:
            system = f"Please answer with {choice(answers)} only."
        return replace(self, instruction=instruction, system=system)

    def pieces(self, label_names: Sequence[str], field_names: Sequence[str]) -> tuple[Piece, ...]:
        full = self.filled(label_names, field_names)
        system = f"<<SYS>>\n{full.system}\n<</SYS>>\n\n" if full.system else ""
        instruction = f"{full.instruction}\n\n" if full.instruction else ""
        return (f"[INST] {system}{instruction}", *text_pieces(field_names), " [/INST]")
