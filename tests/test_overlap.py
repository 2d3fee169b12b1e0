"""Near duplicates against every pair looked at, and what a study and its report say of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from handful.data import Reviews, load_dataset, overlap, resolve
from handful.data.overlap import NEAR, find_overlap, overlap_of
from handful.examples import Dataset, Example
from handful.report.tables import overlap_lines, shared_text_facts
from handful.results import StudyFolder
from handful.spec import member_dict, read_study
from handful.study import pending_runs, plan_study, run_study
from test_summary import LORA, TFIDF, Study, draws

Texts = list[tuple[str, ...]]


def shingles(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[place : place + 3] for place in range(len(words) - 2)}


def every_pair(test: Texts, train: Texts) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """The reference: (equal, near), every pair looked at."""
    equal, near = set(), set()
    for a, one in enumerate(test):
        for b, other in enumerate(train):
            if test is train and a == b:
                continue
            pair = f"a{a}", f"a{b}" if test is train else f"b{b}"
            left, right = shingles(one), shingles(other)
            if one == other:
                equal.add(pair)
            elif left and right and len(left & right) >= NEAR * len(left | right):
                near.add(pair)
    return equal, near


def texts_with_twins(rng: random.Random, number: int) -> Texts:
    """Some from scratch, some altered copies of those before: a few words changed, cut off, or put in front."""
    words = [f"w{index}" for index in range(60)]
    made: Texts = []
    for _ in range(number):
        if made and rng.random() < 0.6:
            text = list(rng.choice(made))
            for _ in range(rng.randrange(3)):
                place = rng.randrange(len(text) + 1)
                text[place : place + rng.randrange(2)] = [rng.choice(words)] * rng.randrange(2)
        else:
            text = rng.choices(words, k=rng.choice([1, 2, 3, 8, 30, 60]))
        made.append(tuple(text or ["x"]))
    return made


@pytest.mark.parametrize("seed", range(6))
def test_every_near_pair_is_found_and_no_other(seed: int) -> None:
    rng = random.Random(seed)
    both = texts_with_twins(rng, 160)
    rng.shuffle(both)
    test, train = both[:60], both[60:]
    found = find_overlap(test, [f"a{i}" for i in range(60)], train, [f"b{i}" for i in range(100)])
    equal, near = every_pair(test, train)
    assert near and (set(found.equal), set(found.near)) == (equal, near) and found.is_complete
    ids = [f"a{i}" for i in range(len(both))]
    one_side = find_overlap(both, ids, both, ids)
    assert (set(one_side.equal), set(one_side.near)) == every_pair(both, both)


def test_case_spacing_and_punctuation_make_no_other_text() -> None:
    def side(prefix: str, *texts: str) -> tuple[Example, ...]:
        return tuple(Example(f"{prefix}{place}", {"text": text}, place % 2) for place, text in enumerate(texts))

    long = "It is the best film that anyone has made in this whole long and rather empty year of films"
    dataset = Dataset(
        name="toy", label_names=("no", "yes"), field_names=("text",), unlabelled=(), revision="", facts={},
        train=side("b", "A film, GOOD!", long, "!!!", "something else altogether"),
        test=side("a", "a   film good", f"{long}!!", f"{long} again", "???", "!!!"),
    )  # fmt: skip
    found = overlap_of(dataset)
    assert found.equal == (("a0", "b0"), ("a1", "b1"), ("a4", "b2"))
    assert found.near == (("a2", "b1"),)
    assert (found.num_test, found.num_train) == (5, 4)


def test_texts_from_one_template_end_the_search_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "MOST_CANDIDATES", 500)
    frame = tuple(f"w{place}" for place in range(60))
    test = [(f"t{index}", *frame) for index in range(80)]
    train = [(f"b{index}", *frame) for index in range(80)]
    ids = [str(index) for index in range(80)]
    assert not find_overlap(test, ids, train, ids).is_complete
    monkeypatch.setattr(overlap, "MOST_PAIRS", 100)
    copies = [frame] * 80
    found = find_overlap(copies, ids, copies, ids)
    assert not found.is_complete and len({test for test, _ in found.equal}) == 80, "every text is still counted"


def test_no_texts_on_a_side() -> None:
    found = find_overlap([], [], [("a", "b", "c")], ["x"])
    assert (found.equal, found.near, found.is_complete) == ((), (), True)


# -- in a study ----------------------------------------------------------------------------------------

STUDY = """
name = "shipped"
[fixed]
data = { name = "reviews", test_size = 60 }
[grid]
method = ["tfidf"]
num_labels = [20]
"""


def test_a_study_counts_once_and_its_records_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.toml").write_text(STUDY, encoding="utf-8")
    study = read_study(str(tmp_path / "s.toml"), None)
    folder = run_study(study, tmp_path / "out").folder
    (part,) = folder.overlap()["data"]
    dataset = load_dataset(resolve(Reviews(test_size=60)))
    expected = overlap_of(dataset)
    assert part["data"] == member_dict(resolve(Reviews(test_size=60))) and part["num_test"] == 60
    assert part["equal"] == [list(pair) for pair in expected.equal] and part["has_test_side"]
    records = {path.name: path.read_bytes() for path in (tmp_path / "out" / "records").iterdir()}
    # A folder of before: the file is added, nothing is run, and no record is touched.
    (tmp_path / "out" / "overlap.json").unlink()
    assert not pending_runs(plan_study(study), folder)
    run_study(study, tmp_path / "out")
    assert folder.overlap()["data"] == [part]
    assert records == {path.name: path.read_bytes() for path in (tmp_path / "out" / "records").iterdir()}
    monkeypatch.setattr("handful.study.overlap_of", lambda dataset: pytest.fail("it was counted already"))
    run_study(study, tmp_path / "out")


def test_a_summary_counts_twins_among_what_a_run_read(tmp_path: Path) -> None:
    study = Study(tmp_path)
    for seed in (0, 1):
        study.finish(LORA, 50, seed, draws(0.8), told={"sample": {"train_ids": ["x", f"y{seed}"], "selection_ids": []}})
        study.finish(TFIDF, 50, seed, draws(0.7), told={"sample": {"train_ids": ["z"], "selection_ids": ["y0"]}})
    assert study.summary.overlaps == ()
    section = study.summary.rows[0].spec["data"]
    StudyFolder(tmp_path).write_overlap({"data": [{
        "data": section, "has_test_side": True, "num_test": 200, "num_train": 900, "is_complete": True,
        "equal": [["t0", "x"], ["t1", "q"]], "near": [["t0", "y1"], ["t2", "y0"], ["t3", "y0"]],
    }]})  # fmt: skip
    (found,) = study.summary.overlaps
    assert (found.num_equal, found.num_near, found.num_test, found.num_train) == (2, 2, 200, 900)
    assert found.read == {50: (1, 3)}


@pytest.mark.parametrize("has_test_side", [True, False])
def test_a_report_says_what_its_duplicates_are_counted_among(tmp_path: Path, has_test_side: bool) -> None:
    study = Study(tmp_path)
    # ten of 900 were removed, and the 2,000 to test on were drawn out of 25,000
    facts = {
        "num_train": 890, "num_test_available": 25_000 if has_test_side else 0, "num_duplicates_across": 123,
        "num_duplicates_removed": 10, "num_duplicates_within_train": 96,
    }  # fmt: skip
    study.finish(LORA, 50, 0, draws(0.8, 2000), told={"facts": facts})
    section = study.summary.rows[0].spec["data"]
    StudyFolder(tmp_path).write_overlap({"data": [{
        "data": section, "has_test_side": has_test_side, "num_test": 2000, "num_train": 890, "is_complete": True,
        "equal": [["t0", "x"]], "near": [],
    }]})  # fmt: skip
    across, removed, within = shared_text_facts(study.summary)
    assert "on the whole test side" in across[0]
    assert across[1] == ("123 of 900" if has_test_side else "123 of those that a run drew")
    assert (removed[1], within[1]) == ("10 of 900", "96 of 900")
    assert overlap_lines(study.summary)[0][1] == "1 of 2,000"
