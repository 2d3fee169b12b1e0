"""Prompts -> packs: trees of segments under a token budget.

A pack is one row of tokens that holds many texts. Its root segment is what all prompts begin with
(virtual tokens first), the rests of the texts are its children, label words are grandchildren. Each
segment sees its ancestors wholly and itself causally, so prefix sharing and label words of many tokens
are one idea. Only inner label nodes run: a label's last token is predicted by its parent.

Pure token ids: knows nothing of prompts, methods or models.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from handful.examples import AnswerTokens

MIN_SHARED_TOKENS = 8
"""Shorter common prefixes are not worth a segment of their own."""


@dataclass(frozen=True)
class Item:
    """One prompt and the answers whose tokens are to be predicted after it."""

    tokens: tuple[int, ...]
    answers: AnswerTokens


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of the pack; `parent` is another segment's `number`, -1 for none.

    Segments stand in depth-first order, so that a segment's descendants follow it without a gap, up to
    token `last`. of_answer: its tokens are an answer's, below a text.
    """

    start: int
    stop: int
    parent: int
    last: int
    number: int
    of_answer: bool


@dataclass(frozen=True)
class Read:
    """Log-probability of `token` after pack token `row`, one summand of a label's score."""

    row: int
    token: int
    item: int
    answer: int


