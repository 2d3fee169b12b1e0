"""Every label that was paid for counts, for training or for selection; nothing is ever chosen on test texts.

| labels | how they are used | updates |
|---|---|---|
| up to 50, or fewer than 8 of the rarest label | all train | the recipe's |
| up to 500 | four stratified 75/25 splits, then all train | the shortest of four within one standard error |
| more | a fifth, at most 1,000, is held out (`refit`: then trains, too) | until its log-loss has stopped falling |

The splits hang on the texts alone, so every method and every start is held to the same ones. Where a method has no
updates, but settings in order of caution (`Method.choices`), those are chosen in the place of updates.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from handful import checkpoints, progress
from handful.examples import Encoded, EncodedExample
from handful.protocols.holdout import ABOVE, held_out
from handful.protocols.protocol import Attach, Found, Watching
from handful.training import Settled, TrainingSpec, marks

CROSS_VALIDATED_UP_TO = 500
FEWEST_OF_A_LABEL = 8
FOLDS = 4
CANDIDATES = 4
LOOKS = 8
"""At the held-out texts, evenly spread over the recipe's updates: in two epochs, four in each."""
PATIENCE = 2
"""Looks without a lower held-out log-loss after which training above CROSS_VALIDATED_UP_TO ends."""

RULE = "four splits' log-loss, one standard error"
HELD_OUT = "held-out log-loss, the held-out texts not trained on"
REFITTED = "held-out log-loss, then all labels trained on"


@dataclass(frozen=True)
class Budget(Watching):
    """Spends the labels by their number: see the module. refit: what was held out is trained on, too, in a second fit
    of the length that the first one found.
    """

    name: ClassVar[str] = "budget"
    settles_choices: ClassVar[bool] = True

    watch_test: bool = False
    refit: bool = field(default=False, metadata={"later": True})

    def default_seeds(self, num_labels: int) -> int:
        """The fewer the labels, the more their draw matters."""
        return 10 if num_labels <= ABOVE else 5 if num_labels <= CROSS_VALIDATED_UP_TO else 3

    def selection_size(self, counts: Sequence[int]) -> int:
        """A fifth above 500 texts."""
        is_rare = min(counts, default=0) < FEWEST_OF_A_LABEL
        return held_out(sum(counts)) if sum(counts) > CROSS_VALIDATED_UP_TO and not is_rare else 0

    def texts(self, encoded: Encoded) -> tuple[Sequence[EncodedExample], Sequence[EncodedExample]]:
        """As they were drawn; with `refit` all train."""
        return ([*encoded.train, *encoded.selection], []) if self.refit else (encoded.train, encoded.selection)

    def settle(
        self, training: TrainingSpec | None, encoded: Encoded, attach: Attach, seed: int
    ) -> tuple[TrainingSpec | None, Found]:
        """Finds how long to train in fits before the one that counts, where that takes any."""
        if training is None:
            return None, {}
        watching = self.watched(training, encoded)
        if encoded.selection:
            stopping = Settled.of(watching, evaluations=LOOKS, patience=PATIENCE, rule=HELD_OUT)
            if not self.refit:
                return stopping, {}
            with progress.stage("hold out"):
                found = hold_out(training, encoded.train, encoded.selection, attach, seed)
            return Settled.of(watching, stop=found["chosen_share"], rule=REFITTED), {"hold_out": found}
        counts = Counter(example.label for example in encoded.train)
        rarest = min((counts[label] for label in range(len(encoded.task.label_names))), default=0)
        if len(encoded.train) <= ABOVE or rarest < FEWEST_OF_A_LABEL:
            return watching, {}
        with progress.stage("cross-validate"):
            found = cross_validate(training, encoded.train, attach, seed)
        return Settled.of(watching, stop=found["chosen_share"], rule=RULE), {"cross_validation": found}

    def fits(self, num_labels: int) -> float:
        """Where labels are cross-validated, each fold trains on three quarters of them; `refit` trains on all of them
        after a fit on what was not held out.
        """
        if num_labels > CROSS_VALIDATED_UP_TO:
            return 1.0 + (num_labels / (num_labels - held_out(num_labels)) if self.refit else 0.0)
        return 1.0 + (FOLDS * (1 - 1 / FOLDS) if num_labels > ABOVE else 0.0)

    def texts_looked_at(self, epochs: int, num_labels: int, num_selection: int, num_test: int) -> int:
        """Every label CANDIDATES times where they are cross-validated; LOOKS times what is held out."""
        watched = num_test if self.watch_test else 0
        if num_selection and not self.refit:
            return LOOKS * (num_selection + watched)
        crossed = CANDIDATES * num_labels if ABOVE < num_labels <= CROSS_VALIDATED_UP_TO else 0
        return LOOKS * num_selection + crossed + epochs * watched


