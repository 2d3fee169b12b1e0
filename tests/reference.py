"""Plain references for the engine: transformers and peft as they are, eager attention, one text and answer at a time.

Nothing here packs, pads, cuts or shares, so that what it gives is what the engine owes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from handful.engine.batching import Batch
from handful.engine.graft import Graft


def eager(model: nn.Module) -> Any:
    """The model itself, with the attention that transformers writes out."""
    model.config._attn_implementation = "eager"  # type: ignore[union-attr]
    return model


def answer_score(model: Any, prompt: Sequence[int], answer: Sequence[int], graft: Graft | None = None) -> Tensor:
    """Log-probability of the answer's tokens after the prompt, from one row of the whole model.

    graft: its virtual tokens and its edit are put on by hand; what stands in the model already is not its business.
    """
    graft = graft or Graft()
    ids = torch.tensor([[*prompt, *answer]])
    embedded = model.get_input_embeddings()(ids)
    if graft.prefix_embeddings is not None:
        embedded = torch.cat([graft.prefix_embeddings()[None], embedded], dim=1)
    first = min(graft.first_rows, len(prompt))
    last = min(graft.last_rows, len(prompt) - first)
    begin, end = graft.num_virtual, graft.num_virtual + len(prompt)
    with edited(model, graft.edit, (begin, begin + first), (end - last, end)):
        logits = model(inputs_embeds=embedded, use_cache=False).logits[0].log_softmax(-1)
    return torch.stack([logits[end - 1 + step, token] for step, token in enumerate(answer)]).sum()


@contextmanager
def edited(
    model: Any, edit: Callable[[int, Tensor, bool], Tensor] | None, first: tuple[int, int], last: tuple[int, int]
) -> Iterator[None]:
    """Each decoder layer's output with `edit` on these rows of its only sequence."""
    handles = []
    decoder = model.get_decoder()
    layers = next(m for m in decoder.modules() if isinstance(m, nn.ModuleList))

    def hook(number: int) -> Any:
        def change(module: nn.Module, inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            rows = list(hidden[0])
            for is_last, (start, stop) in ((False, first), (True, last)):
                for row in range(start, stop):
                    rows[row] = edit(number, hidden[0, row : row + 1], is_last)[0]
            hidden = torch.stack(rows)[None]
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return change

    if edit is not None:
        handles = [layer.register_forward_hook(hook(number)) for number, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def path_rows(batch: Batch, item: int, answer: int) -> list[int]:
    """Rows of a pack from its root down to the one that predicts the last token of an answer."""
    assert batch.segments is not None
    segments = batch.segments.segments
    row = max(read.row for read in batch.reads if (read.item, read.answer) == (item, answer))
    number = next(s.number for s in segments if s.start <= row < s.stop)
    rows = list(range(segments[number].start, row + 1))
    while (number := segments[number].parent) >= 0:
        rows = [*range(segments[number].start, segments[number].stop), *rows]
    return rows


def orthonormal_rows(basis: Any) -> Any:
    """[rank, width] float64 -> orthonormal rows of the same span by Gram and Schmidt, written out."""
    rows: list[Any] = []
    for row in basis:
        for earlier in rows:
            row = row - (row @ earlier) * earlier
        rows.append(row / np.sqrt(row @ row))
    return np.stack(rows)


def loreft_edit(h: Any, basis: Any, weight: Any, bias: Any) -> Any:
    """Equation 3 of Wu et al. 2024 on each row of h [n, width], float64: h + R^T (W h + b - R h)."""
    R = orthonormal_rows(basis)
    return np.stack([row + R.T @ (weight @ row + bias - R @ row) for row in h])
