"""The one Tuned of all methods that turn a text into features and fit a logistic regression on them.

Knows no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np

from handful import progress
from handful.errors import RunError
from handful.examples import EncodedExample, Task
from handful.methods.saved import read_scoring, write_scoring
from handful.training import Curve, Settled, TrainingSpec, measured

DECIMALS = 9
"""Of a log-probability: what lies below depends on the kernels that BLAS has for a machine. Fits run on one thread."""

CROSS_VALIDATED: Literal["cross_validated"] = "cross_validated"

PENALTIES = tuple(10.0**power for power in range(-4, 5))
"""Values of C that its own cross-validation chooses from."""

PATH = (0.001, 0.01, 0.1, 1.0)
"""What a protocol chooses from instead: shares of the recipe's C, the strongest penalty first. As with the updates of a
fit, whose early end works like such a penalty (Goodfellow, Bengio & Courville 2016, section 7.8), the last one is the
recipe's own.
"""

FOLDS = 5

Penalty = float | Literal["cross_validated"]
"""C of the logistic regression, or that the labelled texts choose it: by log-loss over FOLDS stratified folds, fewer
where a label has fewer texts. The text of a label that has no other is in every training part; C = 1 where fewer than
two labels have several."""


def check_penalty(penalty: Penalty) -> list[str]:
    """What is wrong with it."""
    if not isinstance(penalty, str) and penalty <= 0:
        return [f'inverse_penalty must be above 0 or "{CROSS_VALIDATED}", got {penalty}']
    return []


def choices_of(penalty: Penalty) -> TrainingSpec | None:
    """What `Method.choices` gives: an update for each step of PATH; None where C is a number, since nothing is open."""
    return TrainingSpec(updates=len(PATH)) if isinstance(penalty, str) else None


class Features(Protocol):
    """Examples -> rows of numbers, once fitted. facts: what else decided them, for the record."""

    facts: Mapping[str, Any]

    def fit(self, examples: Sequence[EncodedExample]) -> None:
        """Learns the features from training examples."""
        ...

    def transform(self, examples: Sequence[EncodedExample]) -> Any:
        """[examples, features], dense or scipy sparse."""
        ...

    def save(self, folder: Path) -> None:
        """Writes them without pickles."""
        ...

    def load(self, folder: Path) -> None:
        """The inverse of save."""
        ...


class FeatureTuned:
    """Features and a logistic regression with L2 penalty 1 / (2 C).

    recipe_penalty: C where it is left open and a protocol chooses nothing.
    """

    is_adapter = False

    def __init__(
        self,
        task: Task,
        features: Features,
        inverse_penalty: Penalty,
        saved: Path | None,
        recipe_penalty: float = 1.0,
    ) -> None:
        self.facts: Mapping[str, Any] = {}
        self._task, self._features, self._inverse_penalty = task, features, inverse_penalty
        self._recipe_penalty = recipe_penalty
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
        """Fits on every labelled text, `train` and `selection` alike; where C is open and a protocol settles it
        (`training`), on `train`. The facts have the C that it took, and how many it looked at for that
        (`num_penalties`). Raises RunError with fewer than two labels.
        """
        is_settled = training is not None and isinstance(self._inverse_penalty, str)
        examples = train if is_settled else [*train, *selection]
        labels = np.array([example.label for example in examples])
        if len(set(labels.tolist())) < 2:
            raise RunError(f"a logistic regression needs texts of two labels, got {len(set(labels.tolist()))}")
        self._features.fit(examples)
        self.facts = {**self._features.facts, "num_penalties": 1}
        rows = self._features.transform(examples)
        if training is not None and is_settled:
            return self._along_path(rows, labels, selection, Settled.of(training))
        with _one_thread():
            self._take(self._regression(rows, labels, seed))
        progress.advance(1, 1)
        return Curve(chosen_by="closed form")

    def _along_path(
        self, rows: Any, labels: np.ndarray, selection: Sequence[EncodedExample], settled: Settled
    ) -> Curve:
        """The regression where the path ends; with a selection, the one on it that has the lowest log-loss there."""
        path = [share * self._recipe_penalty for share in PATH][: settled.last(len(PATH))]
        with _one_thread():
            models = {penalty: _model(penalty).fit(rows, labels) for penalty in (path if selection else path[-1:])}
        gold = np.array([example.label for example in selection])
        self.facts = {**self.facts, "num_penalties": len(models)}
        points = []
        for done, (penalty, model) in enumerate(models.items(), start=1):
            self._take(model)
            if selection:
                points.append({"inverse_penalty": penalty, **measured(self.predict(selection), gold, settled)})
            progress.advance(done, len(models))
        chosen = path[-1]
        if points:
            chosen = min(points, key=lambda point: point["selection_log_loss"])["inverse_penalty"]
            self._take(models[chosen])
        return Curve(tuple(points), chosen_by=settled.rule or ("selection log-loss" if selection else "closed form"))

    def _take(self, model: Any) -> None:
        """What a fitted logistic regression knows, as weights for every label, and for the record its C."""
        self.facts = {**self.facts, "inverse_penalty": float(model.C)}
        weights, bias = model.coef_, model.intercept_
        if weights.shape[0] == 1:  # two labels: one row of weights, for the second
            weights, bias = np.vstack([-weights / 2, weights / 2]), np.array([-bias[0] / 2, bias[0] / 2])
        self._classes, self._weights, self._bias = model.classes_, weights, bias
        self.num_trainable = int(model.coef_.size + model.intercept_.size)

    def predict(self, examples: Sequence[EncodedExample]) -> np.ndarray:
        """[examples, labels] float64; a label that no training text had gets the log of 1e-12."""
        if not examples:
            return np.zeros((0, len(self._task.label_names)))
        rows = self._features.transform(examples)
        with _one_thread():
            scores = rows @ self._weights.T + self._bias
        shifted = scores - scores.max(axis=1, keepdims=True)
        seen = np.exp(shifted)
        out = np.full((len(examples), len(self._task.label_names)), 1e-12)
        out[:, self._classes] = np.maximum(seen / seen.sum(axis=1, keepdims=True), 1e-12)
        progress.advance(len(examples), len(examples))
        normalised: np.ndarray = np.log(out / out.sum(axis=1, keepdims=True)).round(DECIMALS)
        return normalised

    def _regression(self, rows: Any, labels: np.ndarray, seed: int) -> Any:
        """A fitted logistic regression, its penalty chosen where that is asked for."""
        from sklearn.model_selection import GridSearchCV

        if not isinstance(self._inverse_penalty, str):
            return _model(self._inverse_penalty).fit(rows, labels)
        parts = _folds(labels, seed)
        if not parts:
            progress.note("the penalty was not cross-validated: fewer than two labels have several texts")
            return _model(1.0).fit(rows, labels)
        search = GridSearchCV(_model(1.0), {"C": PENALTIES}, scoring=_likelihood, cv=parts, refit=False)
        chosen = float(search.fit(rows, labels).best_params_["C"])
        self.facts = {**self.facts, "num_penalties": len(PENALTIES)}
        return _model(chosen).fit(rows, labels)

    def save(self, folder: Path) -> None:
        """Weights as safetensors, the features beside them."""
        from safetensors.numpy import save_file

        write_scoring(folder, self._task.label_names, {})
        tensors = {"weights": np.ascontiguousarray(self._weights), "bias": self._bias, "classes": self._classes}
        save_file(tensors, folder / "regression.safetensors")
        self._features.save(folder)

    def _load(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        read_scoring(folder, self._task.label_names)
        tensors = load_file(folder / "regression.safetensors")
        self._weights, self._bias, self._classes = tensors["weights"], tensors["bias"], tensors["classes"]
        self._features.load(folder)

    def __enter__(self) -> FeatureTuned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was touched."""


