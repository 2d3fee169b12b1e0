"""References: scipy, scikit-learn, published examples, closed forms and simulated coverage."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from math import sqrt
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import sklearn.metrics
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from handful.statistics import (
    Interval,
    MeanSquares,
    confusion_matrix,
    crossed_interval,
    detectable_difference,
    expected_calibration_error,
    holm,
    log_loss,
    macro_f1,
    mcnemar_exact,
    paired_crossed_interval,
    paired_crossed_p_value,
    smallest_difference,
    variance_components,
    wilson_interval,
)


def _script(name: str) -> ModuleType:
    """A file of benchmarks/, which is no package."""
    path = Path(__file__).resolve().parent.parent / "benchmarks" / f"{name}.py"
    found = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


simulation = _script("coverage")


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_interval_as_dict() -> None:
    assert Interval(0.5, 0.4, 0.6).as_dict() == {"estimate": 0.5, "low": 0.4, "high": 0.6}


# Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3.
@pytest.mark.parametrize(
    ("num_correct", "num_texts", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_published(num_correct: int, num_texts: int, low: float, high: float) -> None:
    assert ends(wilson_interval(num_correct, num_texts)) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("num_correct", "num_texts"), [(0, 1), (1, 1), (7, 9), (500, 500), (499, 1000)])
def test_wilson_matches_scipy(num_correct: int, num_texts: int, confidence: float) -> None:
    expected = stats.binomtest(num_correct, num_texts).proportion_ci(confidence, method="wilson")
    interval = wilson_interval(num_correct, num_texts, confidence)
    assert ends(interval) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert interval.estimate == num_correct / num_texts
    assert 0.0 <= interval.low <= interval.high <= 1.0


@pytest.mark.parametrize("arguments", [(0, 0), (-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0), (1, 5, 95.0)])
def test_wilson_rejects(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        wilson_interval(*arguments)


def test_mcnemar_published() -> None:
    # Fagerland, Lydersen & Laake (2013), table 1: 1, 1, 7, 12 of 21 pairs; exact conditional p = 0.0703.
    before = np.repeat([1, 1, 0, 0], [1, 1, 7, 12])
    after = np.repeat([1, 0, 1, 0], [1, 1, 7, 12])
    assert mcnemar_exact(before, after) == pytest.approx(18 / 256, rel=1e-12)
    assert mcnemar_exact(after, before) == pytest.approx(18 / 256, rel=1e-12)


def test_mcnemar_without_discordant_pair() -> None:
    assert mcnemar_exact([1, 0, 1], [1, 0, 1]) == 1.0
    assert mcnemar_exact([True, False], [False, True]) == 1.0


def test_mcnemar_rejects() -> None:
    for a, b in (([1, 0], [1]), ([[1, 0]], [[1, 0]]), ([0.5, 1], [1, 0])):
        with pytest.raises(ValueError):
            mcnemar_exact(a, b)


def test_mean_squares_are_those_of_a_linear_model() -> None:
    # The reference: sums of squares as least squares fits leave them, one factor after the other.
    scores = np.random.default_rng(2).normal(size=(4, 9)) + np.arange(4)[:, None]
    seeds, texts = np.repeat(np.eye(4), 9, axis=0), np.tile(np.eye(9), (4, 1))
    values = scores.ravel()

    def left(*parts: NDArray[np.float64]) -> float:
        design = np.column_stack([np.ones(36), *parts])
        fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        return float(np.sum((values - fitted) ** 2))

    found = MeanSquares.of(scores)
    assert found.seeds == pytest.approx((left() - left(seeds)) / 3)
    assert found.texts == pytest.approx((left() - left(texts)) / 8)
    assert found.residual == pytest.approx(left(seeds, texts) / 24)


def test_crossed_additive_scores_lie_between_welch_and_howe() -> None:
    # Without residual the variance is var(seeds) / S + var(texts) / T: what Welch's interval for the difference between
    # the seed effects and the negated text effects has, and Howe's adds the squared half widths of both one-sample t
    # intervals. The interval here has the mean of both squares.
    rng = np.random.default_rng(3)
    seeds, texts = rng.normal(2.0, 1.0, 4), rng.normal(0.0, 3.0, 11)
    welch = stats.ttest_ind(seeds, -texts, equal_var=False).confidence_interval(0.9)
    own = [stats.ttest_1samp(part, 0.0).confidence_interval(0.9) for part in (seeds, texts)]
    howe = sum(((one.high - one.low) / 2) ** 2 for one in own)
    half = sqrt((((welch.high - welch.low) / 2) ** 2 + howe) / 2)
    interval = crossed_interval(seeds[:, None] + texts, confidence=0.9)
    middle = seeds.mean() + texts.mean()
    assert interval.estimate == pytest.approx(middle)
    assert ends(interval) == pytest.approx((middle - half, middle + half), rel=1e-9)


def test_means_of_unlike_numbers_of_seeds_lie_between_welch_and_howe() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(0.9, 0.03, 3), rng.normal(0.8, 0.02, 10)
    variances = np.array([stats.sem(a) ** 2, stats.sem(b) ** 2])
    size, num_texts = 10, 1000
    parts = tuple(zip((variances * size * num_texts).tolist(), (2.0, 9.0), strict=True))
    squares = MeanSquares(float(variances.sum() * size * num_texts), 0.0, 0.0, size, num_texts, parts)
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    quantiles = stats.t.ppf(0.975, [2, 9])
    assert squares.half_width() ** 2 == pytest.approx(
        (((welch.high - welch.low) / 2) ** 2 + float(variances @ quantiles**2)) / 2
    )


def test_seeds_that_agree_by_chance_still_count() -> None:
    # Four seeds of one mean: their mean square is 0, but the residual says that it would hardly ever be.
    scores = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    squares = MeanSquares.of(scores)
    assert squares.seeds == 0.0 and squares.residual > 0.0
    assert squares.of_seeds == pytest.approx(squares.residual * stats.chi2.ppf(0.05, 3) / 3 / 16)
    interval = crossed_interval(scores)
    assert interval.low < interval.estimate < interval.high


def test_crossed_one_seed() -> None:
    binary = np.repeat([1, 0], [37, 3])[None]
    assert crossed_interval(binary) == wilson_interval(37, 40)
    scores = np.random.default_rng(4).normal(size=(1, 25))
    expected = stats.ttest_1samp(scores[0], 0.0).confidence_interval(0.95)
    assert ends(crossed_interval(scores)) == pytest.approx((expected.low, expected.high))


def test_crossed_identical_seeds_count_as_one() -> None:
    # Five copies of one seed add no texts: Wilson's interval with n - 1 for n and a t quantile for z.
    row = np.repeat([1, 0], [150, 50])
    wilson = wilson_interval(150, 200)
    assert ends(crossed_interval(np.tile(row, (5, 1)))) == pytest.approx(ends(wilson), abs=1e-3)


@pytest.mark.parametrize("value", [0, 1])
def test_crossed_constant_binary_is_wilson_of_one_seed(value: int) -> None:
    assert crossed_interval(np.full((3, 50), value)) == wilson_interval(value * 50, 50)


def test_crossed_binary_near_the_boundary() -> None:
    for num_wrong in (1, 2, 5):
        correct = np.ones((3, 100))
        correct[0, :num_wrong] = 0
        interval = crossed_interval(correct)
        assert 0.0 <= interval.low < interval.estimate < interval.high <= 1.0
        mirrored = crossed_interval(1 - correct)
        assert (mirrored.low, mirrored.high) == pytest.approx((1 - interval.high, 1 - interval.low))


def test_crossed_means_of_starts_stay_within_0_and_1() -> None:
    """Two starts a sample, near 1: the score interval, as for 0/1; with scores beyond 1 the symmetric one."""
    means = np.ones((3, 100))
    means[0, :4] = 0.5
    interval = crossed_interval(means)
    assert interval.estimate - interval.low > interval.high - interval.estimate and interval.high <= 1.0
    symmetric = crossed_interval(means + 1.0)
    assert symmetric.estimate - symmetric.low == pytest.approx(symmetric.high - symmetric.estimate)
    assert symmetric.high > 2.0


def test_crossed_constant_scores() -> None:
    assert crossed_interval(np.full((3, 4), 0.25)) == Interval(0.25, 0.25, 0.25)


def test_crossed_rejects() -> None:
    cases: list[ArrayLike] = [[1, 0], [[]], [[0.5, np.nan]], [[0.5]], [[1], [0]]]
    for scores in cases:
        with pytest.raises(ValueError):
            crossed_interval(scores)
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError):
            crossed_interval([[0, 1], [1, 1]], confidence)


def test_worlds_have_the_accuracy_and_the_spread_they_are_asked_for() -> None:
    rng = np.random.default_rng(16)
    for world in ("probit", "hard", "beta"):
        of_seeds = np.mean(simulation.WORLDS[world](0.9, 0.03)(rng, 600, 4000), axis=1)
        # Beside the spread of seeds there is what 4,000 texts leave open.
        assert of_seeds.mean() == pytest.approx(0.9, abs=0.01), world
        assert of_seeds.std() == pytest.approx(0.03, abs=0.004), world


@pytest.mark.parametrize("world", list(simulation.WORLDS))
@pytest.mark.parametrize("gap", [None, 0.05])
def test_coverage(world: str, gap: float | None) -> None:
    """Of a corner of the table in docs/statistics.md, at 1,500 sets: three standard errors are 1.7 points."""
    print()
    for accuracy, seed_sd in ((0.6, 0.005), (0.9, 0.01), (0.97, 0.03)):
        cell = simulation.Cell(3, 200, accuracy, seed_sd, gap)
        held, width = simulation.coverage(cell, world, num_sets=1500)
        print(f"{world} {cell}: {100 * held:.1f} % ({100 * width:.1f} points)")
        assert 0.93 - 0.017 <= held <= 0.975 + 0.012, cell


@pytest.mark.slow
@pytest.mark.parametrize("world", list(simulation.WORLDS))
def test_coverage_of_the_whole_table(world: str) -> None:
    """Prints docs/statistics.md's tables (pytest -s); simulation errors of 0.3 points are allowed twice."""
    for gap in (None, 0.05):
        print("\n" + "\n".join(simulation.table(world, True, gap, 5000)))
        for seed, cell in enumerate(simulation.grid(True, gap)):
            held, _ = simulation.coverage(cell, world, 5000, seed)
            assert simulation.LOW - 0.006 <= held <= simulation.HIGH + 0.006, cell


