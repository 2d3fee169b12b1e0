"""The Stanford Alpaca format with an input, which the paper uses. Knows nothing of tokenizers.

Source: github.com/tatsu-lab/stanford_alpaca, "prompt_input".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from handful.prompts.prompt import Piece, Prompt, default_instruction, full_answers, text_pieces

PREAMBLE = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)


@dataclass(frozen=True, kw_only=True)
class Alpaca(Prompt):
    """Preamble, instruction, the text as input, "### Response:" and a new line, then the answer.

    instruction: what to do; open: a sentence that names the answers.
    """

    name: ClassVar[str] = "alpaca"
    instruction: str | None = None

    def filled(self, label_names: Sequence[str], field_names: Sequence[str]) -> Alpaca:
        return replace(self, instruction=self._instruction(label_names, field_names))

    def pieces(self, label_names: Sequence[str], field_names: Sequence[str]) -> tuple[Piece, ...]:
        instruction = self._instruction(label_names, field_names)
        head = f"{PREAMBLE}### Instruction:\n{instruction}\n\n### Input:\n"
        return (head, *text_pieces(field_names), "\n\n### Response:\n")

    def _instruction(self, label_names: Sequence[str], field_names: Sequence[str]) -> str:
        if self.instruction is not None:
            return self.instruction
        return default_instruction(full_answers(self, label_names), field_names)