@dataclass(frozen=True)
class Pack:
    """token_ids and positions: one entry a token, the `num_virtual` first ones stand for virtual tokens
    (id -1), the `num_shared` next ones begin every prompt. items: which items of the call are inside, in
    order. reads: see Read; `item` counts within the pack. longest_path: tokens from the root to the deepest
    leaf. ends: of each item the row after its last prompt token, and its number of prompt tokens.
    """

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    num_virtual: int
    segments: tuple[Segment, ...]
    items: tuple[int, ...]
    reads: tuple[Read, ...]
    longest_path: int
    num_shared: int
    ends: tuple[tuple[int, int], ...]


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many first tokens all prompts share, leaving every prompt at least one of its own."""
    if not prompts:
        return 0
    first, last = min(prompts), max(prompts)
    shared = 0
    for a, b in zip(first, last, strict=False):
        if a != b:
            break
        shared += 1
    return min(shared, min(map(len, prompts)) - 1)


def shared_prefix(items: Sequence[Item], num_virtual: int, num_edited: int = 0) -> int:
    """How many first tokens of these items go into the root, 0 where sharing is not worth it. The last
    `num_edited` tokens of an item are never shared."""
    shared = common_prefix([item.tokens for item in items]) if len(items) > 1 else 0
    shared = max(0, min([shared, *(len(item.tokens) - num_edited for item in items)]))
    return shared if shared + num_virtual >= MIN_SHARED_TOKENS else 0


def pack_items(
    items: Sequence[Item], token_budget: int, num_virtual: int = 0, num_shared: int | None = None
) -> Iterator[Pack]:
    """Fills packs with items in their order, each pack at most `token_budget` tokens.

    An item that is longer than the budget gets a pack of its own. num_shared: first tokens that go into
    the root; by default what is common to all items.
    """
    if num_shared is None:
        num_shared = shared_prefix(items, num_virtual)
    root = num_virtual + num_shared
    inside: list[int] = []
    size = root
    for index, item in enumerate(items):
        own = len(item.tokens) - num_shared + num_inner(item.answers)
        if inside and size + own > token_budget:
            yield _build(items, inside, num_virtual, num_shared)
            inside, size = [], root
        inside.append(index)
        size += own
    if inside:
        yield _build(items, inside, num_virtual, num_shared)


def num_inner(answers: AnswerTokens) -> int:
    """Answer tokens that run after a text: what several answers begin with once, last tokens never."""
    return len({answer[:depth] for answer in answers for depth in range(1, len(answer))})


def _build(items: Sequence[Item], inside: list[int], num_virtual: int, num_shared: int) -> Pack:
    tree = _Tree()
    root = -1
    longest = num_virtual + num_shared
    ends = []
    if longest:
        root = tree.add([-1] * num_virtual + list(items[inside[0]].tokens[:num_shared]), -1, 0)
    for order, index in enumerate(inside):
        item = items[index]
        text = tree.add(item.tokens[num_shared:], root, num_virtual + num_shared)
        end = num_virtual + len(item.tokens)
        ends.append((tree.last_row(text) + 1, len(item.tokens)))
        tree.append(_answer_tree(item.answers), text, end, order)
        longest = max(longest, end + max((len(answer) for answer in item.answers if answer), default=1) - 1)
    return Pack(
        tuple(tree.token_ids), tuple(tree.positions), num_virtual, tree.segments(), tuple(inside),
        tuple(tree.reads), longest, num_shared, tuple(ends),
    )  # fmt: skip


@functools.lru_cache(maxsize=64)
def _answer_tree(answers: AnswerTokens) -> _Tree:
    """What grows after a text of one token: the same after every text that is asked for these answers."""
    tree = _Tree()
    text = tree.add([0], -1, 0)
    tree.grow([(number, answer) for number, answer in enumerate(answers) if answer], 0, 0, text, 1)
    return tree


class _Tree:
    """A pack in the making. `places` are (start, stop, parent, is of an answer) per segment."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.positions: list[int] = []
        self.places: list[tuple[int, int, int, bool]] = []
        self.reads: list[Read] = []

    def add(self, tokens: Sequence[int], parent: int, position: int, of_answer: bool = False) -> int:
        start = len(self.token_ids)
        self.token_ids.extend(tokens)
        self.positions.extend(range(position, position + len(tokens)))
        self.places.append((start, len(self.token_ids), parent, of_answer))
        return len(self.places) - 1

    def last_row(self, segment: int) -> int:
        return self.places[segment][1] - 1

    def append(self, answers: _Tree, text: int, position: int, order: int) -> None:
        """The answers as they grow after a text of one token, put after the last segment, which is `text`.

        `position` is that of an answer's first token.
        """
        row, rest = len(self.token_ids) - 1, answers.places[1:]
        self.token_ids.extend(answers.token_ids[1:])
        self.positions.extend([depth + position - 1 for depth in answers.positions[1:]])
        self.places.extend([(row + start, row + stop, text + parent, True) for start, stop, parent, _ in rest])
        self.reads.extend([Read(row + read.row, read.token, order, read.answer) for read in answers.reads])

    def grow(
        self, branches: list[tuple[int, tuple[int, ...]]], depth: int, row: int, parent: int, position: int
    ) -> None:
        """Reads every branch's token at `depth` from `row`, then grows a segment for each that goes on.

        `position` is that of the token at `depth`. A branch that is alone becomes one segment to its end.
        """
        ongoing: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        for number, answer in branches:
            self.reads.append(Read(row, answer[depth], 0, number))
            if depth + 1 < len(answer):
                ongoing.setdefault(answer[depth], []).append((number, answer))
        for token, group in ongoing.items():
            if len(group) == 1:
                number, answer = group[0]
                inner = answer[depth:-1]
                node = self.add(inner, parent, position, of_answer=True)
                first = self.places[node][0]
                self.reads.extend(
                    Read(first + step, answer[depth + 1 + step], 0, number) for step in range(len(inner))
                )
            else:
                node = self.add([token], parent, position, of_answer=True)
                self.grow(group, depth + 1, self.last_row(node), node, position + 1)

    def segments(self) -> tuple[Segment, ...]:
        last = [stop for _, stop, _, _ in self.places]
        for number in range(len(last) - 1, -1, -1):
            parent = self.places[number][2]
            if parent >= 0:
                last[parent] = max(last[parent], last[number])
        return tuple(
            Segment(start, stop, parent, last[number], number, of_answer)
            for number, (start, stop, parent, of_answer) in enumerate(self.places)
        )