def test_paired_matches_crossed_of_differences() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(3, 20)), rng.normal(size=(3, 20))
    assert paired_crossed_interval(a, b, 0.9) == crossed_interval(a - b, 0.9)
    assert paired_crossed_interval(a, b[:1], 0.9) == crossed_interval(a - b[0], 0.9)


def test_paired_one_seed_matches_scipy() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert ends(paired_crossed_interval(a[None], b[None])) == pytest.approx((expected.low, expected.high))


def test_paired_differences_of_zero_and_one_keep_the_t_form() -> None:
    # Here a is never worse than b, yet the interval for a difference may reach below 0.
    a, b = np.ones((3, 10)), np.ones((1, 10))
    b[0, 0] = 0
    interval = paired_crossed_interval(a, b)
    half = stats.t.ppf(0.975, 9) * 0.1  # sd / sqrt(n) of one 1 among ten values is 0.1
    assert ends(interval) == pytest.approx((0.1 - half, 0.1 + half))


def test_paired_equal_cells() -> None:
    assert paired_crossed_interval([[1, 0], [1, 1]], [[1, 0], [1, 1]]) == Interval(0.0, 0.0, 0.0)


def test_paired_rejects() -> None:
    for b_shape in ((2, 5), (3, 4), (1, 4)):
        with pytest.raises(ValueError):
            paired_crossed_interval(np.ones((3, 5)), np.ones(b_shape))
    with pytest.raises(ValueError):
        paired_crossed_interval(np.ones((1, 5)), np.ones((3, 5)))
    with pytest.raises(ValueError):
        paired_crossed_interval([[1]], [[0]])


