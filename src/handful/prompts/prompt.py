"""What every prompt looks like: literal text, slots for named text fields, and an answer per label.

Knows nothing of tokenizers, models or data sources, and no member by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from handful.errors import PromptError, nearest

Keep = Literal["head", "tail", "ends"]

LEAST_NATS = 10.0
"""Closer to the best label than that, skipped labels would move probabilities visibly: 4.5e-5 each."""

LONGEST_CONTEXT = 4096
"""Tokens. Prompts are not let grow into longer contexts unless `max_tokens` says so."""

RESERVED_TOKENS = 128
"""Tokens of a context that stay free for virtual tokens; contexts up to 512 keep SMALL_RESERVE free."""

SMALL_RESERVE = 16


@dataclass(frozen=True, slots=True)
class Field:
    """A slot that takes the text of one named field."""

    name: str


Piece = str | Field


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat: its role ("system", "user" or "assistant") and its content."""

    role: str
    content: tuple[Piece, ...]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A frozen dataclass; its fields are its knobs in a study file.

    answers: label name -> answer, without the space before it; open: the member's own, mostly the label
    names. shorten: the one field that may be shortened; open: the only one, or the first. keep: the part
    of it that stays, "ends" being its first and its last half. max_tokens: whole prompt and longest answer,
    in tokens; open: from the model's context. `resolve` fills what is open.

    prune_nats: in the test, labels that fall so many nats behind the best one need not be finished, which moves
    no probability by more than (labels - 1) exp(-prune_nats): 1.1e-9 for 77 labels and 25. None: all are finished.
    """

    name: ClassVar[str]
    asks: ClassVar[bool] = True
    """Whether an answer is asked for; without one, no model is needed either."""

    answers: Mapping[str, str] | None = None
    shorten: str | None = None
    keep: Keep = "head"
    max_tokens: int | None = None
    prune_nats: float | None = None

    def default_answers(self, label_names: Sequence[str]) -> dict[str, str]:
        """Label name -> answer where the study file gives none."""
        return {label: label for label in label_names}

    def filled(self, label_names: Sequence[str], field_names: Sequence[str]) -> Prompt:
        """The same prompt with the member's own open knobs filled. `answers` are filled already."""
        return self

    def pieces(self, label_names: Sequence[str], field_names: Sequence[str]) -> tuple[Piece, ...]:
        """The whole prompt up to the answer. Raises PromptError when it cannot be put together."""
        raise TypeError(f"{type(self).__name__} gives neither pieces nor messages: a prompt needs one of them")

    def messages(self, label_names: Sequence[str], field_names: Sequence[str]) -> tuple[Message, ...]:
        """The prompt as a chat, for the model's own template to render; empty for all other prompts."""
        return ()


def resolve(
    prompt: Prompt, label_names: Sequence[str], field_names: Sequence[str], context_length: int | None
) -> Prompt:
    """`prompt` with every open knob filled and every answer stripped; needs no tokenizer and no model.

    `context_length` is in tokens; None: the model has no limit, or there is no model. Prompts that ask for
    no answer keep `answers` open, and `shorten` and `max_tokens` too when there is no context to fit.
    Resolving a resolved prompt changes nothing. Raises PromptError with every problem found.
    """
    problems: list[str] = []
    if prompt.keep not in get_args(Keep):
        problems.append(f"keep must be one of {', '.join(get_args(Keep))}, got {prompt.keep!r}")
    if prompt.asks:
        answers = _answers(prompt, label_names, problems)
        prompt = dataclasses.replace(prompt, answers=answers).filled(label_names, field_names)
    elif prompt.answers is not None:
        problems.append("answers mean nothing here, since nothing is asked: leave them out")
    if prompt.prune_nats is not None and not prompt.asks:
        problems.append("prune_nats means nothing here, since nothing is asked: leave it out")
    elif prompt.prune_nats is not None and prompt.prune_nats < LEAST_NATS:
        problems.append(f"prune_nats must be at least {LEAST_NATS:g}, got {prompt.prune_nats:g}: take 25")
    slots = _slots(prompt, label_names, field_names, problems)
    if prompt.asks or slots:
        prompt = _fitted(prompt, slots, field_names, context_length, problems)
    elif prompt.shorten is not None or prompt.max_tokens is not None:
        problems.append("shorten and max_tokens mean nothing here, since no text is read: leave them out")
    if problems:
        raise PromptError(problem_text(prompt, problems))
    return prompt


def problem_text(prompt: Prompt, problems: Sequence[str]) -> str:
    """What a person reads: one line, or a list of all problems of this prompt."""
    if len(problems) == 1:
        return f"prompt {prompt.name}: {problems[0]}"
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return f"prompt {prompt.name}: {len(problems)} problems\n{lines}"


