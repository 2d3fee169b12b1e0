"""The rate at which torch multiplies fp32 matrices here: the ceiling that FLOP shares refer to."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

SECONDS = 0.5
"""Of multiplying, per shape."""

ROWS = 4096
"""Tokens in one matrix product of a layer."""


def rate(rows: int, inner: int, columns: int, seconds: float) -> float:
    """FLOP/s of [rows, inner] times [inner, columns] into memory that is there already: median of five stretches."""
    import torch

    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    product = torch.empty(rows, columns)
    torch.mm(left, right, out=product)
    rates = []
    for _ in range(5):
        start, times = time.perf_counter(), 0
        while (taken := time.perf_counter() - start) < seconds / 5 or not times:
            torch.mm(left, right, out=product)
            times += 1
        rates.append(2.0 * rows * inner * columns * times / taken)
    return median(rates)


def shapes(width: int, mlp: int) -> dict[str, tuple[int, int, int]]:
    """What is measured, by name: [rows, inner, columns] of a large square and of a layer's own products."""
    return {
        "square 2048": (2048, 2048, 2048),
        f"{ROWS} x {width} x {width}": (ROWS, width, width),
        f"{ROWS} x {width} x {mlp}": (ROWS, width, mlp),
        f"{ROWS} x {mlp} x {width}": (ROWS, mlp, width),
    }


def measure(width: int, mlp: int) -> dict[str, Any]:
    """{"rates": {shape: FLOP/s}, "best": FLOP/s}"""
    rates = {name: rate(*shape, SECONDS) for name, shape in shapes(width, mlp).items()}
    return {"rates": rates, "best": max(rates.values())}


def between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The mean of two measurements, the one right before some work and the one right after it."""
    rates = {name: (value + after["rates"][name]) / 2 for name, value in before["rates"].items()}
    return {"rates": rates, "best": (before["best"] + after["best"]) / 2}
