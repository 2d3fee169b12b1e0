"""Summaries of synthetic study folders, against numbers computed by hand or by scipy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from handful.errors import StudyError
from handful.identity import spec_id
from handful.results import Predictions, RunRecord, StudyFolder
from handful.statistics import crossed_interval, holm, paired_crossed_interval
from handful.summary import Cell, Row, Summary, summarise

LORA = {"name": "lora", "rank": 8}
ZERO_SHOT = {"name": "zero_shot"}
TFIDF = {"name": "tfidf"}


class Study:
    """Builds a study folder cell by cell; correctness of each test text is given, nothing is trained."""

    def __init__(self, path: Path, name: str = "toy study") -> None:
        self.folder = StudyFolder(path)
        self.folder.create()
        self.name = name
        self.cells: list[dict[str, Any]] = []
        self.claims: list[list[str]] = []

    def plan(
        self, method: Mapping[str, Any], num_labels: int, seed: int, **sections: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Adds a planned cell; zero_shot and tfidf resolve as the real ones do."""
        asked: dict[str, Any] = {
            "method": dict(method), "prompt": {"name": "alpaca"}, "model": {"checkpoint": "toy/base"},
            "data": {"name": "imdb"}, "training": {"epochs": 2}, **sections,
        }
        spec = asked | {"num_labels": num_labels, "seed": seed}
        if method["name"].startswith("zero_shot"):
            spec |= {"num_labels": 0, "seed": 0}
        if method["name"] == "tfidf":
            spec |= {"model": {"name": "none"}, "prompt": {"name": "none"}}
        cell = {
            "spec_id": spec_id(spec), "spec": spec,
            "asked": asked | {"num_labels": num_labels, "seed": seed},
        }
        self.cells.append(cell)
        self.folder.write_plan(
            {"name": self.name, "command": "handful study toy", "notes": ["a toy"], "cells": self.cells,
             "claims": self.claims})
        return cell

    def finish(
        self,
        method: Mapping[str, Any],
        num_labels: int,
        seed: int,
        correct: Sequence[int],
        ids: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        told: Mapping[str, Any] | None = None,
        **sections: Mapping[str, Any],
    ) -> str:
        """Plans a cell and writes its record; `told` replaces fields of the record."""
        cell = self.plan(method, num_labels, seed, **sections)
        right = np.asarray(correct, dtype=bool)
        ids = tuple(f"t{index}" for index in range(len(right))) if ids is None else tuple(ids)
        gold = np.array([sum(map(ord, name)) % 2 for name in ids]) if labels is None else np.asarray(labels)
        predicted = np.where(right, gold, 1 - gold)
        scores = np.full((len(ids), 2), np.log(0.2))
        scores[np.arange(len(ids)), predicted] = np.log(0.8)
        selection = num_labels // 5 if num_labels > 50 else 0
        fields: dict[str, Any] = {
            "label_names": ("negative", "positive"),
            "sample": {
                "train_ids": [f"n{index}" for index in range(num_labels - selection)],
                "selection_ids": [f"s{index}" for index in range(selection)],
                "num_test": len(ids),
            },
            "metrics": {"accuracy": float(right.mean()), "macro_f1": 0.5, "log_loss": 0.25 + seed,
                        "calibration_error": 0.125},
            "curve": {"points": [], "chosen_update": 10 + seed, "chosen_by": "selection log-loss"},
            "learned": {"num_trainable": 4096, "adapter_bytes": 8192},
            "engine": {"path": "fast"},
            "facts": {"num_duplicates_across": 3, "num_texts_cut": 12 + seed},
            "execution": {
                "seconds": {"load": 1.0, "train": 2.0 + seed, "test": 0.5}, "peak_memory_bytes": 10**9,
                "versions": {"torch": "2.11.0"}, "device": "a CPU", "host": "here", "notes": [],
                "finished_at": "2026-01-02T03:04:05+00:00",
            },
        } | dict(told or {})
        self.folder.write_record(
            RunRecord(cell["spec_id"], cell["spec"], "finished", **fields), Predictions(ids, gold, scores))
        return str(cell["spec_id"])

    def fail(
        self,
        method: Mapping[str, Any],
        num_labels: int,
        seed: int,
        reason: str,
        **sections: Mapping[str, Any],
    ) -> None:
        cell = self.plan(method, num_labels, seed, **sections)
        self.folder.write_record(RunRecord(cell["spec_id"], cell["spec"], "failed", reason=reason), None)

    @property
    def summary(self) -> Summary:
        return summarise(self.folder)


def draws(accuracy: float, num_texts: int = 200, seed: int = 0) -> list[int]:
    return (np.random.default_rng(seed).random(num_texts) < accuracy).astype(int).tolist()


