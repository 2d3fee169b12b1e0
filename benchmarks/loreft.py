"""What keeping R orthonormal costs a LoReFT step, and what kept stems save.

    python benchmarks/loreft.py                 15M shape, random weights, prompts as long as IMDB reviews
    python benchmarks/loreft.py --base FOLDER   another base (weights do not matter to the times)

Needs no data: prompts are random token ids. In turn in each round: a fit of `--epochs` epochs over `--texts` texts with
the stems kept, with them kept already (as a second configuration or seed finds them), and by whole prompts. Seconds
are medians of the rounds. The share is that of `orthonormal`, forth and back, in a training step of whole prompts with
first and last rows edited, where it runs most often.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch

from handful import models, training
from handful.engine import scoring
from handful.engine.base import Base
from handful.examples import EncodedExample, Task
from handful.methods import METHODS, loreft
from handful.models.causal_lm import CausalLM
from handful.training import TrainingSpec
from imdb_lengths import draw
from labels import random_15m
from report import table

ANSWERS = ((5,), (6,))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="15m", help="a folder, a name, or 15m")
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--mean", type=int, default=300, help="tokens of a text on average")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    told = parser.parse_args(arguments)
    torch.set_num_threads(told.threads)
    base = random_15m() if told.base == "15m" else models.resident(CausalLM(told.base), "cpu")
    base.token_budget = 8192
    examples = prompts(base, told.texts, told.mean)
    print(stems(base, examples, told.epochs, told.rounds))
    print(orthogonality(base, examples, told.rounds))


def prompts(base: Base, count: int, mean: int) -> list[EncodedExample]:
    """Random token ids after an instruction of 40 that all share, 1,000 at most."""
    generator = np.random.default_rng(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(generator.integers(10, int(base.facts["vocabulary"]), length).tolist())

    shared = tokens(40)
    lengths = np.minimum(draw(count, mean, 0), 1000).tolist()
    return [
        EncodedExample(str(number), shared + tokens(length), ANSWERS, number % 2, {})
        for number, length in enumerate(lengths)
    ]


def fit(base: Base, examples: Sequence[EncodedExample], epochs: int, **knobs: Any) -> float:
    """Seconds of a fit."""
    task = Task(("a", "b"), ("a", "b"), (), ())
    spec = TrainingSpec(batch_size=8, epochs=epochs, loss="labels")
    with METHODS["loreft"](learning_rate=1e-3, **knobs).attach(base, task, 0) as tuned:
        start = time.perf_counter()
        tuned.fit(examples, [], spec, 0)
        return time.perf_counter() - start


def stems(base: Base, examples: Sequence[EncodedExample], epochs: int, rounds: int) -> str:
    """A table of the three ways to fit."""

    def kept() -> float:
        base.stems = None
        return fit(base, examples, epochs)

    def whole() -> float:
        with patched(training, "have_stems", lambda *_: False), patched(scoring, "have_stems", lambda *_: False):
            return fit(base, examples, epochs)

    ways: dict[str, Callable[[], float]] = {
        "whole prompts": whole, "stems made and kept": kept, "stems kept from an earlier fit":
        lambda: fit(base, examples, epochs),
    }  # fmt: skip
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(way())
    slowest = median(seconds["whole prompts"])
    rows = [
        [name, f"{median(taken):.2f}", f"{slowest / median(taken):.1f}x"] for name, taken in seconds.items()
    ]
    parts = [part for stem in base.stems.known.values() for pair in stem.values() for part in pair]
    size = sum(part.numel() * part.element_size() for part in parts)
    title = f"{len(examples)} texts, {epochs} epochs, last 4 rows; stems take {size / 1e6:.0f} MB"
    return table([title, "seconds", "whole prompts over it"], rows)


def orthogonality(base: Base, examples: Sequence[EncodedExample], rounds: int) -> str:
    """The share of `orthonormal` in an epoch: how often it runs times how long it takes alone, forth and back."""
    original, calls = loreft.orthonormal, 0

    def counted(basis: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return original(basis)

    basis = torch.randn(4, int(base.facts["width"]), requires_grad=True)

    def alone() -> float:
        start = time.perf_counter()
        for _ in range(200):
            original(basis).sum().backward()
        return (time.perf_counter() - start) / 200

    share = []
    for _ in range(rounds):
        calls = 0
        with patched(loreft, "orthonormal", counted):
            whole = fit(base, examples, 1, first=4)
        share.append(100 * calls * alone() / whole)
    return f"orthonormalisation: {median(share):.1f} % of a step (rank 4, first and last 4 rows in all layers)"


@contextmanager
def patched(module: Any, name: str, other: Any) -> Iterator[None]:
    """A module's function replaced for a while."""
    before = getattr(module, name)
    setattr(module, name, other)
    try:
        yield
    finally:
        setattr(module, name, before)


if __name__ == "__main__":
    main()
