"""Prompts and texts -> token ids: the one file that calls a tokenizer.

Whole prompts are tokenised, never their parts, and answers as they stand after their prompt, so for every
label `tokens + answer` is the tokenisation of the whole. Texts are data: they never pass through a chat
template's program and never become special tokens. Knows nothing of models, methods or where texts come from.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, overload
from weakref import WeakKeyDictionary

from handful import progress
from handful.errors import PromptError
from handful.examples import UNLABELLED, AnswerTokens, Encoded, EncodedExample, Example, Split, Task
from handful.identity import canonical_json
from handful.prompts.prompt import (
    Field,
    Message,
    Piece,
    Prompt,
    default_instruction,
    full_answers,
    problem_text,
    resolve,
    slot_names,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

CONTENT_FREE = ("", "N/A", "[MASK]")
"""Texts that say nothing (Zhao et al. 2021, "Calibrate Before Use")."""

BLANK_LINE = "\n\n"
"""What stands between one prompt with its answer and the next."""

FIXED_DATE = "26 Jul 2024"
"""What a chat template writes as today's date; Llama-3's own default."""

Source = TypeVar("Source")

BATCH_SIZE = 1000
READ_TOGETHER = 256
TAIL_TOKENS = 6
NUM_CHECKED = 10
MAX_TAILS = 200_000
MAX_PROMPTS = 8


# -- what run.py, the spec and the command line call -----------------------------------------------------


def encode(split: Split, prompt: Prompt, tokenizer: Tokenizer | None) -> Encoded:
    """A split's texts in their prompt, as token ids; a study tokenises each text once per prompt.

    Texts are remembered per (tokenizer, prompt, `split.revision`); with the revision "" nothing is. Task's
    pool and content-free prompts are tokenised when they are first read. A prompt that asks nothing gives
    no answers, and without a tokenizer no tokens. Texts of examples stay as they were given.

    `facts` count over train, selection and test: num_texts_cut, num_tokens_cut (of the shortened field),
    longest_prompt_tokens, mean_prompt_tokens, num_special_neutralised (special tokens found in texts).

    Raises PromptError when a prompt doesn't fit even with an empty text, when two labels have the same answer
    tokens, when one answer begins another and there is no end token, or when a prompt that asks has no
    tokenizer.
    """
    prompt = resolve(prompt, split.label_names, split.field_names, None)
    encoder = _encoder(prompt, split.label_names, split.field_names, tokenizer)
    if encoder is None or tokenizer is None:
        return Encoded(
            task=Task(split.label_names, (), _Lazy(split.pool, lambda some: tuple(map(_bare, some))), ()),
            train=tuple(map(_bare, split.train)),
            selection=tuple(map(_bare, split.selection)),
            test=tuple(map(_bare, split.test)),
        )
    examples = [*split.train, *split.selection, *split.test]
    coded = encoder.code(tokenizer, examples, split.revision)
    encoded = [one.example(source) for one, source in zip(coded, examples, strict=True)]
    num_train, num_seen = len(split.train), len(split.train) + len(split.selection)
    task = Task(
        label_names=split.label_names,
        answer_texts=tuple(encoder.answer_texts),
        pool=_Lazy(split.pool, lambda some: encoder.examples(tokenizer, some, split.revision)),
        content_free=_Lazy(CONTENT_FREE, lambda some: encoder.content_free(tokenizer, some)),
        text_tokens=encoder.task_tokens(tokenizer),
        separator=_bare_tokens(tokenizer, BLANK_LINE),
        prune_nats=prompt.prune_nats,
    )
    return Encoded(
        task=task,
        train=tuple(encoded[:num_train]),
        selection=tuple(encoded[num_train:num_seen]),
        test=tuple(encoded[num_seen:]),
        facts=_facts(coded),
    )


def check_prompt(
    prompt: Prompt,
    label_names: Sequence[str],
    field_names: Sequence[str],
    tokenizer: Tokenizer | None,
    context_length: int | None,
    num_virtual: int = 0,
) -> None:
    """What can be known before any weights load; lengths in tokens, `num_virtual` reserved for the method.

    Raises PromptError when the prompt doesn't fit with empty texts, when prompt and virtual tokens exceed the
    context, when labels have the same answer tokens, or when the tokenizer lacks what the prompt needs.
    """
    prompt = resolve(prompt, label_names, field_names, context_length)
    if context_length is not None and prompt.max_tokens is not None:
        room = context_length - num_virtual
        if prompt.max_tokens > room:
            raise PromptError(
                f"prompt {prompt.name}: max_tokens is {prompt.max_tokens}, and the context of "
                f"{context_length} tokens has room for {room} beside {num_virtual} virtual tokens. "
                f"Give max_tokens = {room} or less, or fewer virtual tokens"
            )
    encoder = _encoder(prompt, label_names, field_names, tokenizer)
    if encoder is not None and tokenizer is not None:
        encoder.spell(tokenizer, [("", dict.fromkeys(field_names, ""))])


@dataclass(frozen=True)
class RenderedPrompt:
    """A whole prompt for a person to read.

    text: up to the answer. answers: one per label, with the space before it. Only with a tokenizer:
    added_tokens, what it puts in front of the text; num_tokens, of the whole prompt without an answer;
    num_cut, text tokens left out to fit, and cut_text, what they say; pieces, the text's part of each token after
    added_tokens, "" for one that only ends a character begun before, none without a fast tokenizer;
    answer_tokens, (id, token) of each label's answer as they stand after the prompt, whose last characters may be part
    of the first one.
    """

    text: str
    answers: tuple[str, ...]
    added_tokens: tuple[str, ...] = ()
    num_tokens: int | None = None
    num_cut: int = 0
    cut_text: str = ""
    pieces: tuple[str, ...] = ()
    answer_tokens: tuple[tuple[tuple[int, str], ...], ...] = ()


def render(
    prompt: Prompt,
    fields: Mapping[str, str],
    label_names: Sequence[str],
    field_names: Sequence[str],
    tokenizer: Tokenizer | None = None,
) -> RenderedPrompt:
    """The prompt of one text; with a tokenizer, exactly as it is tokenised, shortened where it must be.

    Raises PromptError as `encode` does; without a tokenizer only `chat_template` cannot be shown.
    """
    prompt = resolve(prompt, label_names, field_names, None)
    if tokenizer is None:
        form = _form(prompt, label_names, field_names, None)
        return RenderedPrompt(
            _fill(form.pieces, fields), tuple(_answer_texts(prompt, label_names, form.separator))
        )
    encoder = _encoder(prompt, label_names, field_names, tokenizer)
    if encoder is None:
        return RenderedPrompt("", ())
    (spelled,) = encoder.spell(tokenizer, [("", fields)])
    prefix = _known(tokenizer).prefix
    shown = prefix if prefix and not spelled.has_own_prefix else ()
    cut_text = ""
    if spelled.num_cut and encoder.prompt.shorten is not None:
        whole, _ = _break_specials(fields[encoder.prompt.shorten], _known(tokenizer).control)
        (offsets,) = _offsets(tokenizer, [whole])
        start, end = _cut_span(whole, offsets, len(offsets) - spelled.num_cut, encoder.prompt.keep)
        cut_text = whole[start:end]
    return RenderedPrompt(
        text=spelled.text,
        answers=tuple(encoder.answer_texts),
        added_tokens=tuple(tokenizer.convert_ids_to_tokens(list(shown))),
        num_tokens=len(spelled.tokens),
        num_cut=spelled.num_cut,
        cut_text=cut_text,
        pieces=_pieces(tokenizer, spelled.text, len(spelled.tokens) - len(shown)),
        answer_tokens=tuple(
            tuple(zip(answer, tokenizer.convert_ids_to_tokens(list(answer)), strict=True))
            for answer in spelled.answers
        ),
    )


def _pieces(tokenizer: Tokenizer, text: str, count: int) -> tuple[str, ...]:
    """The text's part of each of its first `count` tokens; together the text, as far as they reach."""
    if not tokenizer.is_fast:
        return ()
    pieces, reached = [], 0
    (offsets,) = _offsets(tokenizer, [text])
    for _, end in offsets[:count]:
        # What no token claims, such as a space that the tokenizer drops, goes with the token after it.
        pieces.append(text[reached:end])
        reached = max(reached, end)
    return tuple(pieces)


