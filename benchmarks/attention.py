"""Attention of one text after a shared root on a CPU: what the engine does against torch's flash kernel.

    python benchmarks/attention.py [--tokens 100 180 300 600 1000] [--repeats 40]

The flash kernel runs twice, over the root and over the text itself, and the parts are merged by their log-sum-exp
(Dao et al. 2022); on the way back both parts get the merged result. Forward and backward are timed in turn, the lower
quartile is printed in milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor

from handful.engine.attention import layout, tree_attention
from handful.engine.packing import Item, pack_items
from report import table

SHARED, HEADS, HEAD_WIDTH = 60, 6, 48
"""Tokens of the root; heads of the 15M shape."""


def states(tokens: int) -> tuple[Any, list[Tensor], Tensor]:
    """(layout of a root and one text, query, key and value of all their rows, a gradient of the result)"""
    item = Item(tuple(range(SHARED + tokens)), ((0,),))
    (pack,) = pack_items([item], 10**6, 0, SHARED)
    drawn = [torch.randn(SHARED + tokens, HEADS, HEAD_WIDTH) for _ in range(4)]
    return layout(pack.segments), drawn[:3], drawn[3]


def groups(plan: Any, inputs: Sequence[Tensor], scale: float) -> Tensor:
    """[rows, heads, head_dim]: the engine's."""
    return tree_attention(inputs[0], inputs[1], inputs[2], plan, scale)


class _Flash(torch.autograd.Function):
    """The same by three calls: the root on itself, the text on the root and on itself."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        call = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        root, own = slice(0, SHARED), slice(SHARED, None)
        first, first_log = call(q[:, :, root], k[:, :, root], v[:, :, root], 0.0, True, scale=scale)
        above, above_log = call(q[:, :, own], k[:, :, root], v[:, :, root], 0.0, False, scale=scale)
        within, within_log = call(q[:, :, own], k[:, :, own], v[:, :, own], 0.0, True, scale=scale)
        log = torch.logaddexp(above_log, within_log)
        merged = torch.lerp(above, within, (within_log - log).exp().unsqueeze(-1))
        ctx.save_for_backward(q, k, v, first, first_log, merged, log)
        ctx.scale = scale
        return torch.cat([first, merged], dim=2)[0].transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        call = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        q, k, v, first, first_log, merged, log = ctx.saved_tensors
        grad = grads[0].transpose(0, 1).unsqueeze(0)
        root, own = slice(0, SHARED), slice(SHARED, None)

        def part(asks: slice, seen: slice, out: Tensor, logs: Tensor, is_causal: bool) -> Any:
            inputs = grad[:, :, asks], q[:, :, asks], k[:, :, seen], v[:, :, seen]
            return call(*inputs, out, logs, 0.0, is_causal, scale=ctx.scale)

        of_root = part(root, root, first, first_log, True)
        above, within = part(own, root, merged, log, False), part(own, own, merged, log, True)
        gradients = (
            torch.cat([of_root[0], above[0] + within[0]], dim=2),
            *(torch.cat([of_root[which] + above[which], within[which]], dim=2) for which in (1, 2)),
        )
        return *(each[0].transpose(0, 1) for each in gradients), None


def flash(plan: Any, inputs: Sequence[Tensor], scale: float) -> Tensor:
    """[rows, heads, head_dim]: torch's."""
    result: Tensor = _Flash.apply(*inputs, scale)
    return result


def measure(tokens: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Per way of doing it the milliseconds (forward, backward), lower quartiles."""
    plan, inputs, grad = states(tokens)
    ways: dict[str, Callable[..., Tensor]] = {"flash": flash, "groups": groups}
    seconds: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            leaves = [tensor.detach().requires_grad_() for tensor in inputs]
            start = time.perf_counter()
            result = way(plan, leaves, HEAD_WIDTH**-0.5)
            between = time.perf_counter()
            torch.autograd.grad(result, leaves, grad)
            end = time.perf_counter()
            seconds[name][0].append(between - start)
            seconds[name][1].append(end - between)
    return {name: (1000 * quantiles(there)[0], 1000 * quantiles(back)[0]) for name, (there, back) in seconds.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[100, 180, 300, 600, 1000])
    parser.add_argument("--repeats", type=int, default=40, help="at least 2")
    args = parser.parse_args(argv)
    lines = []
    for tokens in args.tokens:
        found = measure(tokens, args.repeats)
        lines.append([f"{tokens:,}", *(f"{found[name][0]:.2f} / {found[name][1]:.2f}" for name in ("flash", "groups"))])
    print(table(["tokens", "flash, forward / back", "groups, forward / back"], lines))


if __name__ == "__main__":
    main()