def test_paired_coverage_against_a_method_without_seeds() -> None:
    num_sets, rng = 1500, np.random.default_rng(18)
    intercept, shift_sd = simulation.probit_world(0.9, 0.02, 1.5)
    truth = 0.9 - stats.norm.cdf(1.0 / np.sqrt(1 + 1.5**2))
    held = 0
    for _ in range(num_sets):
        texts = 1.5 * rng.standard_normal(200)
        seeds, noise = rng.standard_normal((4, 1)), rng.standard_normal((5, 200))
        interval = paired_crossed_interval(
            intercept + texts + shift_sd * seeds + noise[:4] > 0, 1.0 + texts + noise[4:] > 0
        )
        held += interval.low <= truth <= interval.high
    assert 0.93 - 0.017 <= held / num_sets <= 0.975 + 0.012, held


# -- what data could have found, and where their variance comes from ----------------------------------------


def test_detectable_difference_of_a_paired_t_test() -> None:
    # The textbook case: d = 0.5 at 80 % power needs 34 pairs (Cohen 1988; G*Power 3: power 0.808 with 34, 0.795 with
    # 33).
    for num_texts, is_enough in ((33, False), (34, True)):
        scores = np.random.default_rng(3).normal(size=num_texts)
        scores = (scores - scores.mean()) / scores.std(ddof=1)
        found = detectable_difference(scores[None], np.zeros((1, num_texts)))
        assert (found < 0.5) is is_enough and found == pytest.approx(0.5, abs=0.01)


