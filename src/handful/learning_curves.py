"""Error against number of labels as an inverse power law, and what follows: gains, and how many labels equal how many.

Pure functions over test errors; knows nothing of rows, records or torch. Errors and gains are fractions, not percent.

A curve error(N) = a + b N^-c is fitted to the mean errors over seeds, weighed by their covariance; what seeds and test
texts leave open of each mean error comes from every seed's and text's own answers, as in `statistics.MeanSquares`.
Differences along a curve are read over all laws that the errors allow (profile likelihood); where a curve meets another
method, by inverting the paired test (Fieller). Each seed is not fitted alone: three or four noisy errors hardly tell a
floor from an exponent, so a mean of such fits is a mean of guesses.

Sources: the form, Hestness et al. (2017), arXiv:1712.00409, and Rosenfeld et al. (2020), ICLR, "A Constructive
Prediction of the Generalization Error Across Scales"; profile likelihood, Venzon & Moolgavkar (1988), J. R. Stat.
Soc. C 37:87-94; sets by inverting a test, Fieller (1954), J. R. Stat. Soc. B 16:175-185.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.statistics import Interval, MeanSquares

FEWEST_NUMBERS = 3
"""Numbers of labels that a curve of three parameters needs at least."""
REACH = 2
"""A curve is read up to so many times its largest number of labels, and no further."""
SMALLEST_EXPONENT, LARGEST_EXPONENT = 0.02, 2.0

Numbers = NDArray[np.float64]
Runs = Mapping[int | None, Numbers]
"""Seed -> [texts] errors, 0/1. What reads no seed has one run, under None."""
Spread = tuple[float, int]
"""(variance of an error between seeds, its degrees of freedom)"""


class NoCurveError(ValueError):
    """Why there is no curve to read, in words that a report can show."""


@dataclass(frozen=True)
class PowerLaw:
    """error(N) = floor + scale * N ** -exponent; floor and scale are not negative."""

    floor: float
    scale: float
    exponent: float

    def __call__(self, num_labels: ArrayLike) -> Numbers:
        """The error at each number of labels, of the same shape."""
        return np.asarray(self.floor + self.scale * np.asarray(num_labels, np.float64) ** -self.exponent)


def fit_power_law(numbers: ArrayLike, errors: ArrayLike, precision: ArrayLike | None = None) -> PowerLaw:
    """Generalised least squares over floor >= 0, scale >= 0 and an exponent within its bounds.

    numbers: [N], distinct and above 0. errors: [N]. precision: [N, N], the inverse of the errors' covariance; None:
    all errors count alike. A rising or flat error gives scale 0. Raises ValueError on shapes that do not fit or fewer
    than three numbers.
    """
    x, y = np.asarray(numbers, np.float64), np.asarray(errors, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < FEWEST_NUMBERS or bool(np.any(x <= 0)):
        raise ValueError(
            f"a power law needs at least {FEWEST_NUMBERS} numbers above 0 and as many errors, "
            f"got shapes {x.shape} and {y.shape}"
        )
    weights = np.eye(len(x)) if precision is None else np.asarray(precision, np.float64)
    low, high = np.log(SMALLEST_EXPONENT), np.log(LARGEST_EXPONENT)
    for _ in range(4):  # each round looks closer around the best exponent of the one before
        exponents = np.exp(np.linspace(low, high, 60))
        floors, scales, losses = _fits_at(exponents, x, y, weights)
        best = int(np.argmin(losses))
        low = np.log(exponents[max(0, best - 1)])
        high = np.log(exponents[min(len(exponents) - 1, best + 1)])
    return PowerLaw(float(floors[best]), float(scales[best]), float(exponents[best]))


def _fits_at(exponents: Numbers, x: Numbers, y: Numbers, weights: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """(floors, scales, losses) at each exponent; given it, the fit is linear with two signs to keep."""
    basis = x[None, :] ** -exponents[:, None]
    ones = np.ones(len(x))
    of_ones, of_basis = float(ones @ weights @ ones), np.einsum("en,nm,em->e", basis, weights, basis)
    cross, with_ones, with_basis = basis @ weights @ ones, float(ones @ weights @ y), basis @ weights @ y
    scales = (of_ones * with_basis - cross * with_ones) / (of_ones * of_basis - cross**2)
    floors = (with_ones - scales * cross) / of_ones
    rising = scales < 0
    scales, floors = np.where(rising, 0.0, scales), np.where(rising, with_ones / of_ones, floors)
    below = floors < 0
    scales = np.where(below, np.maximum(with_basis / of_basis, 0.0), scales)
    floors = np.where(below, 0.0, floors)
    rest = y - floors[:, None] - scales[:, None] * basis
    return floors, scales, np.einsum("en,nm,em->e", rest, weights, rest)


@dataclass(frozen=True)
class Equivalent:
    """A number of labels, with the ends of its 95 % interval: `inf` above `largest`, 0 below `smallest`, between which
    the curve is read."""

    estimate: float
    low: float
    high: float
    smallest: int
    largest: int


class LearningCurve:
    """A method's error against its number of labels, with what each seed and text says of it.

    numbers: [N] sorted. errors: [N], means over the seeds. law: fitted to them. reach: the largest number of labels at
    which it is read. An N with one seed counts with the spread between seeds of the nearest N that has several, a
    smaller one first: seeds differ more with fewer labels.
    """

    def __init__(self, runs: Mapping[int, Runs]) -> None:
        """runs: number of labels -> seed -> errors, on the same texts in the same order everywhere.

        Raises NoCurveError, in words, with fewer than three numbers of labels, with one seed, and where the error does
        not measurably fall.
        """
        cells = {number: runs[number] for number in sorted(runs) if number > 0 and runs[number]}
        if len(cells) < FEWEST_NUMBERS:
            raise NoCurveError(f"a curve needs at least {FEWEST_NUMBERS} numbers of labels, and has {len(cells)}")
        if all(len(cell) < 2 for cell in cells.values()):
            raise NoCurveError("one seed does not say how far the curve moves from seed to seed")
        self._cells = cells
        self.numbers = np.array(list(cells), np.float64)
        self.errors = np.array([_mean_error(cell) for cell in cells.values()])
        self._parts = [(cell, seed_spread(cells, number)) for number, cell in cells.items()]
        self._forms = _Forms(self._parts)
        self._precision = np.linalg.inv(self._forms.squared_halves())
        self.law = fit_power_law(self.numbers, self.errors, self._precision)
        self.reach = REACH * int(self.numbers[-1])
        self._moved = self._moved_laws()
        first, last = int(self.numbers[0]), int(self.numbers[-1])
        fall = self._fall(first, last)
        if not fall.low > 0.0:
            raise NoCurveError(
                f"from {first:,} to {last:,} labels its error falls by {100 * fall.estimate:.1f} points "
                f"[{100 * fall.low:.1f}, {100 * fall.high:.1f}], which can't be told from none"
            )

    def gain(self, start: int, more: int) -> Interval:
        """By how much the error falls from `start` to `start + more` labels.

        Raises NoCurveError where the curve does not reach that far.
        """
        if start < self.numbers[0] or start + more > self.reach or more < 1:
            raise NoCurveError(
                f"the curve is read from {int(self.numbers[0]):,} to {self.reach:,} labels, not from {start:,} to "
                f"{start + more:,}"
            )
        return self._fall(start, start + more)

    def equivalent(self, other: Runs, spread: Spread | None = None) -> Equivalent:
        """How many labels give the error of `other`: where the curve meets it, and all N at which the data can't tell
        the two apart at 95 % (Fieller).

        other: errors on the same texts. spread: `seed_spread` of the other method, where `other` is one run with a
        seed. Raises NoCurveError where that is unknown.
        """
        if len(other) == 1 and None not in other and spread is None:
            raise NoCurveError("one seed does not say how far the other method moves from seed to seed")
        forms = _Forms([*self._parts, (other, spread if len(other) == 1 else None)])
        numbers = np.geomspace(self.numbers[0], self.reach, 200)
        gaps = self.law(numbers) - _mean_error(other)
        halves = np.array([forms.squares(np.append(self._weights(n), -1.0)).half_width() for n in numbers])
        # The gap falls with N: it may be 0 from where its lower end has fallen below 0 to where its upper end does.
        estimate, low, high = (_meeting(numbers, gap) for gap in (gaps, gaps - halves, gaps + halves))
        return Equivalent(estimate, low, high, int(self.numbers[0]), self.reach)

    def _fall(self, start: float, end: float) -> Interval:
        """The difference between two places of the curve, over all laws that the mean errors allow.

        Such a difference is far from linear in the errors: with a law that hardly tells its floor from its exponent, an
        interval by the delta method held the truth in 85 to 98 % of simulated studies.
        """
        estimate = float(self.law(start) - self.law(end))
        exponents = np.geomspace(SMALLEST_EXPONENT, LARGEST_EXPONENT, 120)[:, None]
        floors = np.linspace(0.0, float(self.errors.max()), 120)[None, :]
        basis = self.numbers**-exponents  # [exponents, N]
        of_basis = np.einsum("en,nm,em->e", basis, self._precision, basis)[:, None]
        above = self.errors - floors[..., None]  # [1, floors, N]
        with_basis = np.einsum("en,nm,fm->ef", basis, self._precision, above[0])
        of_above = np.einsum("fn,nm,fm->f", above[0], self._precision, above[0])[None, :]
        rest = self.errors - self.law(self.numbers)
        # With a law given but for its scale, the loss is a parabola in it; all scales with a loss of at most 1 more
        # than the best are allowed, since the precision is in units of the half width.
        room = float(rest @ self._precision @ rest) + 1.0 - of_above + with_basis**2 / of_basis
        width = np.sqrt(np.maximum(room, 0.0) / of_basis)
        low, high = np.maximum(with_basis / of_basis - width, 0.0), with_basis / of_basis + width
        allowed = (room >= 0.0) & (high >= 0.0)
        steepness = start**-exponents - end**-exponents
        lows, highs = (steepness * low)[allowed], (steepness * high)[allowed]
        return Interval(estimate, min([estimate, *lows.tolist()]), max([estimate, *highs.tolist()]))

    def _weights(self, number: float) -> Numbers:
        """[N]: by how much the curve at `number` moves with each mean error."""
        return np.array([float(up(number) - down(number)) / (2.0 * step) for up, down, step in self._moved])

    def _moved_laws(self) -> list[tuple[PowerLaw, PowerLaw, float]]:
        """(fit with one mean error a step higher, a step lower, step) for each of them.

        A step is a standard error: it sees past the kinks that the signs of floor and scale make.
        """
        moved = []
        for place in range(len(self.numbers)):
            unit = np.eye(len(self.numbers))[place]
            step = max(sqrt(self._forms.squares(unit).variance), 1e-4)
            laws = [
                fit_power_law(self.numbers, self.errors + sign * step * unit, self._precision) for sign in (1.0, -1.0)
            ]
            moved.append((laws[0], laws[1], step))
        return moved


def seed_spread(cells: Mapping[int, Runs], number: int) -> Spread | None:
    """The spread of single runs at the nearest N with several seeds, a smaller one first; None where no N has, and for
    an N that has several itself."""
    if len(cells[number]) > 1:
        return None
    several = [other for other, cell in cells.items() if len(cell) > 1]
    if not several:
        return None
    nearest = min(several, key=lambda other: (other > number, abs(other - number)))
    means = [float(np.mean(errors)) for errors in cells[nearest].values()]
    return float(np.var(means, ddof=1)), len(means) - 1


def _mean_error(cell: Runs) -> float:
    return float(np.mean([np.mean(errors) for errors in cell.values()]))


def _meeting(numbers: Numbers, gaps: Numbers) -> float:
    """Where `gaps`, which fall, reach 0; 0 where they begin there, inf where they never do."""
    above = np.flatnonzero(gaps > 0.0)
    if not len(above):
        return 0.0
    last = int(above[-1])
    if last == len(numbers) - 1:
        return inf
    share = gaps[last] / (gaps[last] - gaps[last + 1])
    return float(np.exp(np.log(numbers[last]) + share * np.log(numbers[last + 1] / numbers[last])))


class _Forms:
    """Mean squares of any weighted sum of the mean errors of cells, as quadratic forms in the weights.

    A cell is spread over one row for each seed of all cells: its mean over seeds, and around it each seed's own
    deviation, stretched so that the variance of the rows' mean is that of the cell's mean. Rows of seeds that a cell
    lacks stay at its mean. Cells of as many seeds have their degrees of freedom together, since those are mostly the
    same seeds; cells of more or fewer have others.
    """

    def __init__(self, parts: Sequence[tuple[Runs, Spread | None]]) -> None:
        seeds = sorted({seed for cell, _ in parts for seed in cell if seed is not None})
        self.num_seeds, self.num_texts = len(seeds), len(next(iter(parts[0][0].values())))
        row_means, text_means, rests = [], [], []
        for cell, _ in parts:
            runs = np.stack([np.asarray(errors, np.float64) for errors in cell.values()])
            mean = runs.mean(axis=0)
            rows = np.tile(mean, (self.num_seeds, 1))
            if len(cell) > 1:
                total, own = self.num_seeds, len(cell)
                stretch = sqrt(total * (total - 1) / (own * (own - 1)))
                for seed, errors in zip(cell, runs, strict=True):
                    assert seed is not None
                    rows[seeds.index(seed)] += stretch * (errors - mean)
            row_means.append(rows.mean(axis=1) - mean.mean())
            text_means.append(mean - mean.mean())
            rests.append((rows - mean - row_means[-1][:, None]).ravel())
        dof_seeds, dof_texts = self.num_seeds - 1, self.num_texts - 1
        self._seeds = self.num_texts * _products(row_means) / dof_seeds
        self._texts = self.num_seeds * _products(text_means) / dof_texts
        self._rest = _products(rests) / (dof_seeds * dof_texts)
        # What a single run hides of its seed, as a variance of the mean; the mean squares are so many times that.
        self._hidden = self.num_seeds * self.num_texts * np.array([spread[0] if spread else 0.0 for _, spread in parts])
        self._dof = np.array([spread[1] if spread else max(1, len(cell) - 1) for cell, spread in parts])

    def squares(self, weights: Numbers) -> MeanSquares:
        """weights: [cells]"""
        of_seeds = np.outer(weights, weights) * self._seeds + np.diag(weights**2 * self._hidden)
        alike = {int(dof): self._dof == dof for dof in self._dof}
        return MeanSquares(
            seeds=float(of_seeds.sum()),
            texts=float(weights @ self._texts @ weights),
            residual=float(weights @ self._rest @ weights),
            num_seeds=self.num_seeds,
            num_texts=self.num_texts,
            seed_parts=tuple((float(of_seeds[cells][:, cells].sum()), dof) for dof, cells in alike.items()),
        )

    def squared_halves(self) -> Numbers:
        """[cells, cells]: the covariance of the mean errors, seeds at their own t quantile squared and texts at theirs.

        Seeds count as drawn anew for every cell: a few of them say too little on how cells covary, and what they say
        would weigh cells by chance. For the same reason a cell's variance between seeds is the mean of its own and of
        that of all cells.
        """
        size = self.num_seeds * self.num_texts
        of_seeds = (np.diag(self._seeds) + self._hidden) / size
        of_seeds = (of_seeds + of_seeds.mean()) / 2.0
        own = [MeanSquares(1.0, 0.0, 0.0, 1 + int(dof), self.num_texts) for dof in self._dof]
        texts = MeanSquares(0.0, 1.0, 0.0, 1, self.num_texts)
        quantiles_seeds = np.array([one.half_width() ** 2 * one.num_seeds * one.num_texts for one in own])
        quantile_texts = texts.half_width() ** 2 * self.num_texts
        least = 1e-9 * np.eye(len(of_seeds))  # cells without a single error
        return np.asarray(np.diag(quantiles_seeds * of_seeds) + quantile_texts * self._texts / size + least)


def _products(parts: Sequence[Numbers]) -> Numbers:
    stacked = np.stack(parts)
    return np.asarray(stacked @ stacked.T)
