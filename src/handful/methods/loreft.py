"""LoReFT (Wu et al. 2024, arXiv 2404.03592): h + R^T (W h + b - R h) on some rows of the prompt, in all layers or some.

R has orthonormal rows, so that the edit moves h within their span alone: to W h + b, whatever R h was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from handful.engine.base import Base
from handful.engine.graft import Graft, ParameterGroup
from handful.errors import RunError, SpecError
from handful.examples import Task
from handful.methods.grafted import Grafted, GraftTuned, Start, check_start, start_prior
from handful.methods.method import Given
from handful.methods.saved import read_json
from handful.training import Recipe

RECIPE = Recipe(
    learning_rate=4e-3, loss="labels", epochs=((200, 5), (1000, 4), (float("inf"), 2)),
    learning_rates=((50, 4e-3), (float("inf"), 1.6e-2)),
)  # fmt: skip

FORMAT = 1
WEIGHTS_FILE, SHAPE_FILE = "loreft.safetensors", "loreft.json"


@dataclass(frozen=True)
class LoReFT(Grafted):
    """Trained edits of hidden rows, the base frozen.

    layers: "all", or numbers from 0. first, last: how many rows at the beginning and at the end of each prompt are
    edited, after a layer; a row that is both counts as first, answers are never edited. tied: one edit for both,
    else one each. dropout: of what is added, while training. init: "identity" starts with W = R and b = 0, which
    changes nothing yet; "random" draws W as a linear map's, as the paper's own code does.
    """

    name: ClassVar[str] = "loreft"
    recipe: ClassVar[Recipe] = RECIPE

    rank: int = 4
    layers: Literal["all"] | tuple[int, ...] = "all"
    first: int = 0
    last: int = 4
    tied: bool = False
    dropout: float = 0.0
    init: Literal["identity", "random"] = "identity"
    start: Start = "raw"
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.rank < 1:
            problems.append(f"rank must be at least 1, got {self.rank}")
        if self.layers != "all" and (min(self.layers, default=-1) < 0 or len(set(self.layers)) < len(self.layers)):
            problems.append(
                f'layers must be "all" or different numbers from 0, such as layers = [0, 2], got {list(self.layers)}'
            )
        if min(self.first, self.last) < 0 or self.first + self.last < 1:
            problems.append(
                f"first and last say how many rows of a prompt are edited and must not be negative, nor both 0; got "
                f"first = {self.first}, last = {self.last}"
            )
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout must be from 0 to below 1, got {self.dropout}")
        if self.learning_rate is not None and self.learning_rate <= 0:
            problems.append(f"learning_rate must be above 0, got {self.learning_rate}")
        if problems:
            raise SpecError(problems)

    def resolve(self, cell: Mapping[str, Any]) -> Mapping[str, Any]:
        """Fills the recipe."""
        training = RECIPE.fill(cell, self.learning_rate)
        check_start(self.start, training)
        knobs = {
            "name": self.name, "rank": self.rank,
            "layers": self.layers if self.layers == "all" else sorted(self.layers),
            "first": self.first, "last": self.last, "tied": self._is_tied(), "dropout": float(self.dropout),
            "init": self.init, "start": self.start, "learning_rate": training.pop("learning_rate"),
        }  # fmt: skip
        return {**cell, "method": knobs, "training": training}

    def check(self, given: Given) -> None:
        """Raises SpecError without labels, base or answers, and for layers or a rank that the base does not have."""
        super().check(given)
        problems = []
        if self.layers != "all" and given.num_layers is not None and max(self.layers) >= given.num_layers:
            problems.append(
                f"layers names {max(self.layers)}, and this base has {given.num_layers}: give numbers from 0 to "
                f"{given.num_layers - 1}"
            )
        if given.width is not None and self.rank > given.width:
            problems.append(f"rank = {self.rank} is more than this base's width of {given.width}: give a smaller one")
        if problems:
            raise SpecError(problems)

    def attach(self, base: Base, task: Task, seed: int, saved: Path | None = None) -> GraftTuned:
        """Edits beside the base; the base itself is not touched. Raises RunError for layers that it lacks, and for a
        saved folder of another shape.
        """
        placed: list[_Edits] = []

        def make() -> Graft:
            base.network.requires_grad_(False)  # given back on leaving
            edits = _Edits(self._sites(base), self.rank, int(base.facts["width"]), self.dropout)
            if saved is None:
                edits.draw(seed, self.init)
            else:
                edits.load(saved, self._shape(base))
            edits.to(base.device).eval()
            placed.append(edits)

            def switch(on: bool) -> None:
                edits.train(on)

            return Graft(
                parameters=[ParameterGroup(list(edits.parameters()), self.learning_rate or RECIPE.learning_rate)],
                edit=edits,
                first_rows=self.first,
                last_rows=self.last,
                train_mode=switch,
            )

        def write(folder: Path) -> None:
            placed[0].save(folder, self._shape(base))

        prior = start_prior(self.start, base, task, reads_graft=self.init != "identity")
        return GraftTuned(base, task, make, write, prior, saved, is_adapter=True)

    def _is_tied(self) -> bool:
        """With rows at one end alone there is nothing to tie."""
        return self.tied and self.first > 0 and self.last > 0

    def _sites(self, base: Base) -> dict[tuple[int, bool], int]:
        """Which edit (layer, whether last rows) gets."""
        count = int(base.facts["num_layers"])
        layers = range(count) if self.layers == "all" else sorted(self.layers)
        if max(layers) >= count:
            raise RunError(f"layers names {max(layers)}, this base has {count}: give numbers from 0 to {count - 1}")
        ends = [is_last for is_last, rows in ((False, self.first), (True, self.last)) if rows]
        if self._is_tied():
            return {(layer, is_last): place for place, layer in enumerate(layers) for is_last in ends}
        pairs = [(layer, is_last) for layer in layers for is_last in ends]
        return {pair: place for place, pair in enumerate(pairs)}

    def _shape(self, base: Base) -> dict[str, Any]:
        """What a saved folder must agree in."""
        return {
            "format": FORMAT, "rank": self.rank, "width": int(base.facts["width"]),
            "layers": sorted({layer for layer, _ in self._sites(base)}),
            "first": self.first, "last": self.last, "tied": self._is_tied(),
        }  # fmt: skip


def orthonormal(basis: Tensor) -> Tensor:
    """[..., rank, width] -> the same, orthonormal rows of the same span: L^-1 A, where A A^T = L L^T.

    Gram and Schmidt's result by Cholesky's way, in float64 so that it is orthonormal to float32's rounding; products
    of rank x width cost next to nothing beside a forward pass. Raises RunError where the rows are dependent.
    """
    wide = basis.double()
    try:
        lower = torch.linalg.cholesky(wide @ wide.mT)
    except torch.linalg.LinAlgError:
        raise RunError(
            "training diverged: the rows of LoReFT's R are no longer independent. Lower the learning rate"
        ) from None
    return torch.linalg.solve_triangular(lower, wide, upper=False).to(basis.dtype)


class _Edits(nn.Module):
    """All edits of a base, float32. basis [sites, rank, width] gives R by `orthonormal`, weight alike is W, bias
    [sites, rank] is b. sites: which of them (layer, whether last rows) gets; others are left as they are.
    """

    def __init__(self, sites: Mapping[tuple[int, bool], int], rank: int, width: int, dropout: float) -> None:
        super().__init__()
        if rank > width:
            raise RunError(f"rank = {rank} is more than the base's width of {width}: give a smaller rank")
        count = 1 + max(sites.values())
        self._sites = dict(sites)
        self.basis = nn.Parameter(torch.zeros(count, rank, width))
        self.weight = nn.Parameter(torch.zeros(count, rank, width))
        self.bias = nn.Parameter(torch.zeros(count, rank))
        self._drop = nn.Dropout(dropout)

    @torch.no_grad()
    def draw(self, seed: int, init: str) -> None:
        """A random R; W = R and b = 0, or both uniform within 1 / sqrt(width)."""
        generator = torch.Generator().manual_seed(seed)
        self.basis.copy_(orthonormal(torch.randn(self.basis.shape, generator=generator)))
        if init == "identity":
            self.weight.copy_(self.basis)
            return
        bound = self.basis.shape[-1] ** -0.5
        for tensor in (self.weight, self.bias):
            tensor.uniform_(-bound, bound, generator=generator)

    def forward(self, layer: int, rows: Tensor, is_last: bool) -> Tensor:
        """[n, width] -> the same; float32 inside."""
        site = self._sites.get((layer, is_last))
        if site is None:
            return rows
        h, R = rows.to(self.basis), orthonormal(self.basis[site])
        W, b = self.weight[site], self.bias[site]
        added = (h @ W.T + b - h @ R.T) @ R
        return (h + self._drop(added)).to(rows)

    def save(self, folder: Path, shape: Mapping[str, Any]) -> None:
        """R itself, W and b, and what they fit."""
        from safetensors.torch import save_file

        tensors = {"R": orthonormal(self.basis.detach()), "W": self.weight.detach(), "b": self.bias.detach()}
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
        (folder / SHAPE_FILE).write_text(json.dumps(shape, indent=1) + "\n", encoding="utf-8")

    @torch.no_grad()
    def load(self, folder: Path, shape: Mapping[str, Any]) -> None:
        """The inverse of save. Raises RunError when the folder was saved with other knobs or from another base."""
        from safetensors.torch import load_file

        told = read_json(folder, SHAPE_FILE)
        other = [name for name, value in shape.items() if told.get(name) != value]
        if other:
            found = ", ".join(f"{name} {told.get(name)} instead of {shape[name]}" for name in other)
            raise RunError(f"{folder.name} holds another LoReFT: {found}. Name its own knobs and base")
        tensors = load_file(folder / WEIGHTS_FILE)
        for name, parameter in (("R", self.basis), ("W", self.weight), ("b", self.bias)):
            parameter.copy_(tensors[name])
