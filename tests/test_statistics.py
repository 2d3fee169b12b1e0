"""References: scipy, scikit-learn, published examples, closed forms and simulated coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import sklearn.metrics
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import root
from scipy.special import ndtr

from handful.statistics import (
    Interval,
    confusion_matrix,
    crossed_interval,
    expected_calibration_error,
    holm,
    log_loss,
    macro_f1,
    mcnemar_exact,
    paired_crossed_interval,
    paired_crossed_p_value,
    wilson_interval,
)


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


def test_crossed_additive_scores_match_welch() -> None:
    # Without residual the variance is var(seeds) / S + var(texts) / T with Welch's degrees of freedom: the
    # interval for the difference between the seed effects and the negated text effects.
    rng = np.random.default_rng(3)
    seeds, texts = rng.normal(2.0, 1.0, 4), rng.normal(0.0, 3.0, 11)
    expected = stats.ttest_ind(seeds, -texts, equal_var=False).confidence_interval(0.9)
    interval = crossed_interval(seeds[:, None] + texts, confidence=0.9)
    assert ends(interval) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert interval.estimate == pytest.approx(seeds.mean() + texts.mean())


def test_crossed_truncates_negative_components() -> None:
    # MS_S = MS_T = 0, MS_R = 4: variance 4 / 4 with 1 degree of freedom, not (0 + 0 - 4) / 4.
    half = stats.t.ppf(0.975, 1)
    assert ends(crossed_interval([[2.0, 0.0], [0.0, 2.0]])) == pytest.approx((1 - half, 1 + half))


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


def probit_model(accuracy: float, seed_sd: float, difficulty_sd: float) -> tuple[float, float]:
    """Intercept and seed sd on the probit scale that give this mean and seed sd of the accuracy.

    P(correct | text, seed) = Phi(m + difficulty_sd * text + b * seed), text and seed standard normal.
    """
    scale = np.sqrt(1 + difficulty_sd**2)

    def moment_gaps(point: NDArray[np.float64]) -> list[float]:
        def moment(power: int) -> float:
            def integrand(z: float) -> float:
                seed_accuracy = ndtr((point[0] + np.exp(point[1]) * z) / scale)
                return float((seed_accuracy - accuracy) ** power * np.exp(-z * z / 2) / np.sqrt(2 * np.pi))

            return float(quad(integrand, -8, 8)[0])

        return [100 * moment(1), 100 * (np.sqrt(moment(2)) - seed_sd)]

    start = scale * stats.norm.ppf(accuracy)
    solution = root(moment_gaps, [start, np.log(scale * seed_sd / stats.norm.pdf(start / scale))])
    assert solution.success
    return float(solution.x[0]), float(np.exp(solution.x[1]))


@pytest.mark.parametrize("difficulty_sd", [1.0, 2.0])
@pytest.mark.parametrize("seed_sd", [0.005, 0.03])
@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.97])
def test_crossed_coverage(accuracy: float, seed_sd: float, difficulty_sd: float) -> None:
    # In 32,000 sets the lowest coverage of these cases was 92.4 % (0.97, 0.03, 1.0, five seeds), the highest
    # 97.3 %; 5,000 sets bring the simulation error (0.4 points) below the distance to the bounds.
    num_sets, num_texts = 5000, 200
    rng = np.random.default_rng(17)
    intercept, shift_sd = probit_model(accuracy, seed_sd, difficulty_sd)
    for num_seeds in (3, 5):
        covered = 0
        for _ in range(num_sets):
            texts = difficulty_sd * rng.standard_normal(num_texts)
            seeds = shift_sd * rng.standard_normal((num_seeds, 1))
            correct = intercept + texts + seeds + rng.standard_normal((num_seeds, num_texts)) > 0
            interval = crossed_interval(correct)
            covered += interval.low <= accuracy <= interval.high
        assert 0.92 <= covered / num_sets <= 0.985, (num_seeds, covered)


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


@pytest.mark.parametrize("num_rows_b", [1, 4])
def test_paired_coverage(num_rows_b: int) -> None:
    # b without seeds (one row) or with a seed shift of its own; both share the difficulty of the texts.
    num_sets, num_seeds, num_texts = 1000, 4, 200
    rng = np.random.default_rng(18)
    intercept_a, shift_sd = probit_model(0.9, 0.02, 1.5)
    intercept_b, shift_sd_b = probit_model(0.8, 0.02, 1.5) if num_rows_b > 1 else (1.0, 0.0)
    mean_b = 0.8 if num_rows_b > 1 else stats.norm.cdf(1.0 / np.sqrt(1 + 1.5**2))
    covered = 0
    for _ in range(num_sets):
        texts = 1.5 * rng.standard_normal(num_texts)
        seeds_a, seeds_b = rng.standard_normal((num_seeds, 1)), rng.standard_normal((num_rows_b, 1))
        noise_a, noise_b = (rng.standard_normal((rows, num_texts)) for rows in (num_seeds, num_rows_b))
        a = intercept_a + texts + shift_sd * seeds_a + noise_a > 0
        b = intercept_b + texts + shift_sd_b * seeds_b + noise_b > 0
        interval = paired_crossed_interval(a, b)
        covered += interval.low <= 0.9 - mean_b <= interval.high
    assert 0.92 <= covered / num_sets <= 0.985, covered


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
