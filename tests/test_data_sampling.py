"""Draws: nested, seeded, at least one per label, and the selection and pool that go with them."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from functools import partial

import pytest

from handful.data import sampling
from handful.data.sampling import quota_order
from handful.errors import DataError
from handful.examples import UNLABELLED, Dataset, Example
from handful.protocols import Holdout
from handful.protocols.holdout import held_out

draw_split = partial(sampling.draw_split, selection_size=Holdout().selection_size)


def examples(counts: list[int], prefix: str = "train") -> list[Example]:
    return [
        Example(f"{prefix}-{label}-{index}", {"text": f"{prefix} text {index} of {label}"}, label)
        for label, count in enumerate(counts)
        for index in range(count)
    ]


def make(
    counts: list[int],
    test: list[Example] | None = None,
    unlabelled: list[Example] | None = None,
    balanced: bool = False,
) -> Dataset:
    return Dataset(
        name="made",
        label_names=tuple("abcdefgh"[: len(counts)]),
        field_names=("text",),
        train=tuple(examples(counts)),
        test=tuple(examples([5] * len(counts), "test") if test is None else test),
        unlabelled=tuple(unlabelled or ()),
        revision="sha256:0",
        facts={"balanced": balanced, "num_duplicates_across": 0},
    )


def drawn_ids(dataset: Dataset, num_labels: int, seed: int) -> set[str]:
    split = draw_split(dataset, num_labels, seed)
    ids = {example.id for example in (*split.train, *split.selection)}
    assert len(ids) == len(split.train) + len(split.selection) == num_labels
    return ids


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_samples_are_nested(seed: int, balanced: bool) -> None:
    dataset = make([400, 150, 60], balanced=balanced)
    smaller: set[str] = set()
    for num_labels in (3, 10, 50, 51, 150, 180):
        larger = drawn_ids(dataset, num_labels, seed)
        assert smaller < larger
        smaller = larger


def test_seeds_draw_different_samples_and_one_seed_the_same() -> None:
    dataset = make([300, 300])
    assert draw_split(dataset, 50, 1) == draw_split(dataset, 50, 1)
    assert drawn_ids(dataset, 50, 1) != drawn_ids(dataset, 50, 2)


def test_the_rank_inside_a_label_is_pinned() -> None:
    """Ranks by sha256 of seed and id: another order would change every record."""
    dataset = make([20, 20])
    split = draw_split(dataset, 2, 7)
    for label, example in enumerate(split.train):
        members = [member.id for member in dataset.train if member.label == label]
        ranked = sorted(members, key=lambda id_: hashlib.sha256(f"7:{id_}".encode()).digest())
        assert example.id == ranked[0]


def test_order_of_the_dataset_does_not_matter() -> None:
    dataset = make([80, 40, 20])
    shuffled = list(dataset.train)
    random.Random(0).shuffle(shuffled)
    other = Dataset(**{**vars(dataset), "train": tuple(shuffled)})
    assert draw_split(dataset, 60, 3) == draw_split(other, 60, 3)


@pytest.mark.parametrize("num_labels", [3, 4, 10, 57, 200])
def test_natural_frequencies(num_labels: int) -> None:
    counts = [600, 300, 100]
    split = draw_split(make(counts), num_labels, 0)
    picked = split.facts["class_counts"]
    assert min(picked.values()) >= 1
    if num_labels >= 10:
        for name, count in zip("abc", counts, strict=True):
            assert abs(picked[name] - num_labels * count / 1000) < 1


def test_a_rare_label_is_always_there() -> None:
    for seed in range(5):
        split = draw_split(make([1000, 1]), 2, seed)
        assert split.facts["class_counts"] == {"a": 1, "b": 1}


def test_balanced() -> None:
    dataset = make([600, 300, 100], balanced=True)
    assert draw_split(dataset, 90, 0).facts["class_counts"] == {"a": 30, "b": 30, "c": 30}
    assert sorted(draw_split(dataset, 91, 0).facts["class_counts"].values()) == [30, 30, 31]
    assert draw_split(dataset, 302, 0).facts["class_counts"] == {"a": 101, "b": 101, "c": 100}
    with pytest.raises(DataError, match=r"'c', made has 100 training texts. Give at most 302"):
        draw_split(dataset, 303, 0)


def quota_order_by_hand(counts: list[int], size: int) -> list[int]:
    """The rule as it is told, one pick at a time."""
    total, picked, order = sum(counts), [0] * len(counts), []
    first = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    for k in range(size):
        open_labels = [c for c in range(len(counts)) if picked[c] < counts[c]]
        pick = (
            first[k]
            if k < len(first)
            else max(open_labels, key=lambda c: (counts[c] * (k + 1) - picked[c] * total, -c))
        )
        picked[pick] += 1
        order.append(pick)
    return order


@pytest.mark.parametrize("counts", [[5, 5], [1, 9], [7, 2, 2], [40, 1, 1, 1, 13]])
def test_quota_order_follows_its_rule_to_the_end(counts: list[int]) -> None:
    assert quota_order(counts, sum(counts)) == quota_order_by_hand(counts, sum(counts))
    assert quota_order(counts, 3) == quota_order(counts, sum(counts))[:3]


def test_quota_order_leaves_what_it_must() -> None:
    assert Counter(quota_order([5, 1, 2], 100, leave=1)) == {0: 4, 2: 1}


def test_selection_sizes() -> None:
    sizes = {0: 0, 10: 0, 50: 0, 51: 10, 150: 30, 500: 100, 2500: 500, 5000: 1000, 25_000: 1000}
    assert {num_labels: Holdout().selection_size([num_labels]) for num_labels in sizes} == sizes


@pytest.mark.parametrize("num_labels", [50, 51, 150, 500])
def test_selection_is_carved_out_of_the_drawn(num_labels: int) -> None:
    split = draw_split(make([500, 300]), num_labels, 0)
    assert len(split.selection) == Holdout().selection_size([num_labels])
    assert len(split.train) + len(split.selection) == num_labels
    held_out = Counter(example.label for example in split.selection)
    for name, count in split.facts["class_counts"].items():
        assert abs(held_out["ab".index(name)] - len(split.selection) * count / num_labels) <= 1


def test_selection_has_every_label_and_train_keeps_every_label() -> None:
    split = draw_split(make([300, 4, 2, 1]), 100, 0)  # quota leaves the rare ones 1 or 2
    drawn = split.facts["class_counts"]
    for label, name in enumerate(split.label_names):
        assert any(example.label == label for example in split.train)
        assert any(example.label == label for example in split.selection) == (drawn[name] >= 2)


def test_selection_shrinks_when_train_would_lose_a_label() -> None:
    counts = [10] * 8 + [1] * 52
    names = tuple(f"label {index:02}" for index in range(60))
    dataset = Dataset(
        "made", names, ("text",), tuple(examples(counts)), tuple(examples([1], "test")), (), "r"
    )
    split = draw_split(dataset, 62, 0)
    assert held_out(62) == 12
    assert len(split.selection) == 2
    assert len({example.label for example in split.train}) == 60


def test_no_labels() -> None:
    split = draw_split(make([30, 30]), 0, 0)
    assert split.train == split.selection == ()
    assert len(split.test) == 10
    assert split.facts["class_counts"] == {"a": 0, "b": 0}
    assert len(split.pool) == 60


@pytest.mark.parametrize(
    ("num_labels", "message"),
    [
        (2, r"num_labels = 2 is less than the 3 labels of made.*Give at least 3, or 0"),
        (-1, r"num_labels = -1 is less than"),
        (31, r"num_labels = 31, but made has 30 labelled training texts. Give at most 30"),
    ],
)
def test_impossible_numbers_of_labels(num_labels: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw_split(make([10, 10, 10]), num_labels, 0)


def test_without_a_test_side_the_rest_is_test() -> None:
    dataset = make([30, 30], test=[])
    for seed in (0, 1):
        split = draw_split(dataset, 20, seed)
        assert {example.id for example in (*split.train, *split.test)} == {e.id for e in dataset.train}
        assert [example.id for example in split.test] == sorted(example.id for example in split.test)
        assert len(split.test) == 40
        assert {example.id for example in split.pool} == {example.id for example in split.train}
    assert draw_split(dataset, 59, 0).facts["class_counts"] == {"a": 30, "b": 29}
    with pytest.raises(DataError, match="nothing is left to test on"):
        draw_split(dataset, 60, 0)
    with pytest.raises(DataError, match="Give at most 59"):
        draw_split(dataset, 61, 0)


def test_without_a_test_side_duplicates_across_the_draw_are_counted() -> None:
    same = [Example(f"same-{index}", {"text": "the same"}, index % 2) for index in range(10)]
    dataset = Dataset("made", ("a", "b"), ("text",), tuple(same), (), (), "r")
    split = draw_split(dataset, 4, 0)
    assert split.facts["num_duplicates_across"] == 4
    assert split.pool == ()  # every drawn text is a test text too


def test_the_pool_holds_no_labels_and_no_test_texts() -> None:
    test = examples([5, 5], "test")
    leaked = [Example("leak", dict(test[0].fields))]
    further = [Example(f"u-{index}", {"text": f"further {index}"}) for index in range(700)]
    dataset = make([400, 400], test=test, unlabelled=[*leaked, *further])
    split = draw_split(dataset, 50, 0)
    assert len(split.pool) == 700 + 800
    assert {example.label for example in split.pool} == {UNLABELLED}
    assert any(example.id.startswith("u-") for example in split.pool)
    assert any(example.id.startswith("train-") for example in split.pool)
    assert split.pool == draw_split(dataset, 500, 9).pool
    test_texts = {example.fields["text"] for example in test}
    assert not test_texts & {example.fields["text"] for example in split.pool}
    small = make([4, 4], test=test, unlabelled=leaked)
    assert {example.id for example in draw_split(small, 2, 0).pool} == {e.id for e in small.train}
