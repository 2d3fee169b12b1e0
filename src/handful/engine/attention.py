"""Attention over a pack: each segment sees its ancestors wholly and itself causally.

Every pair (segment, ancestor) is a plain block, every text's own part a causal triangle, and the answer tokens
after a text, a small tree of their own, one masked square. The blocks are computed apart by the fast kernel and
merged by their log-sum-exp; the backward pass runs the kernel's own backward per block with the merged output
and log-sum-exp, which is exact because softmax weights depend on the other blocks only through the log-sum-exp
(Dao et al. 2022, FlashAttention; Liu et al. 2023, Ring Attention).

On CUDA each segment's keys are gathered with those of its ancestors for one call of `varlen_attn`. Knows
nothing of prompts, methods or architectures.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from handful.engine.packing import Segment


@dataclass(frozen=True)
class Block:
    """Queries [q_start, q_stop) see keys [k_start, k_stop): all of them, the triangle when causal, or what
    `tree` lets them (see `_tree_mask`)."""

    q_start: int
    q_stop: int
    k_start: int
    k_stop: int
    causal: bool = False
    tree: tuple[tuple[int, int, int], ...] | None = None


@dataclass(frozen=True)
class Path:
    """Queries [q_start, q_stop) see the keys in `spans`, the last span causally from its end (lower right)."""

    q_start: int
    q_stop: int
    spans: tuple[tuple[int, int], ...]


@dataclass
class Layout:
    """What sees what. blocks: first one for each row, which together hold every row, then those to be merged in.
    paths: the same for kernels that take whole rows of keys. num_queries, num_keys: rows of each.
    """

    blocks: tuple[Block, ...]
    paths: tuple[Path, ...]
    num_queries: int
    num_keys: int
    on_device: dict[str, Any] = field(default_factory=dict)


def layout(segments: Sequence[Segment]) -> Layout:
    """Every token of the pack asks, every token is seen."""
    own, seen = [], []
    for text, answers in _texts(segments):
        own.append(Block(text.start, text.stop, text.start, text.stop, causal=True))
        if answers:
            own.append(_thicket(answers, text.stop, text.stop))
        if text.last > text.stop:
            seen.append(Block(text.stop, text.last, text.start, text.stop))
    paths = tuple(Path(s.start, s.stop, _spans(segments, number, s.stop)) for number, s in enumerate(segments))
    size = max((segment.stop for segment in segments), default=0)
    return Layout(tuple(own + seen), paths, size, size)


def cut_layout(segments: Sequence[Segment], rows: Sequence[int]) -> Layout:
    """Only `rows` (rising) ask: last tokens of texts, and all tokens of answers. Every token is seen."""
    place = {row: index for index, row in enumerate(rows)}
    own, seen = [], []
    for text, answers in _texts(segments):
        end = place.get(text.stop - 1)
        if end is not None:
            own.append(Block(end, end + 1, text.start, text.stop))
        if answers:
            first, size = place[text.stop], text.last - text.stop
            own.append(_thicket(answers, first, text.stop))
            seen.append(Block(first, first + size, text.start, text.stop))
        elif text.last > text.stop:  # the root
            later = [place[row] for row in rows if text.stop <= row < text.last]
            if later:
                seen.append(Block(later[0], later[-1] + 1, text.start, text.stop))
    paths = []
    for number, segment in enumerate(segments):
        inside = [row for row in range(segment.start, segment.stop) if row in place]
        if inside:  # they are the last rows of the segment, so the causal corner is right
            spans = _spans(segments, number, inside[-1] + 1)
            paths.append(Path(place[inside[0]], place[inside[-1]] + 1, spans))
    return Layout(tuple(own + seen), tuple(paths), len(rows), max(segment.stop for segment in segments))


def _texts(segments: Sequence[Segment]) -> list[tuple[Segment, list[Segment]]]:
    """Each segment that is no answer, with the answers below it where it is a text (the root has none)."""
    texts: list[tuple[Segment, list[Segment]]] = []
    for segment in segments:
        if segment.of_answer:
            texts[-1][1].append(segment)
        else:
            texts.append((segment, []))
    return texts


def _thicket(answers: Sequence[Segment], first_query: int, first_key: int) -> Block:
    """The answers after a text among themselves; one alone is a triangle."""
    size = answers[-1].stop - answers[0].start
    if len(answers) == 1:
        return Block(first_query, first_query + size, first_key, first_key + size, causal=True)
    offset = answers[0].start
    places = {segment.number: index for index, segment in enumerate(answers)}
    tree = tuple((s.start - offset, s.stop - offset, places.get(s.parent, -1)) for s in answers)
    return Block(first_query, first_query + size, first_key, first_key + size, tree=tree)


def _spans(segments: Sequence[Segment], number: int, stop: int) -> tuple[tuple[int, int], ...]:
    """Keys that the tokens of a segment see up to its token `stop`, ancestors first."""
    spans = [(segments[number].start, stop)]
    parent = segments[number].parent
    while parent >= 0:
        spans.append((segments[parent].start, segments[parent].stop))
        parent = segments[parent].parent
    return tuple(reversed(spans))


@functools.lru_cache(maxsize=64)
def _tree_mask(tree: tuple[tuple[int, int, int], ...], dtype: torch.dtype, device: str) -> Tensor:
    """[rows, rows], 0 where a row of the tree sees another, -inf elsewhere. tree: (start, stop, parent's place)."""
    size = max(stop for _, stop, _ in tree)
    mask = torch.full((size, size), float("-inf"), dtype=dtype)
    for start, stop, parent in tree:
        rows = mask[start:stop]
        rows[:, start:stop] = torch.full((stop - start, stop - start), float("-inf"), dtype=dtype).triu(1)
        while parent >= 0:
            above, below, parent = tree[parent]
            rows[:, above:below] = 0.0
    return mask.to(device)


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
    mixed: Tensor = _TreeAttention.apply(query, key, value, plan.blocks, scale)
    return mixed


def masked_attention(query: Tensor, key: Tensor, value: Tensor, plan: Layout, scale: float) -> Tensor:
    """The same by one mask over the whole pack, for devices and dtypes without a kernel of ours. Heads alike."""
    if "mask" not in plan.on_device:
        plan.on_device["mask"] = dense_mask(plan, query.dtype, query.device)
    q, k, v = _heads_first(query), _heads_first(key), _heads_first(value)
    mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=plan.on_device["mask"], scale=scale)
    return mixed[0].transpose(0, 1)


