"""The three formats say the same of a study, lose no cell, escape every text and fetch nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from handful.report import FORMATS, markdown, print_table, write_report
from handful.report.figures import draw
from handful.report.findings import claim_sentences, findings
from handful.report.tables import claims_table
from handful.report.terminal import layout
from handful.report.wording import printable, seconds, size
from test_summary import LORA, TFIDF, ZERO_SHOT, Study, draws

EVIL = "<script>alert('x')</script>"
COLUMNS = (16, 50, 200, 800)
VOID = {"meta", "link", "br", "use", "path", "hr", "img"}


class Page(HTMLParser):
    """Collects tags, attributes and texts of a page; raises on a tag that is closed in the wrong place."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Four rows, four columns; one seed failed, one cell failed, one is missing."""
    study = Study(tmp_path / "study", name="toy study")
    for step, num_labels in enumerate(COLUMNS):
        for seed in (0, 1):
            study.finish(ZERO_SHOT, num_labels, seed, draws(0.6, seed=99))
            study.finish(TFIDF, num_labels, seed, draws(0.5 + 0.1 * step, seed=10 * step + seed))
            if num_labels == 800:
                study.plan(LORA, num_labels, seed)
            else:
                study.finish(LORA, num_labels, seed, draws(0.8 + 0.05 * step, seed=50 + 10 * step + seed))
            tuning = {"name": "prompt_tuning"}
            if num_labels == 16 or (num_labels == 200 and seed == 1):
                study.fail(tuning, num_labels, seed, f"the loss is not a number at update {num_labels}")
            else:
                study.finish(tuning, num_labels, seed, draws(0.7, seed=70 + 10 * step + seed))
    return study


def shown(study: Study, name: str) -> str:
    """A format's text as a reader sees it."""
    text = FORMATS[name](study.summary)
    return Page(text).text if name == "html" else text


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_shows_every_cell_and_every_reason(study: Study, name: str) -> None:
    text = " ".join(shown(study, name).split())
    for row in study.summary.rows:
        assert row.label in text
        for cell in row.cells.values():
            if cell.accuracy is not None:
                assert f"{100 * cell.accuracy.estimate:.1f}" in text
                assert f"[{100 * cell.accuracy.low:.1f}, {100 * cell.accuracy.high:.1f}]" in text
    assert "1 of 2 seeds failed" in text
    assert "the loss is not a number at update 16" in text
    assert "prompt_tuning: 16 labels (seeds 0, 1)" in text
    assert "lora: 800 labels (seeds 0, 1)" in text
    assert "3 failed" in text and "2 missing" in text
    assert "reads no labels" in text and "training and selection" in text and "95 % interval" in text


def test_the_terminal_table_fits_eighty_columns_and_marks_cells_in_words(study: Study) -> None:
    text = FORMATS["terminal"](study.summary)
    assert max(map(len, text.splitlines())) <= 80
    (head,) = [line for line in text.splitlines() if line.startswith("method")]
    assert head.split() == ["method", "N", "=", "16", "N", "=", "50", "N", "=", "200", "N", "=", "800"]
    zero_shot = next(line for line in text.splitlines() if line.startswith("zero_shot"))
    assert len(re.findall(r"\d\d\.\d", zero_shot)) == 4
    assert "best" in text and "missing" in text


def test_a_narrow_terminal_splits_the_table_and_loses_no_column(study: Study) -> None:
    stream = StringIO()
    Console(file=stream, width=50, color_system=None).print(layout(study.summary, 50))
    for num_labels in COLUMNS:
        assert f"N = {num_labels}" in stream.getvalue()


def test_best_is_bold_and_ties_are_underlined(tmp_path: Path) -> None:
    study = Study(tmp_path)
    correct = draws(0.8)
    study.finish(LORA, 16, 0, correct)
    study.finish(TFIDF, 16, 0, [*correct[1:], 0])
    stream = StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system="standard")
    print_table(study.summary, console)
    assert "\x1b[1m" in stream.getvalue() and "\x1b[4m" in stream.getvalue()


