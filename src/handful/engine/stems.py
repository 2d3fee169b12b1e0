"""Prompts of which a graft edits the last rows only: what comes before is the same for all such grafts, seeds, epochs.

The keys and values of that stem are made once, without gradients, and kept within a number of bytes; the last rows
and the answers run on them. A stem is made alone, so that its numbers depend on its tokens and on nothing that ran
before or beside it, and a text whose stem was not kept gives the same scores, only later.

Knows nothing of prompts, methods or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from handful import progress
from handful.engine.attention import cut_layout
from handful.engine.base import Base
from handful.engine.batching import Part, packed_batches
from handful.engine.forward import later_rows, packed_rows, token_log_probabilities
from handful.engine.graft import Graft
from handful.engine.layers import Kept
from handful.engine.memory import available_bytes
from handful.engine.packing import Item, Read, Segment, common_prefix, num_inner, pack_items

SHARE = 0.25
"""Of the memory that is free when the first stem is kept: what all kept ones may take."""

LARGEST = 2**32
"""Bytes that they may take however much is free."""

Stem = dict[int, tuple[Tensor, Tensor]]
"""Keys and values [tokens, key heads, head_dim] of each layer."""


@dataclass
class Stems:
    """What is kept, by tokens. room: bytes left."""

    room: float
    known: dict[tuple[int, ...], Stem] = field(default_factory=dict)


SHORTEST = 64
"""Tokens of a text, the instruction not counted, from which on scoring makes stems: they are made one by one and each
runs the instruction again, so that texts scored once lose by them, the more the shorter; scored again they gain
(docs/benchmarks.md). Training gains in its first epochs, as no gradient passes a stem."""


def has_stems(base: Base, graft: Graft) -> bool:
    """Whether what comes before the last rows is as the base makes it, and can be kept apart."""
    edits_ends_only = graft.edit is not None and graft.first_rows == 0 and graft.last_rows > 0
    is_bare = graft.prefix_embeddings is None and not graft.added
    if base.placement.offloaded:
        return False  # layers that run twice on the way back would see their own rows twice
    return edits_ends_only and is_bare and base.path.fast and base.facts.get("sliding_window") is None


def on_stems(base: Base, items: Sequence[Item], graft: Graft) -> list[int]:
    """Which of these prompts `stem_scores` can score."""
    if not has_stems(base, graft):
        return []
    return [index for index, item in enumerate(items) if len(item.tokens) > graft.last_rows]


def worth_scoring_on_stems(base: Base, items: Sequence[Item], graft: Graft) -> list[int]:
    """Those of `on_stems` whose own text is long, and no shorter than what all have in common. By tokens alone: a cell
    has the same numbers whatever was kept before it.
    """
    chosen = on_stems(base, items, graft)
    shared = common_prefix([item.tokens for item in items]) if len(items) > 1 else 0
    return [index for index in chosen if len(items[index].tokens) - shared >= max(SHORTEST, shared)]


def in_parts(items: Sequence[Item], chosen: Sequence[int], token_budget: int) -> Iterator[Part]:
    """The chosen items in their order, each part at most `token_budget` tokens or one item."""
    inside: list[int] = []
    size = 0
    for index in chosen:
        item = items[index]
        length = len(item.tokens) + num_inner(item.answers)
        if inside and size + length > token_budget:
            yield Part(tuple(inside), size)
            inside, size = [], 0
        inside.append(index)
        size += length
    if inside:
        yield Part(tuple(inside), size)


def stem_scores(base: Base, items: Sequence[Item], graft: Graft, num_answers: int) -> Tensor:
    """[items, answers] float32: log-probability of each answer's tokens after each prompt, with gradients to the
    graft's parameters where they are asked for.
    """
    cuts = [len(item.tokens) - graft.last_rows for item in items]
    stems = [_stem(base, item.tokens[:cut]) for item, cut in zip(items, cuts, strict=True)]
    segments = _stem_segments(cuts)
    first = sum(cuts)
    token_ids: list[int] = []
    positions: list[int] = []
    edited: list[int] = []
    reads: list[Read] = []
    for number, (item, cut) in enumerate(zip(items, cuts, strict=True)):
        (tail,) = pack_items([Item(item.tokens[cut:], item.answers)], 1, num_shared=0)
        start, place = len(token_ids), len(segments)
        segments += [
            Segment(
                first + start + part.start, first + start + part.stop,
                number if part.parent < 0 else place + part.parent, first + start + part.last,
                place + part.number, True,
            )
            for part in tail.segments
        ]  # fmt: skip
        token_ids += tail.token_ids
        positions += [cut + position for position in tail.positions]
        edited += range(start, start + graft.last_rows)
        reads += [Read(start + read.row, read.token, number, read.answer) for read in tail.reads]
    progress.amount("tail_tokens", len(token_ids))
    kept = Kept({layer: _joined(stems, layer) for layer in range(int(base.facts["num_layers"]))})
    plan = cut_layout(segments, range(first, first + len(token_ids)))
    hidden = later_rows(base, np.array(token_ids), np.array(positions), plan, graft, kept, edited)
    rows = torch.tensor([read.row for read in reads], device=base.device)
    tokens = torch.tensor([read.token for read in reads], device=base.device)
    asked, index = torch.unique(rows, return_inverse=True)
    found = token_log_probabilities(base, hidden[asked], index, tokens)
    cell = torch.tensor([read.item * num_answers + read.answer for read in reads], device=base.device)
    flat = torch.zeros(len(items) * num_answers, dtype=torch.float32, device=base.device)
    return flat.index_add(0, cell, found).reshape(-1, num_answers)


def _stem_segments(cuts: Sequence[int]) -> list[Segment]:
    segments = []
    start = 0
    for number, cut in enumerate(cuts):
        segments.append(Segment(start, start + cut, -1, start + cut, number, False))
        start += cut
    return segments


def _joined(stems: Sequence[Stem], layer: int) -> tuple[Tensor, Tensor]:
    return torch.cat([stem[layer][0] for stem in stems]), torch.cat([stem[layer][1] for stem in stems])


def _stem(base: Base, tokens: tuple[int, ...]) -> Stem:
    """Keys and values of a prompt's first tokens, kept where there is room."""
    if base.stems is None:
        base.stems = Stems(min(LARGEST, SHARE * available_bytes(base.device)))
    stems: Stems = base.stems
    if tokens not in stems.known:
        made = _made(base, tokens)
        size = sum(part.numel() * part.element_size() for pair in made.values() for part in pair)
        if size > stems.room:
            return made
        stems.room -= size
        stems.known[tokens] = made
    return stems.known[tokens]


@torch.no_grad()
def _made(base: Base, tokens: tuple[int, ...]) -> Stem:
    kept = Kept()
    # One answer of one token that nobody looks at: it makes the last row be read.
    (batch,) = packed_batches(base, [Item(tokens, ((0,),))], [0], 0, len(tokens) + 1)
    assert batch.segments is not None
    packed_rows(base, batch, batch.segments, Graft(), [len(tokens) - 1], kept=kept)
    progress.amount("stem_tokens", len(tokens))
    return kept.layers
