"""Curves that are known, against scipy's fit, and how often intervals hold what was put in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import curve_fit
from scipy.special import ndtri

from handful.learning_curves import LearningCurve, NoCurveError, PowerLaw, fit_power_law, seed_spread

NUMBERS = (50, 150, 500, 2500)
Errors = dict[int, dict[int | None, NDArray[np.float64]]]


def simulated(
    rng: np.random.Generator,
    law: Callable[[float], float],
    num_seeds: Mapping[int, int],
    num_texts: int,
    sd: float,
    texts: NDArray[np.float64] | None = None,
) -> Errors:
    """Errors by number of labels and seed. sd: of a seed's error at the smallest N, falling as N ** -0.4.

    A text is as hard at every N, half of a seed's effect stays from N to N; probit scale.
    """
    texts = rng.standard_normal(num_texts) if texts is None else texts
    common = rng.standard_normal(max(num_seeds.values()))
    first = min(num_seeds)
    runs: Errors = {}
    for number, count in num_seeds.items():
        level = float(ndtri(1 - float(law(number))))
        spread = math.sqrt(2) * sd * (first / number) ** 0.4 / (math.exp(-(level**2) / 2) / math.sqrt(2 * math.pi))
        middle = level * math.sqrt(2 + spread**2)
        runs[number] = {}
        for seed in range(count):
            shift = spread * math.sqrt(0.5) * (common[seed] + rng.standard_normal())
            runs[number][seed] = (middle + texts + shift + rng.standard_normal(num_texts) <= 0).astype(float)
    return runs


# -- the fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [PowerLaw(0.05, 1.2, 0.5), PowerLaw(0.0, 0.6, 0.2), PowerLaw(0.1, 3.0, 1.1)])
def test_a_power_law_is_found_again(law: PowerLaw) -> None:
    found = fit_power_law(NUMBERS, law(NUMBERS))
    assert found(NUMBERS) == pytest.approx(law(NUMBERS), abs=1e-6)
    assert found(5000) == pytest.approx(law(5000), abs=1e-5)


def test_the_fit_is_scipy_s() -> None:
    rng = np.random.default_rng(5)
    numbers = np.array([20, 50, 150, 500, 1500, 5000])
    for _ in range(5):
        errors = 0.06 + 1.1 * numbers**-0.55 + 0.004 * rng.standard_normal(6)
        covariance = np.diag(rng.uniform(0.5, 2.0, 6)) * 1e-4 + 2e-5
        for sigma, precision in ((None, None), (covariance, np.linalg.inv(covariance))):
            expected, _ = curve_fit(
                lambda n, a, b, c: a + b * n**-c, numbers, errors, [0.05, 1.0, 0.5], sigma=sigma,
                bounds=([0, 0, 0.02], [1, 10, 2]), absolute_sigma=True, ftol=1e-14, xtol=1e-14, gtol=1e-14,
            )  # fmt: skip
            found = fit_power_law(numbers, errors, precision)
            assert found(numbers) == pytest.approx(expected[0] + expected[1] * numbers ** -expected[2], abs=2e-5)


def test_an_error_that_rises_or_stays_has_no_scale() -> None:
    assert fit_power_law(NUMBERS, [0.1, 0.12, 0.15, 0.2]).scale == 0.0
    assert fit_power_law(NUMBERS, [0.1] * 4)(7) == pytest.approx(0.1)


@pytest.mark.parametrize(("numbers", "errors"), [([50, 150], [0.2, 0.1]), ([0, 1, 2], [1, 1, 1]), ([1, 2, 3], [1, 1])])
def test_the_fit_refuses(numbers: list[int], errors: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 3"):
        fit_power_law(numbers, errors)


# -- what is refused, in words -------------------------------------------------------------------------


def test_what_no_curve_can_be_made_of_is_said() -> None:
    rng = np.random.default_rng(1)
    law = PowerLaw(0.05, 1.0, 0.5)
    with pytest.raises(NoCurveError, match="at least 3 numbers of labels, and has 2"):
        LearningCurve(simulated(rng, law, {50: 3, 150: 3}, 500, 0.01))
    with pytest.raises(NoCurveError, match="one seed does not say"):
        LearningCurve(simulated(rng, law, dict.fromkeys(NUMBERS, 1), 500, 0.01))
    for flat in (lambda n: 0.1, lambda n: 0.05 + 0.0001 * n**0.5):
        with pytest.raises(NoCurveError, match="can't be told from none"):
            LearningCurve(simulated(rng, flat, dict.fromkeys(NUMBERS, 3), 500, 0.01))
    curve = LearningCurve(simulated(rng, law, dict.fromkeys(NUMBERS, 3), 500, 0.01))
    for start, more in ((2500, 2501), (20, 10), (2500, 0)):
        with pytest.raises(NoCurveError, match="is read from 50 to 5,000 labels"):
            curve.gain(start, more)
    single = simulated(rng, law, {50: 1}, 500, 0.01)[50]
    with pytest.raises(NoCurveError, match="the other method"):
        curve.equivalent(single)


def test_no_errors_at_all_and_all_errors() -> None:
    for value in (0.0, 1.0):
        errors: Errors = {number: {seed: np.full(40, value) for seed in range(3)} for number in NUMBERS}
        with pytest.raises(NoCurveError, match="can't be told from none"):
            LearningCurve(errors)


def test_a_single_run_borrows_the_spread_of_the_nearest_number_with_several() -> None:
    runs = simulated(np.random.default_rng(2), PowerLaw(0.05, 1.0, 0.5), {50: 3, 150: 4, 500: 1}, 300, 0.02)
    means = [errors.mean() for errors in runs[150].values()]
    assert seed_spread(runs, 500) == (pytest.approx(np.var(means, ddof=1)), 3)
    assert seed_spread(runs, 150) is None


# -- what is read from it ------------------------------------------------------------------------------


def test_a_curve_of_many_texts_and_seeds_is_read_as_it_is() -> None:
    law = PowerLaw(0.05, 1.0, 0.5)
    rng = np.random.default_rng(3)
    texts = rng.standard_normal(4000)
    curve = LearningCurve(simulated(rng, law, dict.fromkeys(NUMBERS, 8), 4000, 0.002, texts))
    gain = curve.gain(500, 100)
    assert gain.low <= law(500) - law(600) <= gain.high and gain.high - gain.low < 0.01
    other = simulated(rng, lambda n: float(law(400)), {10: 8}, 4000, 0.002, texts)[10]
    found = curve.equivalent(other)
    assert 50 < found.low <= 400 <= found.high < 1500 and found.low < found.estimate < found.high
    assert (found.smallest, found.largest) == (50, 5000)


def test_beyond_the_curve_there_is_no_number() -> None:
    law, rng = PowerLaw(0.05, 1.0, 0.5), np.random.default_rng(4)
    texts = rng.standard_normal(2000)
    curve = LearningCurve(simulated(rng, law, dict.fromkeys(NUMBERS, 5), 2000, 0.002, texts))
    better = curve.equivalent(simulated(rng, lambda n: 0.01, {50: 5}, 2000, 0.002, texts)[50])
    assert (better.low, better.estimate, better.high) == (math.inf,) * 3
    worse = curve.equivalent(simulated(rng, lambda n: 0.45, {50: 5}, 2000, 0.002, texts)[50])
    assert (worse.low, worse.estimate, worse.high) == (0.0,) * 3
    without_seeds = curve.equivalent({None: simulated(rng, lambda n: float(law(150)), {9: 1}, 2000, 1e-6, texts)[9][0]})
    assert without_seeds.low <= 150 <= without_seeds.high


def test_seeds_of_each_cell_have_their_own_degrees_of_freedom() -> None:
    """Texts alike, ten seeds of the curve that agree, three of the other that don't: its t interval, with two."""
    law, others = PowerLaw(0.05, 1.0, 0.5), (0.09, 0.10, 0.105)
    curve = LearningCurve({number: {seed: np.full(40, law(number)) for seed in range(10)} for number in NUMBERS})
    found = curve.equivalent({seed: np.full(40, error) for seed, error in enumerate(others)})
    low, high = stats.t.interval(0.95, 2, np.mean(others), stats.sem(others))
    assert law([found.high, found.estimate, found.low]) == pytest.approx([low, np.mean(others), high], abs=1e-4)


