"""A logistic regression on what the bare base holds after a prompt's last token (scikit-learn)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from handful.engine.base import Base
from handful.engine.scoring import prompt_rows
from handful.errors import SpecError
from handful.examples import Task
from handful.methods.featured import CROSS_VALIDATED, FeatureTuned, Penalty, Standardised, check_penalty, choices_of
from handful.methods.method import LANGUAGE_MODEL, Defaults, Given, needs_labels
from handful.training import TrainingSpec


@dataclass(frozen=True)
class LinearProbe(Defaults):
    """The last hidden row of each prompt, standardised, as features. The base is neither trained nor asked for words.

    inverse_penalty: C of the logistic regression, or "cross_validated".
    """

    name: ClassVar[str] = "linear_probe"

    inverse_penalty: Penalty = CROSS_VALIDATED

    def __post_init__(self) -> None:
        problems = check_penalty(self.inverse_penalty)
        if problems:
            raise SpecError(problems)

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reads no updates."""
        knobs = {"name": self.name, "inverse_penalty": self.inverse_penalty}
        return {**cell, "method": knobs, "training": None}

    def check(self, given: Given) -> None:
        """Raises SpecError without labels or base."""
        needs_labels(self.name, given)
        if not given.has_base:
            raise SpecError(
                f'{self.name} reads the hidden rows of a causal language model, and is given none: name one, '
                'such as model = { checkpoint = "reviews-llama-5m" }'
            )

    def sees(self) -> tuple[str, ...]:
        """What it may look at beside the labelled texts."""
        return (LANGUAGE_MODEL,)

    def choices(self) -> TrainingSpec | None:
        """Penalties, where it is left open."""
        return choices_of(self.inverse_penalty)

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> FeatureTuned:
        """Leaves the base alone."""
        features = Standardised(lambda examples: prompt_rows(base, examples))
        return FeatureTuned(task, features, self.inverse_penalty, saved)
