"""The paper's protocol: two epochs, and of them the one that does best on the test texts (its section 3.2).

Here to be compared with the paper's own tables. What it reports is too good by what choosing on the test texts adds, so
reports name it as such, and no claim rests on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from handful.examples import Encoded, EncodedExample
from handful.protocols.protocol import Attach, Found
from handful.training import Settled, TrainingSpec

RULE = "best test epoch (paper's protocol)"


@dataclass(frozen=True)
class Paper:
    """All labels train, for two epochs where the study names no other number; the best one on the test texts counts."""

    name: ClassVar[str] = "paper"
    chooses_on_test: ClassVar[bool] = True
    settles_choices: ClassVar[bool] = False

    def fill(self, training: Mapping[str, Any]) -> Mapping[str, Any]:
        """Two epochs."""
        return training if "epochs" in training or "updates" in training else {**training, "epochs": 2}

    def default_seeds(self, num_labels: int) -> int:
        """One."""
        return 1

    def selection_size(self, counts: Sequence[int]) -> int:
        """None."""
        return 0

    def texts(self, encoded: Encoded) -> tuple[Sequence[EncodedExample], Sequence[EncodedExample]]:
        """All labels train, and the test texts choose."""
        return encoded.train, encoded.test

    def settle(
        self, training: TrainingSpec | None, encoded: Encoded, attach: Attach, seed: int
    ) -> tuple[TrainingSpec | None, Found]:
        """The epoch with the highest accuracy counts, the first of equals."""
        return (None if training is None else Settled.of(training, by="accuracy", looks_at="test", rule=RULE)), {}

    def fits(self, num_labels: int) -> float:
        """The one."""
        return 1.0

    def texts_looked_at(self, epochs: int, num_labels: int, num_selection: int, num_test: int) -> int:
        """The test texts, after every epoch."""
        return epochs * num_test