def test_write_report_leaves_whole_files_only(study: Study) -> None:
    paths = write_report(study.folder)
    assert [path.name for path in paths] == [
        "report.md", "report.html", "error.png", "error.svg", "differences.png", "differences.svg", "cost.png",
        "cost.svg"]
    assert all(path.stat().st_size > 1000 for path in paths)
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    assert ElementTree.fromstring(paths[3].read_text(encoding="utf-8")).tag.endswith("svg")
    assert not list(study.folder.path.glob(".*.part"))
    assert "(error.svg)" in paths[0].read_text(encoding="utf-8")


def test_a_page_that_would_be_too_long_leaves_the_training_curves_to_their_file(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [{"update": update, "train_loss": 1 / update} for update in (1, 2, 3)]
    study.finish(LORA, 16, 5, draws(0.8), told={"curve": {"points": points, "chosen_update": 3}})
    page = study.folder.path / "report.html"
    write_report(study.folder)
    size = page.stat().st_size
    assert "Losses by updates" in page.read_text(encoding="utf-8")
    monkeypatch.setattr("handful.report.MOST_BYTES", size - 1)
    assert "training.svg" in {path.name for path in write_report(study.folder)}
    assert page.stat().st_size < size
    source = page.read_text(encoding="utf-8")
    assert "Losses by updates" not in source and "they are in training.svg" in source


def test_the_same_records_give_the_same_page(study: Study) -> None:
    assert FORMATS["html"](study.summary) == FORMATS["html"](study.summary)


def test_the_page_fetches_nothing(study: Study) -> None:
    source = FORMATS["html"](study.summary)
    page = Page(source)
    assert not {"script", "img", "iframe", "object", "embed", "form"} & set(page.tags)
    fetches = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}
    fetching = [value for _, name, value in page.attributes if name in fetches]
    assert all(value.startswith(("#", "data:,")) for value in fetching)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", source))
    assert "@import" not in source and "http://" not in source and "https://" not in source
    assert ("meta", "name", "viewport") in page.attributes
    assert "prefers-color-scheme: dark" in source
    assert page.open == [] and "viewBox" not in page.text


def test_the_figure_in_the_page_follows_its_colours(study: Study) -> None:
    figure = draw(study.summary)["error"]
    for svg in (figure.wide, figure.narrow):
        for variable in ("--ink", "--paper", "--grey", "--series-1"):
            assert f"var({variable}" in svg
    labels = [label for _, label in figure.legend]
    assert labels == ["zero_shot (reads no labels)", "tfidf", "lora", "prompt_tuning"]
    assert all(label in figure.svg for label in labels), "the file has its legend inside"


def test_ids_and_clips_of_figures_do_not_meet(study: Study) -> None:
    page = Page(FORMATS["html"](study.summary))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    referred = [value[5:-1] for _, name, value in page.attributes if value.startswith("url(#")]
    assert set(referred) <= set(ids) and referred


@pytest.fixture
def evil(tmp_path: Path) -> Study:
    study = Study(tmp_path / "evil", name=f"study {EVIL}")
    method = {"name": f"lora {EVIL}", "rank": "[red]$\\frac$ | `x` ![i](http://evil/x.png)"}
    other = method | {"rank": f"_{EVIL}"}
    told = {
        "label_names": (f"neg {EVIL}", "pos\x1b[31m"),
        "facts": {f"fact {EVIL}": f"value {EVIL}"},
        "engine": {"path": f"fast {EVIL}", "why": f"why {EVIL}"},
        "execution": {"device": EVIL, "versions": {f"p{EVIL}": f"1{EVIL}"}, "notes": [f"note {EVIL}"]},
        "curve": {"chosen_by": f"loss {EVIL}"},
    }
    for seed in (0, 1):
        study.finish(method, 16, seed, draws(0.8, seed=seed), told=told)
        study.finish(method, 50, seed, draws(0.8, seed=seed), told=told)
    study.finish(other, 16, 0, draws(0.7), told=told)
    study.fail(other, 50, 0, f"reason {EVIL} \x1b[2J")
    study.plan(other, 50, 1, prompt={"name": f"prompt {EVIL}"})
    study.finish({"name": f"zero_shot {EVIL}"}, 16, 0, draws(0.6), told=told, data={"name": f"data {EVIL}"})
    return study


