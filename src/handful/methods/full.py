"""Full fine-tuning: every weight of the base is trained, and put back afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from handful.engine.base import Base
from handful.engine.graft import Graft, ParameterGroup
from handful.errors import RunError, SpecError
from handful.examples import Task
from handful.methods.grafted import Grafted, GraftTuned, Start, check_start, start_prior
from handful.methods.method import Given
from handful.training import Recipe

RECIPE = Recipe(learning_rate=2e-5, loss="labels", epochs=((200, 5), (1000, 4), (float("inf"), 2)))


@dataclass(frozen=True)
class Full(Grafted):
    """All weights, no adapter."""

    name: ClassVar[str] = "full"
    recipe: ClassVar[Recipe] = RECIPE

    start: Start = "raw"
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise SpecError(f"learning_rate must be above 0, got {self.learning_rate}")

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fills the recipe."""
        training = RECIPE.fill(cell, self.learning_rate)
        check_start(self.start, training)
        return {**cell, "method": {"name": self.name, "start": self.start,
                                   "learning_rate": training.pop("learning_rate")}, "training": training}  # fmt: skip

    def check(self, given: Given) -> None:
        """Raises SpecError too on a quantised base."""
        super().check(given)
        if given.is_quantised:
            raise SpecError(
                f"{self.name} trains every weight, which cannot be done on weights of 4 bits: leave the model's "
                'quantization out (or give "none"), or take a method that trains an adapter'
            )

    def passes(self) -> float:
        """Forward passes' worth of work per training token: forward, activations, weights."""
        return 3.0

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> GraftTuned:
        """Trains the base itself; a copy of its weights restores it. Raises RunError where the base is spread."""
        if base.placement.is_spread:
            where = base.placement.why.partition(":")[0]
            raise RunError(
                f"{self.name} trains every weight, and this base is {where}: sharded training is not there yet. "
                'Take a smaller base with placement = "single", or a method that trains an adapter'
            )

        def make() -> Graft:
            network = base.network
            kept: dict[str, Tensor] = {name: p.detach().clone() for name, p in network.named_parameters()}

            def undo() -> None:
                with torch.no_grad():
                    for name, parameter in network.named_parameters():
                        parameter.copy_(kept[name])

            if saved is not None:
                _load(network, saved)
            trained = [parameter.requires_grad_(True) for parameter in network.parameters()]
            return Graft([ParameterGroup(trained, self.learning_rate or RECIPE.learning_rate)], undo=undo)

        def write(folder: Path) -> None:
            base.network.save_pretrained(folder)
            base.tokenizer.save_pretrained(folder)

        return GraftTuned(base, task, make, write, start_prior(self.start, base, task, reads_graft=False), saved)


def _load(network: torch.nn.Module, folder: Path) -> None:
    """Reads weights that `save` wrote into the network at hand."""
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        weights |= load_file(path)
    own = dict(network.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            if name in own:
                own[name].copy_(tensor)
