"""Items + one graft -> vocabulary logits at the answer positions, packed or padded.

The packed way runs a tree of segments in one row through layers of our own. The padded way, for bases on
which that is not proven exact, runs right-padded rows through the model as it is: exact for a causal
model, since no text sees what stands to its right. Knows nothing of prompts or method names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from handful.engine import attention
from handful.engine.base import Base
from handful.engine.batching import Batch
from handful.engine.graft import Graft
from handful.engine.layers import Call, Kept, Unsupported, run_layer
from handful.engine.packing import Pack

NO_MASK = "handful_packed"
"""Name of an attention that transformers makes no mask for."""

HEAD_ROWS = 8192
"""Rows of a 16-bit head that are cast to float32 at a time."""

CPU_LOGITS = 2**21
"""Logits that a CPU makes at a time where no gradient is asked for: 8 MiB."""

TRAINED_LOGITS = 2**24
"""Logits that training makes at a time: 64 MiB, three times that with their gradients. With more, as many labels make
them, each part is made again on the way back; otherwise they would outweigh all that the layers keep."""


def _never(*_: Any, **__: Any) -> Any:
    raise Unsupported("the model ran an attention of its own on the fast path")


AttentionInterface.register(NO_MASK, _never)


def answer_logits(base: Base, batch: Batch, graft: Graft, saves_memory: bool = False) -> tuple[Tensor, Tensor]:
    """Runs a batch; gives [answer rows, vocabulary] float32 logits, and per read the index of its row.

    The head sees answer rows only, and on the fast path so does the last layer. saves_memory: activations are
    computed again on the way back (fast path; elsewhere it changes nothing).
    """
    rows, index = _read_rows(base, batch)
    if batch.segments is None:
        logits = _padded_logits(base, batch, graft, torch.tensor(rows, device=base.device))
    else:
        hidden = packed_rows(base, batch, batch.segments, graft, rows, saves_memory)
        logits = head_logits(base, hidden)
    return logits.reshape(-1, logits.shape[-1]).float(), index


def answer_rows(base: Base, batch: Batch) -> tuple[Tensor, Tensor]:
    """Runs a batch on the bare base; gives [answer rows, width], what the head is given there, and per read the index
    of its row.
    """
    rows, index = _read_rows(base, batch)
    if batch.segments is not None:
        return packed_rows(base, batch, batch.segments, Graft(), rows), index
    hidden: Tensor = base.decoder(**_inputs(base, batch, Graft())).last_hidden_state
    return hidden.flatten(0, 1)[torch.tensor(rows, device=base.device)], index


def read_log_probabilities(base: Base, batch: Batch, graft: Graft, saves_memory: bool = False) -> Tensor:
    """Runs a batch; gives [reads] float32, the log-probability of each read's token over the vocabulary."""
    tokens = torch.tensor([read.token for read in batch.reads], device=base.device)
    if batch.segments is None:
        logits, index = answer_logits(base, batch, graft, saves_memory)
        return logits[index, tokens] - logits.logsumexp(dim=-1)[index]
    rows, index = _read_rows(base, batch)
    hidden = packed_rows(base, batch, batch.segments, graft, rows, saves_memory)
    return token_log_probabilities(base, hidden, index, tokens)


def _read_rows(base: Base, batch: Batch) -> tuple[list[int], Tensor]:
    """The rows that are read, rising, and per read the index of its row among them."""
    rows = sorted({read.row for read in batch.reads})
    place = {row: index for index, row in enumerate(rows)}
    return rows, torch.tensor([place[read.row] for read in batch.reads], device=base.device)


def _inputs(base: Base, batch: Batch, graft: Graft) -> dict[str, Any]:
    """Token ids, or embeddings with the virtual tokens before them, as the model takes them."""
    inputs: dict[str, Any] = {"use_cache": False, "attention_mask": None}
    if graft.prefix_embeddings is None:
        return inputs | {"input_ids": batch.token_ids}
    prefix = graft.prefix_embeddings()
    words = base.embed(batch.token_ids[:, batch.num_virtual :])
    prefix = prefix.to(words).unsqueeze(0).expand(words.shape[0], -1, -1)
    return inputs | {"inputs_embeds": torch.cat([prefix, words], dim=1)}