def dense_mask(plan: Layout, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[queries, keys], 0 where a query sees a key, -inf elsewhere."""
    mask = torch.full((plan.num_queries, plan.num_keys), float("-inf"), dtype=dtype, device=device)
    for path in plan.paths:
        rows = mask[path.q_start : path.q_stop]
        for start, stop in path.spans[:-1]:
            rows[:, start:stop] = 0.0
        start, stop = path.spans[-1]
        size = path.q_stop - path.q_start
        before = stop - start - size  # keys of the same segment that all these queries see
        rows[:, start : start + before] = 0.0
        rows[:, start + before : stop] = torch.full((size, size), float("-inf"), dtype=dtype, device=device).triu(1)
    return mask


class _TreeAttention(torch.autograd.Function):
    """Blocks through torch's flash kernel for CPU, merged by log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float) -> Tensor:
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:2], dtype=torch.float32)
        filled = 0
        for block in blocks:
            q, k, v = _cut(query, key, value, block)
            part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, block.causal, attn_mask=_mask(block, query), scale=scale
            )
            # [1, heads, rows, head_dim] and [1, heads, rows], whatever their strides
            part, part_lse = part[0].transpose(0, 1), part_lse[0].T
            rows = slice(block.q_start, block.q_stop)
            if block.q_start >= filled:
                out[rows], lse[rows] = part, part_lse
                filled = block.q_stop
            else:
                share = torch.sigmoid(part_lse - lse[rows])
                out[rows].lerp_(part, share.unsqueeze(-1).to(out.dtype))
                lse[rows] = torch.logaddexp(lse[rows], part_lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, lse = ctx.saved_tensors
        grad = grads[0].contiguous()
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        filled = 0
        for block in ctx.blocks:
            q, k, v = _cut(query, key, value, block)
            rows, columns = slice(block.q_start, block.q_stop), slice(block.k_start, block.k_stop)
            dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                _heads_first(grad[rows]), q, k, v, _heads_first(out[rows]), lse[rows].T.unsqueeze(0), 0.0,
                block.causal, attn_mask=_mask(block, query), scale=ctx.scale,
            )  # fmt: skip
            if block.q_start >= filled:
                d_query[rows] = dq[0].transpose(0, 1)
                filled = block.q_stop
            else:
                d_query[rows] += dq[0].transpose(0, 1)
            d_key[columns] += dk[0].transpose(0, 1)
            d_value[columns] += dv[0].transpose(0, 1)
        return d_query, d_key, d_value, None, None


def _cut(query: Tensor, key: Tensor, value: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = slice(block.q_start, block.q_stop), slice(block.k_start, block.k_stop)
    return _heads_first(query[rows]), _heads_first(key[columns]), _heads_first(value[columns])


def _heads_first(x: Tensor) -> Tensor:
    """[rows, heads, head_dim] -> [1, heads, rows, head_dim], a view."""
    return x.transpose(0, 1).unsqueeze(0)


def _mask(block: Block, like: Tensor) -> Tensor | None:
    return None if block.tree is None else _tree_mask(block.tree, like.dtype, str(like.device))


def gathered_attention(query: Tensor, key: Tensor, value: Tensor, plan: Layout, scale: float) -> Tensor:
    """The same by `varlen_attn`: each path's keys side by side, lower-right causal. Not yet run on a GPU."""
    if "index" not in plan.on_device:
        plan.on_device |= _gathering(plan, query.device)
    told = plan.on_device
    key, value = _Gather.apply(key, told["index"]), _Gather.apply(value, told["index"])
    return _varlen(query, key, value, told, scale)


def _gathering(plan: Layout, device: torch.device) -> dict[str, Any]:
    """index [gathered keys], queries and keys before each path (int32), and the longest of each."""
    index = [torch.arange(start, stop) for path in plan.paths for start, stop in path.spans]
    queries = [path.q_stop - path.q_start for path in plan.paths]
    keys = [sum(stop - start for start, stop in path.spans) for path in plan.paths]
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