# -- the form of a prompt: literal text, slots, and the space before the answer --------------------------


class _Form(NamedTuple):
    pieces: tuple[Piece, ...]
    separator: str


def _form(
    prompt: Prompt, label_names: Sequence[str], field_names: Sequence[str], tokenizer: Tokenizer | None
) -> _Form:
    messages = prompt.messages(label_names, field_names)
    if not messages:
        pieces = prompt.pieces(label_names, field_names)
        return _Form(pieces, _separator(pieces))
    if tokenizer is None:
        raise PromptError(f"prompt {prompt.name} needs a model's tokenizer, and there is none")
    return _chat_form(prompt, messages, tokenizer)


def _separator(pieces: Sequence[Piece]) -> str:
    """From the template alone, so that all texts have the same."""
    last = pieces[-1] if pieces else ""
    return "" if isinstance(last, str) and last[-1:].isspace() else " "


def _answer_texts(prompt: Prompt, label_names: Sequence[str], separator: str) -> list[str]:
    return [separator + answer for answer in full_answers(prompt, label_names)] if prompt.asks else []


def _fill(pieces: Sequence[Piece], fields: Mapping[str, str]) -> str:
    return "".join(piece if isinstance(piece, str) else fields[piece.name] for piece in pieces)


# Letters only: a template may strip, escape or quote what it is given.
_SLOT = "HandfulSlot{}Qx"
_REPLY = "HandfulReplyQx"

