"""What a summary holds beside the table: curves, knobs against N, spreads over prompts, texts that runs get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handful.statistics import paired_crossed_interval
from handful.summary import Mistakes, Pivot
from test_summary import LORA, TFIDF, ZERO_SHOT, Study, cell_of, draws, row_of

PROMPTS = [{"name": "cloze"}, {"name": "cloze", "ending": "In a word"}, {"name": "alpaca"}]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "study")


def curve(losses: list[float], selection: list[float] | None = None, chosen: int = 2) -> dict[str, Any]:
    points: list[dict[str, float]] = [
        {"update": 10.0 * step, "epoch": float(step), "train_loss": loss} for step, loss in enumerate(losses, start=1)
    ]
    for point, loss in zip(points, selection or [], strict=False):
        point["selection_log_loss"] = loss
    return {"curve": {"points": points, "chosen_update": 10 * chosen, "chosen_by": "selection log-loss"}}


# -- curves --------------------------------------------------------------------------------------------


def test_a_curve_and_its_kept_epoch_come_from_the_record(study: Study) -> None:
    study.finish(LORA, 100, 0, draws(0.8), told=curve([0.7, 0.5, 0.4], [0.6, 0.5, 0.55]))
    cell = cell_of(study.summary, "lora", 100)
    (run,) = cell.runs
    assert [(point.update, point.train_loss, point.selection_log_loss) for point in run.curve] == [
        (10, 0.7, 0.6), (20, 0.5, 0.5), (30, 0.4, 0.55)]
    assert run.chosen_epoch == 2.0 and cell.chosen_epochs == (2.0,)
    assert not run.diverged


@pytest.mark.parametrize(("losses", "is_diverged"), [
    ([0.6, 0.5], False), ([0.6, 0.65], False), ([0.6, 0.67], True), ([0.6, 9.0, 0.5], False), ([0.6], False),
    ([], False),
])
def test_a_run_diverged_when_its_loss_ends_a_tenth_above_the_first(
    study: Study, losses: list[float], is_diverged: bool
) -> None:
    study.finish(LORA, 100, 0, draws(0.8), told=curve(losses))
    assert cell_of(study.summary, "lora", 100).runs[0].diverged is is_diverged


def test_a_failed_run_that_says_so_diverged(study: Study) -> None:
    study.fail(LORA, 100, 0, "training diverged: the loss was 40 at update 3 of 9, 0.7 at first")
    study.fail(LORA, 100, 1, "out of memory")
    assert [run.diverged for run in cell_of(study.summary, "lora", 100).runs] == [True, False]


def test_points_that_are_no_points_are_left_out(study: Study) -> None:
    points = [{"update": 5, "train_loss": "?"}, "no point", {"epoch": 1.0}]
    study.finish(LORA, 100, 0, draws(0.8), told={"curve": {"points": points, "chosen_update": 5}})
    (run,) = cell_of(study.summary, "lora", 100).runs
    assert [(point.update, point.train_loss) for point in run.curve] == [(5, None)]
    assert run.chosen_epoch is None


# -- second axes ---------------------------------------------------------------------------------------


def test_pivots_under_several_prompts_say_which(study: Study) -> None:
    for prompt in PROMPTS:
        for dropout in (0.0, 0.1):
            study.finish({"name": "lora", "dropout": dropout}, 100, 0, draws(0.8), prompt=prompt)
    assert [(pivot.knobs, pivot.context) for pivot in study.summary.pivots] == [
        (("dropout",), "prompt=cloze"), (("dropout",), 'prompt=cloze ending="In a word"'),
        (("dropout",), "prompt=alpaca"),
    ]


def pivots(study: Study) -> dict[tuple[str, ...], Pivot]:
    return {pivot.knobs: pivot for pivot in study.summary.pivots}


def test_a_knob_with_several_values_is_an_axis(study: Study) -> None:
    correct = {}
    for virtual in (80, 8):
        for num_labels in (50, 150):
            for seed in (0, 1, 2):
                key = virtual, num_labels, seed
                correct[key] = draws(0.9 if virtual == 8 else 0.5, seed=sum(key))
                study.finish({"name": "prompt_tuning", "num_virtual_tokens": virtual}, num_labels, seed, correct[key])
    study.finish(LORA, 50, 0, draws(0.8))
    (pivot,) = study.summary.pivots
    assert (pivot.method, pivot.knobs, pivot.values, pivot.context) == (
        "prompt_tuning", ("num_virtual_tokens",), ("8", "80"), "")
    assert pivot.best == {50: 0, 150: 0}
    for num_labels in (50, 150):
        mine, best = ([correct[virtual, num_labels, seed] for seed in (0, 1, 2)] for virtual in (80, 8))
        assert pivot.versus_best[1, num_labels].interval == paired_crossed_interval(mine, best)
        assert not pivot.ties_best(1, num_labels) and not pivot.ties_best(0, num_labels)


def test_two_knobs_give_one_axis_for_each_value_of_the_other(study: Study) -> None:
    for rank in (4, 8):
        for dropout in (0.0, 0.1):
            study.finish({"name": "lora", "rank": rank, "dropout": dropout}, 50, 0, draws(0.8))
    found = {(pivot.knobs, pivot.context): pivot.values for pivot in study.summary.pivots}
    assert found == {
        (("rank",), "dropout=0.0"): ("4", "8"), (("rank",), "dropout=0.1"): ("4", "8"),
        (("dropout",), "rank=4"): ("0.0", "0.1"), (("dropout",), "rank=8"): ("0.0", "0.1"),
    }


def test_knobs_that_change_together_stand_together(study: Study) -> None:
    for virtual, rate in ((8, 0.01), (80, 0.03)):
        study.finish(
            {"name": "prompt_tuning", "num_virtual_tokens": virtual, "learning_rate": rate}, 50, 0, draws(0.8))
    (pivot,) = study.summary.pivots
    assert (pivot.knobs, pivot.values) == (("num_virtual_tokens", "learning_rate"), ("8, 0.01", "80, 0.03"))


def test_a_value_left_to_its_default_is_told_from_the_resolved_spec(study: Study) -> None:
    first = study.plan({"name": "lora"}, 16, 0)
    first["spec"] = first["spec"] | {"method": {"name": "lora", "rank": 4}}
    study.plan({"name": "lora", "rank": 16}, 16, 0)
    assert pivots(study)["rank",].values == ("4", "16")


def test_other_data_and_other_prompts_are_no_axis(study: Study) -> None:
    for prompt in PROMPTS:
        study.plan(LORA, 16, 0, prompt=prompt)
    study.plan({"name": "lora", "rank": 4}, 16, 0, data={"name": "sst"})
    assert study.summary.pivots == ()


# -- prompts -------------------------------------------------------------------------------------------


def test_three_prompts_give_mean_and_range(study: Study) -> None:
    correct = [draws(accuracy, seed=place) for place, accuracy in enumerate((0.8, 0.6, 0.7))]
    for right, prompt in zip(correct, PROMPTS, strict=True):
        for num_labels in (16, 50):
            study.finish(ZERO_SHOT, num_labels, 0, right, prompt=prompt)
    study.finish(LORA, 16, 0, draws(0.9), prompt=PROMPTS[0])
    (spread,) = study.summary.spreads
    means = [np.mean(right) for right in correct]
    assert spread.label == "zero_shot" and not spread.reads_labels and len(spread.rows) == 3
    for num_labels in (16, 50):
        cell = spread.cells[num_labels]
        assert (cell.mean, cell.low, cell.high) == pytest.approx((np.mean(means), min(means), max(means)))
        assert cell.num_rows == 3


def test_a_prompt_without_numbers_is_counted(study: Study) -> None:
    study.finish(ZERO_SHOT, 16, 0, draws(0.8), prompt=PROMPTS[0])
    study.fail(ZERO_SHOT, 16, 0, "no", prompt=PROMPTS[1])
    assert study.summary.spreads == (), "one number is no mean over prompts"
    study.finish(ZERO_SHOT, 16, 0, draws(0.7), prompt=PROMPTS[2])
    (spread,) = study.summary.spreads
    assert spread.cells[16].num_rows == 2 and len(spread.rows) == 3


# -- mistakes ------------------------------------------------------------------------------------------


def mistakes(study: Study) -> Mistakes:
    (found,) = study.summary.mistakes
    return found


def test_texts_that_all_get_wrong_and_texts_on_which_methods_disagree(study: Study) -> None:
    rng = np.random.default_rng(5)
    correct = {
        (method, seed): (rng.random(60) < 0.5).astype(int).tolist() for method in ("lora", "tfidf") for seed in (0, 1)
    }
    for (method, seed), right in correct.items():
        study.finish(LORA if method == "lora" else TFIDF, 50, seed, right)
    lora = np.array([correct["lora", 0], correct["lora", 1]])
    tfidf = np.array([correct["tfidf", 0], correct["tfidf", 1]])
    nobody = (lora.sum(0) == 0) & (tfidf.sum(0) == 0)
    apart = ((lora.sum(0) == 2) & (tfidf.sum(0) == 0)) | ((lora.sum(0) == 0) & (tfidf.sum(0) == 2))
    found = mistakes(study)
    assert (found.num_texts, found.num_all_wrong, found.num_disagree) == (60, nobody.sum(), apart.sum())
    assert {mistake.id for mistake in found.all_wrong} == {f"t{index}" for index in np.flatnonzero(nobody)}
    assert {mistake.id for mistake in found.disagree} == {f"t{index}" for index in np.flatnonzero(apart)}
    for mistake in found.disagree:
        index = int(mistake.id[1:])
        right, wrong = ("lora", "tfidf") if lora[0, index] else ("tfidf", "lora")
        assert (mistake.right, mistake.wrong) == ((right,), (wrong,))
    for mistake in found.all_wrong:
        gold = ("negative", "positive")[sum(map(ord, mistake.id)) % 2]
        other = "positive" if gold == "negative" else "negative"
        assert mistake.label == gold and mistake.answers == {"lora": {other: 2}, "tfidf": {other: 2}}


def test_mistakes_are_of_the_largest_number_of_labels_where_the_most_rows_finished(study: Study) -> None:
    for num_labels in (16, 50):
        study.finish(LORA, num_labels, 0, draws(0.8))
        study.finish(TFIDF, num_labels, 0, draws(0.6))
    study.finish(LORA, 200, 0, draws(0.9))
    study.fail(TFIDF, 200, 0, "no")
    assert mistakes(study).num_labels == 50


def test_one_row_alone_and_texts_of_ones_own_give_no_mistakes(study: Study) -> None:
    study.finish(LORA, 16, 0, draws(0.8))
    assert study.summary.mistakes == ()
    study.finish(TFIDF, 16, 0, draws(0.8), ids=[f"other{index}" for index in range(200)])
    assert study.summary.mistakes == ()


def test_an_empty_plan_has_none_of_these(study: Study) -> None:
    study.folder.write_plan({"name": "empty", "command": "", "notes": [], "cells": []})
    summary = study.summary
    assert summary.pivots == summary.spreads == summary.mistakes == ()


def test_cut_texts_are_counted_by_run(study: Study) -> None:
    study.finish(LORA, 100, 0, draws(0.8))
    (run,) = row_of(study.summary, "lora").cells[100].runs
    assert (run.num_texts_cut, run.num_texts) == (12, 300)
