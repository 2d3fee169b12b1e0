"""The arithmetic that scoring and LoRA training need, counted from the shape alone: what a FLOP share divides.

Counted is only what the answers depend on. The shared prefix runs once per pack, nothing is padded, attention
is the causal triangle, the vocabulary head sees answer rows, and so do the last layer's queries, output and
MLP. Each text has one answer row, so its answers are one token. Left out are norms, rotary embeddings, softmax,
the optimizer, and whatever an implementation does twice. A product [m, k] x [k, n] is 2 m k n. Pure numbers:
knows nothing of torch or of an engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama decoder in numbers; `heads` x `head_width` is the width of the queries."""

    layers: int
    width: int
    mlp_width: int
    heads: int
    key_value_heads: int
    head_width: int
    vocabulary: int

    @property
    def query_width(self) -> int:
        """Numbers per token in all query heads."""
        return self.heads * self.head_width

    @property
    def key_value_width(self) -> int:
        """Numbers per token in all key heads, and as many in the value heads."""
        return self.key_value_heads * self.head_width


@dataclass(frozen=True)
class Job:
    """Texts with one answer row each. own: tokens of each text after the shared prefix of `shared` tokens,
    which runs `packs` times.
    """

    own: Sequence[int]
    shared: int
    packs: int

    @property
    def tokens(self) -> int:
        """Tokens that must run."""
        return sum(self.own) + self.packs * self.shared

    @property
    def pairs(self) -> int:
        """(query, key) pairs of a layer in which every token asks."""
        prefix = self.packs * self.shared * (self.shared + 1) // 2
        return prefix + sum(count * self.shared + count * (count + 1) // 2 for count in self.own)

    @property
    def answer_pairs(self) -> int:
        """(query, key) pairs of the last layer, where only answer rows ask."""
        return sum(count + self.shared for count in self.own)


def fewest_packs(own: Sequence[int], shared: int, token_budget: int) -> int:
    """How many packs of `token_budget` tokens hold these texts at the least."""
    return max(1, math.ceil(sum(own) / max(1, token_budget - shared)))


def training_job(own: Sequence[int], shared: int, batch_size: int, token_budget: int) -> Job:
    """One epoch: the shared prefix runs at least once per optimizer step."""
    updates = math.ceil(len(own) / batch_size)
    return Job(own, shared, updates * fewest_packs([round(sum(own) / updates)], shared, token_budget))


def scoring_job(own: Sequence[int], shared: int, token_budget: int) -> Job:
    """Every text once, in as few packs as can be."""
    return Job(own, shared, fewest_packs(own, shared, token_budget))


def scoring_flops(shape: Shape, job: Job) -> float:
    """One forward pass over the job."""
    return sum(_layer(shape, job, is_last).forward for is_last in _layers(shape)) + _head(shape, job)


def training_flops(shape: Shape, job: Job, rank: int) -> float:
    """Forward and backward over the job, with LoRA of that rank on queries and values of a frozen base.

    Backward, a frozen matrix costs its input's gradient alone, attention four products for its two (none is
    recomputed) and an adapter twice its forward pass. Below the first layer nothing is trained: its projections
    cost nothing there, its attention no gradient of the keys, its adapters none of their input.
    """
    layers = [_layer(shape, job, is_last) for is_last in _layers(shape)]
    adapters = [_adapters(shape, job, is_last, rank) for is_last in _layers(shape)]
    forward = sum(layer.forward for layer in layers) + sum(adapters)
    backward = sum(layer.forward + layer.attention for layer in layers) + 2 * sum(adapters)
    saved = layers[0].projections + layers[0].attention / 2 + adapters[0] / 2
    return forward + backward - saved + 2 * _head(shape, job)


@dataclass(frozen=True)
class _Layer:
    projections: float
    others: float
    attention: float

    @property
    def forward(self) -> float:
        return self.projections + self.others + self.attention


def _layers(shape: Shape) -> list[bool]:
    """Per layer whether it is the last."""
    return [index == shape.layers - 1 for index in range(shape.layers)]


def _layer(shape: Shape, job: Job, is_last: bool) -> _Layer:
    rows = len(job.own) if is_last else job.tokens
    return _Layer(
        projections=2.0 * shape.width * (rows * shape.query_width + 2 * job.tokens * shape.key_value_width),
        others=2.0 * rows * shape.width * (shape.query_width + 3 * shape.mlp_width),
        attention=4.0 * shape.query_width * (job.answer_pairs if is_last else job.pairs),
    )


def _adapters(shape: Shape, job: Job, is_last: bool, rank: int) -> float:
    rows = len(job.own) if is_last else job.tokens
    queries = rows * (shape.width + shape.query_width)
    values = job.tokens * (shape.width + shape.key_value_width)
    return 2.0 * rank * (queries + values)


def _head(shape: Shape, job: Job) -> float:
    return 2.0 * len(job.own) * shape.width * shape.vocabulary
