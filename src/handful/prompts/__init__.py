"""FAMILY: prompts, and the answer words of the labels.

A new member is one file with a frozen dataclass over `Prompt`, and one line in `PROMPTS`. Knows nothing of
data sources, models or methods.
"""

from __future__ import annotations

from handful.prompts.alpaca import Alpaca
from handful.prompts.chat_template import ChatTemplate
from handful.prompts.cloze import Cloze
from handful.prompts.custom import Custom
from handful.prompts.encoding import RenderedPrompt, check_prompt, encode, render
from handful.prompts.llama2_chat import Llama2Chat
from handful.prompts.none import NoPrompt
from handful.prompts.plain import Plain
from handful.prompts.prompt import Field, Message, Piece, Prompt, resolve

PROMPTS: dict[str, type[Prompt]] = {
    "alpaca": Alpaca,
    "chat_template": ChatTemplate,
    "cloze": Cloze,
    "custom": Custom,
    "llama2_chat": Llama2Chat,
    "none": NoPrompt,
    "plain": Plain,
}

__all__ = [
    "PROMPTS",
    "Field",
    "Message",
    "Piece",
    "Prompt",
    "RenderedPrompt",
    "check_prompt",
    "encode",
    "render",
    "resolve",
]
