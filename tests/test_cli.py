"""The verbs as a person types them: exit codes, messages, and what they leave behind."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from handful import __version__
from handful.cli import main
from handful.results import Predictions, RunRecord, StudyFolder

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "transformers", "peft", "datasets")

# Reads no base, so a whole study takes a second.
LIGHT_STUDY = """
name = "light"
notes = ["what to type next"]
[fixed]
data = { name = "reviews", test_size = 40 }
[grid]
method = ["tfidf"]
num_labels = [16, 32]
seed = [0, 1]
"""

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    """`typed("study", "FILE")` in an empty folder -> (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        shown = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int | None)
        return code or 0, shown.out, shown.err

    return run


def light_study(folder: Path) -> Path:
    target = folder / "light.toml"
    target.write_text(LIGHT_STUDY, encoding="utf-8")
    return target


# -- without torch -------------------------------------------------------------------------------------


def loaded_by(*arguments: str, folder: Path) -> tuple[int, set[str], str]:
    """(exit code, heavy libraries that a process of its own loaded, its standard output)."""
    program = (
        "import sys\n"
        "from handful.cli import main\n"
        "try:\n"
        f"    main({list(arguments)!r})\n"
        "except SystemExit as ended:\n"
        "    code = ended.code or 0\n"
        f"print('LOADED', *[name for name in {HEAVY!r} if name in sys.modules])\n"
        "sys.exit(code)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    shown, _, loaded = ran.stdout.partition("LOADED")
    return ran.returncode, set(loaded.split()), shown


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["study", "--help"]])
def test_help_answers_without_torch(arguments: list[str], tmp_path: Path) -> None:
    code, loaded, shown = loaded_by(*arguments, folder=tmp_path)
    assert (code, loaded) == (0, set())
    assert "handful" in shown


def test_report_runs_without_torch(tmp_path: Path) -> None:
    """A study folder written by hand: one finished run, one missing."""
    folder = StudyFolder(tmp_path / "study")
    folder.create()
    cells = []
    for seed in (0, 1):
        spec = {
            "data": {"name": "reviews", "revision": "r"},
            "model": {"name": "none"},
            "prompt": {"name": "none"},
            "method": {"name": "tfidf"},
            "num_labels": 16,
            "seed": seed,
        }
        cells.append({"spec_id": f"{seed:016x}", "spec": spec, "asked": spec})
    folder.write_plan({"name": "by hand", "command": "", "notes": [], "cells": cells})
    scores = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    predictions = Predictions(("a", "b", "c", "d"), np.array([0, 1, 1, 1]), scores)
    record = RunRecord(
        cells[0]["spec_id"],
        cells[0]["spec"],
        "finished",
        label_names=("no", "yes"),
        metrics={"accuracy": {"value": 0.75}},
    )
    folder.write_record(record, predictions)

    code, loaded, shown = loaded_by("report", "study", folder=tmp_path)
    assert (code, loaded) == (0, set())
    assert "75.0" in shown and "report.html" in shown
    assert (folder.path / "report.md").is_file() and (folder.path / "report.html").is_file()


# -- a study -------------------------------------------------------------------------------------------


TELLING = ("plan.json", "execution.json", "study.lock.json")
"""Files that tell how the records of a study were made."""


def test_a_study_runs_shows_its_table_and_goes_on(typed: Typed, tmp_path: Path) -> None:
    light_study(tmp_path)
    code, out, err = typed("study", "light.toml")
    assert (code, err) == (0, "")
    assert out.count("finished in") == 4
    assert "N = 16" in out and "N = 32" in out
    assert str(Path("studies/light/report.html")) in out
    assert "what to type next" in out
    assert (tmp_path / "studies/light/report.html").is_file()

    (record, *_) = sorted((tmp_path / "studies/light/records").glob("*.json"))
    record.unlink()
    code, out, _ = typed("study", "light.toml")
    assert code == 0
    assert out.count("finished in") == 1

    told = {name: (tmp_path / "studies/light" / name).read_bytes() for name in TELLING}
    text = (tmp_path / "light.toml").read_text(encoding="utf-8").replace("[grid]", "[execution]\nthreads = 1\n[grid]")
    (tmp_path / "light.toml").write_text(text, encoding="utf-8")
    (tmp_path / "light.toml").rename(tmp_path / "renamed.toml")
    code, out, _ = typed("study", "renamed.toml")
    assert code == 0
    assert "finished in" not in out and "Nothing is left to run" in out and "N = 16" in out
    assert told == {name: (tmp_path / "studies/light" / name).read_bytes() for name in TELLING}


