"""Intervals, paired tests and scores for classifiers evaluated on shared test texts.

Pure functions over numbers; knows nothing of files, methods or torch. Scores, probabilities and
interval ends are fractions, not percent; logarithms are natural.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
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


def crossed_interval(correct: ArrayLike, confidence: float = 0.95) -> Interval:
    """Interval for the mean score over both training seeds and test texts, every seed tested on every text.

    Args:
        correct: [seeds, texts], 0/1 or real scores.

    Two-way random effects with one observation per cell. Variance of the grand mean from the mean
    squares of seeds, texts and residual, degrees of freedom after Satterthwaite, Student t quantile q.
    Real scores: estimate +- q * standard error; zero width when all cells are equal.
    0/1 scores: Wilson score interval at quantile q and effective sample size
    estimate * (1 - estimate) / variance; it lies within [0, 1]. When all cells are 0 or all are 1 the data
    hold no evidence on either component, and the interval is Wilson's for one seed. With one seed only the
    sampling of texts is covered: Wilson for 0/1, one-sample t for real scores.

    Raises ValueError on another shape, no seed, no text, a non-finite score, confidence outside (0, 1), or
    a single text (save one seed with a 0/1 score).

    Sources: Searle, Casella & McCulloch (1992), Variance Components, ch. 4 (mean squares); Satterthwaite
    (1946), Biometrics Bull. 2:110-114; Wilson at an effective sample size with t quantile: Korn & Graubard
    (1998), Survey Methodology 24:193-201, and Franco et al. (2019), J. Surv. Stat. Methodol. 7:334-364.
    """
    scores = _as_scores(correct, "correct")
    num_seeds, num_texts = scores.shape
    mean = float(scores.mean())
    if not _is_binary(scores):
        return _crossed_t_interval(scores, confidence)
    if num_seeds == 1 or mean in (0.0, 1.0):
        return wilson_interval(round(mean * num_texts), num_texts, confidence)
    # Symmetric t intervals miss too often when a few seeds vary near accuracy 1 (85 to 87 % coverage at
    # 0.97, seed sd 3 points, 3 or 5 seeds, 200 texts): mean and variance are then strongly dependent. The
    # score interval covers at least 92.4 % there and 93.6 to 97.3 % elsewhere; see test_statistics.py.
    variance, dof = _grand_mean_variance(scores)
    quantile = _t_quantile(dof, _upper_probability(confidence))
    return _score_interval(mean, mean * (1.0 - mean) / variance, quantile)


def paired_crossed_interval(correct_a: ArrayLike, correct_b: ArrayLike, confidence: float = 0.95) -> Interval:
    """t interval for the mean difference a - b, paired by seed and by text.

    Args:
        correct_a: [seeds, texts], 0/1 or real scores.
        correct_b: [seeds, texts], or [1, texts] for a method without seeds (repeated for every seed).

    The crossed t interval (see crossed_interval) of the cell differences; never the 0/1 form, since a
    difference can be negative. Zero width when all differences are equal. Raises ValueError on shapes that
    do not fit, and as crossed_interval does; at least two texts are needed.
    """
    a, b = _as_scores(correct_a, "correct_a"), _as_scores(correct_b, "correct_b")
    if b.shape not in (a.shape, (1, a.shape[1])):
        raise ValueError(f"correct_b must be of shape {a.shape} or {(1, a.shape[1])}, got {b.shape}")
    return _crossed_t_interval(a - b, confidence)


def paired_crossed_p_value(correct_a: ArrayLike, correct_b: ArrayLike) -> float:
    """Two-sided p-value of no mean difference, the test whose interval paired_crossed_interval gives; arguments alike.

    1.0 when all differences are 0, 0.0 when they are all alike and not 0.
    """
    a, b = _as_scores(correct_a, "correct_a"), _as_scores(correct_b, "correct_b")
    if b.shape not in (a.shape, (1, a.shape[1])):
        raise ValueError(f"correct_b must be of shape {a.shape} or {(1, a.shape[1])}, got {b.shape}")
    differences = a - b
    mean, (variance, dof) = float(differences.mean()), _grand_mean_variance(differences)
    if variance == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    from scipy.special import stdtr

    return float(2.0 * stdtr(dof, -abs(mean) / sqrt(variance)))


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
    mean = float(scores.mean())
    upper = _upper_probability(confidence)
    variance, dof = _grand_mean_variance(scores)
    half = _t_quantile(dof, upper) * sqrt(variance)
    return Interval(mean, mean - half, mean + half)


def _grand_mean_variance(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Estimated variance of the grand mean of [seeds, texts] scores, and its degrees of freedom."""
    num_seeds, num_texts = scores.shape
    if num_texts < 2:
        raise ValueError("the variance between texts needs at least two texts")
    if num_seeds == 1:
        return float(scores.var(ddof=1)) / num_texts, num_texts - 1.0
    mean, seed_means, text_means = scores.mean(), scores.mean(axis=1), scores.mean(axis=0)
    residuals = scores - seed_means[:, None] - text_means + mean
    dof_seeds, dof_texts = num_seeds - 1, num_texts - 1
    dof_residual = dof_seeds * dof_texts
    ms_seeds = num_texts * float(np.sum((seed_means - mean) ** 2)) / dof_seeds
    ms_texts = num_seeds * float(np.sum((text_means - mean) ** 2)) / dof_texts
    ms_residual = float(np.sum(residuals**2)) / dof_residual
    # E[MS_S + MS_T - MS_R] / (S T) is the variance. A negative component estimate counts as 0, so the
    # total is never below the largest of the three mean squares.
    total = max(ms_seeds, ms_residual) + max(ms_texts, ms_residual) - ms_residual
    if total == 0.0:
        return 0.0, float(dof_texts)
    # The MS_S term stays in the denominator when its component is truncated: dropping it would jump from
    # few to many degrees of freedom on what is, with few seeds, a noisy comparison with MS_R, and
    # under-covers for moderate seed variance. Keeping it errs towards wide intervals.
    dof = total**2 / (ms_seeds**2 / dof_seeds + ms_texts**2 / dof_texts + ms_residual**2 / dof_residual)
    return total / scores.size, dof


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
