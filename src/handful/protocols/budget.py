"""Every label that was paid for counts, for training or for selection; nothing is ever chosen on test texts.

| labels | how they are used | updates |
|---|---|---|
| up to 50, or fewer than 8 of the rarest label | all train | the recipe's |
| up to 500 | four stratified 75/25 splits, then all train | the shortest of four within one standard error |
| more | a fifth, at most 1,000, is held out | until the held-out log-loss has stopped falling |

The splits hang on the texts and the seed alone, so every method is held to the same ones.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from handful import progress
from handful.examples import Encoded, EncodedExample
from handful.identity import derive_seed
from handful.protocols.holdout import ABOVE, held_out
from handful.protocols.protocol import Attach, Found, Watching
from handful.training import Settled, TrainingSpec, marks

CROSS_VALIDATED_UP_TO = 500
FEWEST_OF_A_LABEL = 8
FOLDS = 4
CANDIDATES = 4
PATIENCE = 2
"""Epochs without a lower held-out log-loss after which training above CROSS_VALIDATED_UP_TO ends."""

RULE = "four splits' log-loss, one standard error"


@dataclass(frozen=True)
class Budget(Watching):
    """Spends the labels by their number: see the module."""

    name: ClassVar[str] = "budget"

    watch_test: bool = False

    def default_seeds(self, num_labels: int) -> int:
        """The fewer the labels, the more their draw matters."""
        return 10 if num_labels <= ABOVE else 5 if num_labels <= CROSS_VALIDATED_UP_TO else 3

    def selection_size(self, counts: Sequence[int]) -> int:
        """A fifth above 500 texts."""
        is_rare = min(counts, default=0) < FEWEST_OF_A_LABEL
        return held_out(sum(counts)) if sum(counts) > CROSS_VALIDATED_UP_TO and not is_rare else 0

    def settle(
        self, training: TrainingSpec | None, encoded: Encoded, attach: Attach, seed: int
    ) -> tuple[TrainingSpec | None, Found]:
        """Finds the number of updates by cross-validation where the labels are few, but not too few for it."""
        if training is None:
            return None, {}
        watching = self.watched(training, encoded)
        if encoded.selection:
            return Settled.of(watching, patience=PATIENCE), {}
        counts = Counter(example.label for example in encoded.train)
        rarest = min((counts[label] for label in range(len(encoded.task.label_names))), default=0)
        if len(encoded.train) <= ABOVE or rarest < FEWEST_OF_A_LABEL:
            return watching, {}
        with progress.stage("cross-validate"):
            found = cross_validate(training, encoded.train, attach, seed)
        return Settled.of(watching, stop=found["chosen_share"], rule=RULE), {"cross_validation": found}

    def fits(self, num_labels: int) -> float:
        """Where labels are cross-validated, each fold trains on three quarters of them."""
        folds = FOLDS * (1 - 1 / FOLDS) if ABOVE < num_labels <= CROSS_VALIDATED_UP_TO else 0.0
        return 1.0 + folds


def cross_validate(
    training: TrainingSpec, train: Sequence[EncodedExample], attach: Attach, seed: int
) -> dict[str, Any]:
    """How long to train: FOLDS fits, each judged on its quarter at CANDIDATES shares of the updates.

    chosen_share: the smallest whose mean log-loss over all texts lies within one standard error of the smallest mean
    (Breiman et al. 1984, section 3.4.3). The fits end on the schedule of the whole recipe, as the one that counts does.
    """
    sums = np.zeros((CANDIDATES, 2))  # of the texts' log-losses, and of their squares
    for held in folds(train, seed):
        inside = set(held)
        selection = [train[index] for index in held]
        rest = [example for index, example in enumerate(train) if index not in inside]
        with attach() as tuned:
            curve = tuned.fit(rest, selection, Settled.of(training, evaluations=CANDIDATES), seed)
        by_update = {int(point["update"]): point for point in curve.points}
        for number, update in enumerate(marks(training.num_updates(len(rest)), CANDIDATES)):
            mean, deviation = (by_update[update][f"selection_log_loss{end}"] for end in ("", "_sd"))
            sums[number] += len(held) * np.array([mean, deviation**2 + mean**2])
    means = sums[:, 0] / len(train)
    variances = (sums[:, 1] / len(train) - means**2).clip(0.0) * len(train) / (len(train) - 1)
    best = int(means.argmin())
    error = math.sqrt(variances[best] / len(train))
    chosen = int(np.argmax(means <= means[best] + error))
    return {
        "shares": [(number + 1) / CANDIDATES for number in range(CANDIDATES)],
        "log_loss": means.tolist(),
        "standard_error": error,
        "chosen_share": (chosen + 1) / CANDIDATES,
        "best_share": (best + 1) / CANDIDATES,
    }


def folds(train: Sequence[EncodedExample], seed: int) -> list[list[int]]:
    """FOLDS lists of indices, every text in one, every label spread over all as evenly as it goes."""
    key = derive_seed(seed, "folds")
    order = sorted(
        range(len(train)),
        key=lambda index: (train[index].label, hashlib.sha256(f"{key}:{train[index].id}".encode()).digest()),
    )
    # One deal over all labels in turn: each label's texts go round, and where one ends the next goes on.
    return [sorted(order[first::FOLDS]) for first in range(FOLDS)]
