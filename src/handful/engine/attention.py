"""Attention over a pack: each segment sees its ancestors wholly and itself causally.

Every pair (segment, ancestor) is a plain block, and so is every segment's own causal triangle. The blocks
are computed apart, each by the fast kernel and without a mask, and merged by their log-sum-exp; the
backward pass runs the kernel's own backward per block with the merged output and log-sum-exp, which is
exact because softmax weights depend on the other blocks only through the log-sum-exp (Dao et al. 2022,
FlashAttention; Liu et al. 2023, Ring Attention).

Registered with transformers under NAME. Knows nothing of prompts, methods or architectures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from handful.engine.packing import Segment

NAME = "handful_packed"

_ALLOWED = {"position_ids", "use_cache", "is_causal", "cu_seq_lens_q", "cu_seq_lens_k", "output_attentions"}
"""Keywords that transformers hands through and that change nothing here."""


@dataclass(frozen=True)
class Block:
    """Queries [q_start, q_stop) see keys [k_start, k_stop): all of them, or the triangle when causal."""

    q_start: int
    q_stop: int
    k_start: int
    k_stop: int
    causal: bool


@dataclass
class Layout:
    """The blocks of one pack, and how many layers have used them (to see that none was passed by).

    longest_path: tokens on the longest way from the root, to compare with a sliding window.
    """

    blocks: tuple[Block, ...]
    longest_path: int
    num_calls: int = 0


def layout(segments: Sequence[Segment], longest_path: int) -> Layout:
    """The blocks of a tree of segments in depth-first order: own triangles first, then ancestors.

    All descendants of a segment see it whole and lie side by side, so they are one block.
    """
    own = [Block(s.start, s.stop, s.start, s.stop, True) for s in segments]
    seen = [Block(s.stop, s.last, s.start, s.stop, False) for s in segments if s.last > s.stop]
    return Layout(tuple(own + seen), longest_path)


class UnknownKeyword(TypeError):
    """An architecture asks its attention for something that this function does not do."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack_layout: Layout | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface. query [1, heads, tokens, head_dim], key and value with their own
    number of heads; gives [1, tokens, heads, head_dim].

    Raises UnknownKeyword on any keyword that it does not know and that is set: an exact answer or none.
    """
    unknown = sorted(name for name, setting in others.items() if name not in _ALLOWED and setting is not None)
    if unknown or pack_layout is None or attention_mask is not None or dropout:
        raise UnknownKeyword(f"packed attention cannot honour {unknown or 'a mask, dropout or a call without a pack'}")
    if sliding_window is not None and pack_layout.longest_path > sliding_window:
        raise UnknownKeyword(f"a text of {pack_layout.longest_path} tokens is longer than the window {sliding_window}")
    pack_layout.num_calls += 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if query.device.type == "cpu":
        mixed = _TreeAttention.apply(query, key, value, pack_layout.blocks, scale)
    else:
        mixed = masked_tree_attention(query, key, value, pack_layout.blocks, scale)
    return mixed.transpose(1, 2), None


AttentionInterface.register(NAME, packed_attention)


def masked_tree_attention(query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float) -> Tensor:
    """The same by one mask over the whole pack, [1, heads, tokens, head_dim]. Not yet run on a GPU."""
    tokens = query.shape[2]
    allowed = torch.zeros(tokens, tokens, dtype=torch.bool, device=query.device)
    for block in blocks:
        square = torch.ones(block.q_stop - block.q_start, block.k_stop - block.k_start, device=query.device)
        window = square.tril() if block.causal else square
        allowed[block.q_start : block.q_stop, block.k_start : block.k_stop] = window.bool()
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scale)


class _TreeAttention(torch.autograd.Function):
    """Blocks through torch's flash kernel for CPU, merged by log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float) -> Tensor:
        out = torch.empty_like(query)
        lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        for block in blocks:
            q, k, v = _cut(query, key, value, block)
            part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, 0.0, block.causal, scale=scale
            )
            rows = slice(block.q_start, block.q_stop)
            # The kernel gives [1, tokens, heads] or [1, heads, tokens] strides; its shape is [1, heads, tokens].
            if block.causal:
                out[:, :, rows], lse[:, :, rows] = part, part_lse
            else:
                merged = torch.logaddexp(lse[:, :, rows], part_lse)
                mine = (lse[:, :, rows] - merged).exp_().unsqueeze(-1).to(out.dtype)
                theirs = (part_lse - merged).exp_().unsqueeze(-1).to(out.dtype)
                out[:, :, rows] = out[:, :, rows] * mine + part * theirs
                lse[:, :, rows] = merged
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, lse = ctx.saved_tensors
        grad = grads[0].contiguous()
        d_query, d_key, d_value = (torch.zeros_like(tensor) for tensor in (query, key, value))
        for block in ctx.blocks:
            q, k, v = _cut(query, key, value, block)
            rows, columns = slice(block.q_start, block.q_stop), slice(block.k_start, block.k_stop)
            dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad[:, :, rows], q, k, v, out[:, :, rows], lse[:, :, rows], 0.0, block.causal, scale=ctx.scale
            )
            d_query[:, :, rows] += dq
            d_key[:, :, columns] += dk
            d_value[:, :, columns] += dv
        return d_query, d_key, d_value, None, None


def _cut(query: Tensor, key: Tensor, value: Tensor, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    rows, columns = slice(block.q_start, block.q_stop), slice(block.k_start, block.k_stop)
    return query[:, :, rows], key[:, :, columns], value[:, :, columns]