def test_the_detectable_difference_is_found_as_often_as_it_says() -> None:
    rng = np.random.default_rng(8)
    seeds, texts, num_seeds, num_texts = 0.2, 1.0, 5, 60

    def draw(shift: float) -> NDArray[np.float64]:
        made = seeds * rng.normal(size=(num_seeds, 1)) + texts * rng.normal(size=num_texts)
        return np.asarray(shift + made + rng.normal(size=(num_seeds, num_texts)))

    none = np.zeros((1, num_texts))
    typical = float(np.median([detectable_difference(draw(0.0), none) for _ in range(300)]))
    found = np.mean([paired_crossed_interval(draw(typical), none).low > 0 for _ in range(600)])
    assert 0.7 <= found <= 0.9


def test_detectable_difference_of_many_texts_and_of_none_that_differ() -> None:
    wrong = np.zeros((1, 40_000))
    wrong[0, :4000] = 1.0
    error = sqrt(0.1 * 0.9 / 40_000)
    expected = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * error
    assert detectable_difference(wrong, np.zeros_like(wrong)) == pytest.approx(expected, rel=1e-3)
    assert detectable_difference(wrong, wrong) == 0.0
    with pytest.raises(ValueError, match="power"):
        detectable_difference(wrong, wrong, power=80)


def test_variance_components_find_what_was_put_in() -> None:
    rng = np.random.default_rng(4)
    found = [
        variance_components(
            2.0 * rng.normal(size=(6, 1)) + 3.0 * rng.normal(size=40) + rng.normal(size=(6, 40))
        )
        for _ in range(400)
    ]
    assert np.mean([one.seeds for one in found]) == pytest.approx(4.0, rel=0.1)
    assert np.mean([one.texts for one in found]) == pytest.approx(9.0, rel=0.1)
    assert np.mean([one.both for one in found]) == pytest.approx(1.0, rel=0.05)
    assert all(sum(one.shares.values()) == pytest.approx(1.0) for one in found)
    assert variance_components(np.ones((2, 3))).shares == {"seeds": 0.0, "texts": 0.0, "both": 0.0}
    with pytest.raises(ValueError, match="at least two"):
        variance_components(np.ones((1, 3)))


