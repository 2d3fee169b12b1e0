"""Seeds of the start apart from those of the sample: what runs, and what reports say the variance comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from handful.errors import SpecError
from handful.lock import read_lock
from handful.report.findings import claim_sentences
from handful.report.provenance import protocol_lines
from handful.report.tables import claims_table, components_table
from handful.results import StudyFolder
from handful.spec import read_study, resolve_cell
from handful.statistics import crossed_interval, nested_components, paired_crossed_interval, variance_components
from handful.study import plan_study, run_study
from handful.summary import summarise
from test_summary import LORA, TFIDF, Study, cell_of, draws
from toys import make_toy_model

STUDY = """
name = "starts"
[fixed]
data = { name = "reviews", test_size = 24 }
model = { checkpoint = "BASE" }
prompt = { name = "cloze", max_tokens = 64 }
training = { epochs = 1 }
num_labels = 16
[grid]
method = ["lora", "tfidf", "zero_shot"]
seed = [0, 1]
init_seed = [0, 1]
"""


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starts")
    make_toy_model(folder / "toy")
    (folder / "study.toml").write_text(STUDY.replace("BASE", str(folder / "toy")), encoding="utf-8")
    return folder / "study.toml"


# -- runs ----------------------------------------------------------------------------------------------


def test_a_start_of_ones_own_changes_the_run_and_nothing_of_those_without(study_file: Path) -> None:
    plan = plan_study(read_study(str(study_file)))
    by_method: dict[str, list[Any]] = {}
    for spec in plan.distinct:
        by_method.setdefault(spec.method.name, []).append(spec)
    # tfidf and zero_shot start nowhere, so their cells share their runs
    assert [len(by_method[name]) for name in ("lora", "tfidf", "zero_shot")] == [4, 2, 1]
    assert all("init_seed" not in spec.as_dict() for spec in (*by_method["tfidf"], *by_method["zero_shot"]))
    cell = next(cell for cell in read_study(str(study_file)).cells if cell["method"]["name"] == "lora")
    same = resolve_cell(cell | {"init_seed": None}, "cpu")
    assert same.start_seed == same.seed == 0 and "init_seed" not in same.as_dict()
    assert same.spec_id != by_method["lora"][0].spec_id


@pytest.mark.parametrize("given", ['"one"', "-1", "true", "0.5"])
def test_mistakes(study_file: Path, tmp_path: Path, given: str) -> None:
    text = study_file.read_text("utf-8").replace("init_seed = [0, 1]", f"init_seed = [{given}]")
    (tmp_path / "wrong.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match="init_seed must"):
        read_study(str(tmp_path / "wrong.toml"))


def test_one_sample_several_starts(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study_file.parent)
    done = run_study(read_study(str(study_file)), tmp_path / "out")
    assert (done.finished, done.failed) == (7, 0)
    folder = StudyFolder(tmp_path / "out")
    records = {}
    for spec in plan_study(read_study(str(study_file))).distinct:
        if spec.method.name == "lora":
            records[spec.seed, spec.init_seed] = folder.record(spec.spec_id)
    samples = {key: record.sample["train_ids"] for key, record in records.items() if record is not None}
    assert sorted(samples[0, 0]) == sorted(samples[0, 1]) != sorted(samples[1, 0])
    curves = {str(record.curve) for record in records.values() if record is not None}
    assert len(curves) == 4
    # what is not asked for twice is one row: four runs, two samples
    summary = summarise(folder)
    cell = cell_of(summary, "lora", 16)
    assert [(run.seed, run.init_seed) for run in cell.runs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert cell_of(summary, "tfidf", 16).num_seeds_finished == 2
    told = dict(protocol_lines(summary))["Seeds"]
    assert told == "0, 1; of the start alone: 0, 1"
    locked = read_lock(tmp_path / "out" / "study.lock.json", {})
    assert [spec.init_seed for _, spec in locked.cells if spec.method.name == "lora"] == [0, 1, 0, 1]


# -- numbers -------------------------------------------------------------------------------------------


def test_nested_components_find_what_they_were_drawn_from() -> None:
    rng = np.random.default_rng(3)
    truth = {"seeds": 0.04, "inits": 0.02, "texts": 0.3}
    found: list[tuple[float, ...]] = []
    for _ in range(200):
        scores = (
            rng.normal(0, truth["seeds"] ** 0.5, (6, 1, 1)) + rng.normal(0, truth["inits"] ** 0.5, (6, 4, 1))
            + rng.normal(0, truth["texts"] ** 0.5, (1, 1, 60)) + rng.normal(0, 0.5, (6, 1, 60))
            + rng.normal(0, 0.4, (6, 4, 60))
        )  # fmt: skip
        one = nested_components(scores)
        assert one.inits is not None
        found.append((one.seeds, one.inits, one.texts, one.both))
    # both: 4 starts times the variance of text under sample, and that of text under start
    expected = (*truth.values(), 4 * 0.25 + 0.16)
    assert np.mean(found, axis=0) == pytest.approx(expected, rel=0.12)


def test_nested_components_by_hand() -> None:
    rng = np.random.default_rng(4)
    scores = rng.normal(size=(3, 2, 5))
    found = nested_components(scores)
    # against sums of squares of a full table: samples, starts in samples, texts, and the rest
    mean = scores.mean()
    total = ((scores - mean) ** 2).sum()
    samples = 10 * ((scores.mean((1, 2)) - mean) ** 2).sum()
    starts = 5 * ((scores.mean(2) - scores.mean((1, 2))[:, None]) ** 2).sum()
    texts = 6 * ((scores.mean((0, 1)) - mean) ** 2).sum()
    within = 2 * ((scores.mean(1) - mean) ** 2).sum() - samples - texts
    rest = total - samples - starts - texts - within
    square = {"samples": samples / 2, "starts": starts / 3, "texts": texts / 4, "within": within / 8, "rest": rest / 12}
    assert found.inits == pytest.approx(max(square["starts"] - square["rest"], 0) / 5)
    assert found.texts == pytest.approx(max(square["texts"] - square["within"], 0) / 6)
    assert found.both == pytest.approx(max(square["within"], square["rest"]))
    seeds = square["samples"] - square["starts"] - square["within"] + square["rest"]
    assert found.seeds == pytest.approx(max(seeds, 0) / 10)
    assert sum(found.shares.values()) == pytest.approx(1) and list(found.shares) == ["sample", "init", "texts", "both"]


def test_a_single_sample_says_nothing_of_samples() -> None:
    scores = np.random.default_rng(5).normal(size=(1, 4, 30))
    found, crossed = nested_components(scores), variance_components(scores[0])
    assert (found.inits, found.texts, found.both) == (crossed.seeds, crossed.texts, crossed.both)
    assert list(found.shares) == ["init", "texts", "both"]
    with pytest.raises(ValueError, match="two starts"):
        nested_components(scores[:, :1])


def finish(study: Study, method: dict[str, Any], seed: int, init: int | None, correct: list[int]) -> None:
    """A run with a start of its own, as `Study.finish` makes those without."""
    study.finish(method, 50, seed, correct, **({} if init is None else {"init_seed": init}))  # type: ignore[arg-type]


def test_runs_of_one_sample_count_as_one_draw_of_it(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    right = {(seed, init): draws(0.8, 300, seed=10 * seed + init) for seed in range(3) for init in range(2)}
    other = {seed: draws(0.7, 300, seed=100 + seed) for seed in range(3)}
    for (seed, init), correct in right.items():
        finish(study, LORA, seed, init, correct)
    for seed, correct in other.items():
        finish(study, TFIDF, seed, None, correct)
    summary = study.summary
    cell = cell_of(summary, "lora", 50)
    means = np.array([[right[seed, 0], right[seed, 1]] for seed in range(3)]).mean(1)
    assert cell.accuracy == crossed_interval(means)
    assert cell.components is not None and cell.components.inits is not None
    difference = cell_of(summary, "tfidf", 50).versus_best
    assert difference is not None and difference.num_seeds == 3
    expected = paired_crossed_interval(np.array([other[seed] for seed in range(3)], dtype=float), means)
    assert difference.interval is not None and difference.p_value is None
    assert difference.interval.as_dict() == pytest.approx(expected.as_dict())
    _, body = components_table(summary)
    assert body[0][1].startswith("sample ") and ", init " in body[0][1] and "between starts" in body[0][1]


def test_starts_under_one_sample_are_what_varies(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    right = {init: draws(0.8, 300, seed=init) for init in range(3)}
    for init, correct in right.items():
        finish(study, LORA, 0, init, correct)
        finish(study, LORA | {"rank": 4}, 0, init, draws(0.7, 300, seed=50 + init))
    finish(study, TFIDF, 0, None, draws(0.6, 300, seed=9))
    summary = study.summary
    assert cell_of(summary, "lora rank=8", 50).accuracy == crossed_interval(np.array(list(right.values())))
    by_start, for_all = (cell_of(summary, name, 50).versus_best for name in ("lora rank=4", "tfidf"))
    assert by_start is not None and (by_start.num_seeds, by_start.num_starts) == (1, 3)
    assert for_all is not None and (for_all.num_seeds, for_all.num_starts) == (1, 3) and for_all.interval is not None


def test_starts_of_one_sample_decide_no_claim(tmp_path: Path) -> None:
    """Nor beside what reads no labels; starts of two samples are two seeds."""
    study = Study(tmp_path / "study")
    study.claims = [["lora", "lora rank=4"], ["lora", "zero_shot"], ["loreft", "zero_shot"]]
    study.claims[0][0] = study.claims[1][0] = "lora rank=8"
    finish(study, {"name": "zero_shot"}, 0, None, draws(0.5, 300, seed=8))
    for init in range(3):
        finish(study, LORA, 0, init, draws(0.95, 300, seed=init))
        finish(study, LORA | {"rank": 4}, 0, init, draws(0.6, 300, seed=50 + init))
        for seed in range(3):
            finish(study, {"name": "loreft"}, seed, init, draws(0.95, 300, seed=100 + 10 * seed + init))
    claims = study.summary.claims
    found = [(one.difference.is_single, one.difference.num_seeds, one.difference.num_starts) for one in claims]
    assert found == [(True, 1, 3), (True, 1, 3), (False, 3, 1)]
    assert all(claim.p_value < 0.01 for claim in claims) and [claim.is_settled for claim in claims] == [0, 0, 1]
    told = claim_sentences(study.summary)
    assert told[0].startswith("can't tell lora rank=8 from lora rank=4 at 50 labels, +")
    assert told[0].endswith("(one seed says nothing of another), same 300 texts, 1 seed, 3 starts.")
    head, rows = claims_table(study.summary)
    assert [row[head.index("seeds")] for row in rows] == ["1, 3 starts", "1, 3 starts", "3"]


@pytest.mark.parametrize(("claim", "sign"), [(["lora", "tfidf"], 1), (["tfidf", "lora"], -1)])
def test_a_mean_over_starts_is_no_fixed_classifier(tmp_path: Path, claim: list[str], sign: int) -> None:
    """One sample in common, three starts of the one: the t test over texts, not McNemar's, whichever stands first."""
    study = Study(tmp_path / "study")
    study.claims = [claim]
    right = [draws(0.9, 300, seed=init) for init in range(3)]
    for init, correct in enumerate(right):
        finish(study, LORA, 0, init, correct)
    other = [draws(0.8, 300, seed=90 + seed) for seed in range(2)]
    for seed, correct in enumerate(other):
        finish(study, TFIDF, seed, None, correct)
    expected = stats.ttest_rel(np.mean(right, axis=0), other[0])
    (tested,) = study.summary.claims
    difference = tested.difference
    assert (difference.num_seeds, difference.p_value, difference.is_single) == (1, None, True)
    assert difference.t_p_value == pytest.approx(expected.pvalue)
    assert difference.interval is not None
    assert difference.interval.estimate == pytest.approx(sign * (np.mean(right) - np.mean(other[0])))
