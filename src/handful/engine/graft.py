"""All that a forward pass must know of a method. Knows no method by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor


def _nothing() -> None:
    return None


@dataclass
class ParameterGroup:
    """Tensors that share a learning rate."""

    tensors: Sequence[Tensor]
    learning_rate: float


@dataclass
class Graft:
    """What a method adds to a frozen base.

    parameters: what is trained; empty when nothing is. prefix_embeddings: gives [virtual, width] vectors
    that stand before every prompt (prompt tuning); `num_virtual` is their number, and the positions of all
    tokens shift by it. train_mode(on): switches the method's own dropout; the base stays in evaluation mode.
    undo: takes the method off the base again.
    """

    parameters: list[ParameterGroup] = field(default_factory=list)
    prefix_embeddings: Callable[[], Tensor] | None = None
    num_virtual: int = 0
    train_mode: Callable[[bool], None] = lambda on: None
    undo: Callable[[], None] = _nothing

    @property
    def num_trainable(self) -> int:
        """How many numbers are trained."""
        return sum(tensor.numel() for group in self.parameters for tensor in group.tensors)
