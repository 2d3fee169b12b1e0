"""A masked-language-model encoder with a classification head (Devlin et al. 2018): what is fine-tuned most often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from handful.engine.base import Base
from handful.engine.batching import Part
from handful.engine.budget import watching, within_memory
from handful.engine.graft import ParameterGroup
from handful.engine.pooling import by_length, closed, in_batches, pooled_rows, text_rows
from handful.errors import SpecError
from handful.examples import EncodedExample, Task
from handful.methods.encoded import encoder_cell, shown_name
from handful.methods.grafted import restore, state_of
from handful.methods.method import ENCODER, Defaults, Given, needs_labels
from handful.methods.saved import read_scoring, write_scoring
from handful.training import Curve, Recipe, TrainingSpec, optimise

ALL = Recipe(learning_rate=5e-5, loss="labels", epochs=((200, 10), (1000, 6), (float("inf"), 3)))
HEAD = Recipe(learning_rate=1e-2, loss="labels", epochs=((200, 30), (1000, 20), (float("inf"), 10)))
"""Usual values; not searched for."""

HEAD_FILE = "head.safetensors"
HEAD_SPREAD = 0.02
"""Standard deviation of the head's first weights, BERT's."""


@dataclass(frozen=True)
class Encoder(Defaults):
    """A linear head on the pooled row, trained with the encoder or on it as it is.

    checkpoint: a folder or a hub name; left out, the study's model where that is an encoder, else the family's default.
    trains: "all" weights or the "head" alone. dropout: on the pooled row; the encoder's own is as configured.
    """

    name: ClassVar[str] = "encoder"

    checkpoint: str | None = None
    trains: Literal["all", "head"] = "all"
    dropout: float = 0.1
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be from 0 to below 1, got {self.dropout}")
        if self.learning_rate is not None and self.learning_rate <= 0:
            problems.append(f"learning_rate must be above 0, got {self.learning_rate}")
        if problems:
            raise SpecError(problems)

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Reads the text alone, through an encoder; fills the recipe."""
        training = self._recipe().fill(cell, self.learning_rate)
        training["loss"] = "labels"  # it has no answers
        rate = training.pop("learning_rate")
        knobs = {"name": self.name, "trains": self.trains, "dropout": float(self.dropout), "learning_rate": rate}
        if self.checkpoint is not None:
            knobs["checkpoint"] = shown_name(self.checkpoint)
        return {**encoder_cell(cell, self.checkpoint), "method": knobs, "training": training}

    def check(self, given: Given) -> None:
        """Raises SpecError without labels."""
        needs_labels(self.name, given)

    def sees(self) -> tuple[str, ...]:
        """What it may look at beside the labelled texts."""
        return (ENCODER,)

    def passes(self) -> float:
        """Forward passes' worth of work per training token: forward, activations, weights; the head alone takes one
        forward pass over each text, whatever the epochs.
        """
        return 3.0 if self.trains == "all" else 1.0

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> EncoderTuned:
        """Trains the encoder itself; a copy of its weights restores it."""
        return EncoderTuned(self, base, task, seed, saved)

    def _recipe(self) -> Recipe:
        return ALL if self.trains == "all" else HEAD

    def rate(self) -> float:
        """The learning rate, from the recipe where none is named."""
        return self.learning_rate or self._recipe().learning_rate


