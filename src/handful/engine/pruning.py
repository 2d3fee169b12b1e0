"""Labels of many tokens in rounds: branches that cannot matter any more are never run.

The texts run first. Each round then runs the answer tokens that are still alive, one step further down the tree, on
the keys and values that earlier rounds kept. A branch is dropped once its path's log-probability, which can only
fall, lies `nats` below the best label that is finished. (Running the best branch to its end first, or a branch that
is alone to its end at once, was tried and runs more tokens: docs/benchmarks.md.)

The score of a label whose branch was dropped is what its path had reached, an upper bound of the true one. Let
s be the true scores with the labels' offsets, u >= s those given here, p and q their softmax over L labels. Labels
with u = s are finished, the others have u <= b - nats with b the best finished one. With Z, W the sums of exp(s),
exp(u): Z <= W <= Z (1 + (L - 1) exp(-nats)), since each dropped label adds at most exp(b - nats) and exp(b) <= Z. So

    finished:  p / (1 + (L - 1) exp(-nats)) <= q <= p
    dropped:   0 <= p, q <= exp(-nats)

and |p - q| <= (L - 1) exp(-nats) for every label: 1.1e-9 for 77 labels and 25 nats, beside what float32 rounds. Of
log-probabilities this holds for finished labels; a dropped one's is at most -nats, and truly lower still.

While a pack is scored its keys and values stay: 2 x layers x key width numbers a token.

Knows nothing of prompts, methods or files.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from handful import progress
from handful.engine.attention import cut_layout
from handful.engine.base import Base
from handful.engine.batching import Batch, packed_batches
from handful.engine.budget import watching
from handful.engine.forward import later_rows, packed_rows, token_log_probabilities
from handful.engine.graft import Graft
from handful.engine.layers import Kept
from handful.engine.packing import Item, Segment, pack_items
from handful.examples import AnswerTokens


@dataclass(frozen=True)
class Pruning:
    """Branches are dropped `nats` below the best finished label, with `offset` [labels] added to the scores of both
    (what is added before they are normalised).
    """

    nats: float
    offset: np.ndarray

    @property
    def probability_bound(self) -> float:
        """How far a label's probability may be from the one with all branches run: (labels - 1) exp(-nats)."""
        return (len(self.offset) - 1) * math.exp(-self.nats)


def pruned_scores(
    base: Base, items: Sequence[Item], order: Sequence[int], graft: Graft, token_budget: int, pruning: Pruning
) -> Iterator[tuple[Sequence[int], np.ndarray]]:
    """(items, their scores [items, labels] float64) pack by pack; the items of `order`, all of which can be packed.

    Tells `progress` how many "answer_tokens" there were and how many of them were "skipped_answer_tokens".
    """
    by_answers: dict[AnswerTokens, list[int]] = {}
    for index in order:
        by_answers.setdefault(items[index].answers, []).append(index)
    # A pack of texts alone: of each, its last row is read.
    texts = [Item(item.tokens, ((0,),)) for item in items]
    for answers, members in by_answers.items():
        tree = answer_tree(answers)
        for batch in packed_batches(
            base, texts, members, graft.num_virtual, token_budget, num_edited=graft.last_rows
        ):
            with watching(batch):
                rounds = _Rounds(base, batch, graft, tree, pruning)
                while rounds.run_next(token_budget):
                    pass
            progress.amount("answer_tokens", rounds.ran[:, 1:].size)
            progress.amount("skipped_answer_tokens", int((~rounds.ran[:, 1:]).sum()))
            progress.amount("scored_tokens", rounds.num_rows)
            yield batch.items, rounds.scores()


@dataclass(frozen=True)
class AnswerTree:
    """The tree of answers after a text, as arrays. Row 0 is the text's last one, the others are answer tokens.

    Targets are all rows and after them all labels, a label being its last token. source, token, depth [targets]:
    from which row a target is read (-1: from none), as what token, how deep. read_from: per row its targets.
    below [rows, labels]: which labels' paths pass a row.
    """

    source: np.ndarray
    token: np.ndarray
    depth: np.ndarray
    read_from: tuple[np.ndarray, ...]
    below: np.ndarray

    @property
    def num_rows(self) -> int:
        """Answer tokens that run when nothing is skipped, and the text's last one."""
        return len(self.read_from)


@functools.lru_cache(maxsize=8)
def answer_tree(answers: AnswerTokens) -> AnswerTree:
    """The tree that `pack_items` builds after a text of one token."""
    (pack,) = pack_items([Item((0,), answers)], 1)
    before = np.arange(len(pack.token_ids)) - 1
    for segment in pack.segments[1:]:
        before[segment.start] = pack.segments[segment.parent].stop - 1
    last = {read.answer: (read.row, read.token) for read in pack.reads}  # none of an empty answer
    ends = np.array([last.get(label, (-1, -1)) for label in range(len(answers))]).reshape(-1, 2)
    source = np.concatenate([before, ends[:, 0]])
    token = np.concatenate([pack.token_ids, ends[:, 1]])
    depth = np.concatenate([pack.positions, [len(answer) for answer in answers]]).astype(int)
    read_from = tuple(np.flatnonzero(source == row) for row in range(len(pack.token_ids)))
    below = np.zeros((len(pack.token_ids), len(answers)), dtype=bool)
    for read in pack.reads:
        below[read.row, read.answer] = True
    return AnswerTree(source, token, depth, read_from, below)