def test_calibration_error_by_hand() -> None:
    # Two bins: (0, 0.5] holds confidence 0.5 (right); (0.5, 1] holds 0.75 (wrong) and 1.0 (right).
    probabilities = [[0.25, 0.5, 0.25], [0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]
    expected = 1 / 3 * abs(1 - 0.5) + 2 / 3 * abs(0.5 - 0.875)
    assert expected_calibration_error(probabilities, [1, 2, 2], num_bins=2) == pytest.approx(expected)


def test_calibration_error_follows_the_formula() -> None:
    rng = np.random.default_rng(7)
    probabilities, labels = rng.dirichlet(np.ones(4), 500), rng.integers(0, 4, 500)
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for m in range(1, 16):
        inside = ((m - 1) / 15 < confidence) & (confidence <= m / 15)
        if inside.any():
            expected += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_calibration_error_extremes() -> None:
    assert expected_calibration_error(np.eye(3), [0, 1, 2]) == 0.0
    assert expected_calibration_error(np.eye(3), [1, 2, 0]) == 1.0


def test_log_loss_matches_scikit_learn() -> None:
    rng = np.random.default_rng(8)
    probabilities, labels = rng.dirichlet(np.ones(5), 200), rng.integers(0, 5, 200)
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=range(5))
    assert log_loss(np.log(probabilities), labels) == pytest.approx(expected)


def test_log_loss_of_an_impossible_label_is_infinite() -> None:
    assert log_loss([[0.0, -np.inf]], [1]) == np.inf


def test_probability_functions_reject() -> None:
    half = np.full((2, 2), 0.5)
    cases: list[tuple[NDArray[np.float64], list[int]]] = [
        (half, [0]),
        (half, [0, 2]),
        (half, [0, -1]),
        (half[0], [0, 1]),
        (half * 100, [0, 1]),
    ]
    for probabilities, labels in cases:
        with pytest.raises(ValueError):
            expected_calibration_error(probabilities, labels)
        with pytest.raises(ValueError):
            log_loss(np.log(probabilities), labels)
    with pytest.raises(ValueError):
        expected_calibration_error(half, [0, 1], num_bins=0)
    with pytest.raises(ValueError):
        expected_calibration_error([[1.5, -0.5]], [0])


@pytest.mark.parametrize("num_present", [2, 4, 6])
def test_f1_and_confusion_match_scikit_learn(num_present: int) -> None:
    # With fewer labels present than num_labels, absent ones count as F1 = 0.
    rng = np.random.default_rng(9)
    predicted, labels = rng.integers(0, num_present, 60), rng.integers(0, num_present, 60)
    matrix = confusion_matrix(predicted, labels, 6)
    np.testing.assert_array_equal(
        matrix, sklearn.metrics.confusion_matrix(labels, predicted, labels=range(6))
    )
    expected = sklearn.metrics.f1_score(labels, predicted, labels=range(6), average="macro", zero_division=0)
    assert macro_f1(predicted, labels, 6) == pytest.approx(expected)


def test_f1_and_confusion_reject() -> None:
    for predicted, labels in (([0], [0, 1]), ([2], [0]), ([0], [-1]), ([], []), ([0.0], [0.0])):
        with pytest.raises(ValueError):
            confusion_matrix(predicted, labels, 2)
        with pytest.raises(ValueError):
            macro_f1(predicted, labels, 2)


