"""study.lock.json: the same records in an empty folder elsewhere, or a refusal that says what is another."""

from __future__ import annotations

import copy
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest

from handful import identity, spec
from handful.cli import main
from handful.errors import HandfulError
from handful.lock import lock_of
from handful.results import StudyFolder
from handful.study import planned
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
    assert {**ours, "command": ""} == {**theirs, "command": ""} and ours["command"] != theirs["command"]
    hashes = {StudyFolder(folder).lock_sha256() for folder in (there / "again", study / "out")}
    assert len(hashes) == 1 and len(hashes.pop()) == 64
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
        (json.dumps({**plain, "cells": cells}), "the lock was edited, or written by another version of handful"),
        ("{", "no JSON"), (json.dumps({**plain, "format": 99}), "no lock of format 1, got 99"),
        (json.dumps({k: v for k, v in plain.items() if k != "cells"}), "cells is missing"),
    ):  # fmt: skip
        (tmp_path / "x.lock.json").write_text(broken, "utf-8")
        code, told = run("study", str(tmp_path / "x.lock.json"))
        assert code == 2 and words in " ".join(told.split()), told
    other = plain | {"versions": plain["versions"] | {"torch": "0.1"}}
    (study / "old.lock.json").write_text(json.dumps(other), "utf-8")
    folder = StudyFolder(study / "elsewhere")
    folder.create()
    told = set()
    for lock_of_it in (plain, plain | {"command": "handful study x", "places": []}, other, plain | {"notes": []}):
        folder.write_lock(lock_of_it)
        told.add(folder.lock_sha256())
    assert len(told) == 3  # what was typed, and where files lay, is no part of it; the rest is
    (study / "elsewhere" / "study.lock.json").write_text('{"format": NaN}', "utf-8")
    assert folder.lock_sha256() == ""
    code, told = run("study", "old.lock.json", "--output", "out")
    assert code == 0 and "torch 0.1, here" in " ".join(told.split())
    # What it declares was settled when it was made: a claim that meets no rows is told, and runs.
    (study / "old.lock.json").write_text(json.dumps(plain | {"claims": [["lora", "tfidf"]]}), "utf-8")
    code, told = run("plan", "old.lock.json")
    assert code == 0 and "lora against tfidf cannot be tested: lora is chosen on the test texts" in told


DELETED = object()
DAMAGES = (None, [1], "../../evil", -3, DELETED)


