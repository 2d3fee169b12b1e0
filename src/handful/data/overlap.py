"""Which test texts stand on the training side too: word for word, or nearly.

Finds every pair whose texts are equal once case, punctuation and spacing are left out, or whose sets of word 3-shingles
have a Jaccard similarity of at least 0.8. Exact, not by sampling: an index over each text's rarest shingles cannot miss
such a pair (prefix filtering). Texts of fewer than three words are compared for equality alone. Knows nothing of
sources, draws or studies.

Sources: Broder (1997), "On the resemblance and containment of documents" (shingles); Chaudhuri, Ganti & Kaushik (2006),
ICDE, and Bayardo, Ma & Srikant (2007), WWW (prefix filtering); Lee et al. (2022), ACL, "Deduplicating Training Data
Makes Language Models Better" (0.8).
"""

from __future__ import annotations

import itertools
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handful.examples import Dataset, Example

NEAR = 0.8
"""Jaccard similarity from which on two texts are nearly the same."""
SHINGLE_WORDS = 3
MOST_CANDIDATES = 2_000_000
"""Pairs that are looked at before the search ends: texts made from one template are all alike."""
MOST_PAIRS = 200_000
"""Pairs that are kept."""

_WORD = re.compile(r"\w+")
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Overlap:
    """Pairs of texts that are the same or nearly so.

    equal, near: (test id, training id), sorted. A dataset without a test side has its pairs both ways. num_test,
    num_train: texts that were compared. is_complete: False where there were too many pairs to look at all of them, so
    that counts are lower bounds.
    """

    equal: tuple[tuple[str, str], ...]
    near: tuple[tuple[str, str], ...]
    num_test: int
    num_train: int
    is_complete: bool = True


def overlap_of(dataset: Dataset) -> Overlap:
    """Pairs between the test and the training side; within the training side where there is no other."""
    train = [_words(example, dataset.field_names) for example in dataset.train]
    ids = [example.id for example in dataset.train]
    if not dataset.test:
        return find_overlap(train, ids, train, ids)
    test = [_words(example, dataset.field_names) for example in dataset.test]
    return find_overlap(test, [example.id for example in dataset.test], train, ids)


def find_overlap(
    test: Sequence[Sequence[str]], test_ids: Sequence[str], train: Sequence[Sequence[str]], train_ids: Sequence[str]
) -> Overlap:
    """The same over texts that are lists of words; the same object twice stands for one side, compared with itself."""
    is_one_side = test is train
    # Equal texts are one text from here on: a table of a thousand copies has not a million near pairs.
    test_groups, train_groups = _groups(test, test_ids), _groups(train, train_ids)
    equal: list[tuple[str, str]] = []
    is_complete = True
    for words, members in test_groups.items():
        twins = train_groups.get(words, ())
        if len(equal) + len(members) * len(twins) > MOST_PAIRS:
            is_complete = False
            twins = twins[:1] if not is_one_side else twins[:2]
        equal += [(one, other) for one in members for other in twins if not (is_one_side and one == other)]
    kinds_a, kinds_b = list(test_groups), list(train_groups)
    found, all_looked_at = _near_pairs(kinds_a, kinds_b)
    near: list[tuple[str, str]] = []
    for a, b in found:
        pairs = [(one, other) for one in test_groups[kinds_a[a]] for other in train_groups[kinds_b[b]]]
        if len(near) + len(pairs) > MOST_PAIRS:
            is_complete = False
            pairs = pairs[:1]
        near += pairs
    return Overlap(tuple(sorted(equal)), tuple(sorted(near)), len(test), len(train), is_complete and all_looked_at)


def _words(example: Example, field_names: Sequence[str]) -> tuple[str, ...]:
    """The words of all fields, a mark between fields; a text of signs alone is its own single word."""
    words: list[str] = []
    for place, name in enumerate(field_names):
        text = example.fields[name].lower()
        words += ["\N{PILCROW SIGN}"] * bool(place) + (_WORD.findall(text) or [" ".join(text.split())])
    # One string for each word instead of one for each place: a tenth of the memory for 50,000 reviews.
    return tuple(map(sys.intern, words))


