"""What every way of making a classifier looks like from outside. Knows no method by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

import numpy as np

from handful.engine.base import Base
from handful.errors import SpecError
from handful.examples import EncodedExample, Task
from handful.training import Curve, TrainingSpec


class Tuned(Protocol):
    """A method attached to a base. Leaving it restores the base's weights, requires_grad and mode."""

    num_trainable: int
    is_adapter: bool
    """What it saves is small beside the base, so that a study keeps it without being asked."""

    def fit(
        self,
        train: Sequence[EncodedExample],
        selection: Sequence[EncodedExample],
        training: TrainingSpec | None,
        seed: int,
    ) -> Curve:
        """Learns from `train`; `selection` chooses when to stop. Raises RunError when it diverges."""
        ...

    def predict(self, examples: Sequence[EncodedExample]) -> np.ndarray:
        """[examples, labels] float64 log-probabilities of the labels, each row normalised."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what was learned, in the standard format of its kind; nothing for zero-shot."""
        ...

    def __enter__(self) -> Tuned: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def needs_labels(name: str, num_labels: int) -> None:
    """Raises SpecError for a method that learns from labels and is given none."""
    if num_labels < 1:
        raise SpecError(f"{name} learns from labelled texts: give num_labels above 0, such as num_labels = [50, 150]")


class Method(Protocol):
    """A frozen dataclass; its fields are its knobs in a study file."""

    name: ClassVar[str]

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """The cell (plain data per section) with this method's defaults filled and what it never reads fixed."""
        ...

    def check(self, num_labels: int, context_length: int | None, max_tokens: int | None) -> None:
        """Raises SpecError when it cannot run on so many labels or in this context, in tokens; before any
        weights load.
        """
        ...

    def passes(self) -> float:
        """Forward passes' worth of work per training token; 0 without training. For plans."""
        ...

    def extra_tokens(self) -> int:
        """Tokens that it puts before every prompt. For plans."""
        ...

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> Tuned:
        """Puts the method on the base, fresh from `seed` or as saved in a folder."""
        ...
