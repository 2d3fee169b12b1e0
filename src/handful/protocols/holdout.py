"""A fifth of the labels is held out and chooses the epoch; up to 50 labels, none is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from handful.examples import Encoded
from handful.protocols.protocol import Attach, Found, Watching
from handful.training import TrainingSpec

ABOVE = 50
"""Labels up to which all of them train."""
MOST = 1000
"""Texts that are held out at most."""


def held_out(num_labels: int) -> int:
    """A fifth, at most MOST."""
    return min(num_labels // 5, MOST)


@dataclass(frozen=True)
class Holdout(Watching):
    """One fit. A fifth of the labels, at most 1,000, is held out above 50, and chooses the epoch by log-loss."""

    name: ClassVar[str] = "holdout"

    watch_test: bool = False

    def selection_size(self, counts: Sequence[int]) -> int:
        """None up to 50 texts, then a fifth."""
        return held_out(sum(counts)) if sum(counts) > ABOVE else 0

    def settle(
        self, training: TrainingSpec | None, encoded: Encoded, attach: Attach, seed: int
    ) -> tuple[TrainingSpec | None, Found]:
        """The training section as it is."""
        return (None if training is None else self.watched(training, encoded)), {}