def _model(penalty: float) -> Any:
    """An unfitted logistic regression with this C."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=penalty, max_iter=2000)


def _one_thread() -> AbstractContextManager[object]:
    """For linear algebra inside: how it is shared out among threads would move the last digits."""
    from threadpoolctl import threadpool_limits  # beside scikit-learn, which machines that only tune do without

    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


def _folds(labels: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training, held out) indices of every fold; none where fewer than two labels have two texts."""
    from sklearn.model_selection import StratifiedKFold

    names, counts = np.unique(labels, return_counts=True)
    if (counts > 1).sum() < 2:
        return []
    several = np.flatnonzero(np.isin(labels, names[counts > 1]))
    single = np.flatnonzero(np.isin(labels, names[counts == 1]))
    split = StratifiedKFold(min(FOLDS, int(counts[counts > 1].min())), shuffle=True, random_state=seed % 2**32)
    return [
        (np.sort(np.concatenate([several[train], single])), several[held])
        for train, held in split.split(several, labels[several])
    ]


def _likelihood(model: Any, rows: Any, labels: np.ndarray) -> float:
    """Mean log-probability of the true labels; a fold need not hold all of them."""
    from sklearn.metrics import log_loss

    return -float(log_loss(labels, model.predict_proba(rows), labels=model.classes_))


def text_of(example: EncodedExample) -> str:
    """All fields of an example, one a line."""
    return "\n".join(example.fields.values())


class Standardised:
    """Dense rows, each column with mean 0 and standard deviation 1 over the training examples.

    rows: examples -> [examples, columns].
    """

    def __init__(self, rows: Callable[[Sequence[EncodedExample]], np.ndarray]) -> None:
        self._rows = rows
        self.facts: Mapping[str, Any] = {}
        self._mean, self._spread = np.zeros(0), np.ones(0)

    def fit(self, examples: Sequence[EncodedExample]) -> None:
        rows = self._rows(examples).astype(np.float64)
        self._mean, self._spread = rows.mean(axis=0), rows.std(axis=0)
        self._spread[self._spread == 0] = 1.0

    def transform(self, examples: Sequence[EncodedExample]) -> np.ndarray:
        standardised: np.ndarray = (self._rows(examples) - self._mean) / self._spread
        return standardised

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        save_file({"mean": self._mean, "spread": self._spread}, folder / "columns.safetensors")

    def load(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        tensors = load_file(folder / "columns.safetensors")
        self._mean, self._spread = tensors["mean"], tensors["spread"]
