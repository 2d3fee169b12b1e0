"""study.lock.json: the same records in an empty folder elsewhere, or a refusal that says what is another."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from handful import spec
from handful.cli import main
from handful.results import StudyFolder
from toys import make_toy_model

STUDY = """name = "locked"
notes = ["a note"]
claims = [["zero_shot", "tfidf"]]
[fixed]
data = { name = "table_file", path = "texts.csv", test_size = 20 }
model = { checkpoint = "toy" }
prompt = { name = "cloze", answers = { a = "good", b = "bad" } }
protocol = "paper"
[grid]
method = ["zero_shot", { name = "lora", dropout = 0.1 }, "tfidf"]
num_labels = [8, 12]
seed = [0, 1]
[execution]
device = "cpu"
threads = 1
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study that ran there, its lock in out/."""
    here = tmp_path / "here"
    here.mkdir()
    rows = [f"text number {index} is {('fine', 'poor')[index % 2]},{'ab'[index % 2]}" for index in range(60)]
    (here / "texts.csv").write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")
    make_toy_model(here / "toy")
    (here / "study.toml").write_text(STUDY, "utf-8")
    monkeypatch.chdir(here)
    assert run("study", "study.toml", "--output", "out")[0] == 0
    return here


def run(*arguments: str) -> tuple[int, str]:
    """A command as in a process of its own: nothing that was read before is known."""
    spec._resolved_data.cache_clear()
    spec._resolved_model.cache_clear()
    output = io.StringIO()
    with redirect_stdout(output), redirect_stderr(output), pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0), " ".join(output.getvalue().split())


def without_execution(folder: Path) -> dict[str, Any]:
    records = StudyFolder(folder).records()
    return {name: {k: v for k, v in record.as_dict().items() if k != "execution"} for name, record in records.items()}


def test_a_lock_gives_the_same_records_in_an_empty_folder(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "elsewhere"
    there.mkdir()
    lock = study / "out" / "study.lock.json"
    assert str(tmp_path) not in lock.read_text("utf-8")
    for name in ("texts.csv", "toy"):
        shutil.move(study / name, there / name)
    shutil.copy(lock, there)
    monkeypatch.chdir(there)
    code, told = run("study", "study.lock.json", "--output", "again")
    assert code == 0, told
    ours, theirs = without_execution(there / "again"), without_execution(study / "out")
    assert len(ours) == 1 + 4 + 4 and ours == theirs
    assert StudyFolder(there / "again").plan()["cells"] == StudyFolder(study / "out").plan()["cells"]
    ours, theirs = (json.loads(path.read_text("utf-8")) for path in (there / "again" / "study.lock.json", lock))
    assert {**ours, "command": ""} == {**theirs, "command": ""}
    code, told = run("study", "study.lock.json", "--output", "again")
    assert code == 0 and "Nothing is left to run" in told
    code, told = run("plan", "study.lock.json", "--output", "again")
    assert code == 0 and "9 distinct runs, 9 finished already, 0 to run" in told
    code, told = run("plan", "study.lock.json", "--show-prompts")
    assert code == 0 and "Prompt 1 of " in told


def test_what_is_another_is_refused_and_named(study: Path) -> None:
    lock = str(Path("out") / "study.lock.json")
    texts = (study / "texts.csv").read_text("utf-8")
    (study / "texts.csv").write_text(texts.replace("fine", "good"), "utf-8")
    code, told = run("study", lock, "--output", "again")
    assert code == 2 and "table_file: revision" in told and "Traceback" not in told
    (study / "texts.csv").unlink()
    code, told = run("study", lock, "--output", "again")
    assert code == 2 and "texts.csv" in told
    (study / "texts.csv").write_text(texts, "utf-8")
    shutil.move("toy", "another")
    code, told = run("study", lock, "--output", "again")
    assert code == 2 and "the base's folder 'toy' is neither in the current folder nor beside the lock" in told
    assert not (study / "again").exists()


def test_a_lock_names_its_bases_and_is_checked(study: Path, tmp_path: Path) -> None:
    lock = Path("out") / "study.lock.json"
    code, told = run("study", str(lock), "--model", "toy")
    assert code == 2 and "a lock names its bases" in told
    plain = json.loads(lock.read_text("utf-8"))
    cells = [{**cell, "spec_id": "0" * 16} for cell in plain["cells"]]
    for broken, words in (
        (json.dumps({**plain, "cells": cells}), "is another here"),
        ("{", "no JSON"), (json.dumps({**plain, "format": 99}), "no lock of format 1, got 99"),
        (json.dumps({k: v for k, v in plain.items() if k != "cells"}), "lacks cells"),
    ):  # fmt: skip
        (tmp_path / "x.lock.json").write_text(broken, "utf-8")
        code, told = run("study", str(tmp_path / "x.lock.json"))
        assert code == 2 and words in " ".join(told.split()), told
    other = plain | {"versions": plain["versions"] | {"torch": "0.1"}}
    (study / "old.lock.json").write_text(json.dumps(other), "utf-8")
    code, told = run("study", "old.lock.json", "--output", "out")
    assert code == 0 and "torch 0.1, here" in " ".join(told.split())
    # What it declares was settled when it was made: a claim that meets no rows is told, and runs.
    (study / "old.lock.json").write_text(json.dumps(plain | {"claims": [["lora", "tfidf"]]}), "utf-8")
    code, told = run("plan", "old.lock.json")
    assert code == 0 and "lora against tfidf cannot be tested: lora is chosen on the test texts" in told
