"""Scores -> metrics. Knows nothing of where the scores come from."""

from __future__ import annotations

from typing import Any

import numpy as np

from handful import statistics


def accuracy(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of texts whose largest log-probability stands at their label."""
    return float((log_probabilities.argmax(axis=1) == labels).mean())


def log_loss(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-probability of the true label, in nats."""
    return statistics.log_loss(log_probabilities, labels)


def metrics(log_probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What a record says of [texts, labels] normalised log-probabilities and [texts] true labels.

    accuracy with its Wilson interval, macro-F1, log-loss (nats), calibration error (15 bins), and the
    confusion matrix [true, predicted].
    """
    num_labels = log_probabilities.shape[1]
    predicted = log_probabilities.argmax(axis=1)
    num_correct = int((predicted == labels).sum())
    return {
        "accuracy": num_correct / len(labels),
        "accuracy_interval": statistics.wilson_interval(num_correct, len(labels)).as_dict(),
        "macro_f1": statistics.macro_f1(predicted, labels, num_labels),
        "log_loss": log_loss(log_probabilities, labels),
        "calibration_error": statistics.expected_calibration_error(np.exp(log_probabilities), labels),
        "confusion_matrix": statistics.confusion_matrix(predicted, labels, num_labels).tolist(),
    }
