"""A table that others printed beside the study's own: read from a study file, compared, told, shown."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from handful.cli import main
from handful.errors import SpecError
from handful.report import FORMATS
from handful.report.tables import published_sentences, published_table
from handful.report.wording import as_printed
from handful.results import StudyFolder
from handful.spec import read_study
from handful.statistics import Interval, difference_interval, two_proportions_p_value, wilson_interval
from handful.study import plan_study
from handful.summary import Summary, problems_of_plan, summarise
from test_summary import LORA, ZERO_SHOT, Study, draws, row_of

STUDY = """
name = "quoted"
[published]
source = "Somebody's Table 1"
base = "a large base"
parameters = 7_000_000_000
num_test = 2000
rows = [
    { label = "eight", where = { "method.rank" = 8 }, accuracy = { 50 = 0.91, 150 = 0.95 }, epochs = { 50 = 2 } },
    { label = "sixteen", where = { "method.rank" = 16, "model.checkpoint" = "theirs" }, accuracy = { 50 = 0.92 } },
]
[fixed]
data = { name = "reviews" }
[grid]
method = ["tfidf"]
num_labels = [50]
"""


def reading(tmp_path: Path, text: str, model: str | None = None) -> Any:
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    return read_study(str(tmp_path / "study.toml"), model)


# -- reading -------------------------------------------------------------------------------------------


def test_a_study_file_quotes_a_table(tmp_path: Path) -> None:
    table = reading(tmp_path, STUDY).published
    assert (table.source, table.num_test, table.parameters) == ("Somebody's Table 1", 2000, 7e9)
    eight, sixteen = table.rows
    assert eight.accuracy == {"50": 0.91, "150": 0.95} and eight.epochs == {"50": 2}
    assert sixteen.where == {"method.rank": 16, "model.checkpoint": "theirs"}
    plan = plan_study(reading(tmp_path, STUDY)).as_dict()
    assert plan["published"]["rows"][0]["where"] == {"method.rank": 8}
    assert "published" not in plan_study(reading(tmp_path, STUDY.split("[published]")[0] + "[fixed]" +
                                                 STUDY.split("[fixed]")[1])).as_dict()


def test_another_base_no_longer_tells_their_rows_apart(tmp_path: Path) -> None:
    table = reading(tmp_path, STUDY, "reviews-llama-5m").published
    assert table.rows[1].where == {"method.rank": 16}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("accuracy = { 50 = 0.92 }", "accuracy = { 50 = 92.0 }", "fraction between 0 and 1, got 50 = 92"),
        ("accuracy = { 50 = 0.92 }", "accuracy = { fifty = 0.92 }", "by number of labels"),
        ("accuracy = { 50 = 0.92 }", "accuracy = { 050 = 0.92, 50 = 0.9 }", "accuracy is by number of labels, such as"),
        ("epochs = { 50 = 2 }", "epochs = { 050 = 2 }", "epochs is by number of labels"),
        ('label = "sixteen"', 'label = "eight"', "published: 2 rows have the label 'eight'"),
        ("num_test = 2000", "num_test = 0", "num_test must be at least 1"),
        ("num_test = 2000\n", "", "num_test is missing"),
        ("num_test", "num_tests", "unknown key 'num_tests'"),
        ('label = "eight"', 'lable = "eight"', "published row 1: unknown key 'lable'"),
        ("accuracy = { 50 = 0.92 }", "accuracy = {}", "accuracy is empty"),
        ("epochs = { 50 = 2 }", "epochs = { 50 = -2 }", "epochs count from 1, at a number of labels that accuracy has"),
        ("epochs = { 50 = 2 }", "epochs = { 500 = 2 }", "got 500 = 2"),
        (STUDY[STUDY.index("rows = [") : STUDY.index("[fixed]")], "rows = []\n", "published must be a table with"),
        ("rows = [", "lines = [", "published must be a table with source, base, num_test and rows"),
    ],
)
def test_mistakes_name_the_row_and_the_way_out(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in STUDY
    with pytest.raises(SpecError) as error:
        reading(tmp_path, STUDY.replace(old, new))
    assert words in str(error.value)


PRINTED = {
    # as the paper prints them, by number of labels
    "paper-table1": {0: [0.5178, 0.82564, 0.9424]},
    "paper-table2": {
        50: [0.649, 0.612, 0.573], 150: [0.8625, 0.76, 0.8355], 500: [0.884, 0.8975, 0.941],
        2500: [0.953, 0.9555, 0.9615],
    },
    "paper-table3": {
        50: [0.9105, 0.904, 0.9215], 150: [0.954, 0.941, 0.953], 500: [0.953, 0.9605, 0.9635],
        2500: [0.961, 0.9685, 0.9625],
    },
    "paper-table4": {25000: [0.9698, 0.9732, 0.96812]},
}  # fmt: skip


@pytest.mark.parametrize("preset", PRINTED)
@pytest.mark.parametrize("model", [None, "reviews-llama-5m"])
def test_the_papers_presets_quote_its_tables_and_ask_each_of_its_rows(preset: str, model: str | None) -> None:
    study = read_study(preset, model)
    assert study.published is not None
    for number, values in PRINTED[preset].items():
        assert [row.accuracy[str(number)] for row in study.published.rows] == values
    plain = tomllib.loads((resources.files("handful") / "presets" / f"{preset}.toml").read_text("utf-8"))
    for row in plain["published"]["rows"]:
        asked = {
            repr({key: value for key, value in cell.items() if key not in ("num_labels", "seed")})
            for cell in study.cells
            if all(
                cell[section].get(knob) == value
                for section, knob, value in (
                    (*name.split("."), value) for name, value in row["where"].items()
                    if model is None or not name.startswith("model.")
                )
            )
        }
        assert len(asked) == 1, f"{preset}: {row['label']} has {len(asked)} rows"


RANKS = """
name = "ranks"
[published]
source = "Somebody's Table 1"
base = "a large base"
num_test = 2000
rows = [{ label = "eight", where = WHERE, accuracy = { 50 = 0.91 } }]
[fixed]
data = { name = "reviews" }
model = { checkpoint = "reviews-llama-5m" }
[[grid]]
method = [{ name = "lora", rank = 8 }]
num_labels = [50]
[[grid]]
method = [{ name = "lora", rank = 16 }]
num_labels = [64]
[[grid]]
method = ["zero_shot"]
"""


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ('{ "method.rank" = 8 }', ""),
        ('{ "method.name" = "zero_shot" }', ""),
        ('{ "method.rank" = 4 }', "no row of this study has method.rank = 4.0, but 8, 16. Mend its `where`"),
        ('{ "method.rang" = 8 }', "no row of this study says method.rang. Did you mean 'method.rank'?"),
        ('{ "method.rank" = 8, "method.name" = "zero_shot" }', "no row of this study has all at once"),
        ('{ "method.name" = "lora" }', "2 rows of this study are asked the same, so its `where` has to say more: lora"),
        ('{ "method.rank" = 16 }', "an accuracy at 50 labels, where this study asks nothing of lora rank=16. Put 50"),
    ],
)
def test_a_printed_number_without_one_of_ours_is_told_before_anything_runs(
    tmp_path: Path, where: str, words: str
) -> None:
    plan = plan_study(reading(tmp_path, RANKS.replace("WHERE", where))).as_dict()
    problems = problems_of_plan(plan)
    if not words:
        assert problems == []
        return
    (problem,) = problems
    assert problem.startswith("published row 1 ('eight'): ") and words in problem
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(tmp_path / "study.toml")])
    assert ended.value.code == 2


def test_rows_that_only_their_base_told_apart_say_why_nothing_stands_there(tmp_path: Path) -> None:
    """--model takes the place of two bases, and with it goes what told the rows of ranks apart."""
    text = RANKS.replace("WHERE", '{ "model.checkpoint" = "theirs", "method.name" = "lora" }')
    plan = plan_study(reading(tmp_path, text, "reviews-llama-5m")).as_dict()
    assert problems_of_plan(plan, is_other_base=True) == []
    folder = StudyFolder(tmp_path / "out")
    folder.create()
    folder.write_plan(plan)
    assert published_table(summarise(folder))[1][0][1] == "91; ours \N{EN DASH} (several such rows)"
    where_told = RANKS.replace("WHERE", '{ "method.rank" = 8 }')
    folder.write_plan(plan_study(reading(tmp_path, where_told)).as_dict())
    assert published_table(summarise(folder))[1][0][1] == "91; ours \N{EN DASH} (missing)"


# -- statistics ----------------------------------------------------------------------------------------


def test_two_proportions_against_scipy_chi_squared() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        num_a, num_b = (int(n) for n in rng.integers(50, 3000, 2))
        right_a, right_b = int(rng.integers(1, num_a)), int(rng.integers(1, num_b))
        table = [[right_a, num_a - right_a], [right_b, num_b - right_b]]
        expected = stats.chi2_contingency(table, correction=False).pvalue
        found = two_proportions_p_value(right_a / num_a, right_b / num_b, num_a, num_b)
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert two_proportions_p_value(1.0, 1.0, 10, 10) == 1.0
    with pytest.raises(ValueError, match="at least one text"):
        two_proportions_p_value(0.5, 0.5, 0, 1)


def test_the_hybrid_interval_is_newcombes() -> None:
    # Newcombe (1998), table II, case (a): 56/70 - 48/80, method 10
    found = difference_interval(wilson_interval(56, 70), wilson_interval(48, 80))
    assert (found.estimate, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_the_hybrid_interval_covers() -> None:
    rng = np.random.default_rng(1)
    for p, q in ((0.9, 0.95), (0.6, 0.9)):
        a, b = rng.binomial(2000, p, 1000), rng.binomial(500, q, 1000)
        holds = [
            (found := difference_interval(wilson_interval(int(x), 2000), wilson_interval(int(y), 500))).low
            <= p - q <= found.high
            for x, y in zip(a, b, strict=True)
        ]
        assert 0.93 <= np.mean(holds) <= 0.97


# -- beside ours ---------------------------------------------------------------------------------------

QUOTED = {
    "source": "Somebody's <b>Table 3</b>", "base": "a large base", "parameters": 7e9, "num_test": 2000,
    "rows": [
        {"label": "r = 8", "where": {"method.rank": 8}, "accuracy": {"50": 0.9105, "150": 0.954}, "epochs": {"50": 2},
         "parameters": None},
        {"label": "r = 16", "where": {"method.rank": 16}, "accuracy": {"50": 0.904, "150": 0.941}, "epochs": {},
         "parameters": None},
        {"label": "r = 32", "where": {"method.rank": 32}, "accuracy": {"50": 0.9215, "150": 0.953}, "epochs": {},
         "parameters": None},
        {"label": "without", "where": {"method.name": "zero_shot"}, "accuracy": {"50": 0.5}, "epochs": {},
         "parameters": 7e6},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    study = Study(tmp_path_factory.mktemp("quoted") / "study", name="quoted")
    for seed in (0, 1, 2):
        for number in (50, 150):
            told = {"facts": {"num_parameters": 7_000_000}}
            study.finish(LORA, number, seed, draws(0.8, 400, seed=seed + number), told=told)
            study.finish(LORA | {"rank": 16}, number, seed, draws(0.7, 400, seed=10 + seed + number), told=told)
    study.finish(ZERO_SHOT, 50, 0, draws(0.6, 400, seed=99))
    plan = study.folder.plan()
    study.folder.write_plan({key: value for key, value in plan.items() if key != "format"} | {"published": QUOTED})
    return study.summary


def test_each_number_stands_beside_ours(summary: Summary) -> None:
    published = summary.published
    assert published is not None and published.columns == (50, 150)
    eight, sixteen, absent, without = published.rows
    ours = row_of(summary, "lora rank=8").cells[50].accuracy
    cell = eight.cells[50]
    assert ours is not None and cell.ours == ours and cell.epoch == 2
    assert cell.theirs == Interval(0.9105, *(wilson_interval(1821, 2000).as_dict()[end] for end in ("low", "high")))
    assert cell.difference is not None
    below = np.hypot(ours.estimate - ours.low, cell.theirs.high - 0.9105)
    assert cell.difference.estimate == pytest.approx(ours.estimate - 0.9105)
    assert cell.difference.low == pytest.approx(ours.estimate - 0.9105 - below)
    assert eight.times_smaller == pytest.approx(1000) and sixteen.row == "lora rank=16"
    assert absent.row == "" and absent.cells[50].ours is None and absent.cells[50].difference is None
    assert without.times_smaller is None and without.cells[50].ours is not None


def test_what_their_own_columns_tell(summary: Summary) -> None:
    assert summary.published is not None
    fifty, hundred_fifty = summary.published.told
    # zero-shot's 50 % differs from each of the three others, which do not differ among themselves
    assert (fifty.num_apart, fifty.num_pairs, fifty.largest) == (3, 6, pytest.approx(0.4215))
    pooled = (0.954 + 0.941) / 2
    p_value = 2 * stats.norm.sf(0.013 / np.sqrt(pooled * (1 - pooled) * 2 / 2000))
    assert (hundred_fifty.num_apart, hundred_fifty.num_pairs) == (0, 3)
    assert hundred_fifty.p_value == pytest.approx(min(1.0, 3 * p_value))


def test_the_papers_dropout_columns_cannot_be_told_apart(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.finish(LORA, 50, 0, draws(0.8))
    plan = study.folder.plan()
    quoted = read_study("paper-table3").published
    assert quoted is not None
    study.folder.write_plan({k: v for k, v in plan.items() if k != "format"} | {"published": quoted.as_dict()})
    told = " ".join(published_sentences(study.summary))
    assert "at 50 labels 0 of 3 pairs differ (largest difference 1.75 points, smallest p 0.1" in told
    assert "nowhere can 2,000 texts tell their columns apart" in told


def test_the_table_has_the_layout_of_theirs(summary: Summary) -> None:
    head, body = published_table(summary)
    assert head == ["N", "r = 8", "r = 16", "r = 32", "without"]
    assert [line[0] for line in body] == ["50", "150"]
    assert body[0][1].startswith("91.05 (epoch 2); ours 8") and "] (updates 10, 11, 12); -9." in body[0][1]
    assert body[0][3] == "92.15; ours \N{EN DASH} (no such row)" and body[1][4] == "\N{EN DASH}"
    told = published_sentences(summary)
    assert "ours is toy/base, 1,000 times smaller" in told[1]
    assert told[2].startswith("The interval of a difference lacks what another seed of theirs would change")
    assert as_printed(0.82564) == "82.564" and as_printed(0.9) == "90"


def test_no_seed_is_missed_where_nothing_is_trained(tmp_path: Path) -> None:
    study = Study(tmp_path / "study")
    study.finish(ZERO_SHOT, 50, 0, draws(0.6))
    plan = study.folder.plan()
    row = QUOTED["rows"][-1] | {"accuracy": {"0": 0.5}, "epochs": {}}
    quoted = QUOTED | {"rows": [row]}
    study.folder.write_plan({key: value for key, value in plan.items() if key != "format"} | {"published": quoted})
    summary = study.summary
    assert summary.published is not None and summary.published.rows[0].cells[0].difference is not None
    assert "another seed of theirs" not in " ".join(published_sentences(summary))


@pytest.mark.parametrize("name", ["markdown", "html"])
def test_reports_show_it_and_escape_it(summary: Summary, name: str) -> None:
    shown = FORMATS[name](summary)
    assert "Beside the published table" in shown and "91.05 (epoch 2); ours" in shown
    assert "<b>Table 3" not in shown and "&lt;b&gt;Table 3" in shown
