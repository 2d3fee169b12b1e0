"""Every number on the page against the records: predictions are read from their files and computed with here."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from handful.report.figures.costs import draw_costs
from handful.report.figures.errors import draw_errors
from handful.report.figures.style import looks_of
from handful.report.figures.training import draw_training, share_axes
from handful.report.html import page
from handful.report.texts import excerpt, excerpts
from handful.report.wording import without_folders
from handful.statistics import crossed_interval, paired_crossed_interval, wilson_interval
from handful.summary import Summary, summarise
from test_summary import LORA, TFIDF, ZERO_SHOT, Study, draws

COLUMNS = (50, 150)
PROMPTS = [{"name": "cloze"}, {"name": "cloze", "ending": "In a word"}, {"name": "alpaca"}]
TUNING = {"name": "prompt_tuning"}


class Tables(HTMLParser):
    """The tables of a page by the heading above them: [[text of each cell] of each row], the head first."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.heading, self.inside = "", ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("h2", "h3", "summary"):
            self.heading, self.inside = "", tag
        if tag == "table":
            self.found[self.heading] = []
        if tag == "tr":
            self.found[self.heading].append([])
        if tag in ("td", "th"):
            self.found[self.heading][-1].append("")
            self.inside = "cell"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "h2", "h3", "summary"):
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "cell":
            row = self.found[self.heading][-1]
            row[-1] = " ".join(f"{row[-1]} {data}".split())
        elif self.inside:
            self.heading += data


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three prompts without labels, a knob with two values, a failed seed, a cell that is missing."""
    study = Study(tmp_path_factory.mktemp("numbers") / "study", name="numbers")
    for step, num_labels in enumerate(COLUMNS):
        for place, prompt in enumerate(PROMPTS):
            study.finish(ZERO_SHOT, num_labels, 0, draws(0.55 + 0.07 * place, seed=place), prompt=prompt)
        for seed in (0, 1, 2):
            told: dict[str, Any] = {
                "execution": {
                    "seconds": {"train": 20.0 + 7 * seed + 100 * step, "test": 4.0}, "device": "a CPU",
                    "peak_memory_bytes": 10**9 + seed, "versions": {"torch": "2.11.0"}},
                "learned": {"num_trainable": 4096 + step, "adapter_bytes": 8192},
                "curve": {
                    "points": [
                        {"update": 5, "epoch": 1.0, "train_loss": 0.7, "selection_log_loss": 0.6 - 0.01 * seed},
                        {"update": 10, "epoch": 2.0, "train_loss": 0.5 + seed, "selection_log_loss": 0.5}],
                    "chosen_update": 10 if seed else 5, "chosen_by": "selection log-loss"},
            }
            common = {"prompt": PROMPTS[0]}
            study.finish(TFIDF, num_labels, seed, draws(0.6 + 0.1 * step, seed=20 + 3 * step + seed), **common)
            for virtual in (8, 80):
                knobs = TUNING | {"num_virtual_tokens": virtual}
                if (virtual, num_labels, seed) == (80, 50, 2):
                    study.fail(knobs, num_labels, seed, "training diverged: the loss was 40", **common)
                    continue
                right = draws(0.75 + 0.05 * step, seed=40 + virtual + 3 * step + seed)
                study.finish(knobs, num_labels, seed, right, told=told, **common)
            if num_labels == 150:
                study.plan(LORA, num_labels, seed, **common)
            else:
                study.finish(LORA, num_labels, seed, draws(0.8, seed=90 + seed), told=told, **common)
    return study


@pytest.fixture(scope="module")
def summary(study: Study) -> Summary:
    return summarise(study.folder)


@pytest.fixture(scope="module")
def tables(summary: Summary) -> dict[str, list[list[str]]]:
    return Tables(page(summary, {}, {})).found


def correct(study: Study, method: dict[str, Any], num_labels: int, prompt: dict[str, Any] = PROMPTS[0]) -> np.ndarray:
    """[seeds, texts] of a cell, read from its Parquet files."""
    names = dict.fromkeys(
        cell["spec_id"] for cell in study.cells
        if (cell["asked"]["method"], cell["asked"]["num_labels"], cell["asked"]["prompt"])
        == (method, num_labels, prompt)
    )
    files = [study.folder.path / "records" / f"{name}.parquet" for name in names]
    tested = [pq.read_table(file) for file in files if file.exists()]
    return np.array([np.equal(table["predicted"], table["label"]) for table in tested], dtype=float)


def words(right: np.ndarray) -> str:
    """"75.2 [70.1, 80.0]" """
    if len(right) == 1:
        interval = wilson_interval(int(right.sum()), right.size)
    else:
        interval = crossed_interval(right)
    return f"{100 * right.mean():.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def without_mark(text: str) -> str:
    return re.sub(r" (best|tie)(?= )| epochs? .*| updates? .*| \d of \d seeds.*", "", text)


METHODS = {
    "tfidf": TFIDF, "prompt_tuning num_virtual_tokens=8": TUNING | {"num_virtual_tokens": 8},
    "prompt_tuning num_virtual_tokens=80": TUNING | {"num_virtual_tokens": 80}, "lora": LORA,
}


def rows_of(table: list[list[str]]) -> dict[str, list[str]]:
    """Row title -> the other cells."""
    return {row[0]: row[1:] for row in table[1:]}


def test_the_main_table(study: Study, tables: dict[str, list[list[str]]]) -> None:
    assert tables["Accuracy"][0] == ["method", "N = 50", "N = 150"]
    rows = rows_of(tables["Accuracy"])
    for title, method in METHODS.items():
        for cell, num_labels in zip(rows[title], COLUMNS, strict=True):
            if (title, num_labels) == ("lora", 150):
                assert cell == "missing"
            else:
                assert without_mark(cell) == words(correct(study, method, num_labels))
    assert "1 of 3 seeds failed" in rows["prompt_tuning num_virtual_tokens=80"][0]
    assert "epochs 1, 2, 2" in rows["prompt_tuning num_virtual_tokens=8"][0]
    titles = "zero_shot prompt=cloze", 'zero_shot prompt=cloze ending="In a word"', "zero_shot prompt=alpaca"
    for title, prompt in zip(titles, PROMPTS, strict=True):
        expected = words(correct(study, ZERO_SHOT, 50, prompt))
        assert [without_mark(cell) for cell in rows[f"{title} \N{DAGGER}"]] == [expected] * 2


def test_best_and_ties_of_the_main_table(study: Study, tables: dict[str, list[list[str]]]) -> None:
    rows = rows_of(tables["Accuracy"])
    for place, num_labels in enumerate(COLUMNS):
        means = {title: correct(study, method, num_labels) for title, method in METHODS.items()}
        means = {title: right for title, right in means.items() if right.size}
        best = max(means, key=lambda title: means[title].mean())
        assert " best " in rows[best][place]
        for title, right in means.items():
            if title == best:
                continue
            num_seeds = min(len(right), len(means[best]))
            interval = paired_crossed_interval(right[:num_seeds], means[best][:num_seeds])
            assert (" tie " in rows[title][place]) == (interval.low <= 0 <= interval.high)


def test_mean_and_range_over_prompts(study: Study, tables: dict[str, list[list[str]]]) -> None:
    means = [100 * correct(study, ZERO_SHOT, 50, prompt).mean() for prompt in PROMPTS]
    cells = rows_of(tables["Accuracy"])["zero_shot, mean of 3 prompts"]
    assert cells == [f"{np.mean(means):.1f} {min(means):.1f} to {max(means):.1f}"] * 2


def test_a_pivot(study: Study, tables: dict[str, list[list[str]]]) -> None:
    table = tables["prompt_tuning: num_virtual_tokens by N"]
    assert [row[0] for row in table] == ["num_virtual_tokens", "8", "80"]
    for row in table[1:]:
        for cell, num_labels in zip(row[1:], COLUMNS, strict=True):
            method = TUNING | {"num_virtual_tokens": int(row[0])}
            assert without_mark(cell) == words(correct(study, method, num_labels))


def test_costs(study: Study, tables: dict[str, list[list[str]]]) -> None:
    head, *_ = tables["Costs"]
    row = dict(zip(head[1:], rows_of(tables["Costs"])["prompt_tuning num_virtual_tokens=8"], strict=True))
    assert row["train, N = 50"] == "27 s" and row["train, N = 150"] == "2 min 07 s"
    assert row["adapter"] == "8.2 kB" and row["trained parameters"] == "4,096\N{EN DASH}4,097"
    assert row["test texts/s"] == "50"  # 200 texts in 4 seconds


def test_all_numbers(study: Study, tables: dict[str, list[list[str]]]) -> None:
    table = tables["All numbers"]
    for row in table[1:]:
        line = dict(zip(table[0], row, strict=True))
        title = line["method"]
        if title not in METHODS or line["state"] == "missing":
            continue
        right = correct(study, METHODS[title], int(line["N"]))
        assert line["accuracy %"] == words(right)
        assert line["each seed"] == ", ".join(f"{100 * one.mean():.1f}" for one in right)


def test_mistakes_are_counted_from_the_predictions(study: Study, summary: Summary) -> None:
    rows = [correct(study, method, 50) for method in METHODS.values()]
    rows += [correct(study, ZERO_SHOT, 50, prompt) for prompt in PROMPTS]
    share = np.array([right.mean(axis=0) for right in rows])
    (found,) = summary.mistakes
    assert found.num_labels == 50
    assert found.num_all_wrong == (share == 0).all(axis=0).sum()
    assert found.num_disagree == ((share == 0).any(axis=0) & (share == 1).any(axis=0)).sum()


def test_texts_are_on_the_page_escaped_and_short(summary: Summary) -> None:
    asked = []

    def lookup(section: Any, ids: Any) -> dict[str, dict[str, str]]:
        asked.append((dict(section), len(ids)))
        return {name: {"text": f"<b>{name}</b> " + "word " * 200} for name in ids}

    texts = excerpts(summary, lookup, 120)
    assert asked == [({"name": "imdb"}, len(texts))] and texts
    assert all(len(text) <= 120 for text in texts.values())
    source = page(summary, {}, texts)
    for (_, name), text in texts.items():
        assert f"&lt;b&gt;{name}&lt;/b&gt;" in source and f"<b>{name}" not in source and text.endswith("word")
    assert "The texts are not on this page" not in source
    assert "The texts are not on this page" in page(summary, {}, {})


@pytest.mark.parametrize("length", [1, 5, 12, 40, 300, 1000])
def test_an_excerpt_keeps_its_length(length: int) -> None:
    fields = {"premise": "All of  it\n" + "a b c " * 90, "hypothesis": "the end"}
    text = excerpt(fields, length)
    assert len(text) <= length
    if length >= 40:
        assert text.startswith("premise: All") and text.endswith("end")
    assert len(excerpt({"text": "x" * 900}, length)) <= length


# -- figures -------------------------------------------------------------------------------------------


def panel() -> Any:
    from matplotlib.figure import Figure

    return Figure().subplots()


def drawn(axes: Any) -> list[tuple[list[float], list[float]]]:
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.get_lines()]


def test_the_main_figure_draws_the_errors(study: Study, summary: Summary) -> None:
    axes = panel()
    draw_errors(axes, summary, summary.rows, looks_of(summary))
    lines = drawn(axes)
    assert axes.get_xscale() == axes.get_yscale() == "log"
    prompts = [100 * (1 - correct(study, ZERO_SHOT, 50, prompt).mean()) for prompt in PROMPTS]
    assert any(len(set(y)) == 1 and y[0] == pytest.approx(np.mean(prompts)) for _, y in lines)
    bands = [path.vertices[:, 1] for part in axes.collections for path in part.get_paths()]
    assert any(
        (band.min(), band.max()) == pytest.approx((min(prompts), max(prompts))) for band in bands if len(band) > 2)
    for method in (TFIDF, TUNING | {"num_virtual_tokens": 8}):
        right = [correct(study, method, num_labels) for num_labels in COLUMNS]
        means = [100 * (1 - one.mean()) for one in right]
        assert any(x == list(COLUMNS) and y == pytest.approx(means) for x, y in lines), "the mean"
        for seed in range(3):
            errors = [100 * (1 - one[seed].mean()) for one in right]
            assert any(x == list(COLUMNS) and y == pytest.approx(errors) for x, y in lines), "a thin line"
        ends = [crossed_interval(one) for one in right]
        low, high = 100 * (1 - max(end.high for end in ends)), 100 * (1 - min(end.low for end in ends))
        assert any((band.min(), band.max()) == pytest.approx((low, high)) for band in bands), "the band"


def test_a_wide_band_does_not_flatten_the_rest(tmp_path: Path) -> None:
    study = Study(tmp_path)
    for seed, accuracy in enumerate((0.55, 0.95)):  # two seeds far apart: an interval from 0 to 100 %
        study.finish(LORA, 50, seed, draws(accuracy, seed=seed))
    summary = study.summary
    axes = panel()
    heights = draw_errors(axes, summary, summary.rows, looks_of(summary))
    low, high = axes.get_ylim()
    assert min(heights.ends) < low < min(heights.drawn) and max(heights.drawn) < high <= 108
    assert low > min(heights.drawn) / 3.5


def test_a_failed_seed_leaves_a_gap_in_its_line(study: Study, summary: Summary) -> None:
    axes = panel()
    draw_errors(axes, summary, summary.rows, looks_of(summary))
    gaps = [y for x, y in drawn(axes) if x == list(COLUMNS) and math.isnan(y[0])]
    right = correct(study, TUNING | {"num_virtual_tokens": 80}, 150)[2]
    assert len(gaps) == 1 and gaps[0][1] == pytest.approx(100 * (1 - right.mean()))


def test_the_cost_plane_draws_seconds_and_errors(study: Study, summary: Summary) -> None:
    axes = panel()
    draw_costs(axes, summary, summary.rows, looks_of(summary))
    method = TUNING | {"num_virtual_tokens": 8}
    means = [100 * (1 - correct(study, method, num_labels).mean()) for num_labels in COLUMNS]
    assert any(x == pytest.approx([27.0, 127.0]) and y == pytest.approx(means) for x, y in drawn(axes))


def test_training_curves_draw_losses_and_mark_the_kept_update(summary: Summary) -> None:
    row = next(row for row in summary.rows if row.method == "lora")
    axes = panel()
    draw_training(axes, row, summary.columns, 40)
    share_axes([axes], [row])
    lines = drawn(axes)
    assert ([5, 10], [0.7, 0.5]) in lines and ([5, 10], [0.6, 0.5]) in lines
    assert lines.count(([5], [0.6])) == 1 and lines.count(([10], [0.5])) == 4, "kept updates, and crosses"
    crosses = [line for line in axes.get_lines() if line.get_marker() == "x"]
    assert len(crosses) == 2, "the runs whose loss rose"


def test_an_error_of_zero_is_drawn_at_half_a_text_and_said(tmp_path: Path) -> None:
    study = Study(tmp_path)
    for num_labels in COLUMNS:
        study.finish(LORA, num_labels, 0, [1] * 50)
    summary = study.summary
    axes = panel()
    heights = draw_errors(axes, summary, summary.rows, looks_of(summary))
    assert heights.is_cut and ([50, 150], [1.0, 1.0]) in drawn(axes)


# -- words ---------------------------------------------------------------------------------------------


def test_no_page_says_where_files_lie_on_a_machine(study: Study, tmp_path: Path) -> None:
    plan = json.loads((study.folder.path / "plan.json").read_text(encoding="utf-8"))
    other = Study(tmp_path / "other")
    other.folder.write_plan(plan | {"command": "handful study /home/me/secret/s.toml --output ../out"})
    source = page(other.summary, {}, {})
    assert "handful study …/s.toml --output ../out" in source and "/home" not in source


@pytest.mark.parametrize(("text", "shown"), [
    ("no /home/me/x.csv here", "no …/x.csv here"), ("'/tmp/a b/x'", "'…/a b/x'"), ("~/x/y.toml", "…/y.toml"),
    ("loss/update and 3/4", "loss/update and 3/4"), ("a C:\\me\\x.csv", "a …/x.csv"), ("see https://a.b/c/d", None),
])
def test_folders_are_left_out(text: str, shown: str | None) -> None:
    assert without_folders(text) == (text if shown is None else shown)
