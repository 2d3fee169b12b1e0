"""Intervals, paired tests and scores for classifiers evaluated on shared test texts.

Pure functions over numbers; knows nothing of files, methods or torch. Scores, probabilities and
interval ends are fractions, not percent; logarithms are natural.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import erfc, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A point estimate with the ends of its two-sided confidence interval, all in the same unit."""

    estimate: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Return the fields under their own names."""
        return asdict(self)


def wilson_interval(num_correct: int, num_texts: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval for the accuracy of one fixed classifier.

    Raises ValueError unless num_texts >= 1, 0 <= num_correct <= num_texts and 0 < confidence < 1.

    Source: Wilson (1927), JASA 22:209-212; no continuity correction (Newcombe 1998, method 3).
    """
    if num_texts < 1:
        raise ValueError(f"num_texts must be at least 1, got {num_texts}")
    if not 0 <= num_correct <= num_texts:
        raise ValueError(f"num_correct must lie in 0..{num_texts}, got {num_correct}")
    quantile = _normal_quantile(_upper_probability(confidence))
    return _score_interval(num_correct / num_texts, num_texts, quantile)


def mcnemar_exact(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Two-sided exact (conditional binomial) McNemar p-value for two fixed classifiers.

    Args:
        correct_a: [texts], 0/1.
        correct_b: [texts], 0/1, the same texts in the same order.

    Returns 1.0 when no text is discordant. Raises ValueError unless both are one-dimensional, of the
    same shape and hold only 0 and 1.

    Source: McNemar (1947), Psychometrika 12:153-157; exact form as in Fagerland, Lydersen & Laake
    (2013), BMC Med. Res. Methodol. 13:91, "exact conditional test".
    """
    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected two arrays of shape [texts], got {a.shape} and {b.shape}")
    if not (_is_binary(a) and _is_binary(b)):
        raise ValueError("correct_a and correct_b must hold only 0 and 1")
    num_only_a, num_only_b = int(np.sum(a > b)), int(np.sum(b > a))
    if num_only_a + num_only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(num_only_a, num_only_a + num_only_b, 0.5).pvalue)


@dataclass(frozen=True)
class MeanSquares:
    """What the data say of the variance of a mean over seeds and texts, every seed tested on every text.

    Two-way random effects with one observation in each cell: mean squares of seeds, texts and what is left, in squared
    units of the scores; num_seeds, num_texts: how many there are. With one seed, `seeds` and `residual` are 0 and
    `texts` is the variance between texts. seed_parts: of a weighted sum of means that have not all as many seeds, (what
    each adds to `seeds`, its degrees of freedom); empty where they are num_seeds - 1 for all of it.

    Source: Searle, Casella & McCulloch (1992), Variance Components, ch. 4.
    """

    seeds: float
    texts: float
    residual: float
    num_seeds: int
    num_texts: int
    seed_parts: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, scores: ArrayLike) -> MeanSquares:
        """scores: [seeds, texts]. Raises ValueError for another shape, a score that is not finite, or one text."""
        values = _as_scores(scores, "scores")
        num_seeds, num_texts = values.shape
        if num_texts < 2:
            raise ValueError("the variance between texts needs at least two texts")
        if num_seeds == 1:
            return cls(0.0, float(values.var(ddof=1)), 0.0, 1, num_texts)
        mean, seed_means, text_means = values.mean(), values.mean(axis=1), values.mean(axis=0)
        residuals = values - seed_means[:, None] - text_means + mean
        return cls(
            seeds=num_texts * float(np.sum((seed_means - mean) ** 2)) / (num_seeds - 1),
            texts=num_seeds * float(np.sum((text_means - mean) ** 2)) / (num_texts - 1),
            residual=float(np.sum(residuals**2)) / ((num_seeds - 1) * (num_texts - 1)),
            num_seeds=num_seeds,
            num_texts=num_texts,
        )

    @property
    def _seed_shares(self) -> list[tuple[float, float]]:
        """(share in `seeds`, degrees of freedom) of each part; the shares sum to 1."""
        total = sum(part for part, _ in self.seed_parts)
        if not total:
            return [(1.0, max(1, self.num_seeds - 1))]
        return [(part / total, dof) for part, dof in self.seed_parts]

    @property
    def _dof_seeds(self) -> float:
        return 1.0 / sum(share**2 / dof for share, dof in self._seed_shares)

    @property
    def of_seeds(self) -> float:
        """What seeds add to the variance of the mean, and with them what is left of cells.

        A mean square of seeds may be small by chance, and 0 where a few seeds have one accuracy; it never counts as
        less than the lowest 5 % of what the residual alone makes.
        """
        if self.num_seeds == 1:
            return 0.0
        least = self.residual * _chi_squared_quantile(self._dof_seeds, 0.05) / self._dof_seeds
        return max(self.seeds, least) / (self.num_seeds * self.num_texts)

    @property
    def of_texts(self) -> float:
        """What texts add to it, beyond the residual; a negative estimate counts as 0."""
        return max(self.texts - self.residual, 0.0) / (self.num_seeds * self.num_texts)

    @property
    def variance(self) -> float:
        """Of the mean."""
        return self.of_seeds + self.of_texts

    def squared_halves(self, confidence: float = 0.95) -> tuple[float, float]:
        """(of seeds, of texts): their sum is the squared half width of an interval for the mean.

        The mean of two rules' squared half widths, whose errors are opposite. Howe (1974), JASA 69:789-794: each part
        at its own t quantile; too wide where both parts matter. Satterthwaite (1946), Biometrics Bull. 2:110-114: all
        of it at the quantile for joint degrees of freedom; too narrow where three or five seeds vary most, since when
        they happen to lie close, variance and quantile are small together. docs/statistics.md has the coverage.
        """
        upper = _upper_probability(confidence)
        if self.variance == 0.0:
            return 0.0, 0.0
        dof_seeds, dof_texts = self._dof_seeds, self.num_texts - 1
        size = self.num_seeds * self.num_texts
        below = self.of_seeds**2 / dof_seeds + (self.texts / size) ** 2 / dof_texts
        below += (self.residual / size) ** 2 / (dof_seeds * dof_texts)
        own = sum(share * _t_quantile(dof, upper) ** 2 for share, dof in self._seed_shares)
        texts = _t_quantile(dof_texts, upper) ** 2
        joint = min(own, _t_quantile(self.variance**2 / below, upper) ** 2) if self.num_seeds > 1 else texts
        return (own + joint) / 2 * self.of_seeds, (texts + joint) / 2 * self.of_texts

    def half_width(self, confidence: float = 0.95) -> float:
        """Of a symmetric interval for the mean."""
        return sqrt(sum(self.squared_halves(confidence)))


def crossed_interval(correct: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval for the mean score over both training seeds and test texts, every seed tested on every text.

    Args:
        correct: [seeds, texts], shares or real scores.

    Real scores: estimate +- `MeanSquares.half_width`; zero width when all cells are equal.
    Shares, 0/1 or means of 0/1 over starts: a score interval; it lies within [0, 1], and its variance is that at each
    candidate p and not at the estimate. What texts and single answers add grows with p (1 - p), as in Wilson's, and
    what seeds add beyond that with its 1.6th power: near 1 the accuracies of seeds are skewed, and those of a set of
    seeds that lie high also lie close. When all cells are 0 or all are 1 the data hold no evidence on either component,
    and the interval is Wilson's for one seed. With one seed only the sampling of texts is covered: Wilson for 0/1,
    one-sample t for all other scores.

    Raises ValueError on another shape, no seed, no text, a non-finite score, confidence outside (0, 1), or
    a single text (save one seed with a 0/1 score).

    Sources: those of `MeanSquares`; a score interval at another variance than the binomial's: Korn & Graubard (1998),
    Survey Methodology 24:193-201, and Franco et al. (2019), J. Surv. Stat. Methodol. 7:334-364. Coverage by
    simulation: benchmarks/coverage.py, docs/statistics.md.
    """
    scores = _as_scores(correct, "correct")
    num_seeds, num_texts = scores.shape
    mean = float(scores.mean())
    if _is_binary(scores) and (num_seeds == 1 or mean in (0.0, 1.0)):
        return wilson_interval(round(mean * num_texts), num_texts, confidence)
    if num_seeds == 1 or np.any((scores < 0.0) | (scores > 1.0)):
        return _crossed_t_interval(scores, confidence)
    squares = MeanSquares.of(scores)
    of_seeds, of_texts = squares.squared_halves(confidence)
    # Seeds that differ by no more than the residual makes them are drawn as the texts are.
    by_chance = min(1.0, squares.residual / (num_seeds * num_texts) / squares.of_seeds) if squares.of_seeds else 0.0
    return _skewed_score_interval(mean, of_seeds * (1.0 - by_chance), of_texts + of_seeds * by_chance)


SEED_EXPONENT = 1.6
"""Of p (1 - p), see `crossed_interval`: 1 is binomial scatter, 2 that of seeds which differ in log-odds. Simulated
coverage near accuracy 1 is 85 to 88 % with a symmetric interval, 92.6 % and more with this one; 2 covers no better and
is wider by half."""


def _skewed_score_interval(proportion: float, of_seeds: float, of_texts: float) -> Interval:
    """All p whose distance from `proportion` is within its half width at p; of_seeds, of_texts: its squares there."""
    here = proportion * (1.0 - proportion)

    def holds(p: float) -> bool:
        ratio = p * (1.0 - p) / here
        return (p - proportion) ** 2 <= of_seeds * ratio**SEED_EXPONENT + of_texts * ratio

    ends = []
    for outside in (0.0, 1.0):
        inside = proportion
        for _ in range(50):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if holds(middle) else (inside, middle)
        ends.append(inside)
    return Interval(proportion, min(ends), max(ends))


def paired_crossed_interval(correct_a: ArrayLike, correct_b: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval for the mean difference a - b, paired by seed and by text.

    Args:
        correct_a: [seeds, texts], 0/1 or real scores.
        correct_b: [seeds, texts], or [1, texts] for a method without seeds (repeated for every seed).

    The crossed interval for real scores (see crossed_interval) of the cell differences; never the 0/1 form, since a
    difference can be negative. Zero width when all differences are equal. Raises ValueError on shapes that
    do not fit, and as crossed_interval does; at least two texts are needed.
    """
    a, b = _paired(correct_a, correct_b)
    return _crossed_t_interval(a - b, confidence)


def paired_crossed_p_value(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Two-sided p-value of no mean difference, the test whose interval paired_crossed_interval gives; arguments alike.

    1.0 when all differences are 0, 0.0 when they are all alike and not 0.
    """
    a, b = _paired(correct_a, correct_b)
    squares, mean = MeanSquares.of(a - b), abs(float((a - b).mean()))
    if squares.variance == 0.0 or mean == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    # The level at which the interval ends at 0. Its half width has no closed inverse, and falls as the level rises.
    low, high = LEAST_P_VALUE, 1.0
    for _ in range(60):
        middle = sqrt(low * high)
        low, high = (middle, high) if squares.half_width(1.0 - middle) > mean else (low, middle)
    return high


LEAST_P_VALUE = 1e-12
"""Below it a p-value is not told further: 1 - p is rounded there."""


def detectable_difference(
    correct_a: ArrayLike, correct_b: ArrayLike, power: float = 0.8, confidence: float = 0.95
) -> float:
    """The smallest true difference that such data find with probability `power`; arguments as paired_crossed_interval.

    By the variance that these differences have, as `_shift_found` of their mean squares. 0 when all differences are
    equal. A property of the data's size and scatter: it says nothing about whether this difference is real (Hoenig &
    Heisey 2001, Am. Stat. 55:19-24).

    Raises ValueError as paired_crossed_interval does, and unless 0 < power < 1.
    """
    if not 0.0 < power < 1.0:
        raise ValueError(f"power must lie strictly between 0 and 1, got {power}")
    a, b = _paired(correct_a, correct_b)
    squares = MeanSquares.of(a - b)
    return _shift_found(squares, power, confidence) if squares.variance else 0.0


def _shift_found(squares: MeanSquares, power: float, confidence: float) -> float:
    """The true mean that the two-sided test at 1 - confidence tells from 0 with probability `power`.

    The noncentral t distribution's shift at which that test rejects so often, times the standard error; its degrees of
    freedom are those whose t quantile the half width is.

    Source: minimum detectable effect, Bloom (1995), Evaluation Review 19:547-556, with the noncentral t for its sum of
    two t quantiles (Cohen 1988, ch. 2).
    """
    from scipy.special import nctdtrinc, stdtridf

    standard_error = sqrt(squares.variance)
    quantile = squares.half_width(confidence) / standard_error
    upper = _upper_probability(confidence)
    # Beyond a million degrees of freedom t is the normal distribution, and the search for them ends nowhere.
    is_normal = quantile <= _t_quantile(1e6, upper)
    dof = 1e6 if is_normal else float(stdtridf(upper, quantile))
    return float(nctdtrinc(dof, 1.0 - power, quantile)) * standard_error


@dataclass(frozen=True)
class VarianceComponents:
    """Where the variance of a mean comes from; variances in squared units of the scores.

    seeds: between seeds, of samples alone where starts are told apart. texts: between texts. both: of a text under a
    seed, beyond what either says alone. inits: between starts under one sample, None where a seed names both. Estimates
    below 0 count as 0. num_seeds, num_texts, num_inits: what the mean is over, starts under each sample.
    """

    seeds: float
    texts: float
    both: float
    num_seeds: int
    num_texts: int
    inits: float | None = None
    num_inits: int = 1

    @property
    def shares(self) -> dict[str, float]:
        """What each source has in the variance of the mean, by name; they sum to 1, or are 0."""
        runs = self.num_seeds * self.num_inits
        parts = {"seeds": self.seeds / self.num_seeds} if self.inits is None else {}
        if self.inits is not None:
            # A single sample says nothing of what other samples would give.
            parts = {"sample": self.seeds / self.num_seeds} if self.num_seeds > 1 else {}
            parts["init"] = self.inits / runs
        parts |= {"texts": self.texts / self.num_texts, "both": self.both / (runs * self.num_texts)}
        total = sum(parts.values())
        return {name: part / total if total else 0.0 for name, part in parts.items()}


def variance_components(scores: ArrayLike) -> VarianceComponents:
    """Analysis-of-variance estimates for [seeds, texts] scores, at least two of each.

    Raises ValueError as `MeanSquares.of` does, and for one seed: it says nothing on seeds.

    Source: Searle, Casella & McCulloch (1992), Variance Components, sec. 4.3.
    """
    squares = MeanSquares.of(scores)
    if squares.num_seeds < 2:
        raise ValueError("with one seed there is no variance between seeds to be seen: give at least two")
    return VarianceComponents(
        seeds=max(squares.seeds - squares.residual, 0.0) / squares.num_texts,
        texts=max(squares.texts - squares.residual, 0.0) / squares.num_seeds,
        both=squares.residual,
        num_seeds=squares.num_seeds,
        num_texts=squares.num_texts,
    )


def nested_components(scores: ArrayLike) -> VarianceComponents:
    """Analysis-of-variance estimates for [samples, starts, texts] scores: starts nested in samples, texts crossed.

    At least two starts and two texts; a single sample leaves nothing to say of samples (0). What a text does under a
    sample and what it does under a start are told together, in `both`. Raises ValueError for other shapes.

    Source: Searle, Casella & McCulloch (1992), Variance Components, sec. 4.3: mean squares set to their expectations.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] < 2 or values.shape[2] < 2 or not np.all(np.isfinite(values)):
        raise ValueError(f"expected finite [samples, starts, texts] scores, two starts at least, got {values.shape}")
    samples, starts, texts = values.shape
    if samples == 1:
        squares = variance_components(values[0])
        return VarianceComponents(0.0, squares.texts, squares.both, 1, texts, squares.seeds, starts)
    of_samples, of_starts, of_texts = values.mean((1, 2)), values.mean(2), values.mean((0, 1))
    cells, mean = values.mean(1), values.mean()
    square_samples = starts * texts * float(np.sum((of_samples - mean) ** 2)) / (samples - 1)
    square_starts = texts * float(np.sum((of_starts - of_samples[:, None]) ** 2)) / (samples * (starts - 1))
    square_texts = samples * starts * float(np.sum((of_texts - mean) ** 2)) / (texts - 1)
    by_sample = cells - of_samples[:, None] - of_texts + mean
    square_both = starts * float(np.sum(by_sample**2)) / ((samples - 1) * (texts - 1))
    left = values - of_starts[:, :, None] - cells[:, None, :] + of_samples[:, None, None]
    square_left = float(np.sum(left**2)) / (samples * (starts - 1) * (texts - 1))
    return VarianceComponents(
        seeds=max(square_samples - square_starts - square_both + square_left, 0.0) / (starts * texts),
        texts=max(square_texts - square_both, 0.0) / (samples * starts),
        # Of the mean: what texts do under samples, per sample, and under starts, per run.
        both=max(square_both - square_left, 0.0) + square_left,
        num_seeds=samples,
        num_texts=texts,
        inits=max(square_starts - square_left, 0.0) / texts,
        num_inits=starts,
    )


def smallest_difference(
    num_texts: int, num_seeds: int, disagreement: float, seed_sd: float, power: float = 0.8, level: float = 0.05
) -> float:
    """The true difference in accuracy between two methods that a paired study of this size finds with this power.

    Args:
        num_texts: test texts, at least two, the same for both methods and all seeds.
        num_seeds: training seeds, the same for both methods; with one, only the sampling of texts is covered, as for
            two fixed classifiers.
        disagreement: share of the texts that one of the two answers rightly and the other wrongly; the difference
            itself where that is larger, as there is none without disagreement.
        seed_sd: standard deviation, from seed to seed, of the difference in accuracy over endless texts.
        power: probability of finding it. level: of the two-sided test.

    The test is that of paired_crossed_p_value, at the mean squares to be expected: disagreement / num_texts is
    McNemar's variance of a paired difference in proportions when there is none, and seeds add seed_sd^2 / num_seeds. It
    takes all disagreement for the texts' own, which no further seed averages out: an upper bound.

    Raises ValueError for fewer than two texts, no seed, a share outside (0, 1] or a negative standard deviation.

    Source: the variance, Connett, Smith & McHugh (1987), Statistics in Medicine 6:163-169, "Sample size and power for
    pair-matched case-control studies" (their unconditional formula without the term in the squared difference).
    """
    if num_texts < 2 or num_seeds < 1:
        raise ValueError(f"expected at least two texts and one seed, got {num_texts} and {num_seeds}")
    if not 0 < disagreement <= 1 or seed_sd < 0 or not 0 < power < 1 or not 0 < level < 1:
        raise ValueError(
            f"shares must lie in (0, 1] and seed_sd must not be negative, got disagreement={disagreement}, "
            f"seed_sd={seed_sd}, power={power}, level={level}"
        )
    of_seeds = num_texts * seed_sd**2 if num_seeds > 1 else 0.0

    def found(disagreement: float) -> float:
        squares = MeanSquares(of_seeds, num_seeds * disagreement, 0.0, num_seeds, num_texts)
        return min(_shift_found(squares, power, 1.0 - level), 1.0)

    difference = found(disagreement)
    while difference > disagreement + 1e-6:  # grows with the root of the disagreement, so the two meet
        disagreement, difference = difference, found(difference)
    return difference


def difference_interval(a: Interval, b: Interval) -> Interval:
    """Interval for a - b from the intervals of two independent estimates, at their confidence.

    Each end lies as far from the difference as the squares of the two distances to the ends in question sum to: of two
    Wilson intervals it is Newcombe's hybrid score interval.

    Source: Zou & Donner (2008), Statistics in Medicine 27:1693-1702 ("MOVER"); Newcombe (1998), ibid. 17:873-890,
    method 10.
    """
    difference = a.estimate - b.estimate
    below = sqrt((a.estimate - a.low) ** 2 + (b.high - b.estimate) ** 2)
    above = sqrt((a.high - a.estimate) ** 2 + (b.estimate - b.low) ** 2)
    return Interval(difference, difference - below, difference + above)


def two_proportions_p_value(a: float, b: float, num_a: int, num_b: int) -> float:
    """Two-sided p-value of the z test that two independent proportions, of num_a and num_b texts, are equal.

    Raises ValueError for no texts or a share outside [0, 1].

    Source: the pooled test, Agresti (2013), Categorical Data Analysis, sec. 3.2.
    """
    if num_a < 1 or num_b < 1 or not 0 <= a <= 1 or not 0 <= b <= 1:
        raise ValueError(f"expected shares in [0, 1] of at least one text, got {a} of {num_a} and {b} of {num_b}")
    pooled = (a * num_a + b * num_b) / (num_a + num_b)
    variance = pooled * (1.0 - pooled) * (1.0 / num_a + 1.0 / num_b)
    return 1.0 if variance == 0.0 else erfc(abs(a - b) / sqrt(2.0 * variance))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """[tests] p-values adjusted so that calling those below a level significant errs in any of them no more often.

    Raises ValueError unless they are one-dimensional and lie in [0, 1].

    Source: Holm (1979), Scand. J. Statist. 6:65-70.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not bool(np.all((values >= 0.0) & (values <= 1.0))):
        raise ValueError("p_values must be one-dimensional and lie in [0, 1]")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, num_bins: int = 15) -> float:
    """Expected calibration error of the top label, in [0, 1].

    Args:
        probabilities: [texts, labels], rows summing to 1.
        labels: [texts], indices of the true labels.
        num_bins: equal-width confidence bins ((m - 1) / num_bins, m / num_bins].

    Ties for the top label go to the lowest index. Raises ValueError on shapes that do not fit, labels out
    of range, num_bins < 1, or rows that are not probabilities (sum off by more than 0.01).

    Source: Guo et al. (2017), "On Calibration of Modern Neural Networks", eq. 3.
    """
    probs = np.asarray(probabilities, dtype=np.float64)
    true = _as_true_labels(labels, probs)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    _check_distributions(probs)
    top = probs.max(axis=1)
    hit = probs.argmax(axis=1) == true
    bins = np.digitize(top, np.linspace(0.0, 1.0, num_bins + 1)[1:-1], right=True)
    # |B_m| / n * |acc - conf| is the absolute sum of (hit - confidence) within the bin, over n.
    gaps = np.bincount(bins, weights=hit - top, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(true))


def log_loss(log_probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean negative log-probability of the true label, in nats.

    Args:
        log_probabilities: [texts, labels], natural logarithms of probabilities summing to 1 in each row.
        labels: [texts], indices of the true labels.

    No clipping: a true label of probability 0 gives inf. Raises ValueError on shapes that do not fit,
    labels out of range, or rows that are not log-probabilities (sum off by more than 0.01).

    Source: Good (1952), J. R. Stat. Soc. B 14:107-114 (logarithmic score).
    """
    log_probs = np.asarray(log_probabilities, dtype=np.float64)
    true = _as_true_labels(labels, log_probs)
    _check_distributions(np.exp(log_probs))
    return float(-log_probs[np.arange(len(true)), true].mean())


def macro_f1(predicted: ArrayLike, labels: ArrayLike, num_labels: int) -> float:
    """Unweighted mean over all num_labels labels of the F1 score, in [0, 1].

    Args:
        predicted: [texts], indices of the predicted labels.
        labels: [texts], indices of the true labels.

    A label that is neither predicted nor true counts as F1 = 0, as in scikit-learn's
    f1_score(labels=range(num_labels), average="macro", zero_division=0). Raises ValueError as
    confusion_matrix does.
    """
    matrix = confusion_matrix(predicted, labels, num_labels)
    # F1 = 2 TP / (2 TP + FP + FN); the denominator is the row sum plus the column sum.
    denominator = matrix.sum(axis=0) + matrix.sum(axis=1)
    return float(np.mean(2.0 * np.diag(matrix) / np.maximum(denominator, 1)))


def confusion_matrix(predicted: ArrayLike, labels: ArrayLike, num_labels: int) -> NDArray[np.int64]:
    """Counts of texts by [true label, predicted label], shape [num_labels, num_labels].

    Args:
        predicted: [texts], indices of the predicted labels.
        labels: [texts], indices of the true labels.

    Raises ValueError on no text, differing shapes, or indices that are not integers in 0..num_labels - 1.
    """
    pred, true = _as_indices(predicted, num_labels, "predicted"), _as_indices(labels, num_labels, "labels")
    if pred.shape != true.shape:
        raise ValueError(f"predicted and labels must have one shape, got {pred.shape} and {true.shape}")
    counts = np.bincount(true * num_labels + pred, minlength=num_labels * num_labels)
    return counts.reshape(num_labels, num_labels).astype(np.int64)


def _upper_probability(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    return (1.0 + confidence) / 2.0


# scipy is imported where it is used: training needs the losses of this module on machines without scipy.
def _normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


def _chi_squared_quantile(dof: float, probability: float) -> float:
    from scipy.special import chdtri

    return float(chdtri(dof, 1.0 - probability))


def _t_quantile(dof: float, probability: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(dof, probability))


def _score_interval(proportion: float, sample_size: float, quantile: float) -> Interval:
    """Wilson's interval for any (effective) sample size and any normal or t quantile."""
    ratio = quantile**2 / sample_size
    centre = (proportion + ratio / 2.0) / (1.0 + ratio)
    half = sqrt(ratio * (proportion * (1.0 - proportion) + ratio / 4.0)) / (1.0 + ratio)
    # The ends lie within [0, 1] exactly; min and max only take off rounding error.
    return Interval(proportion, max(centre - half, 0.0), min(centre + half, 1.0))


def _crossed_t_interval(scores: NDArray[np.float64], confidence: float) -> Interval:
    mean, half = float(scores.mean()), MeanSquares.of(scores).half_width(confidence)
    return Interval(mean, mean - half, mean + half)


def _paired(correct_a: ArrayLike, correct_b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _as_scores(correct_a, "correct_a"), _as_scores(correct_b, "correct_b")
    if b.shape not in (a.shape, (1, a.shape[1])):
        raise ValueError(f"correct_b must be of shape {a.shape} or {(1, a.shape[1])}, got {b.shape}")
    return a, b


def _is_binary(values: NDArray[Any]) -> bool:
    return bool(np.all((values == 0) | (values == 1)))


def _as_scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise ValueError(f"{name} must be of shape [seeds, texts] and not empty, got {scores.shape}")
    if not np.all(np.isfinite(scores)):
        raise ValueError(f"{name} holds a score that is not finite")
    return scores


def _as_indices(values: ArrayLike, num_labels: int, name: str) -> NDArray[np.int64]:
    indices = np.asarray(values)
    if indices.ndim != 1 or indices.size == 0:
        raise ValueError(f"{name} must be of shape [texts] and not empty, got {indices.shape}")
    if not np.issubdtype(indices.dtype, np.integer) or indices.min() < 0 or indices.max() >= num_labels:
        raise ValueError(f"{name} must hold integers in 0..{num_labels - 1}")
    return indices.astype(np.int64)


def _as_true_labels(labels: ArrayLike, by_label: NDArray[np.float64]) -> NDArray[np.int64]:
    if by_label.ndim != 2 or by_label.shape[1] == 0:
        raise ValueError(f"expected shape [texts, labels], got {by_label.shape}")
    true = _as_indices(labels, by_label.shape[1], "labels")
    if len(true) != len(by_label):
        raise ValueError(f"{len(true)} labels for {len(by_label)} rows")
    return true


def _check_distributions(probabilities: NDArray[np.float64]) -> None:
    # 0.01 lets half-precision softmax rows through and still catches logits and percents.
    sums_to_one = np.abs(probabilities.sum(axis=1) - 1.0) <= 0.01
    if not (np.all(sums_to_one) and np.all(probabilities >= 0.0)):
        raise ValueError("every row must be a probability distribution over the labels")
