"""The one Tuned of all methods that put a graft on a causal LM, an empty one included.

Knows no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from handful import progress
from handful.calibration import batch_offset
from handful.engine.base import Base
from handful.engine.graft import Graft
from handful.engine.pruning import Pruning
from handful.engine.scoring import bare_label_scores, label_scores, normalise
from handful.engine.stems import has_stems
from handful.errors import RunError, SpecError
from handful.examples import EncodedExample, Task
from handful.methods.method import LANGUAGE_MODEL, UNLABELLED, Defaults, Given, needs_answers, needs_labels
from handful.methods.saved import read_scoring, write_scoring
from handful.training import Curve, Recipe, TrainingSpec, fit_graft


class GraftTuned:
    """A graft on a base. Leaving it takes the graft off and restores requires_grad and mode.

    make: puts the method on the base and gives its graft. prior: [labels] from the graft before training,
    added to the labels' scores. write: saves the graft's parameters into a folder.
    is_adapter: what it saves is small beside the base.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        make: Callable[[], Graft],
        write: Callable[[Path], None],
        prior: Callable[[Graft], np.ndarray] | None = None,
        saved: Path | None = None,
        is_adapter: bool = False,
    ) -> None:
        self.is_adapter = is_adapter
        self._base, self._task, self._write = base, task, write
        self._before = state_of(base.network)
        told = None if saved is None else read_scoring(saved, task.label_names)
        self.offset = np.zeros(len(task.label_names))
        base.network.eval()
        try:
            self._graft = make()
        except BaseException:
            restore(base.network, self._before)
            raise
        if not has_stems(base, self._graft):
            base.stems = None  # those of an earlier cell would count as this one's memory
        try:
            if told is not None:
                self.offset = np.array(told["offset"])
            elif prior is not None:
                with progress.stage("prior"):
                    self.offset = prior(self._graft)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.num_trainable = self._graft.num_trainable
        self.facts: dict[str, Any] = {"label_offset": self.offset.tolist()} if self.offset.any() else {}
        # Priors and selections are taken in full: to them a label's log-probability matters however small it is.
        self._pruning = None if task.prune_nats is None else Pruning(task.prune_nats, self.offset)
        if self._pruning is not None:
            self.facts["probability_bound"] = self._pruning.probability_bound

    def fit(
        self,
        train: Sequence[EncodedExample],
        selection: Sequence[EncodedExample],
        training: TrainingSpec | None,
        seed: int,
    ) -> Curve:
        """Trains the graft's parameters; without any, there is nothing to do."""
        if not self._graft.parameters or training is None:
            return Curve()
        return fit_graft(self._base, self._graft, train, selection, training, seed, self.offset)

    def predict(self, examples: Sequence[EncodedExample]) -> np.ndarray:
        """[examples, labels] float64 log-probabilities, normalised over the labels."""
        if not examples:
            return np.zeros((0, len(self._task.label_names)))
        if self._graft.is_empty:
            scores = bare_label_scores(self._base, examples, self._pruning)
        else:
            scores = label_scores(self._base, examples, self._graft, self._pruning)
        return normalise(scores + self.offset)

    def save(self, folder: Path) -> None:
        """The adapter in its own format, and beside it how its scores become labels."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write(folder)
        more = {"answers": list(self._task.answer_texts), "offset": self.offset.tolist()}
        write_scoring(folder, self._task.label_names, more)

    def __enter__(self) -> GraftTuned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._graft.undo()
        restore(self._base.network, self._before)


_State = tuple[dict[str, bool], dict[str, bool]]


def state_of(network: nn.Module) -> _State:
    """Which parameters want gradients, and which modules are in training mode (peft's unload forgets both)."""
    wants = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    return wants, {name: module.training for name, module in network.named_modules()}


def restore(network: nn.Module, before: _State) -> None:
    wants, modes = before
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(wants[name])
        parameter.grad = None
    for name, module in network.named_modules():
        module.training = modes[name]


def without_path(card: Path, base: Base) -> None:
    """Takes the base's folder on this machine out of the card that peft writes beside an adapter."""
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        for place in {str(base.network.name_or_path), str(getattr(base.network.config, "_name_or_path", ""))} - {""}:
            text = text.replace(place, str(base.facts["checkpoint"]))
        card.write_text(text, encoding="utf-8")


PRIOR_TEXTS = 256
"""Unlabelled texts that a calibrated start looks at."""

Start = Literal["calibrated", "raw"]


class Grafted(Defaults):
    """What the methods answer that train a graft."""

    name: ClassVar[str]
    recipe: ClassVar[Recipe]
    start: Start

    def check(self, given: Given) -> None:
        """Raises SpecError without labels, base or answers."""
        needs_labels(self.name, given)
        needs_answers(self.name, given)

    def sees(self) -> tuple[str, ...]:
        """A calibrated start looks at unlabelled texts."""
        return (LANGUAGE_MODEL, UNLABELLED) if self.start == "calibrated" else (LANGUAGE_MODEL,)

    def passes(self) -> float:
        """One forward, one backward to the activations."""
        return 2.0


def check_start(start: Start, training: Mapping[str, Any]) -> None:
    """Raises SpecError for a calibrated start with the loss over the vocabulary: that loss never sees the offset,
    so training would take the prior out a second time.
    """
    if start == "calibrated" and training["loss"] != "labels":
        raise SpecError(
            f'start = "calibrated" needs training = {{ loss = "labels" }}, got loss = "{training["loss"]}", '
            "which never sees the offset"
        )


def start_prior(start: Start, base: Base, task: Task, reads_graft: bool) -> Callable[[Graft], np.ndarray] | None:
    """What GraftTuned takes the labels' offset from; None for a raw start, with which a saved adapter gives the same
    scores anywhere. reads_graft: the graft changes scores before it is trained.
    """
    if start == "raw":
        return None
    return lambda graft: pool_prior(base, task, PRIOR_TEXTS, graft if reads_graft else None)


def pool_prior(base: Base, task: Task, size: int, graft: Graft | None = None) -> np.ndarray:
    """[labels] offset with which the first `size` unlabelled texts have no favourite label.

    graft: as it stands before training; None for the base alone, whose scores are remembered. Raises
    RunError when there are no unlabelled texts.
    """
    pool = [task.pool[index] for index in range(min(size, len(task.pool)))]
    if not pool:
        raise RunError(
            "there are no unlabelled training-side texts to take the label prior from: give the data a test side "
            "of its own (test_path or test_size), or do without calibration"
        )
    if graft is None:
        return batch_offset(normalise(bare_label_scores(base, pool)))
    return batch_offset(normalise(label_scores(base, pool, graft)))