def share_held(
    law: PowerLaw, num_seeds: Mapping[int, int], num_texts: int, num_sets: int, seed: int = 1
) -> tuple[float, float, float]:
    """Of the simulated studies with a curve: (share whose gain holds the truth, share whose equivalence does, share of
    all that have a curve). What is set equal to the curve has the fewest seeds of its numbers with several."""
    rng, target = np.random.default_rng(seed), math.sqrt(min(num_seeds) * max(num_seeds))
    fewest = min(count for count in num_seeds.values() if count > 1)
    gains = equal = made = 0
    for _ in range(num_sets):
        texts = rng.standard_normal(num_texts)
        runs = simulated(rng, law, num_seeds, num_texts, 0.03, texts)
        try:
            curve = LearningCurve(runs)
        except NoCurveError:
            continue
        made += 1
        largest = max(num_seeds)
        gain = curve.gain(largest, 100)
        gains += gain.low <= law(largest) - law(largest + 100) <= gain.high
        other = simulated(rng, lambda n: float(law(target)), {50: fewest}, num_texts, 0.02, texts)
        found = curve.equivalent(other[50])
        equal += found.low <= target <= found.high
    return gains / made, equal / made, made / num_sets


LAWS = (PowerLaw(0.05, 1.0, 0.5), PowerLaw(0.0, 0.6, 0.2), PowerLaw(0.08, 2.0, 0.8), PowerLaw(0.02, 0.5, 0.35))
DESIGNS = (
    ({50: 3, 150: 3, 500: 3}, 2000), ({50: 3, 150: 3, 500: 3, 2500: 1}, 2000), ({50: 5, 150: 5, 500: 5, 2500: 5}, 2000),
    ({20: 3, 50: 3, 150: 3, 500: 3}, 500), ({50: 10, 150: 10, 500: 10, 2500: 10}, 500),
    ({50: 10, 150: 5, 500: 5, 2500: 3}, 2000),
)  # fmt: skip
"""The last has the seeds of the budget protocol."""