def row_of(summary: Summary, label: str) -> Row:
    return next(row for row in summary.rows if row.label == label)


def cell_of(summary: Summary, label: str, num_labels: int) -> Cell:
    return row_of(summary, label).cells[num_labels]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "study")


def test_one_seed_has_a_wilson_interval(study: Study) -> None:
    study.finish(LORA, 16, 0, [1] * 15 + [0] * 5)
    cell = cell_of(study.summary, "lora", 16)
    reference = stats.binomtest(15, 20).proportion_ci(0.95, "wilson")
    assert cell.accuracy is not None and cell.interval_kind == "wilson"
    assert (cell.accuracy.estimate, cell.accuracy.low, cell.accuracy.high) == pytest.approx(
        (0.75, reference.low, reference.high))


def test_seeds_are_crossed_with_texts_and_matched_by_id(study: Study) -> None:
    first, second = draws(0.8, seed=1), draws(0.7, seed=2)
    names = [f"t{index}" for index in range(200)]
    order = np.random.default_rng(3).permutation(200)
    study.finish(LORA, 16, 0, first)
    study.finish(LORA, 16, 1, np.array(second)[order].tolist(), ids=[names[index] for index in order])
    cell = cell_of(study.summary, "lora", 16)
    assert cell.accuracy == crossed_interval([first, second])
    assert cell.interval_kind == "crossed"
    assert cell.accuracies == pytest.approx((np.mean(first), np.mean(second)))
    assert study.summary.protocol.test_texts_shared is True


def test_other_test_texts_for_each_seed_give_a_t_interval_over_seeds(study: Study) -> None:
    accuracies = []
    for seed in range(3):
        correct = draws(0.6 + 0.1 * seed, num_texts=50, seed=seed)
        accuracies.append(np.mean(correct))
        study.finish(LORA, 16, seed, correct, ids=[f"seed{seed}-{index}" for index in range(50)])
    summary = study.summary
    cell = cell_of(summary, "lora", 16)
    low, high = stats.t.interval(0.95, 2, np.mean(accuracies), stats.sem(accuracies))
    assert cell.accuracy is not None and cell.interval_kind == "t over seeds"
    assert (cell.accuracy.low, cell.accuracy.high) == pytest.approx((max(0.0, low), min(1.0, high)))
    assert any("t interval over" in note for note in summary.notes)
    assert summary.protocol.test_texts_shared is False


def test_overlapping_test_texts_keep_the_sampling_of_texts_in_the_interval(study: Study) -> None:
    """Each seed draws its labels out of one table: the interval is the crossed one on the texts all were tested on."""
    rng = np.random.default_rng(0)
    correct = {f"t{index}": rng.random() < 0.8 for index in range(300)}
    tests = []
    for seed in range(3):
        ids = [name for name in correct if rng.random() < 0.9]
        tests.append(ids)
        study.finish(LORA, 16, seed, [correct[name] for name in ids], ids=ids)
    cell = cell_of(study.summary, "lora", 16)
    common = [name for name in tests[0] if name in tests[1] and name in tests[2]]
    expected = crossed_interval([[correct[name] for name in common]] * 3)
    mean = np.mean([np.mean([correct[name] for name in ids]) for ids in tests])
    assert cell.interval_kind == "crossed on common texts" and cell.accuracy is not None
    assert cell.accuracy.estimate == pytest.approx(mean)
    assert cell.accuracy.high - cell.accuracy.low == pytest.approx(expected.high - expected.low)
    assert cell.accuracy.high - cell.accuracy.low > 0.06, "three equal seeds on 220 texts say no more than one"


def test_means_are_over_finished_seeds_and_never_over_some_of_them(study: Study) -> None:
    study.finish(LORA, 100, 0, draws(0.8))
    study.finish(LORA, 100, 1, draws(0.8, seed=1), told={"metrics": {"log_loss": 1.25}})
    cell = cell_of(study.summary, "lora", 100)
    assert cell.log_loss == pytest.approx(0.75)
    assert cell.macro_f1 is None, "one seed lacks it"
    assert cell.train_seconds == pytest.approx(2.5)
    assert cell.test_texts_per_second == pytest.approx(400)
    assert cell.num_trainable == (4096, 4096) and cell.adapter_bytes == (8192, 8192)
    assert cell.chosen_updates == (10, 11)
    assert study.summary.protocol.splits == {100: ((80, 20),)}