# -- claims -------------------------------------------------------------------------------------------------


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """Adjusted p of a test: the largest Bonferroni p of all sets that hold it."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 5):
        values = rng.uniform(0, 0.3, size).round(2)  # with ties
        expected = [
            max(
                min(1.0, len(chosen) * min(values[list(chosen)]))
                for count in range(1, size + 1) for chosen in itertools.combinations(range(size), count)
                if index in chosen
            )
            for index in range(size)
        ]  # fmt: skip
        assert holm(values) == pytest.approx(expected)
    with pytest.raises(ValueError, match="lie in"):
        holm([0.1, 1.2])


def test_the_crossed_p_value_and_its_interval_are_one_test() -> None:
    rng = np.random.default_rng(1)
    a = (rng.random((4, 60)) < 0.7).astype(float)
    b = (rng.random((4, 60)) < 0.6).astype(float)
    for other in (b, b[:1]):
        p_value = paired_crossed_p_value(a, other)
        edge = paired_crossed_interval(a, other, 1 - p_value)
        assert min(abs(edge.low), abs(edge.high)) < 1e-9
    scores = rng.normal(0.1, 1.0, (1, 40))
    assert paired_crossed_p_value(scores, np.zeros_like(scores)) == pytest.approx(
        stats.ttest_1samp(scores[0], 0.0).pvalue
    )
    assert paired_crossed_p_value(a, a) == 1.0


# -- the smallest difference a design finds ----------------------------------------------------------------


def test_a_difference_takes_as_much_disagreement() -> None:
    difference = smallest_difference(100, 1, 0.06, 0.0)
    assert difference > 0.06 and smallest_difference(100, 1, difference, 0.0) == pytest.approx(difference, abs=1e-5)
    assert smallest_difference(2, 1, 0.06, 0.0) == 1.0


def test_smallest_difference_by_hand() -> None:
    # one seed: (1.959964 + 0.841621) * sqrt(0.06 / 2000), with t for the normal distribution a little more
    assert smallest_difference(2000, 1, 0.06, 0.01) == pytest.approx(2.801585 * 0.005477226, rel=1e-3)
    assert smallest_difference(2000, 3, 0.06, 0.0) == pytest.approx(smallest_difference(2000, 1, 0.06, 0.01))
    # three seeds: variance 1e-4 / 3 + 3e-5 = 6.3333e-5 with 7.214 joint degrees of freedom, t = 2.3509; half of it at
    # that and half at the own quantiles, 4.3027 and 1.9612: (12.020 / 3 + 1.4060) * 1e-4, a half width of 2.9234
    # standard errors
    dof = optimize.brentq(lambda dof: stats.t.ppf(0.975, dof) - 2.9234, 2, 9)
    shift = smallest_difference(2000, 3, 0.06, 0.01) / sqrt(6.33333e-5)
    assert stats.nct.sf(2.9234, dof, shift) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(
    ("num_texts", "num_seeds", "seed_sd"),
    [(400, 5, 0.01), (500, 3, 0.004), (2000, 3, 0.01), (2000, 5, 0.02), (4000, 2, 0.005), (2000, 1, 0.01)],
)
def test_smallest_difference_is_found_as_often_as_said(num_texts: int, num_seeds: int, seed_sd: float) -> None:
    """Drawn anew 600 times with that true difference, the report's own test finds it in about 80 %."""
    generator = np.random.default_rng(0)
    disagreement, repetitions = 0.1, 600
    difference = smallest_difference(num_texts, num_seeds, disagreement, seed_sd)
    better = (disagreement + difference) / 2
    shares = [better, disagreement - better, 1 - disagreement]
    found = 0
    for _ in range(repetitions):
        of_text = generator.choice([1.0, -1.0, 0.0], size=num_texts, p=shares)
        if num_seeds == 1:
            found += mcnemar_exact(of_text > 0, of_text < 0) < 0.05
            continue
        differences = of_text + generator.normal(0.0, seed_sd, (num_seeds, 1))
        interval = paired_crossed_interval(differences, np.zeros((1, num_texts)))
        found += not interval.low <= 0.0 <= interval.high
    # Four standard errors of 80 % are 6.5 points; where the difference is a good part of the disagreement, texts
    # scatter less than the formula takes them to.
    assert 0.74 < found / repetitions < 0.88


@pytest.mark.parametrize("wrong", [(1, 1, 0.1, 0.0), (10, 0, 0.1, 0.0), (10, 1, 0.0, 0.0), (10, 1, 0.1, -1.0)])
def test_smallest_difference_of_nothing(wrong: tuple[int, int, float, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        smallest_difference(*wrong)
