"""Label priors: what to add to each label's score so that no label is favoured before a text is read.

Pure functions over numbers; knows nothing of models or prompts.
"""

from __future__ import annotations

import numpy as np


def contextual_offset(log_probabilities: np.ndarray) -> np.ndarray:
    """[labels] from [content-free prompts, labels]: minus the log of the mean probability of each label
    (contextual calibration, Zhao et al. 2021, with W = diag(p_cf)^-1 and b = 0), mean 0.
    """
    mean = np.exp(log_probabilities).mean(axis=0)
    return _centred(-np.log(np.maximum(mean, 1e-30)))


def batch_offset(log_probabilities: np.ndarray, tolerance: float = 1e-9, max_rounds: int = 1000) -> np.ndarray:
    """[labels] from [unlabelled texts, labels]: the offset with which the mean probability of every label is
    the same, mean 0.

    Batch calibration (Zhou et al. 2023) subtracts the log of the mean probability once; repeating that to
    its fixed point makes the mean exactly uniform, which one step leaves far from it when the bias is large.
    """
    num_labels = log_probabilities.shape[1]
    offset = np.zeros(num_labels)
    for _ in range(max_rounds):
        shifted = log_probabilities + offset
        shifted = shifted - shifted.max(axis=1, keepdims=True)
        probabilities = np.exp(shifted)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        mean = np.maximum(probabilities.mean(axis=0), 1e-30)
        offset -= np.log(mean * num_labels)
        if np.abs(mean - 1 / num_labels).max() < tolerance:
            break
    return _centred(offset)


def _centred(offset: np.ndarray) -> np.ndarray:
    centred: np.ndarray = offset - offset.mean()
    return centred