def test_what_a_record_does_not_say_of_a_run_is_not_made_up(study: Study) -> None:
    """Scores that were remembered have no rate, and labels without probabilities no log-loss."""
    times = {"seconds": {"prior": 3.5, "train": 0.25, "test": 0.04}, "texts_per_second": {}}
    study.finish(LORA, 100, 0, draws(0.8), told={"execution": times | {"amounts": {"remembered_test_texts": 100}}})
    cell = cell_of(study.summary, "lora", 100)
    assert cell.test_texts_per_second is None
    assert cell.train_seconds == pytest.approx(3.75), "a look at unlabelled texts is part of training"
    study.finish({"name": "loreft"}, 100, 0, draws(0.8), told={"learned": {"has_probabilities": False}})
    cell = cell_of(study.summary, "loreft", 100)
    assert cell.log_loss is None and cell.calibration_error is None and cell.macro_f1 == 0.5


def test_a_record_that_says_almost_nothing_gives_no_invented_number(study: Study) -> None:
    parts = ("sample", "metrics", "curve", "learned", "engine", "facts", "execution")
    empty: dict[str, Any] = {name: {} for name in parts}
    study.finish(LORA, 16, 0, [1, 0, 1, 1], told=empty)
    cell = cell_of(study.summary, "lora", 16)
    assert cell.accuracy is not None and cell.accuracy.estimate == 0.75
    assert {cell.macro_f1, cell.log_loss, cell.train_seconds, cell.test_texts_per_second,
            cell.num_trainable, cell.adapter_bytes, cell.peak_memory_bytes} == {None}
    assert study.summary.protocol.num_chosen_on_test == 0


def test_a_run_that_reads_no_labels_is_one_run_in_every_column(study: Study) -> None:
    for num_labels in (16, 50):
        for seed in (0, 1):
            study.finish(ZERO_SHOT, num_labels, seed, draws(0.6))
    summary = study.summary
    assert (summary.num_planned, summary.num_finished) == (1, 1)
    row = row_of(summary, "zero_shot")
    assert not row.reads_labels
    for cell in row.cells.values():
        assert (cell.num_seeds_planned, cell.num_seeds_finished) == (1, 1)
        assert cell.interval_kind == "wilson" and not cell.reads_labels
    assert row.cells[16].accuracy == row.cells[50].accuracy


def test_a_run_that_reads_no_labels_fills_columns_it_was_not_asked_for(study: Study) -> None:
    study.finish(ZERO_SHOT, 16, 0, draws(0.6))
    study.finish(LORA, 50, 0, draws(0.7))
    summary = study.summary
    assert cell_of(summary, "zero_shot", 50).accuracy == cell_of(summary, "zero_shot", 16).accuracy
    assert cell_of(summary, "lora", 16).status == "not planned"
    assert summary.num_planned == 2


def test_states_and_counts(study: Study) -> None:
    study.finish(LORA, 16, 0, draws(0.7))
    study.fail(LORA, 16, 1, "the loss is not a number")
    study.fail(LORA, 50, 0, "out of memory")
    study.fail(LORA, 50, 1, "out of memory")
    study.plan(LORA, 200, 0)
    study.plan(LORA, 200, 1)
    study.finish(LORA, 800, 0, draws(0.9))
    study.plan(LORA, 800, 1)
    summary = study.summary
    assert {n: cell.status for n, cell in row_of(summary, "lora").cells.items()} == {
        16: "partial", 50: "failed", 200: "missing", 800: "partial"}
    partial = cell_of(summary, "lora", 16)
    assert (partial.num_seeds_planned, partial.num_seeds_finished, partial.num_seeds_failed) == (2, 1, 1)
    assert cell_of(summary, "lora", 800).num_seeds_missing == 1
    counts = (summary.num_planned, summary.num_finished, summary.num_failed, summary.num_missing)
    assert counts == (8, 2, 3, 3)
    assert [(entry.num_labels, entry.seed, entry.reason) for entry in summary.failures] == [
        (16, 1, "the loss is not a number"), (50, 0, "out of memory"), (50, 1, "out of memory")]
    assert [(entry.num_labels, entry.seed) for entry in summary.missing] == [(200, 0), (200, 1), (800, 1)]


def test_predictions_that_are_not_whole_make_a_cell_missing(study: Study) -> None:
    name = study.finish(LORA, 16, 0, draws(0.7))
    (study.folder.path / "records" / f"{name}.parquet").write_bytes(b"cut off")
    summary = study.summary
    assert cell_of(summary, "lora", 16).status == "missing" and summary.num_missing == 1


