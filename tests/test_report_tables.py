"""LaTeX that is balanced and escaped, and CSV that reads back as the records."""

from __future__ import annotations

import csv
import json
import re
from io import StringIO
from pathlib import Path

import pytest

from handful.report import TABLES, latex, long_csv, write_report
from test_summary import LORA, TFIDF, ZERO_SHOT, Study, draws

EVIL = r"\input{/etc/passwd} 5% of $x_1^2$ & #1 ~ {[} <|>"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = Study(tmp_path / "study", name=f"toy {EVIL}")
    for num_labels in (50, 1500):
        for prompt in ("cloze", "alpaca"):
            study.finish(ZERO_SHOT, num_labels, 0, draws(0.6), prompt={"name": prompt})
        for seed in (0, 1):
            study.finish(TFIDF, num_labels, seed, draws(0.7, seed=seed), prompt={"name": "cloze"})
    study.finish(LORA | {"rank": EVIL}, 50, 0, draws(0.8), prompt={"name": "cloze"})
    study.fail(LORA | {"rank": EVIL}, 50, 1, "no such file: /home/me/secret/x", prompt={"name": "cloze"})
    study.plan(LORA | {"rank": 4}, 1500, 0, prompt={"name": "cloze"})
    return study


# -- LaTeX ---------------------------------------------------------------------------------------------


def body(source: str) -> list[str]:
    """The lines of the tabular between its rules, without the head."""
    return source.split("\\midrule\n", 1)[1].split("\\bottomrule")[0].splitlines()


def test_the_latex_table_is_balanced(study: Study) -> None:
    source = latex.render(study.summary)
    bare = re.sub(r"\\[\\{}$&#%_]", "", source)
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    opened = re.findall(r"\\begin\{(\w+)\}", source)
    assert opened == ["table", "tabular"] and re.findall(r"\\end\{(\w+)\}", source) == opened[::-1]
    assert [source.count(f"\\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 1, 1]
    assert bare.count("$") == 4, "the heads of two columns are all the mathematics"


def test_every_latex_row_has_every_column(study: Study) -> None:
    source = latex.render(study.summary)
    lines = body(source)
    assert len(lines) == len(study.summary.rows) + len(study.summary.spreads)
    for line in lines:
        assert line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == 2
    assert r"\begin{tabular}{p{0.28\linewidth}cc}" in source and "$N = 1{,}500$" in source


def test_latex_commands_are_the_table_s_own(study: Study) -> None:
    source = latex.render(study.summary)
    own = {
        "usepackage", "begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "textbf", "underline",
        "footnotesize", "textit", "dag", "textbackslash", "textasciitilde", "textasciicircum", "textless",
        "textgreater", "textbar", "dots", "multicolumn", "paragraph",
        "small", "linewidth",
    }
    assert set(re.findall(r"\\([A-Za-z]+)", source)) <= own
    uncommented = re.sub(r"^%.*$", "", source, flags=re.MULTILINE)
    assert not re.search(r"(?<!\\)[%#]", uncommented)


def test_latex_says_what_the_table_says(study: Study) -> None:
    source = latex.render(study.summary)
    for row in study.summary.rows:
        for cell in row.cells.values():
            if cell.accuracy is not None:
                assert f"{100 * cell.accuracy.estimate:.1f}" in source
    assert r"\textbf{" in source and r"\textit{missing}" in source and "1 of 2 seeds failed" in source
    assert "mean of 2 prompts" in source


@pytest.mark.parametrize(("text", "shown"), [
    ("a_b", r"a\_b"), ("50 %", r"50 \%"), ("\\", r"\textbackslash{}"), ("{$&#}", r"\{\$\&\#\}"), ("[1]", "{[}1{]}"),
    ("a\nb", "a b"), ('"x y" and "z"', "``x y'' and ``z''"),
])
def test_latex_escapes(text: str, shown: str) -> None:
    assert latex.escape(text) == shown


# -- CSV -----------------------------------------------------------------------------------------------


def test_csv_has_a_line_for_each_cell_and_seed_and_reads_back(study: Study) -> None:
    summary = study.summary
    lines = list(csv.DictReader(StringIO(long_csv.render(summary))))
    expected = [(row, cell, run) for row in summary.rows for cell in row.cells.values() for run in cell.runs]
    assert len(lines) == len(expected)
    for line, (row, cell, run) in zip(lines, expected, strict=True):
        assert (line["study"], line["row"], line["status"]) == (study.name, row.label, run.status)
        assert int(line["num_labels"]) == cell.num_labels
        assert line["seed"] == ("" if run.seed is None else str(run.seed))
        assert json.loads(line["spec"])["method"] == row.spec["method"]
        for name in long_csv.OF_RUN:
            value = getattr(run, name)
            assert (None if line[name] == "" else float(line[name])) == value, name
        if cell.accuracy is not None:
            ends = float(line["cell_accuracy"]), float(line["cell_low"]), float(line["cell_high"])
            assert ends == (cell.accuracy.estimate, cell.accuracy.low, cell.accuracy.high)


def test_csv_numbers_are_those_of_the_records(study: Study) -> None:
    for line in csv.DictReader(StringIO(long_csv.render(study.summary))):
        record = study.folder.record(line["spec_id"])
        if line["status"] == "missing":
            assert record is None and line["accuracy"] == ""
        elif line["status"] == "failed":
            assert record is not None and record.status == "failed" and line["accuracy"] == ""
            assert line["reason"] == "no such file: …/x"
        else:
            assert record is not None
            assert float(line["accuracy"]) == record.metrics["accuracy"]
            assert float(line["train_seconds"]) == record.execution["seconds"]["train"]
            assert int(line["num_train"]) == len(record.sample["train_ids"])


def test_a_run_without_labels_says_so_in_every_column(study: Study) -> None:
    lines = [line for line in csv.DictReader(StringIO(long_csv.render(study.summary))) if line["method"] == "zero_shot"]
    assert [(line["num_labels"], line["reads_labels"], line["seed"]) for line in lines] == [
        ("50", "false", ""), ("1500", "false", "")] * 2


# -- files ---------------------------------------------------------------------------------------------


def test_tables_are_written_when_asked_for(study: Study) -> None:
    names = {path.name for path in write_report(study.folder)}
    assert not names & {file for file, _ in TABLES.values()}
    names = {path.name for path in write_report(study.folder, tables=tuple(TABLES))}
    assert {"table.tex", "table.csv"} <= names
    assert (study.folder.path / "table.csv").read_text(encoding="utf-8") == long_csv.render(study.summary)


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_an_empty_plan(tmp_path: Path, name: str) -> None:
    study = Study(tmp_path)
    study.folder.write_plan({"name": "empty", "command": "", "notes": [], "cells": []})
    assert TABLES[name][1](study.summary)
