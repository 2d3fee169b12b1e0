"""All that a forward pass must know of a method. Knows no method by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from handful.engine.kernels import LowRank


def _nothing() -> None:
    return None


@dataclass
class ParameterGroup:
    """Tensors that share a learning rate."""

    tensors: Sequence[Tensor]
    learning_rate: float


@dataclass(frozen=True)
class Added:
    """A module that stands in the base for `frozen`, a linear map, and adds `low_rank` to it."""

    frozen: nn.Linear
    low_rank: LowRank


@dataclass
class Graft:
    """What a method adds to a frozen base.

    parameters: what is trained; empty when nothing is. prefix_embeddings: gives [virtual, width] vectors
    that stand before every prompt (prompt tuning); `num_virtual` is their number, and the positions of all
    tokens shift by it. added: what stands in the base in place of a linear map and could be run as a module
    too; known here, the fast path runs it as one. edit: (layer, rows [n, width], whether they are last rows) ->
    rows, applied to what a layer gives for the first `first_rows` and the last `last_rows` tokens of each
    prompt; a token that is both counts as first, virtual tokens and answers as neither.
    train_mode(on): switches the method's own dropout; the base stays in evaluation mode.
    undo: takes the method off the base again.
    """

    parameters: list[ParameterGroup] = field(default_factory=list)
    prefix_embeddings: Callable[[], Tensor] | None = None
    num_virtual: int = 0
    added: Mapping[nn.Module, Added] = field(default_factory=dict)
    edit: Callable[[int, Tensor, bool], Tensor] | None = None
    first_rows: int = 0
    last_rows: int = 0
    train_mode: Callable[[bool], None] = lambda on: None
    undo: Callable[[], None] = _nothing

    @property
    def num_trainable(self) -> int:
        """How many numbers are trained."""
        return sum(tensor.numel() for group in self.parameters for tensor in group.tensors)

    @property
    def is_empty(self) -> bool:
        """Whether the base answers as it would alone."""
        changes = (self.parameters, self.prefix_embeddings, self.added, self.edit)
        return not any(changes)

    @property
    def is_training(self) -> bool:
        """Whether the method's own dropout is on."""
        return self._training

    def train(self, on: bool) -> None:
        """Switches the method's own dropout."""
        self._training = on
        self.train_mode(on)

    _training: bool = False