def test_coverage() -> None:
    gains, equal, _ = share_held(LAWS[0], DESIGNS[1][0], 500, 60)
    # 60 sets: four standard errors of 95 % are 11 points.
    assert gains >= 0.9 and equal >= 0.84


def test_coverage_with_the_seeds_of_the_budget_protocol() -> None:
    gains, equal, _ = share_held(LAWS[0], DESIGNS[-1][0], 500, 200)
    # 87 % with ten seeds' degrees of freedom for all of them; a standard error of 95 % is 1.5 points.
    assert gains >= 0.9 and equal >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_coverage_of_the_whole_table() -> None:
    """Prints docs/statistics.md's table (pytest -s)."""
    print()
    for law in LAWS:
        for design, num_texts in DESIGNS:
            gains, equal, made = share_held(law, design, num_texts, 300)
            shown = ", ".join(f"{number:,} x {seeds}" for number, seeds in design.items())
            law_words = f"{law.floor:g} + {law.scale:g} N^-{law.exponent:g}"
            print(f"| {law_words} | {shown} | {num_texts:,} | {100 * gains:.1f} | "
                  f"{100 * equal:.1f} | {100 * made:.0f} |", flush=True)  # fmt: skip
            assert gains >= 0.92 and equal >= 0.9, (law, design)