def test_a_failed_cell_is_exit_code_1_and_is_shown(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import handful.executors.local as local
    from handful.errors import RunError

    real = local.run_line

    def failing(spec: object, *rest: object) -> object:
        if getattr(spec, "seed", None) == 1:
            raise RunError("the loss was not a number")
        return real(spec, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(local, "run_line", failing)
    light_study(tmp_path)
    code, out, _ = typed("study", "light.toml")
    assert code == 1
    assert "the loss was not a number" in out
    assert (tmp_path / "studies/light/report.html").is_file()


def test_ctrl_c_says_that_the_same_command_goes_on(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import handful.executors.local as local

    real = local.run_line
    times: list[int] = []

    def interrupted(*arguments: object) -> object:
        times.append(1)
        if len(times) == 2:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(local, "run_line", interrupted)
    light_study(tmp_path)
    code, out, err = typed("study", "light.toml", "--output", "here")
    assert code == 130
    assert "kept in here" in out and "handful study light.toml --output here" in out
    assert "Traceback" not in out + err
    assert len(list((tmp_path / "here/records").glob("*.json"))) == 1


def test_a_fault_of_handful_shows_its_traceback(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    import handful.summary

    def broken(folder: object) -> object:
        raise RuntimeError("a wheel came off")

    monkeypatch.setattr(handful.summary, "summarise", broken)
    code, _, err = typed("report", "anything")
    assert code == 70
    assert "a wheel came off" in err and "Traceback" in err and "fault of handful" in err


# -- plan ----------------------------------------------------------------------------------------------


def test_plan_runs_and_writes_nothing(typed: Typed, tmp_path: Path) -> None:
    light_study(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = typed("plan", "light.toml")
    assert (code, err) == (0, "")
    assert "4 distinct runs, 0 finished already, 4 to run" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_plan_knows_what_is_done(typed: Typed, tmp_path: Path) -> None:
    light_study(tmp_path)
    assert typed("study", "light.toml")[0] == 0
    code, out, _ = typed("plan", "light.toml")
    assert code == 0
    assert "4 finished already, 0 to run" in out and "nothing to run" in out


# -- list ----------------------------------------------------------------------------------------------


def test_list_names_every_member_with_its_knobs(typed: Typed) -> None:
    from handful.catalogue import catalogue

    code, out, _ = typed("list")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for title, entries in catalogue().items():
        assert title in out and entries
        for entry in entries:
            assert entry.name in out.split()
            assert entry.summary, f"{title} {entry.name} has no docstring or first comment"
            for knob in entry.knobs:
                assert knob.key in out.split()
                assert "<" not in knob.words, f"{entry.name}.{knob.key}: {knob.words} is no word for people"


def test_list_of_one_kind(typed: Typed) -> None:
    code, out, _ = typed("list", "presets")
    assert code == 0 and "quickstart" in out and "learning_rate" not in out
    code, _, err = typed("list", "metods")
    assert code == 2 and "methods" in err


# -- mistakes ------------------------------------------------------------------------------------------

GOOD = """
name = "mistaken"
[fixed]
data = { name = "reviews", test_size = 40 }
[grid]
method = ["tfidf"]
num_labels = [16]
"""

MISTAKES = {
    "not TOML": ("name = ", ["TOML"]),
    "unknown section": (GOOD + "[grdi]\n", ["grdi", "grid"]),
    "unknown key": (GOOD.replace("num_labels", "num_lables"), ["num_lables", "num_labels"]),
    "unknown method": (GOOD.replace('"tfidf"', '"tdidf"'), ["tdidf", "tfidf"]),
    "unknown knob": (
        GOOD.replace('"tfidf"', '{ name = "tfidf", max_word = 1 }'),
        ["max_word", "max_words"],
    ),
    "unknown data": (GOOD.replace('"reviews"', '"review"'), ["review", "reviews"]),
    "wrong type": (GOOD.replace("[16]", '["many"]'), ["num_labels", "integer", "many"]),
    "no list": (GOOD.replace("[16]", "16"), ["num_labels", "[16]"]),
    "too many labels": (GOOD.replace("[16]", "[1000000]"), ["1000000"]),
    "missing file": (
        GOOD.replace('name = "reviews"', 'name = "table_file", path = "nothing.csv"'),
        ["nothing.csv"],
    ),
    "no such model": (
        GOOD.replace('"tfidf"', '"zero_shot"') + '[execution]\ndevice = "cpu"\n',
        ["./nowhere"],
    ),
    "no method": (GOOD.replace('method = ["tfidf"]', ""), ["method"]),
}


@pytest.mark.parametrize("verb", ["study", "plan"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_leaves_nothing(typed: Typed, tmp_path: Path, verb: str, mistake: str) -> None:
    text, expected = MISTAKES[mistake]
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    more = ["--model", "./nowhere"] if mistake == "no such model" else []
    code, out, err = typed(verb, "mine.toml", *more)
    assert code == 2
    assert err.startswith("error: ") and "Traceback" not in out + err
    for words in expected:
        assert words in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["study", "quickstrat"], "quickstart"),
        (["plan", "missing.toml"], "missing.toml"),
        (["report", "nowhere"], "nowhere"),
        (["study"], "FILE_OR_PRESET"),
        (["studdy"], "study"),
        (["study", "quickstart", "--rank", "3"], "--rank"),
    ],
)
def test_what_is_not_there(typed: Typed, tmp_path: Path, arguments: list[str], expected: str) -> None:
    code, out, err = typed(*arguments)
    assert code == 2
    assert expected in err and "Traceback" not in out + err
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file(typed: Typed, tmp_path: Path) -> None:
    light_study(tmp_path)
    (tmp_path / "taken").write_text("mine")
    code, _, err = typed("study", "light.toml", "--output", "taken")
    assert code == 2 and "taken" in err and "--output" in err
    assert (tmp_path / "taken").read_text() == "mine"


# -- small things --------------------------------------------------------------------------------------


def test_version_is_the_one_that_is_installed(typed: Typed) -> None:
    assert typed("--version") == (0, f"handful {__version__}\n", "")


def test_pins_hold_for_every_build_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(line.count("==") == 1 and not set(line) & set("+@/ ") for line in pins)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {line.split(">=")[0] for line in wanted} <= pinned


def test_the_bars_of_a_terminal_take_every_event() -> None:
    from handful.executors import CellEnded, CellProgress, CellStarted
    from handful.spec import read_study, resolve_cell
    from handful.watching import watched

    preset = read_study("quickstart")
    spec = resolve_cell(next(cell for cell in preset.cells if cell["method"]["name"] == "tfidf"))
    stream = StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    with watched(console, {spec.spec_id: 10.0}) as show:
        show(CellStarted(1, 2, "first [bold]label", spec))
        show(CellProgress("train", 3, 7))
        show(CellProgress("", 0, 0))
        show(CellEnded(1, 2, "failed", "out of [red]memory", 3.0))
        show(CellStarted(2, 2, "second", spec))
        show(CellEnded(2, 2, "finished", "", 3.0))
    shown = stream.getvalue()
    assert "first [bold]label" in shown and "out of [red]memory" in shown
    assert "second: finished in 3.0 s" in shown
    assert "10 s left" in shown


def test_remaining_time_is_corrected_by_what_cells_took() -> None:
    from handful.watching import Pace

    pace = Pace({"a": 10.0, "b": 20.0, "c": 30.0})
    assert pace.remaining("a", 4.0) == pytest.approx(6.0 + 50.0)
    pace.ended("a", 20.0)
    assert pace.remaining("b", 10.0) == pytest.approx(30.0 + 60.0)
    pace.ended("b", 40.0)
    pace.ended("c", 60.0)
    assert pace.remaining("", 0.0) is None


def test_a_report_says_when_test_texts_are_not_at_hand(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = LIGHT_STUDY.replace('["tfidf"]', '["tfidf", { name = "tfidf", max_words = 1, inverse_penalty = 0.01 }]')
    (tmp_path / "light.toml").write_text(two, encoding="utf-8")
    assert typed("study", "light.toml")[0] == 0
    assert "not at hand" not in typed("report", "studies/light")[1]
    monkeypatch.setattr("handful.texts.from_section", lambda section, ids: {})
    assert "test texts of reviews are not at hand" in " ".join(typed("report", "studies/light")[1].split())
    assert "not at hand" not in typed("report", "studies/light", "--no-texts")[1]


def test_a_library_that_misses_kernels_nobody_uses_is_not_heard(typed: Typed) -> None:
    """peft imports bitsandbytes where it is installed."""
    assert typed("--version")[0] == 0
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)


@pytest.mark.parametrize("error", [MemoryError(), ImportError("x.so: failed to map segment from shared object")])
def test_a_command_that_runs_out_of_memory_says_so(
    typed: Typed, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    import handful.summary

    def full(folder: object) -> object:
        raise error

    monkeypatch.setattr(handful.summary, "summarise", full)
    code, _, err = typed("report", "anything")
    assert code == 2 and "out of memory" in err and "Traceback" not in err
