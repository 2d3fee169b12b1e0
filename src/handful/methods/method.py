"""What every way of making a classifier looks like from outside. Knows no method by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol

import numpy as np

from handful.engine.base import Base
from handful.errors import SpecError
from handful.examples import EncodedExample, Task
from handful.training import Curve, Recipe, TrainingSpec


class Tuned(Protocol):
    """A method attached to a base. Leaving it restores the base's weights, requires_grad and mode."""

    num_trainable: int
    is_adapter: bool
    """What it saves is small beside the base, so that a study keeps it without being asked."""
    facts: Mapping[str, Any]
    """What else decides its predictions and belongs into the record, such as the labels' offsets."""

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


@dataclass(frozen=True)
class Given:
    """What a cell gives a method. num_unlabelled: training-side texts. context_length, max_tokens: in tokens, None
    without a bound. has_base, has_answers: whether the model is a language model and the prompt asks for an answer.
    is_quantised: whether the base's weights are rounded to a few bits, so that they cannot be trained themselves.
    num_layers, width: the base's, None where its configuration names neither.
    """

    num_labels: int
    num_unlabelled: int
    context_length: int | None
    max_tokens: int | None
    has_base: bool
    has_answers: bool
    is_quantised: bool = False
    num_layers: int | None = None
    width: int | None = None


LANGUAGE_MODEL, ENCODER, UNLABELLED = "a pretrained language model", "a pretrained encoder", "unlabelled texts"
"""What `Method.sees` may hold."""


def needs_labels(name: str, given: Given) -> None:
    """Raises SpecError for a method that learns from labels and is given none."""
    if given.num_labels < 1:
        raise SpecError(f"{name} learns from labelled texts: give num_labels above 0, such as num_labels = [50, 150]")


def needs_answers(name: str, given: Given) -> None:
    """Raises SpecError for a method that reads answers off a language model, where one of the two is lacking."""
    if not given.has_base:
        raise SpecError(
            f'{name} needs a causal language model, and is given none: name one, such as '
            'model = { checkpoint = "reviews-llama-5m" }'
        )
    if not given.has_answers:
        raise SpecError(
            f'{name} reads an answer after the prompt, and this prompt asks for none: name one that does, such as '
            'prompt = { name = "cloze" }'
        )


class Defaults:
    """What most methods answer, for them to inherit."""

    recipe: ClassVar[Recipe | None] = None

    def sees(self) -> tuple[str, ...]:
        """Nothing beside the labelled texts."""
        return ()

    def choices(self) -> TrainingSpec | None:
        """None."""
        return None

    def passes(self) -> float:
        """No updates."""
        return 0.0

    def extra_tokens(self) -> int:
        """None."""
        return 0

    def prompts_before(self) -> tuple[int, bool]:
        """None."""
        return 0, True


class Method(Protocol):
    """A frozen dataclass; its fields are its knobs in a study file."""

    name: ClassVar[str]
    recipe: ClassVar[Recipe | None]
    """What it fills its open training knobs from, if it trains."""

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """The cell (plain data per section) with this method's defaults filled and what it never reads fixed."""
        ...

    def check(self, given: Given) -> None:
        """Raises SpecError when it cannot run on what the cell gives it; before any weights load."""
        ...

    def sees(self) -> tuple[str, ...]:
        """What it may look at beside the labelled texts, in words. For the report: methods are to be compared by it."""
        ...

    def choices(self) -> TrainingSpec | None:
        """Where it has no updates, but settings that a protocol may choose from: an update stands for each, the most
        cautious first, the recipe's own last. None without any.
        """
        ...

    def passes(self) -> float:
        """Forward passes' worth of work per training token; 0 without training. For plans."""
        ...

    def extra_tokens(self) -> int:
        """Tokens that it puts before every prompt. For plans."""
        ...

    def prompts_before(self) -> tuple[int, bool]:
        """How many labelled prompts it puts before every prompt, and whether they are the same ones. For plans."""
        ...

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> Tuned:
        """Puts the method on the base, fresh from `seed` or as saved in a folder."""
        ...