def test_the_best_of_a_column_and_paired_differences(study: Study) -> None:
    base = draws(0.6, seed=9)
    lora = [draws(0.9, seed=1), draws(0.9, seed=2)]
    tfidf = [[*lora[0][:-3], 0, 1, 0], [*lora[1][:-3], 1, 0, 1]]
    for seed in (0, 1):
        study.finish(ZERO_SHOT, 50, seed, base)
        study.finish(LORA, 50, seed, lora[seed])
        study.finish(TFIDF, 50, seed, tfidf[seed])
    summary = study.summary
    means = {"lora": np.mean(lora), "tfidf": np.mean(tfidf)}
    best = max(means, key=lambda name: means[name])
    other = "tfidf" if best == "lora" else "lora"
    assert cell_of(summary, best, 50).is_best and cell_of(summary, best, 50).versus_best is None
    tie = cell_of(summary, other, 50).versus_best
    correct = {"lora": lora, "tfidf": tfidf}
    assert tie is not None and tie.interval == paired_crossed_interval(correct[other], correct[best])
    assert (tie.other, tie.num_seeds, tie.num_texts, tie.p_value) == (best, 2, 200, None)
    assert tie.distinguishable is False and cell_of(summary, other, 50).ties_best
    (gain,) = cell_of(summary, "lora", 50).versus_no_labels
    assert gain.interval == paired_crossed_interval(lora, [base])
    assert gain.distinguishable is True
    loss = cell_of(summary, "zero_shot", 50).versus_best
    forward = paired_crossed_interval(correct[best], [base])
    assert loss is not None and loss.interval is not None and loss.distinguishable is True
    assert (loss.interval.estimate, loss.interval.low, loss.interval.high) == (
        -forward.estimate, -forward.high, -forward.low)
    assert cell_of(summary, "zero_shot", 50).versus_no_labels == ()


def test_one_run_on_either_side_is_compared_by_the_exact_mcnemar_test(study: Study) -> None:
    a, b = [1] * 20 + [0] * 20 + [1] * 60, [1] * 20 + [1] * 12 + [0] * 8 + [1] * 55 + [0] * 5
    study.finish(ZERO_SHOT, 50, 0, a)
    study.finish(LORA, 50, 0, b)
    (versus,) = cell_of(study.summary, "lora", 50).versus_no_labels
    assert versus.p_value == pytest.approx(stats.binomtest(5, 17, 0.5).pvalue)
    assert versus.interval is not None and versus.interval.estimate == pytest.approx(0.07)
    assert versus.distinguishable is False


def test_pairs_are_made_by_seed(study: Study) -> None:
    kept = draws(0.7, seed=1)
    study.finish(LORA, 50, 0, kept)
    study.finish(LORA, 50, 1, draws(0.7, seed=2))
    study.fail(TFIDF, 50, 0, "no")
    study.finish(TFIDF, 50, 1, draws(0.5, seed=3))
    study.finish({"name": "probe"}, 50, 2, draws(0.5, seed=4))
    summary = study.summary
    versus = cell_of(summary, "tfidf", 50).versus_best
    assert versus is not None and versus.num_seeds == 1 and versus.p_value is not None
    apart = cell_of(summary, "probe", 50).versus_best
    assert apart is not None and apart.interval is None and apart.distinguishable is None
    assert not cell_of(summary, "probe", 50).ties_best
    assert any("not compared" in note for note in summary.notes)


def test_each_seed_with_its_own_texts_is_still_paired(study: Study) -> None:
    gaps = []
    for seed in range(3):
        ids = [f"seed{seed}-{index}" for index in range(60)]
        a, b = draws(0.9, 60, seed=seed), draws(0.6, 60, seed=10 + seed)
        gaps.append(np.mean(b) - np.mean(a))
        study.finish(LORA, 16, seed, a, ids=ids)
        study.finish(TFIDF, 16, seed, b, ids=ids)
    versus = cell_of(study.summary, "tfidf", 16).versus_best
    low, high = stats.t.interval(0.95, 2, np.mean(gaps), stats.sem(gaps))
    assert versus is not None and versus.interval is not None
    assert (versus.interval.low, versus.interval.high) == pytest.approx((low, high))


def test_one_id_with_two_labels_is_not_paired(study: Study) -> None:
    study.finish(LORA, 16, 0, draws(0.9), labels=[0] * 200)
    study.finish(TFIDF, 16, 0, draws(0.6), labels=[1] * 200)
    versus = cell_of(study.summary, "tfidf", 16).versus_best
    assert versus is not None and versus.interval is None


def test_rows_on_other_data_have_a_best_of_their_own(study: Study) -> None:
    for name, accuracy in (("imdb", 0.9), ("sst", 0.6)):
        study.finish(LORA, 16, 0, draws(accuracy), data={"name": name})
        study.finish(TFIDF, 16, 0, draws(accuracy - 0.2), data={"name": name})
    summary = study.summary
    assert [row.label for row in summary.rows if row.cells[16].is_best] == ["lora data=imdb", "lora data=sst"]
    assert len(summary.groups) == 2
    versus = cell_of(summary, "tfidf data=sst", 16).versus_best
    assert versus is not None and versus.other == "lora data=sst"