class EncoderTuned:
    """An encoder with a head. Leaving it restores the encoder's weights, requires_grad and mode."""

    is_adapter = False

    def __init__(self, method: Encoder, base: Base, task: Task, seed: int, saved: Path | None) -> None:
        if saved is not None:
            read_scoring(saved, task.label_names)
        self._method, self._base, self._task = method, base, task
        self.facts: Mapping[str, Any] = {}
        self._trains_all = method.trains == "all"
        self._before = state_of(base.network)
        base.network.eval()
        self._kept: dict[str, Tensor] = {}
        self._head = nn.Linear(int(base.facts["width"]), len(task.label_names))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self._head.weight.normal_(std=HEAD_SPREAD, generator=generator)
            self._head.bias.zero_()
        self._drop = nn.Dropout(method.dropout)
        if self._trains_all:
            self._kept = {name: p.detach().clone() for name, p in base.network.named_parameters()}
        for name, parameter in base.network.named_parameters():
            parameter.requires_grad_(self._trains_all and not name.startswith("pooler."))  # which is not read
        if saved is not None:
            self._load(saved)
        self._head.to(base.device)
        self._train(False)
        self.num_trainable = sum(parameter.numel() for parameter in self._trained())

    def fit(
        self,
        train: Sequence[EncodedExample],
        selection: Sequence[EncodedExample],
        training: TrainingSpec | None,
        seed: int,
    ) -> Curve:
        """Cross-entropy over the labels."""
        if training is None:
            return Curve()
        rows = None if self._trains_all else torch.from_numpy(text_rows(self._base, train)).to(self._base.device)
        texts = [closed(self._base, example) for example in train]
        labels = torch.tensor([example.label for example in train], device=self._base.device)

        def step(members: Sequence[int], dropout_seed: int) -> float:
            inside = list(members)
            chosen = [texts[index] for index in inside]
            self._train(True)
            try:
                return within_memory(
                    self._base,
                    lambda: self._step(chosen, labels[inside], None if rows is None else rows[inside], dropout_seed),
                    is_training=True,
                )
            finally:
                self._train(False)

        return optimise(
            [ParameterGroup(self._trained(), self._method.rate())], len(train), step,
            [example.label for example in selection], lambda: self.predict(selection), training, seed,
            self.predict,
        )  # fmt: skip

    def _step(
        self, texts: Sequence[tuple[int, ...]], labels: Tensor, rows: Tensor | None, dropout_seed: int
    ) -> float:
        """Adds the gradient of the mean loss, in passes of the token budget; gives the loss. rows: pooled, where the
        encoder is not trained.
        """
        torch.manual_seed(dropout_seed)
        for parameter in self._trained():
            parameter.grad = None
        parts = by_length(self._base, texts) if rows is None else [Part(tuple(range(len(texts))), 0)]
        total = 0.0
        for part in parts:
            inside = list(part.items)
            with watching(part):
                pooled = rows[inside] if rows is not None else pooled_rows(self._base, [texts[i] for i in inside])
                scores = self._head(self._drop(pooled))
                loss = nn.functional.cross_entropy(scores, labels[inside], reduction="sum") / len(texts)
                loss.backward()
            total += float(loss.detach())
        return total

    @torch.no_grad()
    def predict(self, examples: Sequence[EncodedExample]) -> np.ndarray:
        """[examples, labels] float64 log-probabilities."""
        if not self._trains_all:
            rows = torch.from_numpy(text_rows(self._base, examples)).to(self._base.device)
            return self._log_probabilities(rows).cpu().numpy()  # type: ignore[no-any-return]
        texts = [closed(self._base, example) for example in examples]
        return in_batches(self._base, texts, len(self._task.label_names), self._log_probabilities)

    def _log_probabilities(self, rows: Tensor) -> Tensor:
        logarithms: Tensor = self._head(rows).double().log_softmax(-1)
        return logarithms

    def _trained(self) -> list[Tensor]:
        encoder = [p for p in self._base.network.parameters() if p.requires_grad] if self._trains_all else []
        return [*encoder, *self._head.parameters()]

    def _train(self, on: bool) -> None:
        self._drop.train(on)
        if self._trains_all:
            self._base.network.train(on)

    def save(self, folder: Path) -> None:
        """The head; and the encoder as transformers saves one, where it was trained."""
        from safetensors.torch import save_file

        more = {"trains": self._method.trains, "pooling": self._base.facts["pooling"]}
        write_scoring(folder, self._task.label_names, more)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self._head.state_dict().items()}
        save_file(tensors, folder / HEAD_FILE)
        if self._trains_all:
            self._base.network.save_pretrained(folder)
            self._base.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def _load(self, folder: Path) -> None:
        from safetensors.torch import load_file

        self._head.load_state_dict(load_file(folder / HEAD_FILE))
        if self._trains_all:
            own = dict(self._base.network.named_parameters())
            for path in sorted(folder.glob("*.safetensors")):
                for name, tensor in load_file(path).items():
                    if path.name != HEAD_FILE and name in own:
                        own[name].copy_(tensor)

    def __enter__(self) -> EncoderTuned:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with torch.no_grad():
            for name, parameter in self._base.network.named_parameters():
                if name in self._kept:
                    parameter.copy_(self._kept[name])
        restore(self._base.network, self._before)