class _Rounds:
    """One pack of texts, whose answer tokens run round by round.

    ran [texts, rows]: what has run. paths [texts, targets]: log-probability of the tokens up to a target, NaN where
    it is not known.
    """

    def __init__(self, base: Base, batch: Batch, graft: Graft, tree: AnswerTree, pruning: Pruning) -> None:
        assert batch.segments is not None
        self._base, self._graft, self._tree, self._pruning = base, graft, tree, pruning
        self._reach = np.where(tree.below, pruning.offset, -np.inf).max(axis=1, initial=-np.inf)
        self._kept = Kept()
        self._segments = list(batch.segments.segments)
        texts = self._segments[-len(batch.items) :]
        self._first_positions = np.array([batch.num_virtual + length for _, length in batch.segments.ends])
        self._numbers = np.full((len(texts), tree.num_rows), -1)  # of segments: each answer token is one
        self._numbers[:, 0] = [text.number for text in texts]
        self._steps = np.full((len(texts), len(tree.source)), np.nan)
        self.paths = np.where(tree.depth == 0, 0.0, self._steps)
        self._num_rows = batch.num_tokens
        hidden = packed_rows(
            base, batch, batch.segments, graft, [text.stop - 1 for text in texts], kept=self._kept
        )
        self._read(hidden, np.arange(len(texts)), np.zeros(len(texts), dtype=int))

    @property
    def num_rows(self) -> int:
        """Tokens that have run, those of the texts included."""
        return self._num_rows

    @property
    def ran(self) -> np.ndarray:
        return self._numbers >= 0

    def run_next(self, token_budget: int) -> bool:
        """Runs all answer tokens that are known to be alive; whether there were any."""
        alive = ~self.ran & (self.paths[:, : self._tree.num_rows] + self._reach > self._worst()[:, None])
        texts, rows = np.nonzero(alive)
        for first in range(0, len(rows), token_budget):
            self._run(texts[first : first + token_budget], rows[first : first + token_budget])
        return len(rows) > 0

    def scores(self) -> np.ndarray:
        """[texts, labels] float64; of a label that is not finished, the sum that its path has reached."""
        reached = self.paths.copy()
        for targets in self._by_depth():
            above = reached[:, self._tree.source[targets]]
            reached[:, targets] = np.where(np.isnan(reached[:, targets]), above, reached[:, targets])
        return reached[:, self._tree.num_rows :]

    def _worst(self) -> np.ndarray:
        """[texts]: a path with its offset has to be above this to be followed."""
        finished = self.paths[:, self._tree.num_rows :] + self._pruning.offset
        return np.nan_to_num(finished, nan=-np.inf).max(axis=1) - self._pruning.nats

    def _by_depth(self) -> Iterator[np.ndarray]:
        depth = self._tree.depth
        return (np.flatnonzero(depth == level) for level in range(1, depth.max() + 1))

    def _run(self, texts: np.ndarray, rows: np.ndarray) -> None:
        """One pass over tree rows [n] of texts [n], in rising order."""
        first, number = self._num_rows, len(self._segments)
        self._num_rows += len(rows)
        parents = self._numbers[texts, self._tree.source[rows]].tolist()
        self._segments += [
            Segment(first + place, first + place + 1, parent, first + place + 1, number + place, True)
            for place, parent in enumerate(parents)
        ]
        self._numbers[texts, rows] = np.arange(number, number + len(rows))
        plan = cut_layout(self._segments, range(first, self._num_rows))
        positions = self._first_positions[texts] + self._tree.depth[rows] - 1
        ids = self._tree.token[rows]
        self._read(later_rows(self._base, ids, positions, plan, self._graft, self._kept), texts, rows)

    def _read(self, hidden: Tensor, texts: np.ndarray, rows: np.ndarray) -> None:
        """Takes in hidden [n, width], which stands at tree rows [n] of texts [n]."""
        targets = [self._tree.read_from[row] for row in rows]
        index = np.repeat(np.arange(len(rows)), [len(some) for some in targets])
        read = np.concatenate(targets)
        device = self._base.device
        tokens = torch.from_numpy(self._tree.token[read]).to(device)
        steps = token_log_probabilities(self._base, hidden, torch.from_numpy(index).to(device), tokens)
        self._steps[texts[index], read] = steps.double().cpu().numpy()
        for some in self._by_depth():
            self.paths[:, some] = self.paths[:, self._tree.source[some]] + self._steps[:, some]