def test_row_labels_show_what_differs(study: Study) -> None:
    study.plan({"name": "lora", "rank": 8, "alpha": 16}, 16, 0)
    study.plan({"name": "lora", "rank": 16, "alpha": 16}, 16, 0)
    study.plan({"name": "loreft", "rank": 4}, 16, 0)
    study.plan({"name": "tfidf"}, 16, 0)
    assert [row.label for row in study.summary.rows] == ["lora rank=8", "lora rank=16", "loreft", "tfidf"]


def test_a_title_says_enough_until_two_rows_have_it(study: Study) -> None:
    for title, missing in (("GPT", "wrong"), ("a person", "refused"), ("Llama", "refused"), ("Llama", "wrong")):
        study.plan({"name": "predictions", "title": title, "missing": missing, "revision": title}, 16, 0)
    assert [row.label for row in study.summary.rows] == [
        "GPT", "a person", "Llama missing=refused", "Llama missing=wrong"]


def test_row_labels_show_other_sections_and_stay_apart(study: Study) -> None:
    long = "Decide. " * 20
    study.plan(LORA, 16, 0, prompt={"name": "alpaca"})
    study.plan(LORA, 16, 0, prompt={"name": "cloze"})
    study.plan(LORA, 16, 0, prompt={"name": "cloze", "instruction": long + "a"})
    study.plan(LORA, 16, 0, prompt={"name": "cloze", "instruction": long + "b"})
    labels = [row.label for row in study.summary.rows]
    assert labels[0] == "lora prompt=alpaca" and labels[1] == "lora prompt=cloze"
    assert len(set(labels)) == 4 and all(len(label) < 90 for label in labels)


def test_a_prompt_that_most_rows_have_is_named_only_within_a_method(study: Study) -> None:
    for prompt in ("cloze", "alpaca"):
        study.plan(ZERO_SHOT, 16, 0, prompt={"name": prompt})
    study.plan(LORA, 16, 0, prompt={"name": "cloze"})
    study.plan({"name": "full"}, 16, 0, prompt={"name": "cloze"})
    study.plan({"name": "loreft"}, 16, 0, prompt={"name": "plain"})
    assert [row.label for row in study.summary.rows] == [
        "zero_shot prompt=cloze", "zero_shot prompt=alpaca", "lora", "full", "loreft prompt=plain"]


def test_prompts_are_averaged_where_several_have_numbers(study: Study) -> None:
    for prompt, accuracy, numbers in (("cloze", 0.8, (50, 150)), ("alpaca", 0.6, (50,)), ("plain", 0.7, ())):
        for number in numbers:
            study.finish(LORA, number, 0, draws(accuracy, seed=number), prompt={"name": prompt})
        study.plan(LORA, 150, 0, prompt={"name": prompt})
    study.finish({"name": "full"}, 150, 0, draws(0.7), prompt={"name": "cloze"})
    study.plan({"name": "full"}, 150, 0, prompt={"name": "alpaca"})
    (spread,) = study.summary.spreads
    assert spread.label == "lora" and list(spread.cells) == [50] and spread.cells[50].num_rows == 2
    shown = [np.mean(draws(accuracy, seed=50)) for accuracy in (0.6, 0.8)]
    assert [spread.cells[50].low, spread.cells[50].high] == pytest.approx(shown)


def test_a_knob_that_one_row_leaves_to_its_default_is_told_from_the_resolved_spec(study: Study) -> None:
    first = study.plan({"name": "lora"}, 16, 0)
    first["spec"] = first["spec"] | {"method": {"name": "lora", "rank": 4}}
    study.plan({"name": "lora", "rank": 16}, 16, 0)
    assert [row.label for row in study.summary.rows] == ["lora rank=4", "lora rank=16"]


def test_choices_on_test_texts_are_counted(study: Study) -> None:
    told = {"curve": {"points": [], "chosen_update": 3, "chosen_by": "test accuracy (the paper's protocol)"}}
    study.finish(LORA, 16, 0, draws(0.7), told=told)
    study.finish(LORA, 16, 1, draws(0.7, seed=1))
    protocol = study.summary.protocol
    assert protocol.num_chosen_on_test == 1
    assert protocol.chosen_by == {"test accuracy (the paper's protocol)": 1, "selection log-loss": 1}


def test_an_empty_plan_and_no_study(study: Study, tmp_path: Path) -> None:
    study.folder.write_plan({"name": "empty", "command": "", "notes": [], "cells": []})
    assert study.summary.rows == () and not study.summary.has_results
    with pytest.raises(StudyError):
        summarise(StudyFolder(tmp_path / "nowhere"))


