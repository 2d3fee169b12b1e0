"""An encoder's rows: token ids of texts -> one row a text, in padded batches. Knows nothing of methods or prompts.

Every token sees every other one, so nothing is shared between texts and none is packed with another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from handful import progress
from handful.engine.base import Base
from handful.engine.batching import BATCH_TOKENS, BATCH_TOKENS_CPU, Part, cut_by_width
from handful.engine.budget import watching, within_memory
from handful.engine.scoring import REMEMBERED_BYTES, content_of
from handful.examples import EncodedExample


def closed(base: Base, example: EncodedExample) -> tuple[int, ...]:
    """A text's tokens with the end token that encoders of this kind want."""
    return example.tokens + tuple(base.facts["end_tokens"])


def pooled_rows(base: Base, texts: Sequence[tuple[int, ...]]) -> Tensor:
    """[texts, width] float32: what the encoder gives for texts in one padded batch, by the base's own pooling."""
    longest = max(map(len, texts))
    token_ids = torch.full((len(texts), longest), int(base.facts["pad_token"]), dtype=torch.long)
    for row, tokens in enumerate(texts):
        token_ids[row, : len(tokens)] = torch.tensor(tokens)
    lengths = torch.tensor([len(tokens) for tokens in texts])
    is_text = (torch.arange(longest) < lengths[:, None]).to(base.device)
    hidden: Tensor = base.network(input_ids=token_ids.to(base.device), attention_mask=is_text.long()).last_hidden_state
    hidden = hidden.float()
    progress.amount("encoded_tokens", len(texts) * longest)
    if base.facts["pooling"] == "first":
        return hidden[:, 0]
    share = is_text.float() / is_text.float().sum(1, keepdim=True)
    return torch.einsum("bt,btw->bw", share, hidden)


def by_length(base: Base, texts: Sequence[tuple[int, ...]]) -> Iterator[Part]:
    """Texts of like length, batch by batch, each at most the token budget with its padding, or one text."""
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), index))
    fixed = BATCH_TOKENS_CPU if base.device.type == "cpu" else BATCH_TOKENS
    widths = [max(1, len(texts[index])) for index in order]
    for part in cut_by_width(widths, [1] * len(order), base.token_budget, fixed) if order else ():
        yield Part(tuple(order[part]), widths[part][-1] * len(order[part]))


def in_batches(
    base: Base, texts: Sequence[tuple[int, ...]], width: int, work: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """[texts, width] float64: `work` on the pooled rows of batch after batch. Raises RunError where memory runs out
    with one text.
    """
    found = np.zeros((len(texts), width))

    def run() -> None:
        done = 0
        for part in by_length(base, texts):
            with watching(part):
                rows = work(pooled_rows(base, [texts[index] for index in part.items]))
            found[list(part.items)] = rows.double().cpu().numpy()
            done += len(part.items)
            progress.advance(done, len(texts))

    within_memory(base, run, is_training=False)
    return found


@torch.no_grad()
def text_rows(base: Base, examples: Sequence[EncodedExample]) -> np.ndarray:
    """[examples, width] float32 of the bare encoder. Remembered by content, as the rows of a language model are."""
    key = content_of(base, examples, "text rows")
    if key in base.prompt_rows:
        progress.remembered(len(examples))
        return base.prompt_rows[key]  # type: ignore[no-any-return]
    texts = [closed(base, example) for example in examples]
    rows = in_batches(base, texts, int(base.facts["width"]), lambda pooled: pooled).astype(np.float32)
    if rows.nbytes + sum(known.nbytes for known in base.prompt_rows.values()) <= REMEMBERED_BYTES:
        base.prompt_rows[key] = rows
    return rows
