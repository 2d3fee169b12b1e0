"""How often the 95 % intervals of `handful.statistics` hold the truth, by simulation, as a table.

    python benchmarks/coverage.py                 a corner of the grid, under a minute
    python benchmarks/coverage.py --whole         every cell of docs/statistics.md
    python benchmarks/coverage.py --world beta    seeds whose accuracies follow a beta distribution, and so on

A world draws training seeds and test texts anew for every set, so the truth is the mean over both. Knows nothing of
records.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handful.statistics import Interval, crossed_interval, paired_crossed_interval

SEEDS, TEXTS, ACCURACIES, SEED_SDS = (3, 5, 10), (200, 2000), (0.6, 0.9, 0.97), (0.005, 0.01, 0.02, 0.03)
LOW, HIGH = 0.93, 0.975
"""Where coverage of a 95 % interval is asked to lie."""

Correct = NDArray[np.bool_ | np.float64]
Draw = Callable[[np.random.Generator, int, int], Correct]
"""(generator, seeds, texts) -> [seeds, texts]"""


@dataclass(frozen=True)
class Cell:
    """One line of the table. gap: accuracy minus that of the second method, None for a single method."""

    num_seeds: int
    num_texts: int
    accuracy: float
    seed_sd: float
    gap: float | None = None


# -- worlds ---------------------------------------------------------------------------------------------


def probit_world(accuracy: float, seed_sd: float, difficulty_sd: float = 1.0) -> tuple[float, float]:
    """(intercept, seed sd) on the probit scale that give this mean and sd over seeds of the accuracy.

    P(correct | text, seed) = Phi(intercept + difficulty_sd * text + shift_sd * seed), text and seed standard normal.
    """
    from scipy.optimize import root
    from scipy.special import ndtr, ndtri

    points, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    scale = math.sqrt(1.0 + difficulty_sd**2)

    def gaps(point: NDArray[np.float64]) -> list[float]:
        of_seed = ndtr((point[0] + math.exp(point[1]) * points) / scale)
        mean = float(weights @ of_seed)
        return [100 * (mean - accuracy), 100 * (math.sqrt(float(weights @ (of_seed - accuracy) ** 2)) - seed_sd)]

    start = scale * float(ndtri(accuracy))
    slope = math.exp(-((start / scale) ** 2) / 2) / math.sqrt(2 * math.pi)
    found = root(gaps, [start, math.log(scale * seed_sd / slope)])
    if not found.success:
        raise ValueError(f"no probit world has accuracy {accuracy} and seed sd {seed_sd}: {found.message}")
    return float(found.x[0]), math.exp(float(found.x[1]))


def answers(
    rng: np.random.Generator, world: tuple[float, float], texts: NDArray[np.float32], num_seeds: int, num_starts: int
) -> Correct:
    """[seeds, texts] of a probit world. Several starts: the mean over so many under each sample, of which each has half
    of the variance of a run's skill, so that runs are as good and as far apart as with one start."""
    intercept, shift_sd = world
    seeds = shift_sd * rng.standard_normal((num_seeds, 1, 1), dtype=np.float32)
    if num_starts > 1:
        seeds = (seeds + shift_sd * rng.standard_normal((num_seeds, num_starts, 1), dtype=np.float32)) / math.sqrt(2)
    noise = rng.standard_normal((num_seeds, num_starts, len(texts)), dtype=np.float32)
    right = intercept + texts + seeds + noise > 0
    return right[:, 0] if num_starts == 1 else right.mean(1)


def probit(accuracy: float, seed_sd: float, difficulty_sd: float = 1.0, num_starts: int = 1) -> Draw:
    """Texts differ in difficulty, seeds in skill; both normal on the probit scale."""
    world = probit_world(accuracy, seed_sd, difficulty_sd)

    def draw(rng: np.random.Generator, num_seeds: int, num_texts: int) -> Correct:
        texts = difficulty_sd * rng.standard_normal(num_texts, dtype=np.float32)
        return answers(rng, world, texts, num_seeds, num_starts)

    return draw


def beta(accuracy: float, seed_sd: float) -> Draw:
    """A seed's accuracy is beta distributed, and texts are alike: the next text is right with that probability."""
    size = accuracy * (1 - accuracy) / seed_sd**2 - 1

    def draw(rng: np.random.Generator, num_seeds: int, num_texts: int) -> Correct:
        skill = rng.beta(accuracy * size, (1 - accuracy) * size, (num_seeds, 1)).astype(np.float32)
        return np.asarray(rng.random((num_seeds, num_texts), dtype=np.float32) < skill)

    return draw


WORLDS: dict[str, Callable[[float, float], Draw]] = {
    "probit": probit,
    "hard": lambda accuracy, seed_sd: probit(accuracy, seed_sd, 2.5),
    "beta": beta,
    "starts": lambda accuracy, seed_sd: probit(accuracy, seed_sd, num_starts=STARTS),
}
"""probit: texts of sd 1 in difficulty. hard: of sd 2.5, so most texts are right or wrong under every seed. starts: as
probit, the answers of STARTS starts averaged under each seed's sample."""
STARTS = 3


