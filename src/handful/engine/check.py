"""Is the packed way exact on this base? Asked once, when a base is loaded.

A packed tree with a shared prefix, label branches and texts of different lengths is compared with the
model as it is with eager attention, one padded row per path. Architectures outside KNOWN are not asked: on
those, agreement with the weights at hand proves nothing (a softcap or an alibi bias may be too small to see).
"""

from __future__ import annotations

import torch

from handful.engine.base import Base, PathCheck
from handful.engine.batching import Batch, batches, padded_batches
from handful.engine.forward import answer_logits
from handful.engine.graft import Graft
from handful.engine.layers import KNOWN, Unsupported, check_anatomy
from handful.engine.packing import Item

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference over the largest absolute logit, per dtype of the weights."""


@torch.no_grad()
def check_path(base: Base, dtype: torch.dtype) -> PathCheck:
    """Fast and how exact, or plain and why."""
    kind = base.facts["architecture"]
    if kind not in KNOWN:
        return PathCheck(False, f"plain path, because the packed way is not proven for {kind!r} models")
    try:
        check_anatomy(base.network.config.get_text_config(), list(base.layers))
    except (Unsupported, AttributeError) as error:
        return PathCheck(False, f"plain path, because {error}")
    bounds = [bound for bound in (base.context_length, base.facts.get("sliding_window"), 4096) if bound]
    items = _probe(int(base.facts["vocabulary"]), min(bounds))
    graft = Graft()
    reference, tried = [], []
    try:
        base.path = PathCheck(True, "being checked")
        for batch in batches(base, items, 0, 4096):
            if batch.segments is None:
                return PathCheck(False, "plain path, because the probe does not fit the sliding window")
            tried.append(_by_read(base, batch, graft))
    except (Unsupported, RuntimeError, TypeError, AttributeError) as error:
        return PathCheck(False, f"plain path, because the packed way failed: {error}")
    before = base.network.config._attn_implementation
    base.network.config._attn_implementation = "eager"
    try:
        for batch in padded_batches(base, items, range(len(items)), 0, 4096):
            reference.append(_by_read(base, batch, graft))
    finally:
        base.network.config._attn_implementation = before
    ours = {key: row for part in tried for key, row in part.items()}
    theirs = {key: row for part in reference for key, row in part.items()}
    largest = max(float(row.abs().max()) for row in theirs.values())
    error_size = max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) / max(largest, 1e-30)
    if not error_size <= TOLERANCE.get(dtype, 1e-4):
        return PathCheck(False, f"plain path, because the packed way is off by {error_size:.0e}", error_size)
    return PathCheck(True, f"fast path, checked: largest error {error_size:.0e}", error_size)


def _by_read(base: Base, batch: Batch, graft: Graft) -> dict[tuple[int, int, int], torch.Tensor]:
    """Each read's whole row of logits, by (item, answer, step)."""
    logits, index = answer_logits(base, batch, graft)
    seen: dict[tuple[int, int], int] = {}
    rows = {}
    for read, row in zip(batch.reads, index.tolist(), strict=True):
        item = batch.items[read.item]
        step = seen.get((item, read.answer), 0)
        seen[item, read.answer] = step + 1
        rows[item, read.answer, step] = logits[row]
    return rows


def _probe(vocabulary: int, context_length: int) -> list[Item]:
    """Six prompts with a common beginning, of 17 to 160 tokens, and three answers, two of them alike at first."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, vocabulary, (count,), generator=generator).tolist())

    shared = draw(16)
    room = max(1, context_length - 16 - 8)
    first, second, third, fourth = draw(4)
    answers = ((first, second, third), (first, fourth), (second,))
    return [Item(shared + draw(min(length, room)), answers) for length in (1, 9, 33, 64, 100, 144)]
