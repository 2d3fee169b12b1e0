"""A sentence encoder's row of each text + logistic regression (as in SetFit's and many a practitioner's baseline)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from handful.engine.base import Base
from handful.engine.pooling import text_rows
from handful.errors import SpecError
from handful.examples import Task
from handful.methods.encoded import encoder_cell, shown_name
from handful.methods.featured import CROSS_VALIDATED, FeatureTuned, Penalty, Standardised, check_penalty, choices_of
from handful.methods.method import ENCODER, Defaults, Given, needs_labels
from handful.training import TrainingSpec


@dataclass(frozen=True)
class Embedding(Defaults):
    """The pooled row of a frozen encoder, standardised, as features.

    checkpoint: a folder or a hub name; left out, the study's model where that is an encoder, else the family's default.
    inverse_penalty: C of the logistic regression, or "cross_validated".
    """

    name: ClassVar[str] = "embedding"

    checkpoint: str | None = None
    inverse_penalty: Penalty = CROSS_VALIDATED

    def __post_init__(self) -> None:
        problems = check_penalty(self.inverse_penalty)
        if problems:
            raise SpecError(problems)

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reads the text alone, through an encoder, and has no updates."""
        knobs: dict[str, Any] = {"name": self.name, "inverse_penalty": self.inverse_penalty}
        if self.checkpoint is not None:
            knobs["checkpoint"] = shown_name(self.checkpoint)
        return {**encoder_cell(cell, self.checkpoint), "method": knobs, "training": None}

    def check(self, given: Given) -> None:
        """Raises SpecError without labels."""
        needs_labels(self.name, given)

    def sees(self) -> tuple[str, ...]:
        """What it may look at beside the labelled texts."""
        return (ENCODER,)

    def choices(self) -> TrainingSpec | None:
        """Penalties, where it is left open."""
        return choices_of(self.inverse_penalty)

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> FeatureTuned:
        """Leaves the encoder alone."""
        return FeatureTuned(task, Standardised(lambda examples: text_rows(base, examples)), self.inverse_penalty, saved)
