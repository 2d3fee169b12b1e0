"""The rate at which torch multiplies fp32 matrices here: the ceiling that FLOP shares refer to."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

SECONDS = 0.7
"""Of multiplying, per shape."""

ROWS = 4096
"""Tokens in one matrix product of a layer."""


def rate(rows: int, inner: int, columns: int, seconds: float = SECONDS) -> float:
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


def main(argv: Sequence[str] | None = None) -> None:
    """Writes {"rates": {shape: FLOP/s}, "best": FLOP/s}."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("result", type=Path)
    arguments.add_argument("--width", type=int, required=True)
    arguments.add_argument("--mlp", type=int, required=True)
    args = arguments.parse_args(argv)
    rates = {name: rate(*shape) for name, shape in shapes(args.width, args.mlp).items()}
    args.result.write_text(json.dumps({"rates": rates, "best": max(rates.values())}), encoding="utf-8")


if __name__ == "__main__":
    main()