def test_facts_and_provenance_come_from_records(study: Study) -> None:
    study.finish(LORA, 16, 0, draws(0.7))
    study.finish(LORA, 16, 1, draws(0.7, seed=1))
    study.folder.write_execution({"device": "cpu", "notes": ["device changed"]})
    summary = study.summary
    assert row_of(summary, "lora").facts == {"num_duplicates_across": (3,), "num_texts_cut": (12, 13)}
    assert row_of(summary, "lora").engine_paths == ("fast",)
    assert summary.provenance.versions == {"torch": ("2.11.0",)}
    assert summary.provenance.notes == ("device changed",)
    assert summary.provenance.command == "handful study toy"
    assert summary.label_names == ("negative", "positive")


def test_summary_and_report_load_neither_torch_nor_matplotlib() -> None:
    source = Path(__file__).resolve().parent.parent / "src"
    check = (
        "import handful.report, handful.summary, sys; "
        "assert not {'torch', 'transformers', 'matplotlib', 'handful.spec'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, env={"PYTHONPATH": str(source)}, timeout=60)


# -- claims -------------------------------------------------------------------------------------------------


def test_claims_are_tested_at_every_number_of_labels_and_adjusted_together(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["lora", "tfidf"], ["tfidf", "zero_shot"], ["lora", "full"]]
    study.finish(ZERO_SHOT, 50, 0, draws(0.60, seed=9))
    for seed in (0, 1, 2):
        for num_labels in (50, 150):
            study.finish(TFIDF, num_labels, seed, draws(0.60, seed=seed))
            study.finish(LORA, num_labels, seed, draws(0.60 if num_labels == 50 else 0.85, seed=10 + seed))
    summary = study.summary
    found = [(claim.first, claim.second, claim.num_labels) for claim in summary.claims]
    assert found == [
        ("lora", "tfidf", 50), ("lora", "tfidf", 150), ("tfidf", "zero_shot", 50), ("tfidf", "zero_shot", 150)
    ]  # fmt: skip
    raw = [claim.p_value for claim in summary.claims]
    assert [claim.adjusted for claim in summary.claims] == pytest.approx(holm(raw).tolist())
    lora_150 = summary.claims[1]
    a, b = ([draws(accuracy, seed=first + seed) for seed in range(3)] for accuracy, first in ((0.85, 10), (0.60, 0)))
    assert lora_150.difference.interval == paired_crossed_interval(a, b)
    assert lora_150.is_settled and not summary.claims[0].is_settled
    assert any("lora against full cannot be tested: no row is called full." in note for note in summary.notes)


def test_a_claim_on_a_method_of_several_rows_names_one_by_its_label(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["lora", "tfidf"], ["lora rank=16", "tfidf"]]
    study.finish(TFIDF, 50, 0, draws(0.6))
    for rank in (8, 16):
        study.finish({"name": "lora", "rank": rank}, 50, 0, draws(0.9, seed=rank))
    summary = study.summary
    (claim,) = summary.claims
    assert (claim.first, claim.p_value) == ("lora rank=16", claim.difference.p_value)
    assert any("lora has several rows" in note for note in summary.notes)


BASES = ("small/base", "large/base")


def both_bases(study: Study, methods: Sequence[Mapping[str, Any]], **sections: Mapping[str, Any]) -> None:
    """Each method on each base, two seeds; the larger base is better, and lora is better than loreft on it."""
    for size, base in enumerate(BASES):
        for place, method in enumerate(methods):
            for seed in (0, 1):
                right = draws(0.6 + 0.15 * size + 0.1 * place * size, 400, seed=100 * size + 10 * place + seed)
                study.finish(method, 50, seed, right, model={"name": "causal_lm", "checkpoint": base}, **sections)


def test_a_claim_pairs_the_rows_that_differ_in_their_method_alone(tmp_path: Path) -> None:
    """One pair for each base, all of them adjusted together; what reads no base stands against each."""
    study = Study(tmp_path)
    study.claims = [["loreft", "lora"], ["tfidf", "lora"]]
    both_bases(study, [{"name": "loreft"}, {"name": "lora"}])
    for seed in (0, 1):
        study.finish(TFIDF, 50, seed, draws(0.6, 400, seed=50 + seed), prompt={"name": "cloze"})
    summary = study.summary
    by_base = {row.label: row.asked["model"] for row in summary.rows if row.uses_model}
    pairs = [(claim.first, claim.second) for claim in summary.claims]
    assert len(pairs) == 4 and not any("cannot be tested" in note for note in summary.notes)
    assert [by_base[a] == by_base[b] for a, b in pairs[:2]] == [True, True] and pairs[0] != pairs[1]
    assert all(a.startswith("loreft ") and b.startswith("lora ") for a, b in pairs[:2])
    assert [a.split()[0] for a, _ in pairs[2:]] == ["tfidf", "tfidf"] and {b for _, b in pairs[2:]} == {
        b for _, b in pairs[:2]
    }
    raw = [claim.p_value for claim in summary.claims]
    assert [claim.adjusted for claim in summary.claims] == pytest.approx(holm(raw).tolist())


def test_a_label_is_needed_where_a_method_has_several_rows_in_one_setting(tmp_path: Path) -> None:
    study = Study(tmp_path)
    both_bases(study, [{"name": "loreft"}, {"name": "lora", "rank": 8}, {"name": "lora", "rank": 16}])
    study.claims = [["loreft", "lora"], ["loreft", "lora checkpoint=small/base rank=16"]]
    study.plan({"name": "loreft"}, 50, 0, model={"name": "causal_lm", "checkpoint": BASES[0]})
    summary = study.summary
    (claim,) = summary.claims
    assert (claim.first, claim.second) == ("loreft checkpoint=small/base", "lora checkpoint=small/base rank=16")
    (note,) = [note for note in summary.notes if "cannot be tested" in note]
    assert "lora has several rows there" in note and "; lora checkpoint=large/base rank=8" in note


def test_rows_of_the_same_runs_are_one_side_of_a_claim(tmp_path: Path) -> None:
    """A grid over bases asks for tfidf once for each of them, and it runs once."""
    study = Study(tmp_path)
    study.claims = [["lora", "tfidf"]]
    both_bases(study, [{"name": "lora"}])
    for base in BASES:
        for seed in (0, 1):
            study.finish(TFIDF, 50, seed, draws(0.5, 400, seed=seed), model={"checkpoint": base})
    summary = study.summary
    assert len([row for row in summary.rows if row.method == "tfidf"]) == 2
    assert [claim.first for claim in summary.claims] == [f"lora checkpoint={base}" for base in BASES]


def test_a_claim_pairs_rows_of_one_protocol(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["lora", "full"]]
    for name in ("lora", "full"):
        study.finish({"name": name}, 50, 0, draws(0.7))
        study.finish({"name": name}, 50, 0, draws(0.7, seed=1), protocol={"name": "budget"})
    assert [(claim.first, claim.second) for claim in study.summary.claims] == [
        ("lora", "full"), ("lora protocol=budget", "full protocol=budget")
    ]  # fmt: skip


def test_a_regression_of_an_open_penalty_stands_against_its_own_protocol(tmp_path: Path) -> None:
    """It reads no training; its protocol is in its spec where that chooses the penalty, and not by default."""
    study = Study(tmp_path)
    study.claims = [["lora", "tfidf"], ["linear_probe", "lora"]]
    budget, refit = {"name": "budget"}, {"name": "budget", "refit": True}
    for protocol in (budget, refit, None):
        for seed in (0, 1):
            right, asked = draws(0.7, seed=seed), {} if protocol is None else {"protocol": protocol}
            study.finish(LORA, 50, seed, right, **asked)
            if protocol is not refit:
                study.finish(TFIDF, 50, seed, right, **asked)
                study.finish({"name": "linear_probe"}, 50, seed, right, **asked)
    for cell in study.cells:
        if cell["asked"]["method"]["name"] != "lora":
            del cell["spec"]["training"]
    study.plan({"name": "full"}, 50, 0)
    summary = study.summary
    assert not any("cannot be tested" in note for note in summary.notes)
    assert {(claim.first, claim.second) for claim in summary.claims} == {
        # What reads no protocol stands against those that have no rival of their own.
        ("lora protocol=budget", "tfidf protocol=budget"), ("linear_probe protocol=budget", "lora protocol=budget"),
        ("lora", "tfidf"), ("linear_probe", "lora"),
        ("lora protocol=budget refit=true", "tfidf"), ("linear_probe", "lora protocol=budget refit=true"),
    }  # fmt: skip


def test_claims_whose_seeds_share_too_few_test_texts_have_the_t_test_over_seeds(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["lora", "tfidf"]]
    right: dict[str, list[float]] = {"lora": [], "tfidf": []}
    for seed in range(4):
        for method, accuracy in ((LORA, 0.8), (TFIDF, 0.6)):
            drawn = draws(accuracy, 60, seed=10 * seed + int(10 * accuracy))
            study.finish(method, 50, seed, drawn, ids=[f"own{seed}-{index}" for index in range(60)])
            right[str(method["name"])].append(float(np.mean(drawn)))
    (claim,) = study.summary.claims
    expected = stats.ttest_rel(right["lora"], right["tfidf"])
    assert claim.p_value == claim.difference.t_p_value == claim.adjusted == pytest.approx(expected.pvalue)
    ends, interval = expected.confidence_interval(0.95), claim.difference.interval
    assert interval is not None and (interval.low, interval.high) == pytest.approx(tuple(ends))


def test_declared_claims_that_are_not_tested_are_told_with_the_reason(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["lora", "tfidf"]]
    for number in (50, 150, 500):
        study.finish(TFIDF, number, 0, draws(0.6))
    study.plan(LORA, 50, 0)
    study.plan(LORA, 150, 0)
    study.finish(LORA, 500, 0, draws(0.7), ids=[f"other{index}" for index in range(200)])
    study.plan(LORA, 1000, 0)
    summary = study.summary
    assert summary.claims == () and summary.num_declared == 1
    told = [note for note in summary.notes if note.startswith("The claim ")]
    assert told == [
        "The claim lora against tfidf is not tested at N = 50, 150: no finished run of lora.",
        "The claim lora against tfidf is not tested at N = 500: they share no seed, or fewer than two test texts.",
    ]
    study.claims = [["zero_shot prompt=alpaca", "zero_shot prompt=cloze"]]
    study.finish(ZERO_SHOT, 50, 0, draws(0.6))
    study.plan(ZERO_SHOT, 50, 0, prompt={"name": "cloze"})
    (told,) = [note for note in study.summary.notes if note.startswith("The claim ")]
    assert told.endswith("against zero_shot prompt=cloze is not tested: no finished run of zero_shot prompt=cloze.")


def test_claims_are_told_once_and_know_titles_and_common_numbers_of_labels(tmp_path: Path) -> None:
    study = Study(tmp_path)
    theirs = {"name": "predictions", "title": "GPT, 8 shots"}
    for seed in (0, 1):
        for method in (LORA, TFIDF, theirs):
            study.finish(method, 50, seed, draws(0.7, seed=seed))
        study.finish({"name": "full"}, 150, seed, draws(0.7, seed=seed))
        study.finish({"name": "loreft"}, 50, seed, draws(0.7, seed=seed), protocol={"name": "budget"})
    study.claims = [
        ["lora", "tfidf"], ["tfidf", "lora"], ["GPT, 8 shots", "lora"], ["full", "lora"], ["tfdif", "lora"],
        ["lora", "loreft"],
    ]  # fmt: skip
    study.plan(LORA, 50, 0)
    summary = study.summary
    assert [(claim.first, claim.second) for claim in summary.claims] == [
        ("lora", "tfidf"), ("GPT, 8 shots", "lora"), ("lora", "loreft")
    ]  # fmt: skip
    told = [note for note in summary.notes if "cannot be tested" in note]
    assert [note.partition(": ")[2][:40] for note in told] == [
        "it repeats another claim, keep one.", "they are asked at no common number of la",
        "no row is called tfdif. Did you mean 'tf",
    ]  # fmt: skip


def test_a_claim_on_methods_is_not_decided_by_one_seed_of_either(tmp_path: Path) -> None:
    """At 50 labels one run each; at 150 one of lora beside three of tfidf; at 500 three each; zero_shot has no seed."""
    study = Study(tmp_path)
    prompts = "zero_shot prompt=alpaca", "zero_shot prompt=llama2_chat"
    study.claims = [["lora", "tfidf"], [*prompts], ["lora", prompts[0]]]
    study.finish(ZERO_SHOT, 50, 0, draws(0.50, seed=90))
    study.finish(ZERO_SHOT, 50, 0, draws(0.95, seed=91), prompt={"name": "llama2_chat"})
    for num_labels, num_lora, num_tfidf in ((50, 1, 1), (150, 1, 3), (500, 3, 3)):
        for method, accuracy, count in ((LORA, 0.95, num_lora), (TFIDF, 0.50, num_tfidf)):
            for seed in range(count):
                study.finish(method, num_labels, seed, draws(accuracy, seed=num_labels + seed + int(100 * accuracy)))
    claims = study.summary.claims
    decided = {(claim.first, claim.second, claim.num_labels) for claim in claims if claim.is_settled}
    assert decided == {
        ("lora", "tfidf", 500), ("lora", prompts[0], 500), (*prompts, 0)
    }  # fmt: skip
    assert [claim.num_labels for claim in claims if claim.second == prompts[1]] == [0], "neither reads labels: once"
    assert all(claim.p_value < 0.01 for claim in claims), "each of them a difference of two classifiers"
    tested = [claim for claim in claims if not claim.difference.is_single]
    assert len(tested) < len(claims)
    assert [claim.adjusted for claim in tested] == pytest.approx(holm([claim.p_value for claim in tested]).tolist())
    assert {claim.adjusted for claim in claims if claim.difference.is_single} == {None}
