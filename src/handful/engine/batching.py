"""Items -> forward passes: packs for the fast path, padded rows of about equal length for the plain one.

Knows nothing of models' layers, methods or prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from handful import progress
from handful.engine.base import Base
from handful.engine.packing import Item, Pack, Read, pack_items, shared_prefix

BATCH_TOKENS_CPU, BATCH_TOKENS = 64, 256
"""What a padded batch costs however small it is, in tokens: on a CPU measured at 30 to 50 with the base that ships;
elsewhere about what an accelerator multiplies while it reads 16-bit weights once (180 on an H100, computed)."""


@dataclass(frozen=True)
class Batch:
    """One forward pass. token_ids [rows, tokens], -1 where virtual tokens stand; positions alike or None.

    items: which items of the call are inside. reads: each summand of a label's score; `row` counts in the
    flattened [rows * tokens], `item` within the batch. segments: of a packed batch, else None. ends: of each
    prompt in a padded batch (row after its last token, its number of tokens).
    """

    token_ids: Tensor
    positions: Tensor | None
    num_virtual: int
    items: tuple[int, ...]
    reads: tuple[Read, ...]
    segments: Pack | None
    ends: tuple[tuple[int, int], ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens that run, padding and virtual tokens included."""
        return self.token_ids.numel()


def batches(
    base: Base,
    items: Sequence[Item],
    num_virtual: int,
    token_budget: int,
    num_shared: int | None = None,
    num_edited: int = 0,
    chosen: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Every item once, in batches of at most `token_budget` tokens (a longer item comes alone).

    num_shared: first tokens that a pack runs once for all its items; by default what they have in common, the
    last `num_edited` tokens of each left out, since a method changes those text by text. chosen:
    which of the items, by default all.
    """
    fast, rest = by_path(base, items, num_virtual)
    if chosen is not None:
        inside = set(chosen)
        fast, rest = [index for index in fast if index in inside], [index for index in rest if index in inside]
    yield from packed_batches(base, items, fast, num_virtual, token_budget, num_shared, num_edited)
    yield from padded_batches(base, items, rest, num_virtual, token_budget)


def by_path(base: Base, items: Sequence[Item], num_virtual: int) -> tuple[list[int], list[int]]:
    """Which items are to be packed, in their order, and which to be padded, the short ones first."""
    fast = [index for index, item in enumerate(items) if base.path.fast and _inside_window(base, item, num_virtual)]
    if base.path.fast and len(fast) < len(items):
        progress.note("texts longer than the sliding window took the plain path")
    rest = sorted(set(range(len(items))) - set(fast), key=lambda index: (len(items[index].tokens), index))
    return fast, rest


@dataclass(frozen=True)
class Part:
    """Texts that go through together where no batch is made beforehand. items: which of the call."""

    items: tuple[int, ...]
    num_tokens: int
    segments: None = None


def packed_batches(
    base: Base,
    items: Sequence[Item],
    order: Sequence[int],
    num_virtual: int,
    token_budget: int,
    num_shared: int | None = None,
    num_edited: int = 0,
) -> Iterator[Batch]:
    """The items of `order` in packs; the rest as in `batches`."""
    packed = [items[index] for index in order]
    if num_shared is None:
        num_shared = shared_prefix(packed, num_virtual, num_edited)
    for pack in pack_items(packed, token_budget, num_virtual, num_shared):
        yield Batch(
            torch.tensor([pack.token_ids], device=base.device),
            torch.tensor([pack.positions], device=base.device),
            num_virtual,
            tuple(order[index] for index in pack.items),
            pack.reads,
            pack,
        )


def _inside_window(base: Base, item: Item, num_virtual: int) -> bool:
    window = base.facts.get("sliding_window")
    longest = num_virtual + len(item.tokens) + max((len(answer) for answer in item.answers), default=1)
    return window is None or longest <= window


def padded_batches(
    base: Base, items: Sequence[Item], chosen: Iterable[int], num_virtual: int, token_budget: int
) -> Iterator[Batch]:
    """Right-padded batches of the chosen items, each of items of about equal length, the shortest first; each inner
    answer path is a row of its own."""
    paths = {index: _inner_paths(items[index]) for index in chosen}
    widths = {index: num_virtual + len(items[index].tokens) + max(map(len, paths[index])) for index in paths}
    order = sorted(paths, key=lambda index: (widths[index], index))
    fixed = BATCH_TOKENS_CPU if base.device.type == "cpu" else BATCH_TOKENS
    for part in cut_by_width(
        [widths[index] for index in order], [len(paths[index]) for index in order], token_budget, fixed
    ):
        yield _pad(base, items, order[part], num_virtual)


def cut_by_width(widths: Sequence[int], rows: Sequence[int], token_budget: int, fixed: int) -> list[slice]:
    """Cuts items in rising width into batches whose tokens, padding included, and `fixed` ones per batch are fewest.

    rows: of each item in its batch. A batch has at most `token_budget` tokens, or one item. By dynamic programming
    over where the last batch begins.
    """
    before = np.concatenate([[0], np.cumsum(rows)])  # rows before each item
    cheapest = np.zeros(len(widths) + 1, dtype=np.int64)
    begins = np.zeros(len(widths) + 1, dtype=np.int64)
    for stop, width in enumerate(widths, start=1):
        first = min(int(np.searchsorted(before, before[stop] - token_budget // width)), stop - 1)
        costs = cheapest[first:stop] + (before[stop] - before[first:stop]) * width + fixed
        begins[stop] = first + int(costs.argmin())
        cheapest[stop] = costs.min()
    cuts = []
    stop = len(widths)
    while stop:
        cuts.append(slice(int(begins[stop]), stop))
        stop = int(begins[stop])
    return cuts[::-1]


def _pad(base: Base, items: Sequence[Item], inside: Sequence[int], num_virtual: int) -> Batch:
    sequences: list[tuple[int, ...]] = []
    drafts: list[tuple[int, int, int, int, int]] = []  # (sequence, token place, token, item, answer)
    lengths: list[int] = []  # of each sequence's prompt, without virtual tokens
    for order, index in enumerate(inside):
        item, first = items[index], len(sequences)
        paths = _inner_paths(item)
        sequences += [(-1,) * num_virtual + item.tokens + path for path in paths]
        lengths += [len(item.tokens)] * len(paths)
        end = num_virtual + len(item.tokens) - 1
        for number, answer in enumerate(item.answers):
            if answer:
                own = next(k for k, path in enumerate(paths) if path[: len(answer) - 1] == answer[:-1])
                drafts += [(first + own, end + step, token, order, number) for step, token in enumerate(answer)]
    width = max(map(len, sequences))
    token_ids = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        token_ids[row, : len(sequence)] = torch.tensor(sequence)
    ends = [(row * width + num_virtual + length, length) for row, length in enumerate(lengths)]
    reads = tuple(
        Read(sequence * width + place, token, order, number) for sequence, place, token, order, number in drafts
    )
    return Batch(token_ids.to(base.device), None, num_virtual, tuple(inside), reads, None, tuple(ends))


def _inner_paths(item: Item) -> list[tuple[int, ...]]:
    """The answers without their last token, none that begins another; [()] when all are one token."""
    inner = {answer[:-1] for answer in item.answers if answer} or {()}
    return sorted(p for p in inner if not any(q != p and q[: len(p)] == p for q in inner))
