"""What keeping R orthonormal costs a LoReFT step, and what kept stems save.

    python benchmarks/loreft.py                 15M shape, random weights, prompts as long as IMDB reviews
    python benchmarks/loreft.py --base FOLDER   another base (weights do not matter to the times)

Needs no data: prompts are random token ids. In turn in each round: a fit of `--epochs` epochs over `--texts` texts with
the stems kept, with them kept already (as a second configuration or seed finds them), and by whole prompts. Seconds
are medians of the rounds. Then the same for texts of one length behind an instruction of another, fits and scoring, to
show from which lengths on stems are worth making (engine/stems.py). The share is that of `orthonormal`, forth and back,
in a training step of whole prompts with first and last rows edited, where it runs most often.
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
from handful.engine.graft import Graft
from handful.engine.packing import Item
from handful.engine.stems import on_stems
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
    print(lengths(base, told.texts, told.epochs, told.rounds))
    print(orthogonality(base, examples, told.rounds))


def prompts(base: Base, count: int, mean: int, instruction: int = 40, even: bool = False) -> list[EncodedExample]:
    """Random token ids after an instruction that all share, 1,000 at most. even: all of one length."""
    generator = np.random.default_rng(0)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(generator.integers(10, int(base.facts["vocabulary"]), length).tolist())

    shared = tokens(instruction)
    lengths = [mean] * count if even else np.minimum(draw(count, mean, 0), 1000).tolist()
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
        with stemming(no_stems):
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


SHAPES = (
    (10, 16), (10, 32), (10, 64), (10, 128), (40, 32), (40, 64), (40, 128), (80, 20), (80, 64), (80, 128), (160, 128)
)  # fmt: skip
"""(tokens of the instruction, tokens of each text)."""


def lengths(base: Base, count: int, epochs: int, rounds: int) -> str:
    """A table of what stems save by length: how many times as long as whole prompts."""

    def scored() -> float:
        task = Task(("a", "b"), ("a", "b"), (), ())
        with METHODS["loreft"](learning_rate=1e-3).attach(base, task, 0) as tuned:
            start = time.perf_counter()
            tuned.predict(examples)
            return time.perf_counter() - start

    rows = []
    for shared, own in SHAPES:
        examples = prompts(base, count, own, shared, even=True)
        row = [str(shared), str(own)]
        for work in (lambda some=examples: fit(base, some, epochs), scored):
            taken: dict[str, list[float]] = {"whole": [], "cold": [], "warm": []}
            for _ in range(rounds + 1):
                with stemming(no_stems):
                    taken["whole"].append(work())
                with stemming(on_stems):
                    base.stems = None
                    taken["cold"].append(work())
                    taken["warm"].append(work())
            whole, cold, warm = [median(seconds[1:]) for seconds in taken.values()]
            row += [f"{whole:.3f}", f"{whole / cold:.2f}x", f"{whole / warm:.2f}x"]
        rows.append(row)
    head = ["instruction", "text", f"fit of {epochs} epochs, s", "stems made", "stems kept",
            "scoring, s", "stems made", "stems kept"]  # fmt: skip
    return table(head, rows)


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


def no_stems(base: Base, items: Sequence[Item], graft: Graft) -> list[int]:
    """Whole prompts for all."""
    return []


@contextmanager
def stemming(which: Callable[[Base, Sequence[Item], Graft], list[int]]) -> Iterator[None]:
    """Another rule for a while, in training and in scoring."""
    with patched(training, "on_stems", which), patched(scoring, "worth_scoring_on_stems", which):
        yield


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
