"""Zero-shot: the base reads the prompt and its label probabilities are taken as they are, or calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from handful.calibration import contextual_offset
from handful.engine.base import Base
from handful.engine.graft import Graft
from handful.engine.scoring import bare_label_scores, normalise
from handful.errors import SpecError
from handful.examples import Task
from handful.methods.grafted import GraftTuned, pool_prior
from handful.methods.method import LANGUAGE_MODEL, UNLABELLED, Defaults, Given, needs_answers


@dataclass(frozen=True)
class ZeroShot(Defaults):
    """No labels, no training.

    calibration: "contextual" takes out what the prompt answers to an empty text, "batch" what it answers on
    average to `pool_size` training-side texts without their labels.
    """

    name: ClassVar[str] = "zero_shot"

    calibration: Literal["none", "contextual", "batch"] = "none"
    pool_size: int = 256

    def __post_init__(self) -> None:
        if self.pool_size < 1:
            raise SpecError(f"pool_size must be at least 1, got {self.pool_size}")

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reads no label and draws nothing, so that a grid that names it runs it once."""
        method = {"name": self.name, "calibration": self.calibration}
        if self.calibration == "batch":
            method["pool_size"] = self.pool_size  # type: ignore[assignment]
        return {**cell, "method": method, "training": None, "num_labels": 0, "seed": 0}

    def check(self, given: Given) -> None:
        """Raises SpecError without base or answers, or without the texts that a batch calibration reads."""
        needs_answers(self.name, given)
        if self.calibration == "batch" and given.num_unlabelled < 1:
            raise SpecError(
                'calibration = "batch" reads training-side texts, and here every text is test: give the data a test '
                'side of its own (test_path or test_size), or use calibration = "contextual"'
            )

    def sees(self) -> tuple[str, ...]:
        """What it may look at beside the labelled texts."""
        return (LANGUAGE_MODEL, UNLABELLED) if self.calibration == "batch" else (LANGUAGE_MODEL,)

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> GraftTuned:
        """An empty graft, and the prior of the chosen calibration."""
        return GraftTuned(base, task, Graft, lambda folder: None, lambda graft: self._prior(base, task), saved)

    def _prior(self, base: Base, task: Task) -> np.ndarray:
        if self.calibration == "none":
            return np.zeros(len(task.label_names))
        if self.calibration == "contextual":
            scores = normalise(bare_label_scores(base, list(task.content_free)))
            return contextual_offset(scores)
        return pool_prior(base, task, self.pool_size)
