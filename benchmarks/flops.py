"""How many FLOPs a job needs, whoever does it: no padding, nothing twice, nothing that nobody reads.

Counted are matrix products, two FLOPs per multiplication. The instruction that all prompts share runs once per
pack. A token attends to itself and to what stands before it, not to the whole square. Of the last layer, keys and
values are needed of every token, and all else at the row that predicts the answer; the vocabulary head at that row
alone. The answer is one token. Of a frozen base no weight needs a gradient, so its backward pass costs its forward
pass once more; attention's costs twice its own (recomputing the scores is one way of doing it, not a need). Below
the first adapted layer's products nothing flows. Left out, as small: norms, rotations, softmax, embeddings.

Needs nothing but Python.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobs import Shape

TOKENS_PER_PACK = 4096
"""What a scoring pack is taken to hold; a smaller one would repeat the shared tokens more often."""


@dataclass(frozen=True)
class Pack:
    """Texts that run together. shared: tokens that they all begin with; own: the further tokens of each."""

    shared: int
    own: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """All that run."""
        return self.shared + sum(self.own)

    @property
    def pairs(self) -> float:
        """(token, token it sees) in a whole layer."""
        return _triangle(self.shared) + sum(own * self.shared + _triangle(own) for own in self.own)

    @property
    def last_pairs(self) -> int:
        """The same for the answer rows alone."""
        return sum(self.shared + own for own in self.own)


def _triangle(number: int) -> float:
    return number * (number + 1) / 2


@dataclass(frozen=True)
class Layer:
    """Forward FLOPs of one layer by part. inner: queries' own product; outer: output and MLP."""

    keys_values: float
    inner: float
    outer: float
    attention: float
    adapters: float

    @property
    def forward(self) -> float:
        """All parts."""
        return self.keys_values + self.inner + self.outer + self.attention + self.adapters

    def backward(self, is_first: bool) -> float:
        """To what trains and to the layer below. In the first layer nothing below and no key needs a gradient."""
        if is_first:
            return self.outer + 1.5 * self.attention + 1.5 * self.adapters
        return self.keys_values + self.inner + self.outer + 2 * self.attention + 2 * self.adapters


def layers(shape: Shape, pack: Pack, rank: int) -> list[Layer]:
    """Of a pack, from the first to the last. rank: of LoRA on queries and values, 0 for none."""
    whole = _layer(shape, pack.tokens, pack.tokens, pack.pairs, rank)
    last = _layer(shape, pack.tokens, len(pack.own), pack.last_pairs, rank)
    return [whole] * (shape.layers - 1) + [last]


def _layer(shape: Shape, tokens: int, rows: int, pairs: float, rank: int) -> Layer:
    kv_width = shape.width // shape.heads * shape.kv_heads
    return Layer(
        keys_values=2 * tokens * 2 * shape.width * kv_width,
        inner=2 * rows * shape.width * shape.width,
        outer=2 * rows * (shape.width * shape.width + 3 * shape.width * shape.mlp),
        attention=4 * pairs * shape.width,
        adapters=2 * rank * (rows * 2 * shape.width + tokens * (shape.width + kv_width)),
    )


def head(shape: Shape, pack: Pack) -> float:
    """The vocabulary at every answer row, one way."""
    return 2 * len(pack.own) * shape.width * shape.vocabulary


def scoring_flops(shape: Shape, lengths: Sequence[int], shared: int) -> float:
    """Of scoring prompts of these `lengths`, of which the first `shared` tokens are the same."""
    return sum(
        head(shape, pack) + sum(layer.forward for layer in layers(shape, pack, rank=0))
        for pack in scoring_packs(lengths, shared)
    )


def scoring_packs(lengths: Iterable[int], shared: int) -> list[Pack]:
    """The prompts in their order, TOKENS_PER_PACK at a time."""
    packs: list[Pack] = []
    own: list[int] = []
    for length in lengths:
        if own and shared + sum(own) + length - shared > TOKENS_PER_PACK:
            packs.append(Pack(shared, tuple(own)))
            own = []
        own.append(length - shared)
    return [*packs, Pack(shared, tuple(own))] if own else packs


def training_flops(shape: Shape, lengths: Sequence[int], shared: int, batch_size: int, rank: int) -> float:
    """Of one epoch of LoRA on queries and values; each optimizer step is one pack."""
    total = 0.0
    for step in range(math.ceil(len(lengths) / batch_size)):
        texts = lengths[step * batch_size : (step + 1) * batch_size]
        pack = Pack(shared, tuple(length - shared for length in texts))
        total += 2 * head(shape, pack)
        for number, layer in enumerate(layers(shape, pack, rank)):
            total += layer.forward + layer.backward(is_first=number == 0)
    return total
