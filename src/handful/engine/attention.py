"""Attention over a pack: each segment sees its ancestors wholly and itself causally.

On a CPU each text's queries meet the keys of the shared root and their own in one softmax, by batched matrix
products in chunks of rows; no mask over the pack is ever made, and no pair of texts is ever multiplied. The
answers after a text, a small tree of their own, are one more such group. That is faster than torch's flash
kernel for CPU, whose products are small, and needs no merging of prefix and own part (docs/benchmarks.md).

On CUDA each segment's keys are gathered with those of its ancestors for one call of `varlen_attn`. Knows
nothing of prompts, methods or architectures.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handful.engine.packing import Segment

CHUNK = 128
"""Rows of a text that are multiplied with their keys together: less skips more of the triangle, more is a larger
product."""

KEPT_KEYS = 640
"""Attention weights of chunks with at most so many keys are kept for the way back, those of longer texts made
again: they grow with the square of the length."""

Span = tuple[int, int]

Step = tuple[int, int, int, Tensor | None]
"""Rows of a group at a time: the first, the one after the last, how many of the group's keys they meet, and a mask
for the last of these keys."""


@dataclass(frozen=True)
class Group:
    """Queries [q_start, q_stop) see the keys in `spans` wholly, and of `own`, where there is one, the triangle;
    `own` has a key for each of the queries. tree: what they see of the last keys instead, own ones and those of
    answers that ran before (see `_tree_mask`).
    """

    q_start: int
    q_stop: int
    spans: tuple[Span, ...]
    own: Span | None = None
    tree: tuple[tuple[int, int, int], ...] | None = None


@dataclass(frozen=True)
class Path:
    """Queries [q_start, q_stop) see the keys in `spans`, the last span causally from its end (lower right)."""

    q_start: int
    q_stop: int
    spans: tuple[Span, ...]


@dataclass
class Layout:
    """What sees what: every query is in one of `groups`, in rising order. rows: which of the pack's tokens ask,
    None for all. num_queries, num_keys: how many of each.
    """

    segments: Sequence[Segment]
    rows: Sequence[int] | None
    groups: tuple[Group, ...]
    num_queries: int
    num_keys: int
    on_device: dict[torch.device, dict[str, Any]] = field(default_factory=dict)

    def told(self, device: torch.device) -> dict[str, Any]:
        """What kernels made of this on a device, once for all layers that run there."""
        return self.on_device.setdefault(device, {})

    def steps(self, dtype: torch.dtype) -> list[tuple[Group, list[Step]]]:
        """Each group with what a CPU multiplies at a time; made once, for all layers."""
        told = self.told(torch.device("cpu"))
        if "steps" not in told:
            told["steps"] = [(group, _steps(group, dtype)) for group in self.groups]
        return told["steps"]  # type: ignore[no-any-return]

    def paths(self) -> list[Path]:
        """The same by segments, for kernels that take a row of keys for each."""
        place = None if self.rows is None else {row: index for index, row in enumerate(self.rows)}
        paths = []
        for number, segment in enumerate(self.segments):
            if place is None:
                paths.append(Path(segment.start, segment.stop, _spans(self.segments, number, segment.stop)))
                continue
            inside = [row for row in range(segment.start, segment.stop) if row in place]
            if inside:  # they are the last rows of the segment, so the causal corner is right
                spans = _spans(self.segments, number, inside[-1] + 1)
                paths.append(Path(place[inside[0]], place[inside[-1]] + 1, spans))
        return paths


def layout(segments: Sequence[Segment]) -> Layout:
    """Every token of the pack asks, every token is seen."""
    groups = []
    for text, answers in _texts(segments):
        above = _ancestors(segments, text)
        groups.append(Group(text.start, text.stop, above, own=(text.start, text.stop)))
        if answers:
            groups.append(_thicket(text, answers, above, text.stop, 0))
    size = max(segment.stop for segment in segments)
    return Layout(segments, None, tuple(groups), size, size)


def cut_layout(segments: Sequence[Segment], rows: Sequence[int]) -> Layout:
    """Only `rows` (rising) ask: last tokens of texts, and all tokens of answers, or of those that ran last. Every
    token is seen by those below it.
    """
    place = {row: index for index, row in enumerate(rows)}
    groups = []
    for text, answers in _texts(segments):
        above = _ancestors(segments, text)
        end = place.get(text.stop - 1)
        if end is not None:
            groups.append(Group(end, end + 1, (*above, (text.start, text.stop))))
        ran_before = sum(segment.start not in place for segment in answers)
        if ran_before < len(answers):
            groups.append(_thicket(text, answers, above, place[answers[ran_before].start], ran_before))
    return Layout(segments, rows, tuple(groups), len(rows), max(segment.stop for segment in segments))


def _texts(segments: Sequence[Segment]) -> list[tuple[Segment, list[Segment]]]:
    """Each segment that is no answer, with the answers below it where it is a text (the root has none)."""
    texts: list[tuple[Segment, list[Segment]]] = []
    owner: list[int] = []
    for segment in segments:
        if segment.of_answer:
            owner.append(owner[segment.parent])
            texts[owner[-1]][1].append(segment)
        else:
            owner.append(len(texts))
            texts.append((segment, []))
    return texts


def _ancestors(segments: Sequence[Segment], segment: Segment) -> tuple[Span, ...]:
    """Their tokens, the root first."""
    above: tuple[Span, ...] = ()
    while segment.parent >= 0:
        segment = segments[segment.parent]
        above = ((segment.start, segment.stop), *above)
    return above


def _thicket(
    text: Segment, answers: Sequence[Segment], above: tuple[Span, ...], first_query: int, ran_before: int
) -> Group:
    """The answers after a text, `ran_before` of which ask no more; one alone is a triangle."""
    spans = [*above, (text.start, text.stop)]
    for segment in answers[:ran_before]:
        spans[-1:] = _joined(spans[-1], (segment.start, segment.stop))
    start, stop = answers[ran_before].start, answers[-1].stop
    tree = None
    if len(answers) > 1:
        places = {segment.number: index for index, segment in enumerate(answers)}
        stops = itertools.accumulate(segment.stop - segment.start for segment in answers)
        tree = tuple(
            (end - (segment.stop - segment.start), end, places.get(segment.parent, -1))
            for end, segment in zip(stops, answers, strict=True)
        )
    return Group(first_query, first_query + stop - start, tuple(spans), own=(start, stop), tree=tree)


def _joined(first: Span, second: Span) -> list[Span]:
    """Both, as one where they touch."""
    return [(first[0], second[1])] if first[1] == second[0] else [first, second]


def _spans(segments: Sequence[Segment], number: int, stop: int) -> tuple[Span, ...]:
    """Keys that the tokens of a segment see up to its token `stop`, ancestors first."""
    return (*_ancestors(segments, segments[number]), (segments[number].start, stop))


@functools.lru_cache(maxsize=16)
def _tree_mask(tree: tuple[tuple[int, int, int], ...], asked: int, dtype: torch.dtype) -> Tensor:
    """[asked, rows], 0 where one of the last `asked` rows of the tree sees another, -inf elsewhere. A few are
    remembered: texts of one pack mostly have the same tree.

    tree: (start, stop, parent's place), parents before their children.
    """
    size = tree[-1][1]
    sees = np.zeros((size, size), dtype=bool)
    for start, stop, parent in tree:
        if parent >= 0:
            sees[start:stop] = sees[tree[parent][1] - 1]
        sees[start:stop, start:stop] = np.tri(stop - start, dtype=bool)
    mask = np.where(sees[size - asked :], np.float32(0), np.float32("-inf"))
    return torch.from_numpy(mask).to(dtype)


@functools.lru_cache(maxsize=4)
def _triangle(size: int, dtype: torch.dtype) -> Tensor:
    """[size, size], 0 on and below the diagonal, -inf above."""
    return torch.full((size, size), float("-inf"), dtype=dtype).triu_(1)


def tree_attention(query: Tensor, key: Tensor, value: Tensor, plan: Layout, scale: float) -> Tensor:
    """query [queries, heads, head_dim], key and value [keys, key heads, head_dim] -> [queries, heads, head_dim].

    heads is a multiple of key heads (Ainslie et al. 2023, grouped queries).
    """
    if query.device.type == "cuda" and query.dtype in (torch.bfloat16, torch.float16):
        return gathered_attention(query, key, value, plan, scale)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if query.device.type != "cpu":
        return masked_attention(query, key, value, plan, scale)
    mixed: Tensor = _GroupAttention.apply(query, key, value, plan.steps(query.dtype), scale)
    return mixed


def masked_attention(query: Tensor, key: Tensor, value: Tensor, plan: Layout, scale: float) -> Tensor:
    """The same by one mask over the whole pack, for devices and dtypes without a kernel of ours. Heads alike."""
    told = plan.told(query.device)
    if "mask" not in told:
        told["mask"] = dense_mask(plan, query.dtype, query.device)
    q, k, v = _heads_first(query), _heads_first(key), _heads_first(value)
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=told["mask"], scale=scale)
    return mixed[0].transpose(0, 1)


def dense_mask(plan: Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[queries, keys], 0 where a query sees a key, -inf elsewhere."""
    mask = torch.full((plan.num_queries, plan.num_keys), float("-inf"), dtype=dtype, device=device)
    for path in plan.paths():
        rows = mask[path.q_start : path.q_stop]
        for start, stop in path.spans[:-1]:
            rows[:, start:stop] = 0.0
        start, stop = path.spans[-1]
        size = path.q_stop - path.q_start
        before = stop - start - size  # keys of the same segment that all these queries see
        rows[:, start : start + before] = 0.0
        rows[:, start + before : stop] = torch.full((size, size), float("-inf"), dtype=dtype, device=device).triu(1)
    return mask


def _steps(group: Group, dtype: torch.dtype) -> list[Step]:
    """A group in chunks of rows. A triangle is met in about CHUNK rows at a time."""
    size = group.q_stop - group.q_start
    above = sum(stop - start for start, stop in group.spans)
    if group.own is None:
        return [(0, size, above, None)]
    if group.tree is not None:
        return [(0, size, above + size, _tree_mask(group.tree, size, dtype))]
    number = max(1, round(size / CHUNK))
    edges = [size * index // number for index in range(number + 1)]
    triangle = _triangle(2 * CHUNK, dtype)
    return [
        (start, stop, above + stop, triangle[: stop - start, : stop - start] if stop - start > 1 else None)
        for start, stop in itertools.pairwise(edges)
    ]


def _seen(group: Group, x: Tensor) -> Tensor:
    """[heads, the group's keys, head_dim] of x [heads, keys, head_dim], side by side."""
    spans = group.spans if group.own is None else (*group.spans, group.own)
    parts = [x[:, start:stop] for start, stop in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _weights(asked: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """[heads, rows, keys]: softmax of the products of asked [heads, rows, head_dim] and keys."""
    scores = torch.bmm(asked, keys.transpose(1, 2))
    if mask is not None:
        scores[:, :, -mask.shape[1] :] += mask
    return torch.softmax(scores, -1)


class _GroupAttention(torch.autograd.Function):
    """Group by group in chunks of rows: products, one softmax over all that a row sees, products.

    The results of the products are contiguous throughout: only then are all heads one call.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: Sequence[tuple[Group, list[Step]]], scale: float
    ) -> Tensor:
        query = query * scale
        q, k, v = (tensor.transpose(0, 1) for tensor in (query, key, value))
        out = torch.empty_like(query)
        keeps = any(ctx.needs_input_grad[:3])
        kept: list[Tensor | None] = []
        for group, steps in groups:
            keys, values = _seen(group, k), _seen(group, v)
            asked, result = q[:, group.q_start : group.q_stop], out[group.q_start : group.q_stop].transpose(0, 1)
            for start, stop, met, mask in steps:
                weights = _weights(asked[:, start:stop], keys[:, :met], mask)
                result[:, start:stop] = torch.bmm(weights, values[:, :met])
                if keeps:
                    kept.append(weights if met <= KEPT_KEYS else None)
        if keeps:
            ctx.save_for_backward(query, key, value, *kept)
            ctx.groups, ctx.scale = groups, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        q, k, v = (tensor.transpose(0, 1) for tensor in (query, key, value))
        grad = grads[0].transpose(0, 1)
        d_query = torch.empty_like(query)
        # What many texts add to the keys of their shared root is summed in float32.
        d_key, d_value = (torch.zeros(tensor.shape, dtype=torch.float32) for tensor in (key, value))
        left = list(kept)
        for group, steps in ctx.groups:
            keys, values = _seen(group, k), _seen(group, v)
            rows = slice(group.q_start, group.q_stop)
            asked, g, d_asked = q[:, rows], grad[:, rows], d_query[rows].transpose(0, 1)
            mine, left = left[: len(steps)], left[len(steps) :]
            d_keys = d_values = keys.new_empty(0)
            # The last chunk meets all keys, so it makes the sums that the others are added to.
            for (start, stop, met, mask), weights in reversed(list(zip(steps, mine, strict=True))):
                part, part_g = asked[:, start:stop], g[:, start:stop]
                if weights is None:
                    weights = _weights(part, keys[:, :met], mask)
                d_weights = torch.bmm(part_g, values[:, :met].transpose(1, 2))
                d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                d_asked[:, start:stop] = torch.bmm(d_scores, keys[:, :met])
                to_values = torch.bmm(weights.transpose(1, 2), part_g)
                to_keys = torch.bmm(d_scores.transpose(1, 2), part)
                if stop == steps[-1][1]:
                    d_keys, d_values = to_keys, to_values
                else:
                    d_keys[:, :met] += to_keys
                    d_values[:, :met] += to_values
            first = 0
            for span in group.spans if group.own is None else (*group.spans, group.own):
                columns = slice(first, first + span[1] - span[0])
                d_key[span[0] : span[1]] += d_keys[:, columns].transpose(0, 1)
                d_value[span[0] : span[1]] += d_values[:, columns].transpose(0, 1)
                first = columns.stop
        return d_query.mul_(ctx.scale), d_key.to(key.dtype), d_value.to(value.dtype), None, None


def _heads_first(x: Tensor) -> Tensor:
    """[rows, heads, head_dim] -> [1, heads, rows, head_dim], a view."""
    return x.transpose(0, 1).unsqueeze(0)


def gathered_attention(query: Tensor, key: Tensor, value: Tensor, plan: Layout, scale: float) -> Tensor:
    """The same by `varlen_attn`: each path's keys side by side, lower-right causal (on an H200: docs/benchmarks.md)."""
    told = plan.told(query.device)
    if "index" not in told:
        told |= _gathering(plan, query.device)
    key, value = _Gather.apply(key, told["index"]), _Gather.apply(value, told["index"])
    return _varlen(query, key, value, told, scale)


def _gathering(plan: Layout, device: torch.device) -> dict[str, Any]:
    """index [gathered keys], queries and keys before each path (int32), and the longest of each."""
    paths = plan.paths()
    index = [torch.arange(start, stop) for path in paths for start, stop in path.spans]
    queries = [path.q_stop - path.q_start for path in paths]
    keys = [sum(stop - start for start, stop in path.spans) for path in paths]
    told = {"index": torch.cat(index).to(device), "max_q": max(queries), "max_k": max(keys)}
    for name, lengths in (("cu_q", queries), ("cu_k", keys)):
        told[name] = torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)
    return told


class _Gather(torch.autograd.Function):
    """Rows by index; where a row was taken many times, its gradients are summed in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.rows = x.shape[0]
        return x[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        total = grads[0].new_zeros(ctx.rows, *grads[0].shape[1:], dtype=torch.float32)
        return total.index_add_(0, index, grads[0].float()).to(grads[0].dtype), None


def _varlen(query: Tensor, key: Tensor, value: Tensor, told: dict[str, Any], scale: float) -> Tensor:
    """torch's variable-length attention, whose keywords moved between 2.11 and 2.13."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"scale": scale} if "scale" in known else {}
    if "scale" not in known:
        query = query * (scale * query.shape[-1] ** 0.5)
    options |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    mixed: Any = varlen_attn(query, key, value, told["cu_q"], told["cu_k"], told["max_q"], told["max_k"], **options)
    return mixed  # type: ignore[no-any-return]
