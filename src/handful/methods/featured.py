"""The one Tuned of all methods that turn a text into features and fit a logistic regression on them.

Knows no method by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from handful import progress
from handful.errors import RunError
from handful.examples import EncodedExample, Task
from handful.training import Curve, TrainingSpec

FORMAT = 1


class Features(Protocol):
    """Texts -> rows of numbers, once fitted."""

    def fit(self, texts: Sequence[str]) -> None:
        """Learns the features from training texts."""
        ...

    def transform(self, texts: Sequence[str]) -> Any:
        """[texts, features], dense or scipy sparse."""
        ...

    def save(self, folder: Path) -> None:
        """Writes them without pickles."""
        ...

    def load(self, folder: Path) -> None:
        """The inverse of save."""
        ...


class FeatureTuned:
    """Features and a logistic regression with L2 penalty 1 / (2 C). It reads train and selection alike."""

    is_adapter = False
    facts: Mapping[str, Any] = {}

    def __init__(self, task: Task, features: Features, inverse_penalty: float, saved: Path | None) -> None:
        self._task, self._features, self._inverse_penalty = task, features, inverse_penalty
        self.num_trainable = 0
        self._classes = np.zeros(0, dtype=np.int64)
        self._weights = np.zeros((0, 0))
        self._bias = np.zeros(0)
        if saved is not None:
            self._load(saved)

    def fit(
        self,
        train: Sequence[EncodedExample],
        selection: Sequence[EncodedExample],
        training: TrainingSpec | None,
        seed: int,
    ) -> Curve:
        """Fits on every labelled text. Raises RunError with fewer than two labels."""
        from sklearn.linear_model import LogisticRegression

        examples = [*train, *selection]
        labels = np.array([example.label for example in examples])
        if len(set(labels.tolist())) < 2:
            raise RunError(f"a logistic regression needs texts of two labels, got {len(set(labels.tolist()))}")
        texts = [_text(example) for example in examples]
        self._features.fit(texts)
        model = LogisticRegression(C=self._inverse_penalty, max_iter=2000)
        model.fit(self._features.transform(texts), labels)
        weights, bias = model.coef_, model.intercept_
        if weights.shape[0] == 1:  # two labels: one row of weights, for the second
            weights, bias = np.vstack([-weights / 2, weights / 2]), np.array([-bias[0] / 2, bias[0] / 2])
        self._classes, self._weights, self._bias = model.classes_, weights, bias
        self.num_trainable = int(model.coef_.size + model.intercept_.size)
        progress.advance(1, 1)
        return Curve(chosen_by="closed form")

    def predict(self, examples: Sequence[EncodedExample]) -> np.ndarray:
        """[examples, labels] float64; a label that no training text had gets the log of 1e-12."""
        scores = self._features.transform([_text(example) for example in examples]) @ self._weights.T + self._bias
        shifted = scores - scores.max(axis=1, keepdims=True)
        seen = np.exp(shifted)
        out = np.full((len(examples), len(self._task.label_names)), 1e-12)
        out[:, self._classes] = np.maximum(seen / seen.sum(axis=1, keepdims=True), 1e-12)
        progress.advance(len(examples), len(examples))
        normalised: np.ndarray = np.log(out / out.sum(axis=1, keepdims=True))
        return normalised

    def save(self, folder: Path) -> None:
        """Weights as safetensors, the features beside them."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"weights": np.ascontiguousarray(self._weights), "bias": self._bias, "classes": self._classes}
        save_file(tensors, folder / "regression.safetensors")
        head = {"format": FORMAT, "label_names": list(self._task.label_names)}
        (folder / "scoring.json").write_text(json.dumps(head, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        self._features.save(folder)

    def _load(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        tensors = load_file(folder / "regression.safetensors")
        self._weights, self._bias, self._classes = tensors["weights"], tensors["bias"], tensors["classes"]
        self._features.load(folder)

    def __enter__(self) -> FeatureTuned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was touched."""


def _text(example: EncodedExample) -> str:
    """All fields of an example, one a line."""
    return "\n".join(example.fields.values())