def ways_in(plain: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in nested JSON."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in items:
        yield (*at, key)
        yield from ways_in(value, (*at, key))


def changed(plain: Any, at: tuple[Any, ...], value: Any) -> Any:
    plain = copy.deepcopy(plain)
    inner = plain
    for key in at[:-1]:
        inner = inner[key]
    if value is DELETED:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return plain


def sealed(plain: Any) -> Any:
    """With the identities that the specs have now, where they have one."""
    plain = copy.deepcopy(plain)
    with suppress(ValueError, KeyError, TypeError):
        for cell in plain["cells"]:
            cell["spec_id"] = identity.spec_id(cell["spec"])
    return plain


def test_whatever_is_damaged_is_a_study_or_is_refused(study: Path) -> None:
    """Every value replaced or deleted: no fault of handful, no name that leaves its folder, no other run unnoticed."""
    plain = json.loads((study / "out" / "study.lock.json").read_text("utf-8"))
    plain["cells"] = list({cell["spec"]["method"]["name"]: cell for cell in plain["cells"]}.values())
    row = {"label": "d", "where": {"method.dropout": 0.1}, "accuracy": {"8": 0.9}, "epochs": {"8": 1}}
    plain["published"] = {"source": "a paper", "base": "theirs", "num_test": 100, "parameters": None, "rows": [row]}
    ids = {cell["spec_id"] for cell in plain["cells"]}
    lock = study / "damaged.lock.json"
    damaged = [changed(plain, at, value) for at in ways_in(plain) for value in DAMAGES]
    refused = 0
    for given in [*damaged, *(again for one in damaged if (again := sealed(one)) != one)]:
        lock.write_text(json.dumps(given), "utf-8")
        try:
            plan = planned(str(lock))[0]
        except HandfulError:
            refused += 1
        else:
            assert plan.name == "locked"
            assert {cell.spec.spec_id for cell in plan.cells} <= {*ids, *(cell["spec_id"] for cell in given["cells"])}
            json.dumps(plan.as_dict(), allow_nan=False)
    assert refused > 1000


def test_damage_is_named_with_the_way_out(study: Path) -> None:
    plain = json.loads((study / "out" / "study.lock.json").read_text("utf-8"))
    names = [cell["spec"]["method"]["name"] for cell in plain["cells"]]
    lora, tfidf = names.index("lora"), names.index("tfidf")
    edited, is_another = "the lock was edited, or written by another version", "is not what its run does"
    for at, value, words in (
        (("name",), "../../evil", "name must be a text without \"/\", got '../../evil'"),
        (("claims",), [["lora"]], "claims must be a list of pairs"),
        (("published",), {"rows": 3}, "published must be a table"),
        (("notes",), {}, "notes must be a list"),
        (("surprise",), 1, "unknown key 'surprise'"),
        (("execution", "threads"), "2", "threads must be an integer, got '2'"),
        (("execution", "threads"), float("nan"), "is no JSON: Out of range float"),
        (("notes",), ["\ud800"], "is no JSON: 'utf-8' codec can't encode"),
        (("places", 0, "at"), [], "place 1: at must be a table"),
        (("cells",), [], "cells is an empty list"),
        (("cells", 0, "spec"), [], "cell 1: spec must be a table"),
        (("cells", 0, "spec", "prompt"), DELETED, "cell 1, spec: prompt is missing"),
        (("cells", 0, "spec", "num_labels"), "8", "cell 1, spec: num_labels must be an integer, got '8'"),
        (("cells", lora, "spec", "method", "alpha"), 99.0, edited),
        (("cells", lora, "spec", "protocol", "name"), "papr", edited),
        (("cells", 0, "asked", "num_labels"), -8, "num_labels must not be negative"),
        (("cells", lora, "asked", "num_labels"), 99, is_another),
        (("cells", lora, "asked", "method", "dropout"), 0.9, is_another),
        (("cells", lora, "asked", "model", "checkpoint"), "meta-llama/Llama-2-70b-chat-hf", is_another),
        (("cells", lora, "asked", "model", "quantization"), "nf4", is_another),
        (("cells", lora, "asked", "model", "dtype"), "bfloat16", is_another),
        (("cells", lora, "asked", "model", "revision"), "sha256:0", is_another),
        (("cells", lora, "asked", "model", "name"), "none", "model none: unknown key"),
        (("cells", lora, "asked", "training", "epochs"), 1000, is_another),
        (("cells", lora, "asked", "training", "learning_rate"), 0.5, is_another),
        (("cells", lora, "asked", "training", "updates"), 3, "name epochs or updates, never both"),
        (("cells", lora, "asked", "protocol", "name"), "budget", is_another),
        (("cells", lora, "asked", "protocol"), DELETED, is_another),
        (("cells", tfidf, "asked", "protocol"), {"name": "paper"}, is_another),
        (("cells", 0, "asked", "data", "test_size"), 7, is_another),
        (("cells", 0, "asked", "prompt", "answers", "a"), "fine", is_another),
    ):  # fmt: skip
        (study / "x.lock.json").write_text(json.dumps(changed(plain, at, value)), "utf-8")
        code, told = run("study", "x.lock.json")
        assert code == 2 and words in told and "Traceback" not in told, told
        assert "take the study.lock.json" in told or "no JSON" in told or at[0] in ("claims", "execution"), told
    assert not (study / "studies").exists() and not (study.parent.parent / "evil").exists()


def test_what_resolving_rewrites_is_no_edit(study: Path) -> None:
    """A cell asks in its own words for what its run says in others: sorted, stripped, filled, by content."""
    (study / "gpt-8-0.csv").write_text("id,label\nx,a\n", "utf-8")
    (study / "gpt-8-1.csv").write_text("id,label\nx,b\n", "utf-8")
    (study / "all.toml").write_text(
        """name = "all"
[fixed]
data = { name = "table_file", path = "texts.csv", text = "text", test_size = 20 }
model = { checkpoint = "./toy", dtype = "auto" }
[grid]
prompt = [{ name = "cloze", answers = { a = " good ", b = "bad" } }, "alpaca"]
protocol = ["budget", "holdout"]
training = [{}, { learning_rate = 0.01, updates = 3 }]
method = [
    "zero_shot", "tfidf", "linear_probe", "full", { name = "lora", targets = "q_proj", alpha = 4 },
    { name = "loreft", layers = [1, 0] }, { name = "prompt_tuning", learning_rate = 0.1 }, "in_context",
    { name = "predictions", path = "gpt-{num_labels}-{seed}.csv" },
]
num_labels = [8]
seed = [0, 1]
init_seed = [3]
""",
        "utf-8",
    )
    plan = planned("all.toml")[0]
    lock = lock_of(plan.as_dict(), plan.distinct, {"device": "cpu"}, {})
    (study / "all.lock.json").write_text(json.dumps(lock), "utf-8")
    assert planned("all.lock.json")[0].as_dict()["cells"] == plan.as_dict()["cells"]
