"""Items + one graft -> vocabulary logits at the answer positions, packed or padded.

The packed way runs a tree of segments in one row through layers of our own. The padded way, for bases on
which that is not proven exact, runs right-padded rows through the model as it is: exact for a causal
model, since no text sees what stands to its right. Knows nothing of prompts or method names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from handful import progress
from handful.engine import attention
from handful.engine.base import Base
from handful.engine.graft import Graft
from handful.engine.layers import Call, Unsupported, run_layer
from handful.engine.packing import Item, Pack, Read, pack_items, shared_prefix

NO_MASK = "handful_packed"
"""Name of an attention that transformers makes no mask for."""

BATCH_TOKENS_CPU, BATCH_TOKENS = 64, 256
"""What a padded batch costs however small it is, in tokens: on a CPU measured at 30 to 50 with the base that ships;
elsewhere about what an accelerator multiplies while it reads 16-bit weights once (180 on an H100, computed)."""

HEAD_ROWS = 8192
"""Rows of a 16-bit head that are cast to float32 at a time."""


def _never(*_: Any, **__: Any) -> Any:
    raise Unsupported("the model ran an attention of its own on the fast path")


AttentionInterface.register(NO_MASK, _never)


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
) -> Iterator[Batch]:
    """Every item once, in batches of at most `token_budget` tokens (a longer item comes alone).

    num_shared: first tokens that a pack runs once for all its items; by default what they have in common, the
    last `num_edited` tokens of each left out, since a method changes those text by text.
    """
    fast = [index for index, item in enumerate(items) if base.path.fast and _inside_window(base, item, num_virtual)]
    packed = [items[index] for index in fast]
    if num_shared is None:
        num_shared = shared_prefix(packed, num_virtual, num_edited)
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
    yield from padded_batches(base, items, set(range(len(items))) - set(fast), num_virtual, token_budget)


def answer_logits(base: Base, batch: Batch, graft: Graft, saves_memory: bool = False) -> tuple[Tensor, Tensor]:
    """Runs a batch; gives [answer rows, vocabulary] float32 logits, and per read the index of its row.

    The head sees answer rows only, and on the fast path so does the last layer. saves_memory: activations are
    computed again on the way back (fast path; elsewhere it changes nothing).
    """
    rows = sorted({read.row for read in batch.reads})
    place = {row: index for index, row in enumerate(rows)}
    wanted = torch.tensor(rows, device=base.device)
    if batch.segments is None:
        logits = _padded_logits(base, batch, graft, wanted)
    else:
        logits = _packed_logits(base, batch, batch.segments, graft, rows, saves_memory)
    index = torch.tensor([place[read.row] for read in batch.reads], device=base.device)
    return logits.reshape(-1, logits.shape[-1]).float(), index


def _inputs(base: Base, batch: Batch, graft: Graft) -> dict[str, Any]:
    """Token ids, or embeddings with the virtual tokens before them, as the model takes them."""
    inputs: dict[str, Any] = {"use_cache": False, "attention_mask": None}
    if graft.prefix_embeddings is None:
        return inputs | {"input_ids": batch.token_ids}
    prefix = graft.prefix_embeddings()
    words = base.embed(batch.token_ids[:, batch.num_virtual :])
    prefix = prefix.to(words.dtype).unsqueeze(0).expand(words.shape[0], -1, -1)
    return inputs | {"inputs_embeds": torch.cat([prefix, words], dim=1)}


def _packed_logits(
    base: Base, batch: Batch, pack: Pack, graft: Graft, rows: Sequence[int], saves_memory: bool
) -> Tensor:
    """Our layers inside the model's own embedding, positions and last norm; the head in float32."""
    window = base.facts.get("sliding_window")
    if window is not None and pack.longest_path > window:
        raise Unsupported(f"a text of {pack.longest_path} tokens is longer than the window {window}")
    call = Call(
        num_layers=int(base.facts["num_layers"]),
        rows=torch.tensor(rows, device=base.device),
        whole=attention.layout(pack.segments),
        cut=attention.cut_layout(pack.segments, rows),
        graft=graft,
        saves_memory=saves_memory,
    )
    if graft.edit is not None:
        call.edits, call.edits_cut = _edited_rows(base, batch, graft, pack.ends, rows)
    with _our_layers(base, call):
        hidden = base.decoder(position_ids=batch.positions, **_inputs(base, batch, graft)).last_hidden_state[0]
    if call.num_run != call.num_layers:
        raise Unsupported(f"{call.num_run} layers ran of {call.num_layers}")
    return _head_logits(base, hidden)