def test_texts_from_records_are_escaped(evil: Study) -> None:
    summary = evil.summary
    page = FORMATS["html"](summary)
    assert "<script" not in page.lower() and "script" not in Page(page).tags
    assert EVIL in Page(page).text
    markdown = FORMATS["markdown"](summary)
    assert "<script" not in markdown.lower() and "&lt;script&gt;" in markdown
    assert re.findall(r"(?<!\\)\]\(([^)]*)", markdown) == ["error.svg"]
    assert "\x1b" not in markdown + page + FORMATS["terminal"](summary)
    assert "[red]" in FORMATS["terminal"](summary), "rich markup in a label is text"
    figures = draw(summary)
    assert figures and not any("<script" in svg for one in figures.values() for svg in (one.svg, one.wide, one.narrow))


def test_a_markdown_table_keeps_its_columns(evil: Study) -> None:
    for block in FORMATS["markdown"](evil.summary).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_finished_yet(tmp_path: Path, name: str) -> None:
    study = Study(tmp_path)
    for num_labels in (16, 50):
        study.plan(LORA, num_labels, 0)
        study.plan(ZERO_SHOT, num_labels, 0)
    text = shown(study, name)
    assert "missing" in text and "lora" in text and "zero_shot" in text
    assert not re.search(r"\d\d\.\d ", text), "no number is invented"
    assert [path.name for path in write_report(study.folder)] == ["report.md", "report.html"]


@pytest.mark.parametrize("name", FORMATS)
def test_all_failed(tmp_path: Path, name: str) -> None:
    study = Study(tmp_path)
    study.fail(LORA, 16, 0, "out of memory")
    study.fail(ZERO_SHOT, 16, 0, "no such model")
    text = shown(study, name)
    assert "out of memory" in text and "no such model" in text
    assert findings(study.summary) == ["All 2 planned runs failed: the reasons are below."]


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_plan(tmp_path: Path, name: str) -> None:
    study = Study(tmp_path)
    study.folder.write_plan({"name": "empty", "command": "", "notes": [], "cells": []})
    assert "empty" in shown(study, name)


@pytest.mark.parametrize("num_labels", [0, 1, 16])
def test_one_column(tmp_path: Path, num_labels: int) -> None:
    study = Study(tmp_path)
    study.finish(ZERO_SHOT, num_labels, 0, draws(0.6))
    if num_labels:
        study.finish(LORA, num_labels, 0, draws(0.8))
    assert {path.name for path in write_report(study.folder)} >= {"report.html", "error.png", "error.svg"}
    assert all(format_(study.summary) for format_ in FORMATS.values())


def test_perfect_and_zero_accuracy_and_one_text(tmp_path: Path) -> None:
    study = Study(tmp_path)
    for seed in (0, 1):
        study.finish(LORA, 16, seed, [1])
        study.finish(TFIDF, 16, seed, [0])
    names = {path.stem for path in write_report(study.folder)}
    assert names == {"report", "error", "differences", "cost"}


def test_a_figure_of_results_that_are_gone_is_removed(tmp_path: Path) -> None:
    study = Study(tmp_path)
    name = study.finish(LORA, 16, 0, draws(0.8))
    write_report(study.folder)
    (tmp_path / "records" / f"{name}.json").unlink()
    write_report(study.folder)
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob("*.svg"))