def full_answers(prompt: Prompt, label_names: Sequence[str]) -> list[str]:
    """The answer of each label, in the order of `label_names`, also for a prompt with open answers."""
    answers = prompt.answers if prompt.answers is not None else prompt.default_answers(label_names)
    return [answers[label] for label in label_names]


def default_instruction(answers: Sequence[str], field_names: Sequence[str]) -> str:
    """A sentence that says the task and names the answers, for any labels and fields."""
    texts = "text" if len(field_names) == 1 else "texts"
    return f"Classify the {texts} as {choice(answers)}."


def choice(answers: Sequence[str]) -> str:
    """The answers in words, such as "A, B or C"."""
    return " or ".join([", ".join(answers[:-1]), answers[-1]] if len(answers) > 1 else answers)


def text_pieces(field_names: Sequence[str]) -> tuple[Piece, ...]:
    """The text alone when it is the only field, otherwise one line per field: "Premise: ..."."""
    if len(field_names) == 1:
        return (Field(field_names[0]),)
    pieces: list[Piece] = []
    for index, name in enumerate(field_names):
        pieces += [("\n" if index else "") + f"{name[:1].upper()}{name[1:]}: ", Field(name)]
    return tuple(pieces)


def slot_names(pieces: Sequence[Piece]) -> list[str]:
    """The fields that are named, each once, in order."""
    return list(dict.fromkeys(piece.name for piece in pieces if isinstance(piece, Field)))


def _answers(prompt: Prompt, label_names: Sequence[str], problems: list[str]) -> dict[str, str]:
    defaults = prompt.default_answers(label_names)
    if prompt.answers is None:
        given = defaults
    else:
        given = dict(prompt.answers)
        for label in given:
            if label not in label_names:
                hint = nearest(label, label_names)
                problems.append(f"answers name the label {label!r}, which the data doesn't have.{hint}")
        missing = [label for label in label_names if label not in given]
        if missing:
            problems.append(f"answers lack the labels {', '.join(map(repr, missing))}: give each an answer")
    answers = {label: given.get(label, defaults[label]).strip() for label in label_names}
    owners: dict[str, str] = {}
    for label, answer in answers.items():
        if not answer:
            problems.append(f"the answer of the label {label!r} is empty: give it at least one word")
        elif answer in owners:
            problems.append(
                f"the labels {owners[answer]!r} and {label!r} have the same answer {answer!r}: "
                "give each its own"
            )
        owners.setdefault(answer, label)
    return answers


def _slots(
    prompt: Prompt, label_names: Sequence[str], field_names: Sequence[str], problems: list[str]
) -> list[str]:
    try:
        messages = prompt.messages(label_names, field_names)
        if messages:
            pieces = tuple(piece for message in messages for piece in message.content)
        else:
            pieces = prompt.pieces(label_names, field_names)
    except PromptError as error:
        problems.append(str(error))
        return list(field_names)
    slots = slot_names(pieces)
    for name in slots:
        if name not in field_names:
            problems.append(
                f"the template names the field {name!r}, which the data doesn't have."
                f"{nearest(name, field_names)} Fields: {', '.join(field_names)}"
            )
    if prompt.asks and not slots:
        problems.append(f"the template names no field: put {{{field_names[0]}}} where the text goes")
    return slots


def _fitted(
    prompt: Prompt,
    slots: Sequence[str],
    field_names: Sequence[str],
    context_length: int | None,
    problems: list[str],
) -> Prompt:
    """`shorten` and `max_tokens` filled and checked."""
    shorten, max_tokens = prompt.shorten, prompt.max_tokens
    if shorten is None:
        shorten = next((name for name in field_names if name in slots), None)
    elif shorten not in field_names:
        problems.append(
            f"shorten names the field {shorten!r}, which the data doesn't have."
            f"{nearest(shorten, field_names)} Fields: {', '.join(field_names)}"
        )
    elif shorten not in slots:
        problems.append(f"shorten names the field {shorten!r}, which is not in the template")
    if max_tokens is None:
        context = LONGEST_CONTEXT if context_length is None else min(context_length, LONGEST_CONTEXT)
        max_tokens = max(1, context - (RESERVED_TOKENS if context > 512 else SMALL_RESERVE))
    elif max_tokens < 1:
        problems.append(f"max_tokens must be at least 1, got {max_tokens}")
    elif context_length is not None and max_tokens > context_length:
        problems.append(
            f"max_tokens is {max_tokens}, and the model's context has {context_length} tokens: "
            f"give at most {context_length}, less the virtual tokens of the method"
        )
    if not prompt.asks and context_length is None:
        shorten = shorten if prompt.max_tokens is not None else prompt.shorten
        max_tokens = prompt.max_tokens
    return dataclasses.replace(prompt, shorten=shorten, max_tokens=max_tokens)
