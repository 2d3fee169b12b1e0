"""Draws what one cell reads: labelled texts, a selection carved out of them, test texts, a pool.

Everything hangs on ids, labels and the seed alone, never on the order of files, so samples are the same
on every machine, and nested: with one seed, the 50 lie inside the 150. Knows nothing of data sources,
prompts or models.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from handful.errors import DataError
from handful.examples import Dataset, Example, Split

_EXHAUSTED = -(2**62)


def draw_split(
    dataset: Dataset, num_labels: int, seed: int, selection_size: Callable[[Sequence[int]], int] = lambda counts: 0
) -> Split:
    """The split of one cell: `num_labels` labelled texts, of which `selection_size` are held out.

    selection_size: how many, by the number of drawn texts of each label.

    Labels are drawn with their natural frequencies and at least one each; with `dataset.facts["balanced"]`
    true, equally many each. Every label stays in `train`. Without a test side in `dataset`, the texts
    that this cell did not draw are its test texts, by id. `pool`: training-side texts without their labels, in an
    order that is the same for every cell; without a test side, only texts that were drawn.

    Raises DataError when `num_labels` is below the number of labels (0 draws none), or more than can be
    drawn, or leaves nothing to test on.
    """
    balanced = bool(dataset.facts.get("balanced", False))
    drawn = _draw_labelled(dataset, num_labels, seed, balanced) if num_labels else []
    counts = Counter(example.label for example in drawn)
    held_out = selection_size([counts[label] for label in range(len(dataset.label_names))]) if drawn else 0
    train, selection = _carve(drawn, held_out, len(dataset.label_names), seed)
    facts: dict[str, Any] = dict(dataset.facts)

    if dataset.test:
        test = dataset.test
        pool_from: Iterable[Example] = (*dataset.unlabelled, *dataset.train)
    else:
        taken = {example.id for example in drawn}
        rest = (example for example in dataset.train if example.id not in taken)
        test = tuple(sorted(rest, key=lambda example: example.id))
        pool_from = drawn
    test_texts = {text_key(example, dataset.field_names) for example in test}
    if not dataset.test:
        facts["num_duplicates_across"] = sum(
            text_key(example, dataset.field_names) in test_texts for example in drawn
        )

    return Split(
        label_names=dataset.label_names,
        field_names=dataset.field_names,
        train=tuple(train),
        selection=tuple(selection),
        test=test,
        pool=_draw_pool(pool_from, dataset.field_names, test_texts),
        revision=dataset.revision,
        facts={
            **facts,
            "balanced": balanced,
            "class_counts": {name: counts[label] for label, name in enumerate(dataset.label_names)},
        },
    )


def draw(
    examples: Iterable[Example],
    size: int,
    key: str,
    num_classes: int,
    *,
    leave: int = 0,
    balanced: bool = False,
) -> list[Example]:
    """Up to `size` examples in quota order, of each label those first that sha256("{key}:{id}") ranks first.

    `leave` examples of each label are never drawn. See `quota_order` for when fewer come back.
    """
    by_label: list[list[Example]] = [[] for _ in range(num_classes)]
    for example in examples:
        by_label[example.label].append(example)
    for members in by_label:
        members.sort(key=lambda example: _rank(key, example.id))
    counts = [len(members) for members in by_label]
    order = quota_order(counts, size, leave=leave, balanced=balanced)
    upcoming = [iter(members) for members in by_label]
    return [next(upcoming[label]) for label in order]


def quota_order(counts: Sequence[int], size: int, *, leave: int = 0, balanced: bool = False) -> list[int]:
    """Which label each pick takes, from `counts` examples per label; a longer order begins with a shorter.

    First one of each label, commonest first. Then always the label c with the largest deficit
    share_c * (k + 1) - picked_c after k picks, where share_c is counts_c / sum(counts), or equal for
    all when `balanced`; ties go to the lower label. `leave` examples of each label are never taken.
    Fewer than `size` come back when there are no more; when `balanced`, as soon as a label runs out
    that is to be taken.
    """
    left = [max(count - leave, 0) for count in counts]
    size = min(size, sum(left))
    first = sorted((c for c, there in enumerate(left) if there), key=lambda c: (-counts[c], c))
    # whole numbers (deficit times total), so that ties are ties on every machine
    shares = np.ones(len(counts), np.int64) if balanced else np.asarray(counts, np.int64)
    total = int(shares.sum())
    deficit = np.where(np.asarray(left) > 0, 0, _EXHAUSTED)
    order: list[int] = []
    while len(order) < size:
        deficit += shares
        pick = first[len(order)] if len(order) < len(first) else int(deficit.argmax())
        if not left[pick]:
            break
        order.append(pick)
        left[pick] -= 1
        deficit[pick] -= total
        if not left[pick] and not balanced:
            deficit[pick] = _EXHAUSTED
    return order


def text_key(example: Example, field_names: Sequence[str]) -> tuple[str, ...]:
    """What makes two texts exact duplicates: all their fields."""
    return tuple([example.fields[name] for name in field_names])


def _draw_labelled(dataset: Dataset, num_labels: int, seed: int, balanced: bool) -> list[Example]:
    num_classes, num_train = len(dataset.label_names), len(dataset.train)
    if num_labels < num_classes:
        raise DataError(
            f"num_labels = {num_labels} is less than the {num_classes} labels of {dataset.name}, and each "
            f"needs at least one text. Give at least {num_classes}, or 0 for methods that read no labels."
        )
    if num_labels > num_train:
        raise DataError(
            f"num_labels = {num_labels}, but {dataset.name} has {num_train} labelled training texts. "
            f"Give at most {num_train if dataset.test else num_train - 1}."
        )
    if num_labels == num_train and not dataset.test:
        raise DataError(
            f"num_labels = {num_labels} takes every labelled text of {dataset.name}, so nothing is left to "
            "test on. Give fewer, or give the data source a test side of its own."
        )
    drawn = draw(dataset.train, num_labels, str(seed), num_classes, balanced=balanced)
    if len(drawn) < num_labels:
        counts = Counter(example.label for example in dataset.train)
        rarest = min(range(num_classes), key=lambda label: (counts[label], label))
        raise DataError(
            f"num_labels = {num_labels} cannot be balanced: of {dataset.label_names[rarest]!r}, "
            f"{dataset.name} has {counts[rarest]} training texts. Give at most {len(drawn)}, or leave "
            "balanced out."
        )
    return drawn


def _carve(
    drawn: Sequence[Example], size: int, num_classes: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """(train, `size` for selection); at least one of each label stays in train, with so many labels that it would lose
    one, fewer are held out. Both keep a deterministic order.
    """
    selection = draw(drawn, size, f"{seed}:selection", num_classes, leave=1)
    held_out = {example.id for example in selection}
    return [example for example in drawn if example.id not in held_out], selection


def _draw_pool(
    examples: Iterable[Example], field_names: Sequence[str], test_texts: set[tuple[str, ...]]
) -> tuple[Example, ...]:
    allowed = [example for example in examples if text_key(example, field_names) not in test_texts]
    allowed.sort(key=lambda example: _rank("pool", example.id))
    return tuple([Example(example.id, example.fields) for example in allowed])


def _rank(key: str, id_: str) -> bytes:
    return hashlib.sha256(f"{key}:{id_}".encode()).digest()