def test_findings_are_made_from_the_numbers(tmp_path: Path) -> None:
    study = Study(tmp_path)
    lora, tfidf, zero = draws(0.95, seed=1), draws(0.7, seed=2), draws(0.6, seed=3)
    twin = [*lora[:-1], 1 - lora[-1]]
    for seed in (0, 1):
        study.finish(ZERO_SHOT, 200, seed, zero)
        study.finish(LORA, 200, seed, lora)
        study.finish(TFIDF, 200, seed, tfidf)
        study.finish({"name": "loreft"}, 200, seed, twin)
    best, other = ("lora", "loreft") if sum(lora) > sum(twin) else ("loreft", "lora")
    text = " ".join(findings(study.summary))
    top = max(sum(lora), sum(twin)) / 2
    assert f"With 200 labels, {best} has the best mean accuracy, {top:.1f} %" in text
    assert f"cannot tell it apart from {other} (" in text
    assert "it is ahead of tfidf by" in text and "Against zero_shot without labels, " in text


def test_findings_where_no_row_reads_labels(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.finish(ZERO_SHOT, 200, 0, [1] * 3 + [0])
    assert findings(study.summary)[0].startswith("zero_shot, which reads no labels, reaches 75.0 % [")
    for ending, right in (("In a word", 2), ("So", 1)):
        prompt = {"name": "alpaca", "ending": ending}
        study.finish(ZERO_SHOT, 200, 0, [1] * right + [0] * (4 - right), prompt=prompt)
    (sentence,) = findings(study.summary)
    assert sentence.endswith("the best of 3 that read none: they range from 25.0 to 75.0 %, 50.0 % on average.")


def test_many_rows_and_two_data_sources(tmp_path: Path) -> None:
    study = Study(tmp_path)
    for data in ("imdb", "sst"):
        for rank in range(9):
            for num_labels in COLUMNS:
                correct = draws(0.5 + rank / 20, 50)
                study.finish({"name": "lora", "rank": rank}, num_labels, 0, correct, data={"name": data})
    assert {path.stem for path in write_report(study.folder)} == {"report", "error", "differences", "cost"}
    page = FORMATS["html"](study.summary)
    assert page.count("<h3>imdb</h3>") == page.count("<h3>sst</h3>") == 1 and "On imdb: " in page and "On sst: " in page


def test_quantities() -> None:
    times = (None, 0.0, 0.314, 0.996, 9.94, 9.96, 59.7, 320.0, 7500.0)
    assert [seconds(value) for value in times] == [
        "\N{EN DASH}", "< 0.01 s", "0.31 s", "1.0 s", "9.9 s", "10 s", "1 min 00 s", "5 min 20 s",
        "2 h 05 min"]
    assert [size(value) for value in (None, 0, 999, 999_999, 13_400_000, 999_960_000, 3.2e9)] == [
        "\N{EN DASH}", "0 B", "999 B", "1.0 MB", "13.4 MB", "1.0 GB", "3.2 GB"]
    assert printable("a\x1b[31m\n b\x00") == "a\N{REPLACEMENT CHARACTER}[31m b\N{REPLACEMENT CHARACTER}"


# -- claims -------------------------------------------------------------------------------------------------


def test_claims_are_said_in_words_and_in_a_table(tmp_path: Path) -> None:
    study = Study(tmp_path)
    study.claims = [["tfidf", "lora"]]
    for seed in (0, 1, 2):
        study.finish({"name": "tfidf"}, 50, seed, draws(0.55, seed=seed))
        study.finish({"name": "lora"}, 50, seed, draws(0.85, seed=10 + seed))
        study.finish({"name": "tfidf"}, 150, seed, draws(0.80, seed=20 + seed))
        study.finish({"name": "lora"}, 150, seed, draws(0.80, seed=40 + seed))
    summary = study.summary
    (sentence,) = claim_sentences(summary)
    first, second = sentence.split("; ")
    interval = summary.claims[0].difference.interval
    assert interval is not None and interval.estimate < 0
    assert first == (
        f"lora beats tfidf by {-100 * interval.estimate:.1f} points "
        f"[{-100 * interval.high:.1f}, {-100 * interval.low:.1f}] at 50 labels, same 200 texts, 3 seeds"
    )
    assert second.startswith("can't tell tfidf from lora")
    head, rows = claims_table(summary)
    assert [row[head.index("verdict")] for row in rows] == ["differs", "can't tell"]
    text = markdown.render(summary)
    assert "## Claims" in text and "exploratory" in text