def cross_validate(
    training: TrainingSpec, train: Sequence[EncodedExample], attach: Attach, seed: int
) -> dict[str, Any]:
    """How long to train: FOLDS fits, each judged on its quarter at CANDIDATES shares of the updates.

    chosen_share: the smallest whose mean log-loss over all texts lies within one standard error of the smallest mean
    (Breiman et al. 1984, section 3.4.3). The fits end on the schedule of the whole recipe, as the one that counts does.
    """
    sums = np.zeros((CANDIDATES, 2))  # of the texts' log-losses, and of their squares
    looking = Settled.of(training, evaluations=CANDIDATES)
    for fold, held in enumerate(folds(train), start=1):
        inside = set(held)
        selection = [train[index] for index in held]
        rest = [example for index, example in enumerate(train) if index not in inside]
        by_update = looks(f"split-{fold}", looking, rest, selection, attach, seed)
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
        **penalties_at(by_update),
        "log_loss": means.tolist(),
        "standard_error": error,
        "chosen_share": (chosen + 1) / CANDIDATES,
        "best_share": (best + 1) / CANDIDATES,
    }


def hold_out(
    training: TrainingSpec,
    train: Sequence[EncodedExample],
    selection: Sequence[EncodedExample],
    attach: Attach,
    seed: int,
) -> dict[str, Any]:
    """How long to train: one fit on `train`, until the log-loss of `selection` has stopped falling at LOOKS shares of
    the updates. chosen_share: where it was lowest.
    """
    stopping = Settled.of(training, evaluations=LOOKS, patience=PATIENCE)
    by_update = looks("hold-out", stopping, train, selection, attach, seed)
    losses = {update: point["selection_log_loss"] for update, point in by_update.items()}
    total = training.num_updates(len(train))
    return {
        "shares": [update / total for update in losses],
        **penalties_at(by_update),
        "log_loss": list(losses.values()),
        "chosen_share": min(losses, key=lambda update: losses[update]) / total,
    }


def looks(
    part: str,
    settled: Settled,
    train: Sequence[EncodedExample],
    selection: Sequence[EncodedExample],
    attach: Attach,
    seed: int,
) -> dict[int, Mapping[str, float]]:
    """What one fit found at each update at which it looked at the selection. part: as in `checkpoints.once`."""

    def points() -> list[Mapping[str, float]]:
        with attach() as tuned:
            return [dict(point) for point in tuned.fit(train, selection, settled, seed).points]

    found = checkpoints.once(part, {"training": repr(settled), "seed": seed}, (train, selection), points)
    # What stands for an update has no number of its own.
    updates = sorted(set(marks(settled.num_updates(len(train)), settled.evaluations or 1)))
    return dict(zip(updates, found, strict=False))  # patience may end it before the last


def penalties_at(by_update: Mapping[int, Mapping[str, float]]) -> Found:
    """Where shares stand for penalties: which."""
    found = [point["inverse_penalty"] for point in by_update.values() if "inverse_penalty" in point]
    return {"inverse_penalties": found} if found else {}


def folds(train: Sequence[EncodedExample]) -> list[list[int]]:
    """FOLDS lists of indices, every text in one, every label spread over all as evenly as it goes."""
    order = sorted(
        range(len(train)), key=lambda index: (train[index].label, hashlib.sha256(train[index].id.encode()).digest())
    )
    # One deal over all labels in turn: each label's texts go round, and where one ends the next goes on.
    return [sorted(order[first::FOLDS]) for first in range(FOLDS)]