def packed_rows(
    base: Base,
    batch: Batch,
    pack: Pack,
    graft: Graft,
    rows: Sequence[int],
    saves_memory: bool = False,
    kept: Kept | None = None,
) -> Tensor:
    """[rows, width]: what the head is given at `rows` of a pack, by our layers inside the model's own embedding,
    positions and last norm. kept: gets the keys and values of the whole pack, for `later_rows`.
    """
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
        kept=kept,
        placement=base.placement,
    )
    if graft.edit is not None:
        call.edits, call.edits_cut = _edited_rows(base, batch, graft, pack.ends, rows)
    return _through_layers(base, call, batch.positions, _inputs(base, batch, graft))


def later_rows(
    base: Base,
    token_ids: np.ndarray,
    positions: np.ndarray,
    plan: attention.Layout,
    graft: Graft,
    kept: Kept,
    edited: Sequence[int] = (),
) -> Tensor:
    """[rows, width]: the same at rows that run after the passes whose keys and values are `kept`, which get theirs in
    turn. plan: what they see of all rows so far. edited: which of them are last rows of a prompt.
    """
    rows = torch.arange(len(token_ids), device=base.device)
    call = Call(
        int(base.facts["num_layers"]), rows, whole=plan, cut=plan, graft=graft, kept=kept, placement=base.placement
    )
    if edited:
        call.edits = call.edits_cut = rows[:0], rows[list(edited)]
    ids, places = (torch.from_numpy(numbers[None]).to(base.device) for numbers in (token_ids, positions))
    return _through_layers(base, call, places, {"use_cache": False, "attention_mask": None, "input_ids": ids})


def _through_layers(base: Base, call: Call, positions: Tensor | None, inputs: dict[str, Any]) -> Tensor:
    with _our_layers(base, call):
        hidden: Tensor = base.decoder(position_ids=positions, **inputs).last_hidden_state[0]
    if call.num_run != call.num_layers:
        raise Unsupported(f"{call.num_run} layers ran of {call.num_layers}")
    return hidden


def head_logits(base: Base, hidden: Tensor) -> Tensor:
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


def token_log_probabilities(base: Base, hidden: Tensor, index: Tensor, tokens: Tensor) -> Tensor:
    """[reads] float32: log-probability of `tokens` after the rows `index` of hidden [rows, width].

    With many labels the logits are the largest tensor of all, so that they are never seen whole.
    """
    is_training = torch.is_grad_enabled()
    step = len(hidden)
    if is_training or (base.device.type == "cpu" and hidden.dtype == torch.float32):
        step = max(64, (TRAINED_LOGITS if is_training else CPU_LOGITS) // int(base.facts["vocabulary"]))

    def part(some: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
        logits = head_logits(base, some)
        return logits[rows, wanted] - logits.logsumexp(dim=-1)[rows]

    if len(hidden) <= step:
        return part(hidden, index, tokens)
    total = torch.zeros(len(index), dtype=torch.float32, device=base.device)
    for first in range(0, len(hidden), step):
        inside = ((index >= first) & (index < first + step)).nonzero()[:, 0]
        some, rows, wanted = hidden[first : first + step], index[inside] - first, tokens[inside]
        if is_training:
            found = checkpoint(part, some, rows, wanted, use_reentrant=False)
        else:
            found = part(some, rows, wanted)
        total = total.index_copy(0, inside, found)
    return total


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
    hooked = [layer.__dict__.get("forward") for layer in layers]  # on a spread base accelerate's
    config._attn_implementation = NO_MASK
    try:
        for number, layer in enumerate(layers):
            layer.forward = runner(layer, number)
        yield
    finally:
        config._attn_implementation = before
        for layer, own in zip(layers, hooked, strict=True):
            layer.__dict__.pop("forward", None)
            if own is not None:
                layer.forward = own


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
                    rows = rows.to(flat.device)
                    flat = flat.index_copy(0, rows, graft.edit(number, flat[rows], is_last_rows).to(flat))
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