_DATE_PARTS = {
    "%-d": "26", "%-m": "7", "%-H": "12", "%-I": "12", "%-M": "0", "%-S": "0", "%-j": "208",
    "%A": "Friday", "%a": "Fri", "%B": "July", "%b": "Jul", "%h": "Jul", "%D": "07/26/24", "%e": "26",
    "%F": "2024-07-26", "%d": "26", "%m": "07", "%Y": "2024", "%y": "24", "%G": "2024", "%V": "30",
    "%u": "5", "%w": "5", "%j": "208", "%H": "12", "%I": "12", "%M": "00", "%S": "00", "%f": "000000",
    "%p": "PM", "%R": "12:00", "%T": "12:00:00", "%X": "12:00:00", "%x": "07/26/24",
    "%c": "Fri Jul 26 12:00:00 2024", "%s": "1721995200", "%Z": "", "%z": "", "%%": "%",
}  # fmt: skip

# transformers gives templates a clock, `strftime_now`, and turns a function handed in its place into text.
# A macro of that name in front of the template stands in for it in every version.
_CLOCK = (
    "{%- macro strftime_now(format) -%}{{- format"
    + "".join(f" | replace({code!r}, {value!r})" for code, value in _DATE_PARTS.items())
    + " -}}{%- endmacro %}\n"
)


def _chat_form(prompt: Prompt, messages: Sequence[Message], tokenizer: Tokenizer) -> _Form:
    """The model's own template around placeholders; the texts take their place afterwards."""
    slots = slot_names([piece for message in messages for piece in message.content])
    marks = {name: _SLOT.format(index) for index, name in enumerate(slots)}
    turns = [{"role": message.role, "content": _fill(message.content, marks)} for message in messages]
    try:
        template = tokenizer.get_chat_template()
    except ValueError:
        raise PromptError(
            f"prompt {prompt.name}: this model's tokenizer has no chat template, so it is a base model or "
            "needs another prompt: use cloze, alpaca or custom"
        ) from None
    try:
        rendered = _apply_template(tokenizer, template, turns, ask=True)
    except Exception as error:  # a template is a program of its author's: it may raise anything
        raise PromptError(
            f"prompt {prompt.name}: the model's chat template fails: {error}. "
            "Leave system out, or use another prompt"
        ) from None
    names = {mark: name for name, mark in marks.items()}
    parts = re.split("(" + "|".join(names) + ")", rendered)
    pieces = tuple(Field(names[part]) if part in names else part for part in parts if part)
    missing = [name for name in slots if Field(name) not in pieces]
    if missing:
        raise PromptError(
            f"prompt {prompt.name}: the model's chat template leaves out {', '.join(missing)}: "
            "use another prompt"
        )
    return _Form(pieces, _reply_separator(tokenizer, template, turns, rendered, _separator(pieces)))