def _groups(texts: Sequence[Sequence[str]], ids: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for words, name in zip(texts, ids, strict=True):
        found[tuple(words)].append(name)
    return dict(found)


_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
"""Odd numbers that mix three words' numbers into 64 bits (those of xxHash)."""


@dataclass(frozen=True)
class _Index:
    """The shingles of many texts: those of text i are shingles[starts[i] : starts[i + 1]], sorted and distinct."""

    shingles: Places
    starts: Places

    def __getitem__(self, text: int) -> Places:
        return self.shingles[self.starts[text] : self.starts[text + 1]]


def _near_pairs(
    test: Sequence[tuple[str, ...]], train: Sequence[tuple[str, ...]]
) -> tuple[list[tuple[int, int]], bool]:
    """(places of test and training texts that are nearly but not quite equal, whether all candidates were seen)."""
    index, num_shingles = _indexed([*test, *train])
    if not num_shingles:
        return [], True
    prefixes = _prefixes(index, num_shingles, len(test))
    return _verified(prefixes, index, test, train)


def _indexed(texts: Sequence[tuple[str, ...]]) -> tuple[_Index, int]:
    """The shingles of all texts, numbered from 0, and how many there are."""
    lengths = np.array([len(words) for words in texts], np.int64)
    number_of: dict[str, int] = {}
    # numpy counts modulo 2**64 here, which is what mixes the numbers.
    numbers = np.fromiter(
        (number_of.setdefault(word, len(number_of) + 1) for words in texts for word in words),
        np.uint64,
        int(lengths.sum()),
    )
    mixed = sum(
        (numbers[place : len(numbers) - SHINGLE_WORDS + 1 + place] * factor for place, factor in enumerate(_FACTORS)),
        start=np.zeros(max(0, len(numbers) - SHINGLE_WORDS + 1), np.uint64),
    ) if len(numbers) >= SHINGLE_WORDS else np.empty(0, np.uint64)  # fmt: skip
    text_of = np.repeat(np.arange(len(texts)), lengths)
    inside = text_of[: len(mixed)] == text_of[len(text_of) - len(mixed) :]  # no shingle of two texts
    distinct, shingles = np.unique(mixed[inside], return_inverse=True)
    keys = np.unique(text_of[: len(mixed)][inside] * max(1, len(distinct)) + shingles)
    texts_of, shingles = np.divmod(keys, max(1, len(distinct)))
    return _Index(shingles, np.searchsorted(texts_of, np.arange(len(texts) + 1))), len(distinct)


def _prefixes(index: _Index, num_shingles: int, num_test: int) -> dict[int, tuple[list[int], list[int]]]:
    """Shingle -> (test texts, training texts) that have it among their rarest, where there are both.

    Two sets with a Jaccard similarity of t share a shingle among the first |x| - ceil(t |x|) + 1 of either, in one
    order of all shingles, rare ones first.
    """
    sizes = np.diff(index.starts)
    text_of = np.repeat(np.arange(len(sizes)), sizes)
    is_test = text_of < num_test
    of_test = np.bincount(index.shingles[is_test], minlength=num_shingles)
    of_train = np.bincount(index.shingles[~is_test], minlength=num_shingles)
    # Those of one side only come first of all: they use up the prefix and give no candidate.
    rarity = np.where((of_test > 0) & (of_train > 0), of_test + of_train, 0)
    rank = np.empty(num_shingles, np.int64)
    rank[np.lexsort((np.arange(num_shingles), rarity))] = np.arange(num_shingles)
    order = np.argsort(text_of * num_shingles + rank[index.shingles])
    place = np.arange(len(order)) - np.repeat(index.starts[:-1], sizes)
    longest = sizes - np.ceil(NEAR * sizes - 1e-9).astype(np.int64) + 1
    first = order[place < np.repeat(longest, sizes)]
    first = first[rarity[index.shingles[first]] > 0]
    found: dict[int, tuple[list[int], list[int]]] = {}
    for shingle, text in zip(index.shingles[first].tolist(), text_of[first].tolist(), strict=True):
        found.setdefault(shingle, ([], []))[text >= num_test].append(text)
    return {shingle: sides for shingle, sides in found.items() if sides[0] and sides[1]}


def _verified(
    prefixes: dict[int, tuple[list[int], list[int]]],
    index: _Index,
    test: Sequence[tuple[str, ...]],
    train: Sequence[tuple[str, ...]],
) -> tuple[list[tuple[int, int]], bool]:
    seen: set[tuple[int, int]] = set()
    pairs: list[tuple[int, int]] = []
    num_looked_at = 0
    # The rarest first, so that what is left out when there are too many is what is alike everywhere.
    for sides in sorted(prefixes.values(), key=lambda sides: len(sides[0]) * len(sides[1])):
        num_looked_at += len(sides[0]) * len(sides[1])
        if num_looked_at > MOST_CANDIDATES:
            return sorted(pairs), False
        for a, b in itertools.product(*sides):
            one, other = index[a], index[b]
            fits = NEAR * len(one) <= len(other) <= len(one) / NEAR
            if not fits or (a, b) in seen or test[a] == train[b - len(test)]:
                continue
            seen.add((a, b))
            shared = len(np.intersect1d(one, other, assume_unique=True))
            if shared >= NEAR * (len(one) + len(other) - shared):
                pairs.append((a, b - len(test)))
    return sorted(pairs), True