def _head_logits(base: Base, hidden: Tensor) -> Tensor:
    """[rows, width] -> [rows, vocabulary] float32, the product in float32 whatever the weights are."""
    head: Any = base.head
    if type(head) is not nn.Linear or hidden.dtype != head.weight.dtype:
        # An adapter on the head, or a head of another dtype than the layers: its own business.
        logits = head(hidden.to(getattr(head, "weight", hidden).dtype)).float()
    elif head.weight.dtype == torch.float32:
        logits = nn.functional.linear(hidden, head.weight, head.bias)
    else:
        parts = [hidden.float() @ part.float().T for part in head.weight.split(HEAD_ROWS)]
        logits = torch.cat(parts, dim=1) if head.bias is None else torch.cat(parts, dim=1) + head.bias.float()
    cap = getattr(base.network.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _padded_logits(base: Base, batch: Batch, graft: Graft, wanted: Tensor) -> Tensor:
    """The model as transformers runs it. Whatever the architecture does after its head (softcapping, scaling) is
    done, because the rows are chosen on the way into it."""
    edits = None
    if graft.edit is not None:
        edits, _ = _edited_rows(base, batch, graft, batch.ends, [])
    with _only_rows(base.head, wanted), _edited(base, graft, edits):
        logits: Tensor = base.network(**_inputs(base, batch, graft)).logits
    return logits


def _edited_rows(
    base: Base, batch: Batch, graft: Graft, ends: Sequence[tuple[int, int]], answer_rows: Sequence[int]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(first, last) rows that the graft edits, in the batch and among its answer rows.

    ends: of each prompt (row after its last token, its number of tokens). In a pack the first tokens may stand
    in the shared root, once for all.
    """
    root = 0 if batch.segments is None else batch.segments.num_shared
    virtual = batch.num_virtual
    first: set[int] = set(range(virtual, virtual + min(root, graft.first_rows)))
    last: set[int] = set()
    for end, length in ends:
        own = length - root  # tokens that stand right before `end`
        first |= {end - own + step for step in range(max(0, min(graft.first_rows, length) - root))}
        count = min(graft.last_rows, length - min(graft.first_rows, length))
        if count > own:
            raise Unsupported(f"the last {count} tokens of a prompt are to be edited, {own} of them are not shared")
        last |= set(range(end - count, end))
    place = {row: index for index, row in enumerate(answer_rows)}

    def on_device(rows: Iterable[int]) -> Tensor:
        return torch.tensor(sorted(rows), dtype=torch.long, device=base.device)

    cut = tuple(on_device(place[row] for row in rows if row in place) for rows in (first, last))
    return (on_device(first), on_device(last)), (cut[0], cut[1])


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


@contextmanager
def _our_layers(base: Base, call: Call) -> Iterator[None]:
    """The model's layers run by `run_layer`, and no attention mask is made for them."""
    config = base.network.config.get_text_config()
    before = config._attn_implementation

    def runner(layer: Any, number: int) -> Any:
        def forward(hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: Any) -> Tensor:
            cos, sin = position_embeddings
            return run_layer(layer, number, config, hidden_states[0], cos, sin, call).unsqueeze(0)

        return forward

    layers = list(base.layers)
    config._attn_implementation = NO_MASK
    try:
        for number, layer in enumerate(layers):
            layer.forward = runner(layer, number)
        yield
    finally:
        config._attn_implementation = before
        for layer in layers:
            layer.__dict__.pop("forward", None)


@contextmanager
def _edited(base: Base, graft: Graft, edits: tuple[Tensor, Tensor] | None) -> Iterator[None]:
    """The model's own layers with the graft's edit of these rows of the flattened [rows * tokens]."""
    handles = []

    def hook(number: int) -> Any:
        def change(module: nn.Module, inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            flat = hidden.flatten(0, 1)
            for rows, is_last_rows in zip(edits or (), (False, True), strict=False):
                if len(rows) and graft.edit is not None:
                    flat = flat.index_copy(0, rows, graft.edit(number, flat[rows], is_last_rows).to(flat.dtype))
            hidden = flat.view_as(hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return change

    if edits is not None:
        handles = [layer.register_forward_hook(hook(number)) for number, layer in enumerate(base.layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
