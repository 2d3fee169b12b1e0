"""Answer rows -> log-probabilities of the labels, one token or many; and the two losses over them.

A label's score is the sum of the log-probabilities of its answer tokens, each over the whole vocabulary.
Knows nothing of prompts, methods or files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from handful import progress
from handful.engine.base import Base
from handful.engine.budget import watching, within_memory
from handful.engine.forward import Batch, answer_logits, batches
from handful.engine.graft import Graft
from handful.engine.packing import Item
from handful.examples import EncodedExample


def batch_scores(base: Base, batch: Batch, graft: Graft, num_answers: int, saves_memory: bool = False) -> Tensor:
    """[items, answers] float32: log-probability of each answer's tokens after each prompt of the batch."""
    logits, index = answer_logits(base, batch, graft, saves_memory)
    tokens = torch.tensor([read.token for read in batch.reads], device=logits.device)
    log_probabilities = logits[index, tokens] - logits.logsumexp(dim=-1)[index]
    cell = torch.tensor([read.item * num_answers + read.answer for read in batch.reads], device=logits.device)
    flat = torch.zeros(len(batch.items) * num_answers, dtype=torch.float32, device=logits.device)
    return flat.index_add(0, cell, log_probabilities).reshape(-1, num_answers)


@torch.no_grad()
def label_scores(base: Base, examples: Sequence[EncodedExample], graft: Graft) -> np.ndarray:
    """[examples, labels] float64: log-probability of each label's answer, not normalised over the labels."""
    items = [Item(example.tokens, example.answers) for example in examples]
    num_labels = len(items[0].answers) if items else 0
    scores = np.zeros((len(items), num_labels))
    waiting = list(range(len(items)))

    def score_waiting() -> None:
        asked = list(waiting)
        left = [items[index] for index in asked]
        for batch in batches(base, left, graft.num_virtual, base.token_budget, num_edited=graft.last_rows):
            with watching(batch):
                part = batch_scores(base, batch, graft, num_labels)
            done = [asked[index] for index in batch.items]
            scores[done] = part.double().cpu().numpy()
            waiting[:] = sorted(set(waiting) - set(done))
            progress.amount("scored_tokens", batch.num_tokens)
            progress.advance(len(items) - len(waiting), len(items))

    within_memory(base, score_waiting, is_training=False)
    return scores


def bare_label_scores(base: Base, examples: Sequence[EncodedExample]) -> np.ndarray:
    """`label_scores` of the base alone, remembered by content: a study asks for the same ones in many cells."""
    content = hashlib.sha256(str(base.token_budget).encode())
    for example in examples:
        content.update(repr((example.tokens, example.answers)).encode())
    key = content.hexdigest()
    if key not in base.bare_scores:
        base.bare_scores[key] = label_scores(base, examples, Graft())
    return base.bare_scores[key].copy()  # type: ignore[no-any-return]


def normalise(scores: np.ndarray) -> np.ndarray:
    """[examples, labels] scores -> log-probabilities: each row's exponentials add up to one."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    normalised: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
