"""Is the packed way exact on this base? Asked once, when a base is loaded.

A packed tree with a shared prefix, label branches and texts of different lengths is compared with the
model as it is with eager attention, one padded row per path. In 16 bits both round, at other places, so both are
compared with the model as it is in float32, and the packed way may hardly be further off than the other.
Architectures outside KNOWN are not asked: on those, agreement with the weights at hand proves nothing (a softcap
or an alibi bias may be too small to see).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from handful.engine import chains
from handful.engine.base import Base, PathCheck
from handful.engine.batching import Batch, batches, padded_batches
from handful.engine.forward import answer_logits
from handful.engine.graft import Graft
from handful.engine.layers import KNOWN, Unsupported, check_anatomy
from handful.engine.offload import absent_weights
from handful.engine.packing import Item

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-3}
"""Largest difference over the largest absolute logit that passes in any case, per dtype of the weights."""

OWN_ROUNDING = 1.5
"""In 16 bits: how many times as far from float32 as the model itself the packed way may be, root mean square. Seen
on random weights, widely and narrowly drawn, on a CPU and an H200: 0.7 to 1.2."""

Rows = dict[tuple[int, int, int], Tensor]


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
    is_large = base.facts.get("num_parameters", 0) >= chains.WORTH_PARAMETERS
    in_chains = chains.prepare(base.device, dtype) if is_large else None
    added = "" if in_chains is None else f"; {in_chains}"
    graft = Graft()
    ours: Rows = {}
    try:
        base.path = PathCheck(True, "being checked")
        for batch in batches(base, items, 0, 4096):
            if batch.segments is None:
                return PathCheck(False, "plain path, because the probe does not fit the sliding window")
            ours |= _by_read(base, batch, graft)
    except (Unsupported, RuntimeError, TypeError, AttributeError) as error:
        return PathCheck(False, f"plain path, because the packed way failed: {error}")
    theirs = _as_it_is(base, items)
    bound = TOLERANCE.get(dtype, 1e-4)
    error_size, told = _largest_error(ours, theirs), ""
    if error_size > bound and dtype.itemsize == 2 and _is_plainly(base, dtype):
        with _float32(base):
            truth = _as_it_is(base, items)
        error_size = _largest_error(ours, truth)
        times = _mean_error(ours, truth) / max(_mean_error(theirs, truth), 1e-30)
        told = f" from float32, {times:.1f} times the model's own rounding"
        is_exact = times <= OWN_ROUNDING
    else:
        is_exact = error_size <= bound
    if not is_exact:
        return PathCheck(False, f"plain path, because the packed way is off by {error_size:.0e}{told}", error_size)
    return PathCheck(True, f"fast path, checked: largest error {error_size:.0e}{told}{added}", error_size)


def _as_it_is(base: Base, items: Sequence[Item]) -> Rows:
    """The rows of the model as transformers runs it, with eager attention."""
    config = base.network.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        rows: Rows = {}
        for batch in padded_batches(base, items, range(len(items)), 0, 4096):
            rows |= _by_read(base, batch, Graft())
        return rows
    finally:
        config._attn_implementation = before


def _largest_error(rows: Rows, truth: Rows) -> float:
    """Largest difference over the largest absolute value of the truth."""
    largest = max(float(row.abs().max()) for row in truth.values())
    return max(float((rows[key] - truth[key]).abs().max()) for key in truth) / max(largest, 1e-30)


def _mean_error(rows: Rows, truth: Rows) -> float:
    """Root mean square of the differences."""
    return float(torch.cat([rows[key] - truth[key] for key in truth]).square().mean().sqrt())


def _is_plainly(base: Base, dtype: torch.dtype) -> bool:
    """Whether the weights are numbers of this type, so that they can be widened; those of 4 bits are computed with in
    any type as they are.
    """
    weights = list(base.network.parameters())
    return all(weight.dtype in (dtype, torch.float32) or hasattr(weight, "quant_state") for weight in weights)


@contextmanager
def _float32(base: Base) -> Iterator[None]:
    """The same weights in float32, the layers' only while each runs, so that no second copy of the model is needed."""
    # What lies elsewhere is brought in the type that its place has, as another parameter each time.
    places = [(part, name, part.get_parameter(name).dtype) for part, name in absent_weights(base.network)]
    for part, name, _ in places:
        _to_type([part.get_parameter(name)], torch.float32)
    narrow = {weight: weight.dtype for weight in base.network.parameters() if weight.dtype.itemsize == 2}
    layers = list(base.layers)
    inside = {weight for layer in layers for weight in layer.parameters()}
    outside = [weight for weight in narrow if weight not in inside]

    def widen(module: nn.Module, *_: object) -> None:
        _to_type([weight for weight in module.parameters() if weight in narrow], torch.float32)

    def narrow_again(module: nn.Module, *_: object) -> None:
        for weight in module.parameters():
            if weight in narrow:
                _to_type([weight], narrow[weight])

    four_bits = {module: module.compute_dtype for module in base.network.modules() if hasattr(module, "compute_dtype")}
    handles = [layer.register_forward_pre_hook(widen) for layer in layers]
    handles += [layer.register_forward_hook(narrow_again) for layer in layers]
    try:
        _to_type(outside, torch.float32)
        for module in four_bits:
            module.compute_dtype = torch.float32
        yield
    finally:
        for module, computed in four_bits.items():
            module.compute_dtype = computed
        for handle in handles:
            handle.remove()
        for weight, dtype in narrow.items():
            _to_type([weight], dtype)
        for part, name, dtype in places:
            _to_type([part.get_parameter(name)], dtype)


def _to_type(weights: Sequence[Tensor], dtype: torch.dtype) -> None:
    """In place; to float32 and back changes no bit."""
    for weight in weights:
        weight.data = weight.data.to(dtype)


def _by_read(base: Base, batch: Batch, graft: Graft) -> Rows:
    """Each read's whole row of logits, by (item, answer, step)."""
    logits, index = answer_logits(base, batch, graft)
    seen: dict[tuple[int, int], int] = {}
    rows: Rows = {}
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
