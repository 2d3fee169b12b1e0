"""Answer rows -> log-probabilities of the labels, one token or many; and the two losses over them.

A label's score is the sum of the log-probabilities of its answer tokens, each over the whole vocabulary.
Knows nothing of prompts, methods or files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from handful import progress
from handful.engine.base import Base
from handful.engine.batching import Batch, batches, by_path, padded_batches
from handful.engine.budget import watching, within_memory
from handful.engine.forward import answer_rows, read_log_probabilities
from handful.engine.graft import Graft
from handful.engine.packing import Item
from handful.engine.pruning import Pruning, pruned_scores
from handful.engine.stems import in_parts, stem_scores, worth_scoring_on_stems
from handful.examples import EncodedExample


def batch_scores(base: Base, batch: Batch, graft: Graft, num_answers: int, saves_memory: bool = False) -> Tensor:
    """[items, answers] float32: log-probability of each answer's tokens after each prompt of the batch."""
    log_probabilities = read_log_probabilities(base, batch, graft, saves_memory)
    cell = torch.tensor([read.item * num_answers + read.answer for read in batch.reads], device=base.device)
    flat = torch.zeros(len(batch.items) * num_answers, dtype=torch.float32, device=base.device)
    return flat.index_add(0, cell, log_probabilities).reshape(-1, num_answers)


@torch.no_grad()
def label_scores(
    base: Base, examples: Sequence[EncodedExample], graft: Graft, pruning: Pruning | None = None
) -> np.ndarray:
    """[examples, labels] float64: log-probability of each label's answer, not normalised over the labels.

    pruning: which labels need not be finished; the score of such a one is an upper bound (engine/pruning.py). Texts
    on the plain path are scored in full: without kept keys each round would run its prompts again.
    """
    items = [Item(example.tokens, example.answers) for example in examples]
    scores = np.zeros((len(items), len(items[0].answers) if items else 0))
    waiting = list(range(len(items)))

    def score_waiting() -> None:
        asked = list(waiting)
        for members, part in _scored(base, [items[index] for index in asked], graft, pruning):
            done = [asked[index] for index in members]
            scores[done] = part
            waiting[:] = sorted(set(waiting) - set(done))
            progress.advance(len(items) - len(waiting), len(items))

    within_memory(base, score_waiting, is_training=False)
    return scores


def _scored(
    base: Base, items: Sequence[Item], graft: Graft, pruning: Pruning | None
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """(items, their scores [items, labels]) batch by batch. Raises OutOfMemory."""
    budget = base.token_budget
    several = {answers for answers in {item.answers for item in items} if max(map(len, answers), default=0) > 1}
    if pruning is None or not several:
        chosen = worth_scoring_on_stems(base, items, graft)
        for part in in_parts(items, chosen, budget):
            with watching(part):
                scores = stem_scores(base, [items[index] for index in part.items], graft, len(items[0].answers))
            progress.amount("scored_tokens", part.num_tokens)
            yield part.items, scores.double().cpu().numpy()
        others = sorted(set(range(len(items))) - set(chosen))
        todo = batches(base, items, graft.num_virtual, budget, num_edited=graft.last_rows, chosen=others)
    else:
        fast, rest = by_path(base, items, graft.num_virtual)
        yield from pruned_scores(base, items, fast, graft, budget, pruning)
        todo = padded_batches(base, items, rest, graft.num_virtual, budget)
    for batch in todo:
        with watching(batch):
            scores = batch_scores(base, batch, graft, len(items[0].answers))
        progress.amount("scored_tokens", batch.num_tokens)
        yield batch.items, scores.double().cpu().numpy()


def bare_label_scores(base: Base, examples: Sequence[EncodedExample], pruning: Pruning | None = None) -> np.ndarray:
    """`label_scores` of the base alone, remembered by content: a study asks for the same ones in many cells."""
    pruned = None if pruning is None else (pruning.nats, pruning.offset.tolist())
    key = content_of(base, examples, "label scores", pruned)
    if key in base.bare_scores:
        progress.remembered(len(examples))
    else:
        base.bare_scores[key] = label_scores(base, examples, Graft(), pruning)
    return base.bare_scores[key].copy()  # type: ignore[no-any-return]


def content_of(base: Base, examples: Sequence[EncodedExample], *what: object) -> str:
    """Names what the base alone gives. All examples together: a row's rounding depends on those packed beside it, and
    a cell must have the same numbers whatever ran before.
    """
    content = hashlib.sha256(repr((base.token_budget, what)).encode())
    for example in examples:
        content.update(repr((example.tokens, example.answers)).encode())
    return content.hexdigest()


REMEMBERED_BYTES = 2**28
"""Of hidden rows that are kept for later runs over the same texts."""


@torch.no_grad()
def prompt_rows(base: Base, examples: Sequence[EncodedExample]) -> np.ndarray:
    """[examples, width] float32: what the bare base gives its vocabulary head after each prompt's last token.

    Remembered by content, as bare_label_scores are.
    """
    key = content_of(base, examples, "prompt rows")
    if key in base.prompt_rows:
        progress.remembered(len(examples))
        return base.prompt_rows[key]  # type: ignore[no-any-return]
    rows = np.zeros((len(examples), int(base.facts["width"])), dtype=np.float32)
    # One answer of one token that is never looked at: it makes the prompt's last row be read.
    items = [Item(example.tokens, ((0,),)) for example in examples]

    def run() -> None:
        done = 0
        for batch in batches(base, items, 0, base.token_budget):
            with watching(batch):
                hidden, index = answer_rows(base, batch)
            rows[[batch.items[read.item] for read in batch.reads]] = hidden[index].float().cpu().numpy()
            progress.amount("scored_tokens", batch.num_tokens)
            done += len(batch.items)
            progress.advance(done, len(items))

    within_memory(base, run, is_training=False)
    if rows.nbytes + sum(known.nbytes for known in base.prompt_rows.values()) <= REMEMBERED_BYTES:
        base.prompt_rows[key] = rows
    return rows


def normalise(scores: np.ndarray) -> np.ndarray:
    """[examples, labels] scores -> log-probabilities: each row's exponentials add up to one."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    normalised: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