def pair(world: str, cell: Cell) -> Callable[[np.random.Generator], tuple[Correct, Correct]]:
    """Two methods on the same texts, with seeds of their own; in the probit worlds the texts are as hard for both."""
    assert cell.gap is not None
    if world == "beta":
        draws = [beta(accuracy, cell.seed_sd) for accuracy in (cell.accuracy, cell.accuracy - cell.gap)]
        return lambda rng: (
            draws[0](rng, cell.num_seeds, cell.num_texts),
            draws[1](rng, cell.num_seeds, cell.num_texts),
        )
    difficulty_sd = 2.5 if world == "hard" else 1.0
    sides = [
        probit_world(accuracy, cell.seed_sd, difficulty_sd) for accuracy in (cell.accuracy, cell.accuracy - cell.gap)
    ]
    num_starts = STARTS if world == "starts" else 1

    def draw(rng: np.random.Generator) -> tuple[Correct, Correct]:
        texts = difficulty_sd * rng.standard_normal(cell.num_texts, dtype=np.float32)
        made = [answers(rng, side, texts, cell.num_seeds, num_starts) for side in sides]
        return made[0], made[1]

    return draw


# -- coverage -------------------------------------------------------------------------------------------


def grid(whole: bool, gap: float | None) -> Iterator[Cell]:
    """The cells asked for, or the corners of them."""
    axes: Sequence[Sequence[float]] = (SEEDS, TEXTS, ACCURACIES, SEED_SDS)
    if not whole:
        axes = (SEEDS[:2], TEXTS[:1], ACCURACIES, (SEED_SDS[0], SEED_SDS[-1]))
    for num_seeds, num_texts, accuracy, seed_sd in itertools.product(*axes):
        yield Cell(int(num_seeds), int(num_texts), accuracy, seed_sd, gap)


def intervals(cell: Cell, world: str, num_sets: int, seed: int) -> Iterator[tuple[Interval, float]]:
    """(interval, truth) of each simulated set."""
    rng = np.random.default_rng(seed)
    if cell.gap is None:
        draw = WORLDS[world](cell.accuracy, cell.seed_sd)
        for _ in range(num_sets):
            yield crossed_interval(draw(rng, cell.num_seeds, cell.num_texts)), cell.accuracy
        return
    draw_pair = pair(world, cell)
    for _ in range(num_sets):
        yield paired_crossed_interval(*draw_pair(rng)), cell.gap


def coverage(cell: Cell, world: str = "probit", num_sets: int = 2000, seed: int = 17) -> tuple[float, float]:
    """(share of the sets whose interval holds the truth, mean width of the interval)."""
    held, width = 0, 0.0
    for interval, truth in intervals(cell, world, num_sets, seed):
        held += interval.low <= truth <= interval.high
        width += interval.high - interval.low
    return held / num_sets, width / num_sets


def table(world: str, whole: bool, gap: float | None, num_sets: int) -> list[str]:
    """Markdown: a line for each accuracy and seed sd, a column for each number of texts and seeds."""
    cells = list(grid(whole, gap))
    columns = list(dict.fromkeys((cell.num_texts, cell.num_seeds) for cell in cells))
    columns.sort()
    lines = list(dict.fromkeys((cell.accuracy, cell.seed_sd) for cell in cells))
    found = {cell: coverage(cell, world, num_sets, seed) for seed, cell in enumerate(cells)}
    head = ["accuracy", "seed sd", *(f"{texts:,} texts, {seeds} seeds" for texts, seeds in columns)]
    shown = [" | ".join(head), " | ".join("---" for _ in head)]
    for accuracy, seed_sd in lines:
        words = [f"{accuracy:g}", f"{100 * seed_sd:g}"]
        for num_texts, num_seeds in columns:
            share, width = found[Cell(num_seeds, num_texts, accuracy, seed_sd, gap)]
            mark = "" if LOW <= share <= HIGH else " !"
            words.append(f"{100 * share:.1f}{mark} ({100 * width:.1f})")
        shown.append(" | ".join(words))
    outside = [share for share, _ in found.values() if not LOW <= share <= HIGH]
    low, high = min(share for share, _ in found.values()), max(share for share, _ in found.values())
    return [f"| {line} |" for line in shown] + [
        "",
        f"{len(cells)} cells, coverage from {100 * low:.1f} to {100 * high:.1f} %, {len(outside)} outside of "
        f"{100 * LOW:g} to {100 * HIGH:g} %; simulation error {100 * math.sqrt(0.95 * 0.05 / num_sets):.2f} points.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="every cell, not a corner of the grid")
    parser.add_argument("--world", choices=sorted(WORLDS), default="probit")
    parser.add_argument("--sets", type=int, default=None, metavar="NUMBER", help="simulated studies in a cell")
    given = parser.parse_args()
    num_sets = given.sets or (10_000 if given.whole else 2000)
    for title, gap in (("Accuracy of one method", None), ("Paired difference of 5 points", 0.05)):
        start = time.monotonic()
        print(f"\n{title}, world {given.world}, {num_sets:,} sets: coverage in % (mean width in points)\n")
        print("\n".join(table(given.world, given.whole, gap, num_sets)))
        print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
