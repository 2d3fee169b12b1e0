"""Planning, running what is missing, failed cells, damaged records, what a record says of its execution.

The runs here are made up; tests/test_interruption.py does real ones.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful import progress
from handful.errors import HandfulError, RunError, SpecError, StudyError, nearest
from handful.executors import EXECUTORS, CellEnded, CellProgress, CellStarted, Event, LocalExecutor, local
from handful.methods import METHODS
from handful.results import Predictions, RunRecord, StudyFolder
from handful.run import RunSettings
from handful.spec import ExecutionSpec, RunSpec, StudySpec, read_study
from handful.study import Outcome, default_settings, plan_study, run_plan, run_study
from toys import make_toy_model

LABELS = ("bad", "good", "so so")
CPU = 'device = "cpu"\nthreads = 1\n'
NUM_TEST = 12


def write_study(folder: Path, fixed: str = "", grid: str = "", execution: str = CPU, table: str = "") -> str:
    """A study file on 60 texts with three labels: two numbers of labels, two seeds, so four runs."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["text,label", *(f"text number {index},{LABELS[index % 3]}" for index in range(60))]
    (folder / "texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = f"name = 'table_file', path = '{table or folder / 'texts.csv'}', test_size = {NUM_TEST}"
    given = fixed + grid
    sections = [
        "name = 'texts'\n[fixed]",
        "" if "data =" in given else f"data = {{ {source} }}",
        fixed,
        "[grid]",
        grid or "method = ['tfidf']",
        "" if "num_labels" in given else "num_labels = [6, 9]",
        "" if "seed" in given else "seed = [0, 1]",
        f"[execution]\n{execution}",
    ]
    (folder / "study.toml").write_text("\n".join(sections), encoding="utf-8")
    return str(folder / "study.toml")


def test_problems_in_execution_hide_none_in_a_cell(tmp_path: Path) -> None:
    file = write_study(tmp_path, grid="method = ['lorra']\nseed = [-1]", execution='placement = "everywhere"')
    with pytest.raises(SpecError) as error:
        read_study(file)
    for words in ("no 'lorra'", "seed must not be negative", "placement must be one of"):
        assert words in str(error.value)


@dataclass
class FakeLine:
    """Stands in for `run.run`. ends: what the n-th run (from 1) does instead of ending well."""

    ends: dict[int, BaseException | Callable[[RunRecord], RunRecord]] = field(default_factory=dict)
    ran: list[RunSpec] = field(default_factory=list)
    settings: list[RunSettings] = field(default_factory=list)

    def __call__(
        self, spec: RunSpec, settings: RunSettings, adapter_folder: Path | None
    ) -> tuple[RunRecord, Predictions]:
        self.ran.append(spec)
        self.settings.append(settings)
        with progress.stage("train"):
            progress.advance(1, 2)
            progress.amount("train_tokens", 1000)
        if adapter_folder is not None:
            adapter_folder.mkdir(parents=True)
            (adapter_folder / "adapter.safetensors").write_bytes(b"learned")
        end = self.ends.get(len(self.ran))
        if isinstance(end, BaseException):
            raise end
        with progress.stage("test"):
            progress.note("the token budget was halved")
        random = np.random.default_rng([spec.num_labels, spec.seed])
        scores = np.log(random.dirichlet([1.0, 1.0, 1.0], size=NUM_TEST))
        predictions = Predictions(tuple(map(str, range(NUM_TEST))), np.arange(NUM_TEST) % 3, scores)
        accuracy = float(predictions.correct.mean())
        record = RunRecord(
            spec.spec_id, spec.as_dict(), "finished", label_names=LABELS, metrics={"accuracy": accuracy}
        )
        return (end(record) if end is not None else record), predictions


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> FakeLine:
    fake = FakeLine()
    monkeypatch.setattr(local, "run_line", fake)
    return fake


def run(study_file: str, output: Path, on_event: Callable[[Event], None] | None = None) -> Outcome:
    return run_study(read_study(study_file), output, "handful study study.toml", on_event)


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Every record as it lies on disk."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}


def without_execution(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: {**record, "execution": {}} for name, record in records(folder).items()}


def test_finished_cells_of_another_folder_are_taken_over(tmp_path: Path, line: FakeLine) -> None:
    small = write_study(tmp_path / "a")
    run(small, tmp_path / "first")
    assert len(line.ran) == 4
    study = read_study(small)
    outcome = run_plan(plan_study(study), study.execution, tmp_path / "second", reuse=[tmp_path / "first"])
    assert len(line.ran) == 4 and outcome.finished == 4
    assert records(tmp_path / "second") == records(tmp_path / "first")
    with pytest.raises(StudyError, match="is no study folder"):
        run_plan(plan_study(study), study.execution, tmp_path / "third", reuse=[tmp_path / "nowhere"])


# -- the plan -----------------------------------------------------------------------------------------------


def test_a_plan_has_every_cell_asked_and_each_run_once(tmp_path: Path) -> None:
    plan = plan_study(read_study(write_study(tmp_path, grid='method = ["tfidf", "zero_shot"]')), "typed")
    asked = [cell.asked for cell in plan.cells]
    found = [(cell["method"]["name"], cell["num_labels"], cell["seed"]) for cell in asked]
    assert found == list(itertools.product(("tfidf", "zero_shot"), (6, 9), (0, 1)))
    # zero-shot reads neither labels nor a seed
    assert [(spec.method.name, spec.num_labels, spec.seed) for spec in plan.distinct] == [
        ("tfidf", 6, 0), ("tfidf", 6, 1), ("tfidf", 9, 0), ("tfidf", 9, 1), ("zero_shot", 0, 0)
    ]  # fmt: skip
    plain = plan.as_dict()
    assert plain["name"] == "texts" and plain["command"] == "typed"
    assert [cell["spec_id"] for cell in plain["cells"]] == [cell.spec.spec_id for cell in plan.cells]
    assert json.loads(json.dumps(plain)) == plain


def several_grids(tmp_path: Path, grids: str, fixed: str = "seed = 7") -> StudySpec:
    table = tmp_path / "table.csv"
    table.write_text("text,label\n" + "".join(f"a film {row},{'abc'[row % 3]}\n" for row in range(60)))
    study_file = tmp_path / "grids.toml"
    study_file.write_text(
        f'name = "grids"\n[fixed]\ndata = {{ name = "table_file", path = "{table}", test_size = 9 }}\n{fixed}\n{grids}'
    )
    return read_study(str(study_file))


def test_several_grids_stand_side_by_side(tmp_path: Path) -> None:
    study = several_grids(
        tmp_path,
        '[[grid]]\nmethod = ["tfidf"]\nnum_labels = [6, 9]\nseed = [0, 1]\n'
        '[[grid]]\nmethod = ["tfidf", "zero_shot"]\nnum_labels = [9, 12]\n',
    )
    found = [(cell["method"]["name"], cell["num_labels"], cell["seed"]) for cell in study.cells]
    assert found == [
        ("tfidf", 6, 0), ("tfidf", 6, 1), ("tfidf", 9, 0), ("tfidf", 9, 1),
        ("tfidf", 9, 7), ("tfidf", 12, 7), ("zero_shot", 9, 7), ("zero_shot", 12, 7),
    ]  # fmt: skip
    assert len(plan_study(study).distinct) == 7  # zero-shot reads no labels


@pytest.mark.parametrize(
    ("grids", "said"),
    [
        ('[[grid]]\nmethod = ["tfidf"]\nseed = [0]\n[[grid]]\nmethod = ["lora"]\nseed = [1]\n', "every grid"),
        ('[[grid]]\nmethod = ["tfidf"]\n[[grid]]\nnum_labels = [6]\n', r"method is missing.*\[grid 2\]"),
        ('[[grid]]\nmethod = ["tfidf"]\n[[grid]]\nmethod = "lora"\n', "grid 2.method must be a list"),
        ('[[grid]]\nmethod = ["tfidf"]\nlabels = [3]\n', "unknown key grid 1.labels"),
    ],
)
def test_what_is_wrong_with_one_of_several_grids_is_said(tmp_path: Path, grids: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        several_grids(tmp_path, grids)


def test_a_plan_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    from toys import make_toy_model

    toy = make_toy_model(tmp_path / "bases" / "toy", max_position_embeddings=512)
    fixed = f"model = {{ checkpoint = '{toy}' }}\nprompt = 'alpaca'"
    plan = plan_study(read_study(write_study(tmp_path, fixed, 'method = ["tfidf", "zero_shot"]')))
    assert str(tmp_path) not in json.dumps(plan.as_dict())
    by_method = {cell.asked["method"]["name"]: cell.asked for cell in plan.cells}
    assert by_method["zero_shot"]["model"] == plan.distinct[-1].as_dict()["model"]
    assert by_method["tfidf"]["model"] == {"name": "causal_lm", "checkpoint": "toy"}


def test_two_tables_of_one_name_stay_apart_in_the_plan(tmp_path: Path) -> None:
    write_study(tmp_path / "a")
    text = Path(write_study(tmp_path / "b")).with_name("texts.csv")
    text.write_text(text.read_text().replace("number", "no"))
    paths = [tmp_path / name / "texts.csv" for name in "ab"]
    tables = ", ".join(f"{{ name = 'table_file', path = '{path}' }}" for path in paths)
    study = read_study(write_study(tmp_path / "c", grid=f"data = [{tables}]\nmethod = ['tfidf']"))
    asked = [cell.asked["data"] for cell in plan_study(study).cells]
    assert len({json.dumps(data, sort_keys=True) for data in asked}) == 2


def test_all_problems_are_found_before_anything_is_written(tmp_path: Path, line: FakeLine) -> None:
    study_file = write_study(
        tmp_path,
        fixed="prompt = { name = 'alpaca', answers = { bad = 'x', good = 'x', 'so so' = 'y' } }",
        grid="method = ['tfidf', 'zero_shot']\nnum_labels = [2, 6, 5000]",
    )
    with pytest.raises(SpecError) as caught:
        run(study_file, tmp_path / "out")
    problems = caught.value.problems
    assert len(problems) == 3, problems
    assert "same answer 'x'" in problems[0]
    assert "num_labels = 2 is less than the 3 labels" in problems[1]
    assert "num_labels = 5000" in problems[2] and "48" in problems[2]
    assert not (tmp_path / "out").exists() and not line.ran


def test_what_is_not_there_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from handful import study as study_module

    asked: list[Mapping[str, Any]] = []
    resolve = study_module.resolve_cell

    def counting(cell: Mapping[str, Any], device: str, outline: bool) -> RunSpec:
        asked.append(cell)
        return resolve(cell, device)

    monkeypatch.setattr(study_module, "resolve_cell", counting)
    with pytest.raises(SpecError) as caught:
        plan_study(read_study(write_study(tmp_path, table=str(tmp_path / "nowhere.csv"))))
    assert len(caught.value.problems) == 1 and "nowhere.csv" in str(caught.value)
    assert len(asked) == 1


# -- running what is missing --------------------------------------------------------------------------------


def test_a_study_runs_its_cells_in_order_and_tells_of_them(tmp_path: Path, line: FakeLine) -> None:
    events: list[Event] = []
    outcome = run(write_study(tmp_path), tmp_path / "out", events.append)
    assert (outcome.finished, outcome.failed, outcome.planned) == (4, 0, 4)
    assert [(spec.num_labels, spec.seed) for spec in line.ran] == [(6, 0), (6, 1), (9, 0), (9, 1)]
    assert [type(event) for event in events] == [CellStarted, CellProgress, CellEnded] * 4
    started, moved, ended = events[3:6]
    assert isinstance(started, CellStarted) and isinstance(ended, CellEnded)
    assert (started.index, started.total, started.label) == (2, 4, "tfidf, 6 labels, seed 1")
    assert moved == CellProgress("train", 1, 2)
    assert (ended.index, ended.status, ended.reason) == (2, "finished", "") and ended.seconds > 0
    assert outcome.folder.plan()["name"] == "texts"
    assert set(outcome.folder.records()) == {spec.spec_id for spec in line.ran}


def test_again_runs_only_what_is_missing(tmp_path: Path, line: FakeLine) -> None:
    study_file = write_study(tmp_path)
    run(study_file, tmp_path / "out")
    before = records(tmp_path / "out")
    assert run(study_file, tmp_path / "out").finished == 4
    assert len(line.ran) == 4 and records(tmp_path / "out") == before
    larger = write_study(tmp_path, grid="method = ['tfidf']\nnum_labels = [6, 9, 12]")
    assert run(larger, tmp_path / "out").planned == 6
    assert [spec.num_labels for spec in line.ran[4:]] == [12, 12]


def test_the_same_record_again(tmp_path: Path, line: FakeLine) -> None:
    for name in ("first", "second"):
        run(write_study(tmp_path / name), tmp_path / name / "out")
    first, second = tmp_path / "first" / "out", tmp_path / "second" / "out"
    assert without_execution(first) == without_execution(second)
    assert (first / "plan.json").read_bytes() == (second / "plan.json").read_bytes()
    assert str(tmp_path) not in json.dumps(records(first))
    assert "T" in records(first)[line.ran[0].spec_id]["execution"]["started_at"]


def test_a_record_says_how_it_was_made(tmp_path: Path, line: FakeLine) -> None:
    run(write_study(tmp_path, execution=f"{CPU}token_budget = 2048\n"), tmp_path / "out")
    execution = records(tmp_path / "out")[line.ran[0].spec_id]["execution"]
    seconds = execution["seconds"]
    assert 0 < seconds["train"] < seconds["total"] and seconds["test"] > 0
    assert execution["amounts"] == {"train_tokens": 1000}
    assert execution["tokens_per_second"]["train"] == pytest.approx(1000 / seconds["train"])
    assert execution["texts_per_second"] == {"test": pytest.approx(NUM_TEST / seconds["test"])}
    assert 10 * 2**20 < execution["peak_memory_bytes"] < 2**40
    assert execution["device"] and execution["host"] == socket.gethostname()
    assert (execution["threads"], execution["token_budget"]) == (1, 2048)
    assert execution["notes"] == ["the token budget was halved"]
    packages = {"handful", "python", "torch", "transformers", "peft", "numpy", "scikit-learn"}
    assert set(execution["versions"]) - {"bitsandbytes"} == packages, "an extra may be installed"
    assert execution["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", execution["finished_at"])


# -- cells that fail ----------------------------------------------------------------------------------------


def test_a_failed_cell_stops_no_other_and_is_run_again(tmp_path: Path, line: FakeLine) -> None:
    diverged = RunError("training diverged:\nlower the learning rate")
    line.ends = {2: diverged, 3: ZeroDivisionError("of /srv/x/y.py")}
    study_file = write_study(tmp_path)
    outcome = run(study_file, tmp_path / "out")
    assert (outcome.finished, outcome.failed, outcome.planned) == (2, 2, 4)
    person, fault = (records(tmp_path / "out")[line.ran[index].spec_id] for index in (1, 2))
    assert person["status"] == fault["status"] == "failed"
    assert person["reason"] == "training diverged: lower the learning rate"
    assert "traceback" not in person["execution"] and person["execution"]["seconds"]["train"] >= 0
    assert fault["reason"] == "ZeroDivisionError: of y.py"
    assert re.fullmatch(r"test_study\.py:\d+ in __call__", fault["execution"]["traceback"][-1])
    kept = {path.name for path in (tmp_path / "out" / "adapters").iterdir()}
    assert kept == {line.ran[0].spec_id, line.ran[3].spec_id}
    assert run(study_file, tmp_path / "out").finished == 4
    assert line.ran[4:] == line.ran[1:3]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_out_of_memory_is_said_in_words(tmp_path: Path, line: FakeLine, error: Exception) -> None:
    line.ends = {1: error}
    assert run(write_study(tmp_path), tmp_path / "out").failed == 1
    reason = records(tmp_path / "out")[line.ran[0].spec_id]["reason"]
    assert reason == "out of memory on cpu: free memory there, or take a smaller model"


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_no_record_holds_a_number_that_is_none(tmp_path: Path, line: FakeLine, value: Any) -> None:
    line.ends = {1: lambda record: replace(record, metrics={"accuracy": value})}
    outcome = run(write_study(tmp_path), tmp_path / "out")
    assert (outcome.finished, outcome.failed) == (3, 1)
    assert records(tmp_path / "out")[line.ran[0].spec_id]["status"] == "failed"


def test_a_full_disk_stops_the_study_and_says_so(
    tmp_path: Path, line: FakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> RunRecord:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StudyFolder, "write_record", full)
    with pytest.raises(StudyError, match=r"No space left on device.*it goes on from here"):
        run(write_study(tmp_path), tmp_path / "out")
    assert len(line.ran) == 1


def test_ctrl_c_keeps_what_has_finished(tmp_path: Path, line: FakeLine) -> None:
    line.ends = {3: KeyboardInterrupt()}
    study_file = write_study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(study_file, tmp_path / "out")
    assert len(records(tmp_path / "out")) == 2
    assert not (tmp_path / "out" / "adapters" / line.ran[2].spec_id).exists()
    assert run(study_file, tmp_path / "out").finished == 4
    assert line.ran[3:] == [line.ran[2], *line.ran[4:]] and len(line.ran) == 5


# -- the folder ---------------------------------------------------------------------------------------------


def damage_record(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        plain = json.loads(path.read_text())
        path.write_text(json.dumps(change(plain)))

    return damage


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty record": lambda path: path.write_bytes(b""),
    "truncated record": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "record of zeros": lambda path: path.write_bytes(bytes(500)),
    "record that is a list": lambda path: path.write_text("[]"),
    "record without its parts": lambda path: path.write_text('{"format": 1}'),
    "record of another cell": damage_record(lambda plain: plain | {"spec_id": "0" * 16}),
    "truncated predictions": lambda path: path.with_suffix(".parquet").write_bytes(b"PAR1"),
    "one wrong byte": lambda path: path.with_suffix(".parquet").write_bytes(
        path.with_suffix(".parquet").read_bytes()[:-1] + b"X"
    ),
    "no predictions": lambda path: path.with_suffix(".parquet").unlink(),
    "no record": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_missing_and_run_again(
    tmp_path: Path, line: FakeLine, damage: Callable[[Path], Any]
) -> None:
    study_file, out = write_study(tmp_path), tmp_path / "out"
    run(study_file, out)
    whole = without_execution(out)
    damage(out / "records" / f"{line.ran[1].spec_id}.json")
    assert StudyFolder(out).record(line.ran[1].spec_id) is None
    assert run(study_file, out).finished == 4
    assert line.ran[4:] == [line.ran[1]]
    assert without_execution(out) == whole


@pytest.mark.parametrize("name", ["plan.json", "record"])
def test_an_unknown_format_is_said_and_left_alone(tmp_path: Path, line: FakeLine, name: str) -> None:
    study_file, out = write_study(tmp_path), tmp_path / "out"
    run(study_file, out)
    path = out / (f"records/{line.ran[1].spec_id}.json" if name == "record" else name)
    path.write_text(json.dumps({"format": 99}))
    plan = (out / "plan.json").read_bytes()
    said = rf"{path.name} has format 99, this version of handful reads 1: .*--output"
    with pytest.raises(StudyError, match=said):
        run(study_file, out)
    assert json.loads(path.read_text()) == {"format": 99}
    assert (out / "plan.json").read_bytes() == plan and len(line.ran) == 4


def test_a_damaged_plan_is_written_again(tmp_path: Path, line: FakeLine) -> None:
    study_file, out = write_study(tmp_path), tmp_path / "out"
    run(study_file, out)
    (out / "plan.json").write_bytes(b"")
    assert run(study_file, out).folder.plan()["name"] == "texts"


def test_a_folder_in_use_is_refused_by_name_and_left_alone(tmp_path: Path, line: FakeLine) -> None:
    study_file, out = write_study(tmp_path), tmp_path / "out"
    refusals = []

    def start_another(event: Event) -> None:
        if isinstance(event, CellStarted):
            with pytest.raises(StudyError) as caught:
                run(study_file, out)
            refusals.append(str(caught.value))

    assert run(study_file, out, start_another).finished == 4
    assert len(refusals) == 4 and len(line.ran) == 4
    assert re.search(rf"in use by process \d+ on {re.escape(socket.gethostname())}: .*--output", refusals[0])


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, line: FakeLine) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written to"):
        run(write_study(tmp_path), tmp_path / "file" / "out")


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path, line: FakeLine) -> None:
    study_file, out = write_study(tmp_path), tmp_path / "out"
    run(study_file, out)
    for left in (".plan.json.17.part", "records/.0123456789abcdef.parquet.17.part"):
        (out / left).write_bytes(b"half")
    run(study_file, out)
    assert not list(out.rglob("*.part"))


def test_a_stale_adapter_is_gone_before_its_cell_runs(tmp_path: Path, line: FakeLine) -> None:
    study_file, out = write_study(tmp_path), tmp_path / "out"
    run(study_file, out)
    shutil.rmtree(out / "records")
    adapter = out / "adapters" / line.ran[0].spec_id
    (adapter / "half.safetensors").write_bytes(b"")
    run(study_file, out)  # the made-up run refuses a folder that is there
    assert [path.name for path in adapter.iterdir()] == ["adapter.safetensors"]


# -- settings -----------------------------------------------------------------------------------------------


def test_settings_come_from_the_file_then_the_folder_then_the_machine() -> None:
    fresh = default_settings(ExecutionSpec(device="cpu"), {})
    assert (fresh.device, fresh.token_budget, fresh.save) == ("cpu", 8192, "adapters") and fresh.threads >= 1
    stored = default_settings(ExecutionSpec(device="cpu"), {"token_budget": 512, "threads": 1})
    assert (stored.token_budget, stored.threads) == (512, 1)
    asked = default_settings(ExecutionSpec("cpu", 3, 1024, "none"), {"token_budget": 512, "threads": 1})
    assert (asked.token_budget, asked.threads, asked.save) == (1024, 3, "none")
    crowded = default_settings(ExecutionSpec(device="cpu"), {"threads": 100_000})
    assert crowded.threads == fresh.threads


def test_a_cuda_device_that_is_not_there_is_a_problem(
    tmp_path: Path, line: FakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match='device = "cuda"'):
        run(write_study(tmp_path, execution='device = "cuda"'), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_token_budget_is_kept_and_a_change_noted(tmp_path: Path, line: FakeLine) -> None:
    out = tmp_path / "out"
    line.ends = {4: RunError("no")}
    run(write_study(tmp_path, execution=f"{CPU}token_budget = 256\n"), out)
    line.ends = {5: RunError("no")}
    run(write_study(tmp_path), out)
    assert line.settings[-1].token_budget == 256 and StudyFolder(out).execution()["notes"] == []
    run(write_study(tmp_path, execution=f"{CPU}token_budget = 512\n"), out)
    assert line.settings[-1].token_budget == 512
    kept = StudyFolder(out).execution()
    assert kept["notes"] == ["token_budget changed from 256 to 512 after 3 finished runs"]
    assert kept["token_budget"] == 512


def test_no_adapters_where_none_are_asked_for(tmp_path: Path, line: FakeLine) -> None:
    run(write_study(tmp_path, execution=f'{CPU}save = "none"\n'), tmp_path / "out")
    assert not (tmp_path / "out" / "adapters").exists()


def test_threads_are_given_back(tmp_path: Path, line: FakeLine) -> None:
    before = torch.get_num_threads()
    run(write_study(tmp_path), tmp_path / "out")
    assert torch.get_num_threads() == before


def test_every_executor_is_in_the_table() -> None:
    assert EXECUTORS["local"] is LocalExecutor
    assert all(name == executor.name for name, executor in EXECUTORS.items())


def test_another_study_in_the_same_folder_takes_over_its_records(tmp_path: Path, line: FakeLine) -> None:
    study = read_study(write_study(tmp_path))
    run_study(study, tmp_path / "out")
    other = StudySpec("another name", study.cells, study.execution, ("a note",))
    assert run_study(other, tmp_path / "out").folder.plan()["notes"] == ["a note"]
    assert len(line.ran) == 4


# -- what a real base or a method refuses, before anything is written ---------------------------------------


def refuse(tmp_path: Path, fixed: str, method: str, labels: str = "[6]") -> str:
    table = tmp_path / "table.csv"
    table.write_text("text,label\n" + "".join(f"a film {row},{'abc'[row % 3]}\n" for row in range(30)))
    study_file = tmp_path / "refused.toml"
    study_file.write_text(
        f'name = "refused"\n[fixed]\ndata = {{ name = "table_file", path = "{table}" }}\n{fixed}\n'
        f"[grid]\nmethod = [{method}]\nnum_labels = {labels}\n"
    )
    with pytest.raises(HandfulError) as caught:
        run_study(read_study(str(study_file)), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    return str(caught.value)


def test_methods_refuse_what_they_cannot_run_on_before_anything_is_written(tmp_path: Path) -> None:
    assert "num_labels above 0" in refuse(tmp_path, "", '"tfidf"', "[0]")
    assert "asks for none" in refuse(tmp_path, 'prompt = { name = "plain" }', '"lora"')
    assert "asks for none" in refuse(tmp_path, 'prompt = { name = "none" }', '"zero_shot"')
    assert "needs a causal language model" in refuse(tmp_path, 'model = { name = "none" }', '"full"')
    assert "every text is test" in refuse(tmp_path, "", '{ name = "zero_shot", calibration = "batch" }')
    assert "finite" in refuse(tmp_path, "training = { max_grad_norm = inf }", '"lora"')
    assert "finite" in refuse(tmp_path, "", '{ name = "lora", alpha = nan }')


def test_a_base_that_cannot_be_loaded_ends_the_study_before_it_writes(tmp_path: Path) -> None:
    folder = make_toy_model(tmp_path / "toy")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000])
    assert "cannot be loaded" in refuse(tmp_path, f'model = {{ checkpoint = "{folder}" }}', '"lora"')


def test_a_text_beside_one_that_cannot_be_shortened_is_found_in_planning(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("premise,hypothesis,label\n" + "".join(
        f"a,{'word ' * (3000 if row == 7 else 3)},{'xy'[row % 2]}\n" for row in range(30)
    ))  # fmt: skip
    study_file = tmp_path / "pairs.toml"
    study_file.write_text(
        f'name = "pairs"\n[fixed]\ndata = {{ name = "table_file", path = "{table}", text = ["premise", "hypothesis"], '
        'test_size = 10 }\nprompt = { name = "alpaca", shorten = "premise" }\n[grid]\nmethod = ["zero_shot"]\n'
    )
    with pytest.raises(SpecError, match="max_tokens is 1920"):
        plan_study(read_study(str(study_file)))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("LoRA", "lora"), ("tf-idf", "tfidf"), ("probe", "linear_probe"), ("lorra", "lora"), ("bert", ""), ("few", "")],
)
def test_a_hint_names_what_is_close(given: str, meant: str) -> None:
    assert nearest(given, METHODS) == (f" Did you mean {meant!r}?" if meant else "")
