"""The arithmetic of a decoder layer, with backward passes of our own.

A frozen base needs gradients to its activations only, so each function here keeps what those need and no
more: of the normed input, nothing; of the MLP, the two inner products. On a CPU the rows go through in tiles
that stay in its cache between a norm, a product and an activation.

Every function is exact in the dtype it is given; norms are taken in float32. Knows nothing of packs,
attention or methods; weights are [out, in] as in nn.Linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from handful.engine import chains

CPU_TILE = 512
"""Rows that go through a CPU together: the MLP of a tile at width 768 takes 1.5 MB."""


@dataclass(frozen=True)
class Norm:
    """RMSNorm (Zhang and Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight."""

    weight: Tensor
    eps: float


@dataclass(frozen=True)
class LowRank:
    """What a linear map gets added: scale * B A dropout(x). A [rank, in], B [out, rank]; drop: share of x."""

    down: Tensor
    up: Tensor
    scale: float
    drop: float = 0.0


@dataclass(frozen=True)
class Map:
    """One frozen linear map of an input that several share, with what is added to it."""

    weight: Tensor
    bias: Tensor | None = None
    added: LowRank | None = None


def tiles(rows: int, device: torch.device) -> Iterator[slice]:
    """All rows, in tiles on a CPU, whole elsewhere."""
    step = CPU_TILE if device.type == "cpu" else max(rows, 1)
    # A last tile of a few rows would be slow: it goes with the one before.
    first = 0
    while first < rows:
        stop = rows if rows - first < step + step // 2 else first + step
        yield slice(first, stop)
        first = stop


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """[rows, 1] float32: 1 / sqrt(mean(x^2) + eps)."""
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
    return squares.div_(x.shape[-1]).add_(eps).rsqrt_()


def normed(x: Tensor, inverse: Tensor, norm: Norm) -> Tensor:
    """The normed rows in x's dtype; `inverse` is their `inverse_rms`."""
    if x.device.type != "cpu" and norm.weight.dtype == x.dtype:
        return F.rms_norm(x, (x.shape[-1],), norm.weight, norm.eps)  # one kernel
    if x.dtype == torch.float32:
        return (x * inverse).mul_(norm.weight)
    return (x.float() * inverse).mul_(norm.weight.float()).to(x.dtype)


def _norm_backward(grad: Tensor, x: Tensor, inverse: Tensor, norm: Norm) -> Tensor:
    """Gradient to x of `normed`, given the one to its result, which is used up; float32 inside."""
    if x.device.type != "cpu" and norm.weight.dtype == x.dtype:
        return _norm_backward_fused(grad, x, norm)
    scaled = grad.float().mul_(norm.weight)
    wide = x.float()
    along = (scaled * wide).sum(-1, keepdim=True).mul_(inverse.pow(3).div_(x.shape[-1]))
    return scaled.mul_(inverse).addcmul_(wide, along, value=-1)


def _norm_backward_fused(grad: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """The same by torch's own kernels: three, where the arithmetic above takes seven."""
    with torch.enable_grad():
        again = x.detach().requires_grad_()
        result = F.rms_norm(again, (x.shape[-1],), norm.weight.detach(), norm.eps)
        return torch.autograd.grad(result, again, grad)[0]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, inverse)
        ctx.eps = eps
        return normed(x, inverse, Norm(weight, eps))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, inverse = ctx.saved_tensors
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = (grads[0].float() * x.float() * inverse).flatten(0, -2).sum(0).to(weight.dtype)
        d_x = _norm_backward(grads[0].clone(), x, inverse, Norm(weight, ctx.eps))
        return d_x.to(x.dtype), d_weight, None


def rms_norm(x: Tensor, norm: Norm) -> Tensor:
    """[..., width] -> the same, normed along the last axis."""
    result: Tensor = _RMSNorm.apply(x, norm.weight, norm.eps)
    return result


def rotate_(x: Tensor, cos: Tensor, sin: Tensor, back: bool = False) -> Tensor:
    """Rotary positions (Su et al. 2021) in place; x [rows, heads, 2 * half], cos and sin [rows, 1, half].

    back: the other way, which is the gradient.
    """
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    kept = first * sin
    sign = 1.0 if back else -1.0
    first.mul_(cos).addcmul_(second, sin, value=sign)
    second.mul_(cos).add_(kept, alpha=-sign)
    return x


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return chains.rotated(x, cos, sin, -1.0) if chains.are_compiled(x) else rotate_(x.clone(), cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        if chains.are_compiled(grads[0]):
            return chains.rotated(grads[0], cos, sin, 1.0), None, None
        return rotate_(grads[0].clone(), cos, sin, back=True), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate_` into a new tensor, with a gradient; in place where no gradient is asked for."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return chains.rotated(x, cos, sin, -1.0) if chains.are_compiled(x) else rotate_(x, cos, sin)
    result: Tensor = _Rotate.apply(x, cos, sin)
    return result


def _draw_kept(shape: torch.Size, drop: float, device: torch.device) -> Tensor:
    """bool of this shape: what dropout lets through.

    Four numbers of 16 bits from every one that the generator gives, since drawing is what costs: `drop` is
    rounded to 1/65536, as `_kept_share` says.
    """
    count = shape.numel()
    drawn = torch.empty((count + 3) // 4, dtype=torch.int64, device=device).random_(-(2**63), None)
    return (drawn.view(torch.int16)[:count] >= round(drop * 65536) - 32768).view(shape)


def _kept_share(drop: float) -> float:
    return 1 - round(drop * 65536) / 65536


def _scale(low: LowRank, kept: Tensor | None) -> float:
    return low.scale if kept is None else low.scale / _kept_share(low.drop)


class _NormLinears(torch.autograd.Function):
    """norm -> several linear maps of the one normed input, low-rank additions with dropout included."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm | None, maps: Sequence[Map], training: bool, *trained: Tensor) -> Any:
        rows = x.shape[0]
        inverse = inverse_rms(x, norm.eps) if norm is not None else None
        results = [x.new_empty(rows, each.weight.shape[0]) for each in maps]
        masks = [
            _draw_kept(x.shape, each.added.drop, x.device)
            if training and each.added is not None and each.added.drop > 0
            else None
            for each in maps
        ]
        inner: list[Tensor | None] = [
            x.new_empty(rows, each.added.down.shape[0]) if each.added is not None else None for each in maps
        ]
        for tile in tiles(rows, x.device):
            h = x[tile] if norm is None or inverse is None else normed(x[tile], inverse[tile], norm)
            for each, result, mask, small in zip(maps, results, masks, inner, strict=True):
                part = result[tile]
                torch.mm(h, each.weight.T, out=part)
                if each.bias is not None:
                    part += each.bias
                if each.added is not None and small is not None:
                    seen = h if mask is None else h * mask[tile]
                    torch.mm(seen, each.added.down.to(h.dtype).T, out=small[tile])
                    part.addmm_(small[tile], each.added.up.to(h.dtype).T, alpha=_scale(each.added, mask))
        ctx.save_for_backward(x, inverse, *masks, *inner, *trained)
        ctx.norm, ctx.maps = norm, maps
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, inverse, *rest = ctx.saved_tensors
        norm, maps, number = ctx.norm, ctx.maps, len(ctx.maps)
        masks, inner = rest[:number], rest[number : 2 * number]
        grads = tuple(grad.contiguous() for grad in grads)
        wants_x = ctx.needs_input_grad[0]
        d_x = torch.empty_like(x) if wants_x else None
        totals = [
            None
            if each.added is None
            else tuple(torch.zeros_like(part, dtype=torch.float32) for part in (each.added.down, each.added.up))
            for each in maps
        ]
        for tile in tiles(x.shape[0], x.device):
            h = None
            d_h: Tensor | None = None
            for each, grad, mask, small, total in zip(maps, grads, masks, inner, totals, strict=True):
                g = grad[tile]
                if wants_x:
                    d_h = g @ each.weight if d_h is None else d_h.addmm_(g, each.weight)
                if each.added is None or total is None:
                    continue
                if h is None:
                    h = x[tile] if norm is None else normed(x[tile], inverse[tile], norm)
                kept = None if mask is None else mask[tile]
                scale = _scale(each.added, kept)
                d_small = (g @ each.added.up.to(g.dtype)).mul_(scale)
                total[1].add_(g.T @ small[tile], alpha=scale)
                total[0].add_(d_small.T @ (h if kept is None else h * kept))
                if d_h is not None:
                    if kept is None:
                        d_h.addmm_(d_small, each.added.down.to(g.dtype))
                    elif chains.are_compiled(d_h):
                        d_h = chains.with_let_through(d_h, d_small @ each.added.down.to(g.dtype), kept)
                    else:
                        d_h.add_((d_small @ each.added.down.to(g.dtype)).mul_(kept))
            if d_x is not None and d_h is not None:
                d_x[tile] = d_h if norm is None else _norm_backward(d_h, x[tile], inverse[tile], norm)
        d_trained = [
            part.to(tensor.dtype)
            for each, total in zip(maps, totals, strict=True)
            if each.added is not None and total is not None
            for part, tensor in zip(total, (each.added.down, each.added.up), strict=True)
        ]
        return d_x, None, None, None, *d_trained


def norm_linears(x: Tensor, norm: Norm | None, maps: Sequence[Map], training: bool) -> tuple[Tensor, ...]:
    """[rows, width] -> one [rows, out] per map. training: dropout is on. The weights get no gradient, the
    low-rank additions and x do.
    """
    trained = [tensor for each in maps if each.added is not None for tensor in (each.added.down, each.added.up)]
    results: tuple[Tensor, ...] = _NormLinears.apply(x, norm, maps, training, *trained)
    return results


@dataclass(frozen=True)
class GatedMLP:
    """W_down(act(W_gate h) * W_up h) (Shazeer 2020), frozen, without biases. is_gelu: tanh-GELU, else SiLU."""

    gate: Tensor
    up: Tensor
    down: Tensor
    is_gelu: bool

    def gated(self, gate: Tensor, up: Tensor) -> Tensor:
        """act(gate) * up, from their products."""
        if chains.are_compiled(gate):
            return chains.gated(gate, up, self.is_gelu)
        return chains.activation(gate, self.is_gelu).mul_(up)

    def gated_backward(self, grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients to gate and up, given the one to `gated`, which is used up."""
        if chains.are_compiled(gate):
            return chains.gated_backward(grad, gate, up, self.is_gelu)
        d_up = chains.activation(gate, self.is_gelu).mul_(grad)
        return chains.activation_backward(grad.mul_(up), gate, self.is_gelu), d_up


class _NormMLP(torch.autograd.Function):
    """[residual +] mlp(norm(x)), where x is the residual."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, norm: Norm, mlp: GatedMLP, adds: bool, keeps: bool) -> Tensor:
        rows = x.shape[0]
        inverse = inverse_rms(x, norm.eps)
        result = torch.empty_like(x)
        width = mlp.gate.shape[0]
        if keeps:
            gates, ups = x.new_empty(rows, width), x.new_empty(rows, width)
            ctx.save_for_backward(x, inverse, gates, ups)
            ctx.norm, ctx.mlp, ctx.adds = norm, mlp, adds
        for tile in tiles(rows, x.device):
            h = normed(x[tile], inverse[tile], norm)
            if keeps:
                gate = torch.mm(h, mlp.gate.T, out=gates[tile])
                up = torch.mm(h, mlp.up.T, out=ups[tile])
                active = mlp.gated(gate, up)
            else:
                active = mlp.gated(h @ mlp.gate.T, h @ mlp.up.T)
            if adds:
                torch.addmm(x[tile], active, mlp.down.T, out=result[tile])
            else:
                torch.mm(active, mlp.down.T, out=result[tile])
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, inverse, gates, ups = ctx.saved_tensors
        norm, mlp = ctx.norm, ctx.mlp
        grad = grads[0]
        d_x = torch.empty_like(x)
        for tile in tiles(x.shape[0], x.device):
            gate, up, g = gates[tile], ups[tile], grad[tile]
            d_gate, d_up = mlp.gated_backward(g @ mlp.down, gate, up)
            d_h = (d_gate @ mlp.gate).addmm_(d_up, mlp.up)
            part = _norm_backward(d_h, x[tile], inverse[tile], norm)
            d_x[tile] = part.add_(g) if ctx.adds else part
        return d_x, None, None, None, None


def norm_mlp(x: Tensor, norm: Norm, mlp: GatedMLP, adds: bool) -> Tensor:
    """[rows, width] -> the same: mlp(norm(x)), with x added where `adds`. Gradients go to x alone."""
    keeps = torch.is_grad_enabled() and x.requires_grad
    result: Tensor = _NormMLP.apply(x, norm, mlp, adds, keeps)
    return result
