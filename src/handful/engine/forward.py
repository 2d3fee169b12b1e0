"""Items + one graft -> vocabulary logits at the answer positions, packed or padded.

The packed way runs a tree of segments in one row through our attention. The padded way, for bases on
which that is not proven exact, runs right-padded rows with the model's own attention: exact for a causal
model, since no text sees what stands to its right. Knows nothing of prompts or method names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from handful import progress
from handful.engine import attention
from handful.engine.base import Base
from handful.engine.graft import Graft
from handful.engine.packing import Item, Pack, Read, pack_items, shared_prefix


@dataclass(frozen=True)
class Batch:
    """One forward pass. token_ids [rows, tokens], -1 where virtual tokens stand; positions alike or None.

    items: which items of the call are inside. reads: each summand of a label's score; `row` counts in the
    flattened [rows * tokens], `item` within the batch. layout: of a packed batch, else None.
    """

    token_ids: Tensor
    positions: Tensor | None
    num_virtual: int
    items: tuple[int, ...]
    reads: tuple[Read, ...]
    segments: Pack | None

    @property
    def num_tokens(self) -> int:
        """Tokens that run, padding and virtual tokens included."""
        return self.token_ids.numel()


def batches(
    base: Base, items: Sequence[Item], num_virtual: int, token_budget: int, num_shared: int | None = None
) -> Iterator[Batch]:
    """Every item once, in batches of at most `token_budget` tokens (a longer item comes alone)."""
    fast = [index for index, item in enumerate(items) if base.path.fast and _inside_window(base, item, num_virtual)]
    packed = [items[index] for index in fast]
    if num_shared is None:
        num_shared = shared_prefix(packed, num_virtual)
    for pack in pack_items(packed, token_budget, num_virtual, num_shared):
        yield Batch(
            torch.tensor([pack.token_ids], device=base.device),
            torch.tensor([pack.positions], device=base.device),
            num_virtual,
            tuple(fast[index] for index in pack.items),
            pack.reads,
            pack,
        )
    if base.path.fast and len(fast) < len(items):
        progress.note("texts longer than the sliding window took the plain path")
    rest = sorted(set(range(len(items))) - set(fast), key=lambda index: (len(items[index].tokens), index))
    yield from padded_batches(base, items, rest, num_virtual, token_budget)


def answer_logits(base: Base, batch: Batch, graft: Graft) -> tuple[Tensor, Tensor]:
    """Runs a batch; gives [answer rows, vocabulary] float32 logits, and per read the index of its row.

    The head sees answer rows only. Whatever the architecture does after its head (softcapping, scaling) is
    done, because the rows are chosen on the way into it.
    """
    rows = sorted({read.row for read in batch.reads})
    place = {row: index for index, row in enumerate(rows)}
    wanted = torch.tensor(rows, device=base.device)
    inputs: dict[str, Any] = {"use_cache": False, "attention_mask": None}
    if graft.prefix_embeddings is None:
        inputs["input_ids"] = batch.token_ids
    else:
        prefix = graft.prefix_embeddings()
        words = base.embed(batch.token_ids[:, batch.num_virtual :])
        prefix = prefix.to(words.dtype).unsqueeze(0).expand(words.shape[0], -1, -1)
        inputs["inputs_embeds"] = torch.cat([prefix, words], dim=1)
    plan = None
    if batch.segments is not None:
        plan = attention.layout(batch.segments.segments, batch.segments.longest_path)
        inputs |= {"position_ids": batch.positions, "pack_layout": plan}
    with _attention_of(base, packed=plan is not None), _only_rows(base.head, wanted):
        logits: Tensor = base.network(**inputs).logits
    if plan is not None and plan.num_calls != base.facts["num_layers"]:
        raise attention.UnknownKeyword(
            f"packed attention ran {plan.num_calls} times in {base.facts['num_layers']} layers"
        )
    index = torch.tensor([place[read.row] for read in batch.reads], device=base.device)
    return logits.reshape(-1, logits.shape[-1]).float(), index


def _inside_window(base: Base, item: Item, num_virtual: int) -> bool:
    window = base.facts.get("sliding_window")
    longest = num_virtual + len(item.tokens) + max((len(answer) for answer in item.answers), default=1)
    return window is None or longest <= window


def padded_batches(
    base: Base, items: Sequence[Item], order: Sequence[int], num_virtual: int, token_budget: int
) -> Iterator[Batch]:
    """Right-padded batches of items of about equal length; each inner answer path is a row of its own."""
    inside: list[int] = []
    num_rows = longest = 0
    for index in order:
        paths = _inner_paths(items[index])
        width = num_virtual + len(items[index].tokens) + max(map(len, paths))
        if inside and (num_rows + len(paths)) * max(longest, width) > token_budget:
            yield _pad(base, items, inside, num_virtual)
            inside, num_rows, longest = [], 0, 0
        inside.append(index)
        num_rows, longest = num_rows + len(paths), max(longest, width)
    if inside:
        yield _pad(base, items, inside, num_virtual)


def _pad(base: Base, items: Sequence[Item], inside: Sequence[int], num_virtual: int) -> Batch:
    sequences: list[tuple[int, ...]] = []
    drafts: list[tuple[int, int, int, int, int]] = []  # (sequence, token place, token, item, answer)
    for order, index in enumerate(inside):
        item, first = items[index], len(sequences)
        paths = _inner_paths(item)
        sequences += [(-1,) * num_virtual + item.tokens + path for path in paths]
        end = num_virtual + len(item.tokens) - 1
        for number, answer in enumerate(item.answers):
            if answer:
                own = next(k for k, path in enumerate(paths) if path[: len(answer) - 1] == answer[:-1])
                drafts += [(first + own, end + step, token, order, number) for step, token in enumerate(answer)]
    width = max(map(len, sequences))
    token_ids = torch.zeros(len(sequences), width, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        token_ids[row, : len(sequence)] = torch.tensor(sequence)
    reads = tuple(
        Read(sequence * width + place, token, order, number) for sequence, place, token, order, number in drafts
    )
    return Batch(token_ids.to(base.device), None, num_virtual, tuple(inside), reads, None)


def _inner_paths(item: Item) -> list[tuple[int, ...]]:
    """The answers without their last token, none that begins another; [()] when all are one token."""
    inner = {answer[:-1] for answer in item.answers if answer} or {()}
    return sorted(p for p in inner if not any(q != p and q[: len(p)] == p for q in inner))


@contextmanager
def _attention_of(base: Base, packed: bool) -> Iterator[None]:
    """The base with packed attention, or with the one it was loaded with."""
    config = base.network.config
    before = config._attn_implementation
    if packed:
        config._attn_implementation = attention.NAME
    try:
        yield
    finally:
        if packed:
            config._attn_implementation = before


@contextmanager
def _only_rows(head: nn.Module, rows: Tensor) -> Iterator[None]:
    """The head is given these rows of its flattened input, as [1, rows, width]."""

    def choose(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1])[rows].unsqueeze(0),)

    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
