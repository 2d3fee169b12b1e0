"""How many tokens go through at once: measured beforehand, less when memory runs out all the same.

Knows nothing of prompts, methods or files.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from handful import progress
from handful.engine.base import Base
from handful.engine.batching import Batch, Part, batches
from handful.engine.forward import answer_logits
from handful.engine.graft import Graft
from handful.engine.memory import (
    available_bytes,
    give_back_freed_memory,
    is_out_of_memory,
    keep_freed_memory_where_plenty,
    kept_bytes,
)
from handful.engine.packing import Item
from handful.errors import RunError

LARGEST_BUDGET = {"cpu": 8192, "cuda": 32768}
"""Tokens in one forward pass, at most. On two cores 1,024 and 2,048 tokens scored 1.5 to 1.7 reviews/s at the 135M
shape, 4,096 2.2; at 15M 8,192 took 0.91 of the time of 4,096, and 16,384 no less. CUDA: a guess; packs of
8,192 and 16,384 were run on an H200."""

SMALLEST_BUDGET = 64

SHARE = 1 / 3
"""Of the available memory, what kept activations may take: about as much is made on the way back, and others on
the machine want theirs."""

_PROBE_TOKENS = 512

T = TypeVar("T")


class OutOfMemory(Exception):
    """Memory ran out in one forward pass or its way back; batch: with what inside."""

    def __init__(self, batch: Batch | Part) -> None:
        super().__init__(f"{len(batch.items)} texts, {batch.num_tokens} tokens")
        self.num_items, self.num_tokens = len(batch.items), batch.num_tokens
        self.is_packed = batch.segments is not None


def bytes_per_token(base: Base) -> float:
    """What training keeps of one token for the way back, measured once per base on two texts of random tokens.

    As the base stands: while its weights may be trained, which they may right after it is loaded, more is kept than an
    adapter on frozen ones needs, so the figure is on the safe side for every method.
    """
    if base.bytes_per_token is None:
        generator = torch.Generator().manual_seed(0)
        size = min(_PROBE_TOKENS, (base.context_length or _PROBE_TOKENS) - 1)
        tokens = torch.randint(0, int(base.facts["vocabulary"]), (size,), generator=generator).tolist()
        # A virtual token that wants a gradient stands for any method: all that comes after it is kept.
        virtual = torch.zeros(1, int(base.facts["width"]), device=base.device, requires_grad=True)
        graft = Graft(prefix_embeddings=lambda: virtual, num_virtual=1)

        def kept(length: int) -> int:
            (batch,) = batches(base, [Item(tuple(tokens[:length]), ((tokens[0],),))], 1, length + 1)
            return kept_bytes(lambda: answer_logits(base, batch, graft), list(base.network.parameters()))

        # The difference of two lengths leaves out what a pass keeps once, such as a head cast to float32.
        half = max(1, size // 2)
        base.bytes_per_token = (kept(size) - kept(half)) / (size - half) if size > half else float(kept(size))
    return base.bytes_per_token


def fitting_budget(base: Base) -> int:
    """The token budget for a base on its device as it stands: a power of two, at most LARGEST_BUDGET."""
    largest = LARGEST_BUDGET[base.device.type]
    if base.network.dtype == torch.float32:
        # On CUDA the attention of such a base is one mask over the pack.
        largest = min(largest, LARGEST_BUDGET["cpu"])
    budget = largest
    # Of layers on several devices each keeps its own part; about as much, since they are spread evenly.
    room = SHARE * len(base.devices) * min(map(available_bytes, base.devices))
    while budget > SMALLEST_BUDGET and budget * bytes_per_token(base) > room:
        budget //= 2
    # Asked again now that a base lies in it. A smaller budget alone is no reason: giving memory back after every step
    # costs up to half of the speed.
    keep_freed_memory_where_plenty()
    return budget


def saves_memory(base: Base, batch: Batch) -> bool:
    """Whether a batch's activations are to be computed again on the way back: only where it is one text, longer
    than the budget, that alone would not fit otherwise.
    """
    if len(batch.items) > 1 or batch.segments is None:
        return False
    if batch.num_tokens > base.token_budget and (base.recomputes is None or batch.num_tokens < base.recomputes):
        wanted = batch.num_tokens * bytes_per_token(base)
        if wanted > 2 * SHARE * available_bytes(base.device):
            _recompute_from(base, batch.num_tokens, "would not fit into memory")
            give_back_freed_memory()
    return base.recomputes is not None and batch.num_tokens >= base.recomputes


def _recompute_from(base: Base, num_tokens: int, why: str) -> None:
    base.recomputes = num_tokens
    progress.note(
        f"one text of {num_tokens} tokens alone {why}: the activations of texts of that length are computed again on "
        "the way back"
    )


@contextmanager
def watching(batch: Batch | Part) -> Iterator[None]:
    """Raises OutOfMemory where memory runs out inside."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(batch) from None


def within_memory(base: Base, work: Callable[[], T], is_training: bool) -> T:
    """What `work` gives; whenever OutOfMemory comes out of it, work again on a base that takes less.

    Raises RunError where nothing is left to give.
    """
    while True:
        try:
            return work()
        except OutOfMemory as failure:
            size = failure.num_items, failure.num_tokens, failure.is_packed
        # Outside the except block, which holds on to the failed pass.
        _give_way(base, *size, is_training)


def _give_way(base: Base, num_items: int, num_tokens: int, is_packed: bool, is_training: bool) -> None:
    """Halves the token budget of a base after memory ran out, or, where one text alone did not fit, has its
    activations computed again on the way back. Raises RunError when neither is left.
    """
    base.stems = None  # made again where they are wanted
    gc.collect()
    if base.device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        give_back_freed_memory()
    if num_items > 1 and base.token_budget > SMALLEST_BUDGET:
        budget = base.token_budget // 2
        while budget >= num_tokens and budget > SMALLEST_BUDGET:
            budget //= 2
        base.token_budget = base.most_tokens = budget
        progress.note(f"ran out of memory: token budget halved to {budget}")
    elif is_training and is_packed and (base.recomputes is None or num_tokens < base.recomputes):
        _recompute_from(base, num_tokens, "ran out of memory")
    else:
        texts = "one text" if num_items == 1 else f"{num_items} texts"
        raise RunError(
            f"out of memory on {base.device}, even with {texts} of {num_tokens} tokens in one forward pass: set a "
            "smaller max_tokens in the prompt, or take a smaller model"
        )