def _apply_template(
    tokenizer: Tokenizer, template: str, turns: Sequence[Mapping[str, str]], ask: bool
) -> str:
    return str(
        tokenizer.apply_chat_template(
            [dict(turn) for turn in turns],
            chat_template=_CLOCK + template,
            add_generation_prompt=ask,
            tokenize=False,
            date_string=FIXED_DATE,
            enable_thinking=False,
        )
    )


def _reply_separator(
    tokenizer: Tokenizer, template: str, turns: Sequence[Mapping[str, str]], asked: str, default: str
) -> str:
    """The space that the template itself writes before a reply, where it can be seen; else `default`."""
    try:
        replied = _apply_template(
            tokenizer, template, [*turns, {"role": "assistant", "content": _REPLY}], ask=False
        )
    except Exception:  # the template takes no reply: nothing to learn from it
        return default
    between, mark, _ = replied[len(asked) :].partition(_REPLY)
    return between if replied.startswith(asked) and mark and not between.strip() else default


# -- what is known of a tokenizer ------------------------------------------------------------------------


@dataclass
class _Known:
    """prefix: ids that the tokenizer puts before a text. control: finds its special tokens in a text."""

    prefix: tuple[int, ...]
    control: re.Pattern[str] | None
    eos: int | None
    start: int | None
    encoders: dict[str, _Encoder] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)
    bare: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def tuple_of(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The ids, one object per number: a quarter of the memory of 25,000 texts."""
        return tuple(map(self.numbers.setdefault, ids, ids))


_tokenizers: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def _known(tokenizer: Tokenizer) -> _Known:
    known = _tokenizers.get(tokenizer)
    if known is None:
        eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
        known = _Known(_prefix(tokenizer), _control(tokenizer), eos, bos if bos is not None else eos)
        _tokenizers[tokenizer] = known
    return known


def _prefix(tokenizer: Tokenizer) -> tuple[int, ...]:
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return tuple(whole[:start])
    return ()


def _control(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Special tokens, and added ones that the chat template writes (Qwen's "<think>" is not marked special).

    Other added tokens are words like any other: Gemma has added tokens for line breaks and HTML.
    """
    template = tokenizer.chat_template
    written = template if isinstance(template, str) else "\n".join((template or {}).values())
    found = set(tokenizer.all_special_tokens)
    for token in tokenizer.added_tokens_decoder.values():
        # Some templates put "<|role|>" together from parts, so its look counts as well.
        is_turn = re.fullmatch(r"<[|｜].+[|｜]>", token.content) is not None  # noqa: RUF001
        if token.special or is_turn or (not token.content[:1].isalnum() and token.content in written):
            found.add(token.content)
    strings = [text for text in found if len(text) > 1 and not text.isspace()]
    longest_first = sorted(strings, key=lambda text: (-len(text), text))
    return re.compile("|".join(map(re.escape, longest_first))) if strings else None


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text as it stands: nothing added, nothing cut."""
    found: list[list[int]] = []
    for start in range(0, len(texts), BATCH_SIZE):
        batch = tokenizer(
            list(texts[start : start + BATCH_SIZE]),
            add_special_tokens=False,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        found += batch["input_ids"]
    return found


# -- texts in one prompt for one tokenizer ---------------------------------------------------------------


class _Spelled(NamedTuple):
    """One text in its prompt. `has_own_prefix`: the template itself writes what the tokenizer would add."""

    text: str
    tokens: tuple[int, ...]
    answers: AnswerTokens
    has_own_prefix: bool
    num_cut: int = 0
    num_special: int = 0

    @property
    def num_tokens(self) -> int:
        """Prompt and longest answer, in tokens."""
        return len(self.tokens) + max(map(len, self.answers), default=0)


class _Coded(NamedTuple):
    """What is remembered of a text; the label is not, since the same text may stand in the pool."""

    fields: Mapping[str, str]
    tokens: tuple[int, ...]
    answers: AnswerTokens
    num_cut: int
    num_special: int

    def example(self, source: Example) -> EncodedExample:
        return EncodedExample(source.id, self.tokens, self.answers, source.label, source.fields, self.num_cut)


def _encoder(
    prompt: Prompt, label_names: Sequence[str], field_names: Sequence[str], tokenizer: Tokenizer | None
) -> _Encoder | None:
    """The encoder of a prompt, kept with its tokenizer; None when there is nothing to tokenise."""
    if tokenizer is None:
        if prompt.asks:
            raise PromptError(
                f"prompt {prompt.name} asks a model, and there is none: give a model, "
                'or use prompt = "plain" or "none" with a method that needs no model'
            )
        return None
    if not prompt.asks and not prompt.pieces(label_names, field_names):
        return None
    prompt = dataclasses.replace(prompt, prune_nats=None)  # it changes no token
    knobs = {knob.name: getattr(prompt, knob.name) for knob in dataclasses.fields(prompt)}
    plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in knobs.items()}
    key = canonical_json([prompt.name, plain, list(label_names), list(field_names)])
    encoders = _known(tokenizer).encoders
    encoder = encoders.pop(key, None)
    if encoder is None:
        form = _form(prompt, label_names, field_names, tokenizer)
        encoder = _Encoder(prompt, tuple(label_names), tuple(field_names), form)
        while len(encoders) >= MAX_PROMPTS:  # the one that was used longest ago
            del encoders[next(iter(encoders))]
    encoders[key] = encoder
    return encoder


class _Encoder:
    """Spells texts in one resolved prompt. It is handed the tokenizer, so that it keeps none alive."""

    def __init__(
        self, prompt: Prompt, label_names: tuple[str, ...], field_names: tuple[str, ...], form: _Form
    ) -> None:
        self.prompt = prompt
        self.label_names = label_names
        self.field_names = field_names
        self.pieces = form.pieces
        self.slots = slot_names(form.pieces)
        self.answer_texts = _answer_texts(prompt, label_names, form.separator)
        self._remembered: dict[str, dict[str, _Coded]] = {}
        self._tails: dict[tuple[int, ...], tuple[int, AnswerTokens]] = {}
        self._answers: dict[AnswerTokens, AnswerTokens] = {}
        self._trusts_tails = True

    def examples(
        self, tokenizer: Tokenizer, examples: Sequence[Example], revision: str
    ) -> tuple[EncodedExample, ...]:
        """Encoded, in order, each with its own label."""
        coded = self.code(tokenizer, examples, revision)
        return tuple(one.example(source) for one, source in zip(coded, examples, strict=True))

    def code(self, tokenizer: Tokenizer, examples: Sequence[Example], revision: str) -> list[_Coded]:
        """One per example, tokenised only where the text isn't remembered for this revision."""
        remembered = self._remembered.setdefault(revision, {}) if revision else {}
        coded: dict[int, _Coded] = {}
        missing: list[int] = []
        for index, example in enumerate(examples):
            known = remembered.get(example.id)
            # The fields are compared, so that an id that comes back with another text is not mistaken.
            if known is not None and known.fields == example.fields:
                coded[index] = known
            else:
                missing.append(index)
        for start in range(0, len(missing), BATCH_SIZE):
            progress.advance(start, len(missing))
            batch = missing[start : start + BATCH_SIZE]
            spelled = self.spell(tokenizer, [(examples[index].id, examples[index].fields) for index in batch])
            for index, one in zip(batch, spelled, strict=True):
                source = examples[index]
                fresh = _Coded(source.fields, one.tokens, one.answers, one.num_cut, one.num_special)
                remembered[source.id] = coded[index] = fresh
        if missing:
            progress.advance(len(missing), len(missing))
        return [coded[index] for index in range(len(examples))]

    def content_free(self, tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[EncodedExample, ...]:
        """The prompt with every text replaced by each of `texts`."""
        sources = [
            Example(f"content_free:{index}", dict.fromkeys(self.field_names, text), UNLABELLED)
            for index, text in enumerate(texts)
        ]
        return self.examples(tokenizer, sources, "")

    def task_tokens(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """A sentence that says the task, without special tokens."""
        sentence = default_instruction(full_answers(self.prompt, self.label_names), self.field_names)
        return _bare_tokens(tokenizer, sentence)

    def spell(self, tokenizer: Tokenizer, texts: Sequence[tuple[str, Mapping[str, str]]]) -> list[_Spelled]:
        """(id, fields) -> token ids that fit into max_tokens. Raises PromptError when they can't."""
        control = _known(tokenizer).control
        cleaned: list[dict[str, str]] = []
        num_special: list[int] = []
        for name, fields in texts:
            absent = [slot for slot in self.slots if slot not in fields]
            if absent:
                raise PromptError(f"prompt {self.prompt.name}: example {name!r} has no field {absent[0]!r}")
            clean = {slot: _break_specials(fields[slot], control) for slot in self.slots}
            cleaned.append({slot: text for slot, (text, _) in clean.items()})
            num_special.append(sum(count for _, count in clean.values()))
        spelled = self._spell_whole(tokenizer, [_fill(self.pieces, fields) for fields in cleaned])
        limit = self.prompt.max_tokens
        if limit is not None:
            too_long = [index for index, one in enumerate(spelled) if one.num_tokens > limit]
            for index, one in self._shortened(tokenizer, texts, cleaned, spelled, too_long, limit):
                spelled[index] = one
        return [one._replace(num_special=count) for one, count in zip(spelled, num_special, strict=True)]

    def _shortened(
        self,
        tokenizer: Tokenizer,
        texts: Sequence[tuple[str, Mapping[str, str]]],
        cleaned: Sequence[Mapping[str, str]],
        spelled: Sequence[_Spelled],
        too_long: Sequence[int],
        limit: int,
    ) -> Iterator[tuple[int, _Spelled]]:
        """Cuts the one field at its own tokens and tokenises the whole again, until it fits."""
        slot = self.prompt.shorten
        if not too_long or slot is None:
            return
        times = max(1, self.pieces.count(Field(slot)))
        offsets = dict(
            zip(too_long, _offsets(tokenizer, [cleaned[index][slot] for index in too_long]), strict=True)
        )
        kept = {index: len(offsets[index]) for index in too_long}
        latest = {index: spelled[index] for index in too_long}
        while latest:
            for index, one in latest.items():
                if kept[index] == 0:
                    self._refuse(texts[index][0], slot, one, limit)
                kept[index] = max(0, kept[index] + (limit - one.num_tokens) // times)
            cuts = {
                index: _cut(cleaned[index][slot], offsets[index], kept[index], self.prompt.keep)
                for index in latest
            }
            whole = [_fill(self.pieces, {**cleaned[index], slot: text}) for index, text in cuts.items()]
            again = dict(zip(cuts, self._spell_whole(tokenizer, whole), strict=True))
            for index, one in again.items():
                if one.num_tokens <= limit:
                    yield index, one._replace(num_cut=len(offsets[index]) - kept[index])
            latest = {index: one for index, one in again.items() if one.num_tokens > limit}

    def _refuse(self, name: str, slot: str, one: _Spelled, limit: int) -> None:
        whose = f"the prompt of example {name!r}" if name else "the prompt"
        others = ", the other fields" if len(self.slots) > 1 else ""
        raise PromptError(
            f"prompt {self.prompt.name}: with an empty {slot!r}, {whose} has {len(one.tokens)} tokens and "
            f"its longest answer {one.num_tokens - len(one.tokens)}, and max_tokens is {limit}. Shorten the "
            f"instruction{others} or the answers, or raise max_tokens as far as the model's context goes"
        )

    # whole prompts and the answers after them

    def _spell_whole(self, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[_Spelled]:
        known = _known(tokenizer)
        ids = _ids(tokenizer, prompts)
        ends = self._answers_after(tokenizer, prompts, ids)
        spelled = []
        for text, whole, (num_merged, answers) in zip(prompts, ids, ends, strict=True):
            has_own_prefix = bool(known.prefix) and tuple(whole[: len(known.prefix)]) == known.prefix
            tokens = known.tuple_of(whole[: len(whole) - num_merged])
            if not has_own_prefix:
                tokens = known.prefix + tokens
            if not tokens and known.start is not None:
                # The answer needs something to follow; the usual stand-in for an empty prompt.
                tokens = (known.start,)
            spelled.append(_Spelled(text, tokens, answers, has_own_prefix))
        return spelled

    def _answers_after(
        self, tokenizer: Tokenizer, prompts: Sequence[str], ids: Sequence[list[int]]
    ) -> list[tuple[int, AnswerTokens]]:
        """For each prompt: how many of its last tokens merge with an answer, and the answers' tokens.

        They depend on the end of the prompt alone in all tokenizers known, so they are found once per tail;
        some are checked against the whole, and after one difference nothing is taken from a tail again.
        """
        if not self.answer_texts:
            return [(0, ())] * len(prompts)
        tails = [tuple(one[-TAIL_TOKENS:]) for one in ids]
        if len(self._tails) > MAX_TAILS:
            self._tails.clear()
        if not self._trusts_tails:
            return self._found_answers(tokenizer, prompts, ids)
        fresh = {tail: index for index, tail in reversed(list(enumerate(tails))) if tail not in self._tails}
        found = self._found_answers(
            tokenizer, [prompts[index] for index in fresh.values()], [ids[index] for index in fresh.values()]
        )
        if any(num_merged >= TAIL_TOKENS for num_merged, _ in found):
            self._trusts_tails = False
            return self._found_answers(tokenizer, prompts, ids)
        self._tails.update(zip(fresh, found, strict=True))
        taken = [index for index, tail in enumerate(tails) if fresh.get(tail) != index]
        if taken:
            some = random.Random(len(taken)).sample(taken, min(NUM_CHECKED - 2, len(taken)))
            checked = sorted({taken[0], taken[-1], *some})
            truth = self._found_answers(
                tokenizer, [prompts[index] for index in checked], [ids[index] for index in checked]
            )
            if truth != [self._tails[tails[index]] for index in checked]:
                self._trusts_tails = False
                return self._found_answers(tokenizer, prompts, ids)
        return [self._tails[tail] for tail in tails]

    def _found_answers(
        self, tokenizer: Tokenizer, prompts: Sequence[str], ids: Sequence[list[int]]
    ) -> list[tuple[int, AnswerTokens]]:
        """Each prompt tokenised with each answer: what follows the tokens that all of them share with it."""
        known = _known(tokenizer)
        found = []
        step = max(1, BATCH_SIZE // len(self.answer_texts))
        for start in range(0, len(prompts), step):
            some = prompts[start : start + step]
            wholes = iter(
                _ids(tokenizer, [prompt + answer for prompt in some for answer in self.answer_texts])
            )
            for prompt_ids in ids[start : start + step]:
                labels = list(itertools.islice(wholes, len(self.answer_texts)))
                shared = min(_num_shared(prompt_ids, whole) for whole in labels)
                answers = self._ended(known, tuple(tuple(whole[shared:]) for whole in labels))
                found.append((len(prompt_ids) - shared, self._answers.setdefault(answers, answers)))
        return found

    def _ended(self, known: _Known, answers: AnswerTokens) -> AnswerTokens:
        """All answers with the end token where one begins another: "good" is then not "good enough"."""
        order = sorted(range(len(answers)), key=answers.__getitem__)
        for left, right in itertools.pairwise(order):
            if answers[left] == answers[right]:
                self._refuse_pair(
                    left, right, "have the same tokens in this tokenizer: give one another answer"
                )
        for left, right in itertools.pairwise(order):
            # Sorted, whatever an answer begins comes right after it.
            if answers[right][: len(answers[left])] == answers[left]:
                if known.eos is not None:
                    return tuple((*answer, known.eos) for answer in answers)
                problem = "begin one another, and this tokenizer has no end token: give one another answer"
                self._refuse_pair(left, right, problem)
        return answers

    def _refuse_pair(self, left: int, right: int, problem: str) -> None:
        first, second = sorted((left, right))
        words = full_answers(self.prompt, self.label_names)
        line = (
            f"the answers of {self.label_names[first]!r} ({words[first]!r}) and {self.label_names[second]!r} "
            f"({words[second]!r}) {problem}"
        )
        raise PromptError(problem_text(self.prompt, [line]))


def _bare_tokens(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """A text's tokens without special ones; remembered, since there are few of them."""
    known = _known(tokenizer)
    if text not in known.bare:
        known.bare[text] = known.tuple_of(_ids(tokenizer, [text])[0])
    return known.bare[text]


def _num_shared(left: Sequence[int], right: Sequence[int]) -> int:
    shortest = min(len(left), len(right))
    if left[:shortest] == right[:shortest]:
        return shortest
    return next(index for index in range(shortest) if left[index] != right[index])


def _break_specials(text: str, control: re.Pattern[str] | None) -> tuple[str, int]:
    """The text with a space after the first character of each special token in it, and their count."""
    count = 0
    # Again, since a token may hold another one; bounded, should a token survive its own breaking.
    for _ in range(8):
        if control is None or not control.search(text):
            break
        text, found = control.subn(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        count += found
    return text, count


def _offsets(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Character offsets of each text's own tokens."""
    if not tokenizer.is_fast:
        raise PromptError(
            "texts are too long, and this tokenizer gives no character offsets to shorten them at: "
            "use a model with a fast tokenizer (tokenizer.json), or shorten the texts beforehand"
        )
    batch = tokenizer(
        list(texts),
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    offsets: list[list[tuple[int, int]]] = batch["offset_mapping"]
    return offsets


def _cut(text: str, offsets: Sequence[tuple[int, int]], num_kept: int, keep: str) -> str:
    """The text without the tokens that go: its head, its tail, or both ends joined by " ... "."""
    if num_kept >= len(offsets):
        return text
    start, end = _cut_span(text, offsets, num_kept, keep)
    head, tail = text[:start], text[end:]
    return f"{head} ... {tail}" if head and tail else head + tail


def _cut_span(text: str, offsets: Sequence[tuple[int, int]], num_kept: int, keep: str) -> tuple[int, int]:
    """From which to before which character the text goes when `num_kept` of its tokens stay."""
    num_head = {"head": num_kept, "tail": 0, "ends": (num_kept + 1) // 2}[keep]
    num_tail = num_kept - num_head
    return offsets[num_head - 1][1] if num_head else 0, offsets[-num_tail][0] if num_tail else len(text)


def _bare(example: Example) -> EncodedExample:
    return EncodedExample(example.id, (), (), example.label, example.fields)


def _facts(coded: Sequence[_Coded]) -> dict[str, Any]:
    """Counts over the texts of one split; nothing when there are none."""
    if not coded:
        return {}
    lengths = [len(one.tokens) for one in coded]
    return {
        "num_texts_cut": sum(one.num_cut > 0 for one in coded),
        "num_tokens_cut": sum(one.num_cut for one in coded),
        "longest_prompt_tokens": max(lengths),
        "mean_prompt_tokens": round(sum(lengths) / len(lengths), 2),
        "num_special_neutralised": sum(one.num_special for one in coded),
    }


class _Lazy(Sequence[EncodedExample], Generic[Source]):
    """Examples that are made when they are read, READ_TOGETHER at a time: most methods read none or the first few."""

    def __init__(
        self, sources: Sequence[Source], make: Callable[[Sequence[Source]], tuple[EncodedExample, ...]]
    ) -> None:
        self._sources, self._make = sources, make
        self._made: dict[int, tuple[EncodedExample, ...]] = {}

    def __len__(self) -> int:
        return len(self._sources)

    @overload
    def __getitem__(self, index: int) -> EncodedExample: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[EncodedExample, ...]: ...

    def __getitem__(self, index: int | slice) -> EncodedExample | tuple[EncodedExample, ...]:
        if isinstance(index, slice):
            return tuple([self[place] for place in range(*index.indices(len(self)))])
        batch, place = divmod(range(len(self))[index], READ_TOGETHER)
        if batch not in self._made:
            start = batch * READ_TOGETHER
            self._made[batch] = self._make(self._sources[start : start + READ_TOGETHER])
        return self._made[batch][place]
