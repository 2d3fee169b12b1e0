"""Two whole prompts of a study for a person to read, with the seams of their tokens and what was cut.

Loads no weights and downloads none. Knows nothing of terminals, nor of how a prompt is tokenised.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from handful.data import load_dataset
from handful.errors import DataError, ModelError, SpecError
from handful.examples import Example
from handful.identity import ESTIMATED
from handful.models.checkpoint import ACCESS
from handful.models.model import Model
from handful.models.shapes import KNOWN
from handful.prompts import RenderedPrompt, render
from handful.spec import RunSpec
from handful.study import Plan

SEAM = "|"
"""Between two tokens; one that stands in a text is written as "\\|"."""


@dataclass(frozen=True)
class ShownPrompt:
    """One test text (a training text where there is no test side) in a prompt. label: its label's name."""

    checkpoint: str
    prompt: str
    example_id: str
    label: str
    label_names: tuple[str, ...]
    rendered: RenderedPrompt

    @property
    def seamed(self) -> str:
        """The prompt with SEAM between its tokens, those that the tokenizer adds first, all of it escaped."""
        return SEAM.join(escaped(part) for part in (*self.rendered.added_tokens, *self.rendered.pieces))


def two_prompts(plan: Plan) -> tuple[tuple[ShownPrompt, ...], int]:
    """(two prompts, how many different ones the study has). The first is a plain test text in the study's first prompt,
    the second the longest test text in its second prompt, or in the first where there is one alone.

    plan: an outline is enough. Raises ModelError where no tokenizer of it is to be had, DataError where its texts are
    not, SpecError where no cell puts a prompt to a language model.
    """
    asking = [spec for spec in plan.distinct if spec.prompt.asks and spec.model.speaks]
    if not asking:
        raise SpecError("no cell of this study puts a prompt to a language model: there is none to show")
    tokenizers: dict[Model, Any] = {}
    for spec in asking:
        if spec.model not in tokenizers:
            tokenizers[spec.model] = spec.model.load_tokenizer()
    here = [spec for spec in asking if tokenizers[spec.model] is not None]
    if not here:
        raise ModelError(_without_tokenizer(asking[0].model))
    with_texts = [spec for spec in here if spec.data.revision != ESTIMATED]
    if not with_texts:
        raise DataError(
            f"the texts of {here[0].data.name} are not here and the hub cannot be reached, so no prompt can be shown: "
            "run this where there is a network, or name a folder that holds them: data = { name = "
            f'"{here[0].data.name}", folder = "..." }}, or HANDFUL_DATA'
        )
    by_prompt: dict[tuple[str, str], RunSpec] = {}
    for spec in with_texts:
        by_prompt.setdefault((repr(spec.data), repr(spec.prompt)), spec)
    different = list(by_prompt.values())
    first, second = different[0], different[min(1, len(different) - 1)]
    return (
        _shown(first, tokenizers[first.model], is_longest=False),
        _shown(second, tokenizers[second.model], is_longest=True),
    ), len(different)


def _without_tokenizer(model: Model) -> str:
    name = str(getattr(model, "checkpoint", model.name))
    gated = f"The base is gated: {ACCESS}. " if name in KNOWN and KNOWN[name].terms else ""
    return (
        f"the tokenizer of {name!r} is not here and cannot be had from the hub, so its prompts cannot be shown. {gated}"
        f"Where there is a network, `hf download {name} --include 'config.json' 'tokenizer*'` brings it; or name a "
        "folder that holds config.json and the tokenizer's files with --model FOLDER"
    )


def _shown(spec: RunSpec, tokenizer: Any, is_longest: bool) -> ShownPrompt:
    dataset = load_dataset(spec.data)
    texts = dataset.test or dataset.train

    def length(example: Example) -> int:
        return sum(map(len, example.fields.values()))

    example = max(texts, key=length) if is_longest else texts[0]
    return ShownPrompt(
        checkpoint=str(getattr(spec.model, "checkpoint", spec.model.name)),
        prompt=spec.prompt.name,
        example_id=example.id,
        label=dataset.label_names[example.label],
        label_names=dataset.label_names,
        rendered=render(spec.prompt, example.fields, dataset.label_names, dataset.field_names, tokenizer),
    )


def escaped(text: str) -> str:
    """Printable: a line break as "\\n" and a break, other control and invisible characters as "\\x1b" or "\\u202e",
    a backslash doubled, SEAM after a backslash.
    """
    return "".join(_ESCAPED.get(character) or _printable(character) for character in text)


_ESCAPED = {"\n": "\\n\n", "\\": "\\\\", SEAM: f"\\{SEAM}", "\t": "\\t", "\r": "\\r"}


def _printable(character: str) -> str:
    # Cc: control, Cf: such as direction marks and zero-width joiners, Cs: half of a pair, Zl and Zp: line breaks.
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
