"""What every way of spending the labels looks like from outside: which train, which select, what is chosen.

Knows no method, no base and no grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from handful.examples import Encoded, EncodedExample
from handful.training import Curve, Settled, TrainingSpec


class Fitted(Protocol):
    """A method on its base, fresh."""

    def fit(
        self,
        train: Sequence[EncodedExample],
        selection: Sequence[EncodedExample],
        training: TrainingSpec | None,
        seed: int,
    ) -> Curve:
        """As `Tuned.fit`."""
        ...


Attach = Callable[[], AbstractContextManager[Fitted]]
"""Puts the cell's method on its base, always from the same beginning."""

Found = dict[str, Any]
"""What a protocol found out before the fit that counts, for the record."""


class LabelProtocol(Protocol):
    """A frozen dataclass; its fields are its knobs in a study file."""

    name: ClassVar[str]
    chooses_on_test: ClassVar[bool]
    """Whether the test texts choose what counts, so that no claim can rest on it."""
    settles_choices: ClassVar[bool]
    """Whether it also chooses among the settings of a method that has no updates (`Method.choices`)."""

    def fill(self, training: Mapping[str, Any]) -> Mapping[str, Any]:
        """The training section as asked, with what this protocol sets where the study does not."""
        ...

    def default_seeds(self, num_labels: int) -> int:
        """How many seeds a study runs that names none."""
        ...

    def selection_size(self, counts: Sequence[int]) -> int:
        """How many of the drawn texts, `counts` of each label, are held out for selection."""
        ...

    def texts(self, encoded: Encoded) -> tuple[Sequence[EncodedExample], Sequence[EncodedExample]]:
        """(those that the fit which counts trains on, those that it chooses by)."""
        ...

    def settle(self, training: TrainingSpec | None, encoded: Encoded, attach: Attach, seed: int) -> tuple[Any, Found]:
        """(training of the fit that counts, what was found): None stays None, since there is nothing to choose.

        training: the cell's section, or a method's choices where the protocol settles those.
        """
        ...

    def fits(self, num_labels: int) -> float:
        """How many epochs' worth of training one epoch of the fit that counts stands for. For plans."""
        ...

    def texts_looked_at(self, epochs: int, num_labels: int, num_selection: int, num_test: int) -> int:
        """How many texts are scored at all looks during all training. epochs: of the fit that counts. For plans."""
        ...


class Watching:
    """What most protocols answer, for them to inherit. watch_test: the accuracy on the test texts is written down
    beside every point of the curve, and never used.
    """

    chooses_on_test: ClassVar[bool] = False
    settles_choices: ClassVar[bool] = False
    watch_test: bool

    def fill(self, training: Mapping[str, Any]) -> Mapping[str, Any]:
        """Nothing: the method's recipe is as good here as anywhere."""
        return training

    def default_seeds(self, num_labels: int) -> int:
        """One."""
        return 1

    def texts(self, encoded: Encoded) -> tuple[Sequence[EncodedExample], Sequence[EncodedExample]]:
        """As they were drawn."""
        return encoded.train, encoded.selection

    def fits(self, num_labels: int) -> float:
        """The one."""
        return 1.0

    def texts_looked_at(self, epochs: int, num_labels: int, num_selection: int, num_test: int) -> int:
        """What is held out, and what is watched, after every epoch."""
        return epochs * (num_selection + (num_test if self.watch_test else 0))

    def watched(self, training: TrainingSpec, encoded: Encoded) -> TrainingSpec:
        """The training section, with the test texts to be watched where that is asked for."""
        return Settled.of(training, watched=tuple(encoded.test)) if self.watch_test else training
