"""A cell that was stopped while it trained goes on from its checkpoint, and ends with the record of one that was not.

No clock is waited for: with an interval of nothing, every update leaves a checkpoint.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from handful import checkpoints, models, progress
from handful.checkpoints import Keeper
from handful.engine.graft import ParameterGroup
from handful.errors import RunError
from handful.executors import CellProgress, Event
from handful.executors import local as local_executor
from handful.results import StudyFolder
from handful.spec import read_study
from handful.study import run_study
from handful.training import Settled, TrainingSpec, optimise
from test_methods import TRAIN
from toys import make_toy_model, toy_encoder

LORA = '{ name = "lora", rank = 2, dropout = 0.3, learning_rate = 0.02 }'
WORDS = ("fine lovely", "poor awful")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy base, a toy encoder and a table of 800 texts with two labels, of which some are wrong."""
    folder = tmp_path_factory.mktemp("toys")
    make_toy_model(folder / "toy", max_position_embeddings=512)
    toy_encoder(folder / "encoder")
    lines = ["text,label"]
    for index in range(800):
        is_wrong = index % 7 == 0
        lines.append(f"this was {WORDS[index % 2]} number {index},{'ab'[(index + is_wrong) % 2]}")
    (folder / "texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)


def write_study(
    toys: Path,
    folder: Path,
    method: str = LORA,
    protocol: str = '"holdout"',
    num_labels: int = 60,
    training: str = "epochs = 3, batch_size = 8",
    model: str = "",
    budget: int = 1024,
) -> Path:
    """A study of one cell."""
    target = folder / "study.toml"
    target.write_text(
        f"""name = "one"
[fixed]
data = {{ name = "table_file", path = "{toys / "texts.csv"}", test_size = 40 }}
model = {{ checkpoint = "{toys / "toy"}"{model} }}
prompt = {{ name = "cloze", answers = {{ a = "good", b = "bad" }} }}
training = {{ {training} }}
protocol = {protocol}
[grid]
method = [{method}]
num_labels = [{num_labels}]
seed = [0]
[execution]
device = "cpu"
threads = 1
save = "all"
token_budget = {budget}
""",
        encoding="utf-8",
    )
    return target


def stop_after(update: int, stage: str = "train", times: int = 1) -> Callable[[Event], None]:
    """Ctrl-C right after that update, before it can be checkpointed; where it is done several times, after so many."""
    seen = 0

    def listen(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, CellProgress) and event.stage == stage and event.done == update
        if seen == times:
            raise KeyboardInterrupt

    return listen


def run(study_file: Path, output: Path, listen: Callable[[Event], None] | None = None) -> StudyFolder:
    """As a process of its own would run it."""
    models.forget()
    return run_study(read_study(str(study_file)), output, "", listen).folder


def stopped(study_file: Path, output: Path, update: int) -> Path:
    """Runs until after that update; gives the checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        run(study_file, output, stop_after(update))
    assert not list(output.glob("records/*")) and not list(output.rglob("*.part"))
    (checkpoint,) = (path for path in output.glob("checkpoints/*") if "-" not in path.stem)  # of the fit that counts
    return checkpoint


def record(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("records/*.json")
    plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert plain["status"] == "finished", plain
    return plain


def left(folder: Path) -> dict[str, bytes]:
    """What the cell leaves, byte for byte, but for when and where it ran."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in ("lock", "execution.json"):
            found[name] = path.read_bytes()
        if path.suffix == ".json" and path.parent.name == "records":
            found[name] = json.dumps(record(folder) | {"execution": {}}).encode()
    assert any(name.endswith(".safetensors") for name in found)
    return found


# -- whole cells -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({}, id="lora with dropout"),
        pytest.param({"protocol": '"paper"', "num_labels": 40}, id="the paper's protocol"),
        pytest.param({"protocol": '{ name = "holdout", watch_test = true }'}, id="test texts watched"),
        pytest.param({"protocol": '"budget"'}, id="after cross-validation"),
        pytest.param(
            {"protocol": '"budget"', "num_labels": 510, "training": "epochs = 9, batch_size = 64"}, id="with patience"
        ),
        pytest.param({"method": '{ name = "full", learning_rate = 1e-3 }'}, id="full"),
        pytest.param(
            {"method": '{ name = "full", learning_rate = 1e-4 }', "model": ', dtype = "bfloat16"'}, id="16-bit weights"
        ),
        pytest.param({"method": '{ name = "loreft", rank = 2, dropout = 0.2 }'}, id="loreft"),
        pytest.param({"method": '{ name = "prompt_tuning", num_virtual_tokens = 4 }'}, id="prompt tuning"),
        pytest.param({"method": '{ name = "encoder", checkpoint = "ENCODER" }'}, id="encoder"),
        pytest.param({"method": '{ name = "encoder", checkpoint = "ENCODER", trains = "head" }'}, id="its head"),
    ],
)
def test_a_stopped_cell_ends_as_one_that_was_not(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    given = {name: value.replace("ENCODER", str(toys / "encoder")) if name == "method" else value
             for name, value in given.items()}  # fmt: skip
    study = write_study(toys, tmp_path, **given)
    run(study, tmp_path / "whole")
    assert not (tmp_path / "whole/checkpoints").exists()
    whole = left(tmp_path / "whole")
    points = record(tmp_path / "whole")["curve"]["points"]
    last = points[-1]["update"]
    if given.get("num_labels") == 510:
        assert len(points) < 9, "patience did not end it"

    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    # Twice: before the first look at the selection, and after all but the last one.
    for update in (3, last - 1):
        stopped(study, tmp_path / "stopped", update)
    run(study, tmp_path / "stopped")
    assert left(tmp_path / "stopped") == whole
    assert not (tmp_path / "stopped/checkpoints").exists()
    notes = record(tmp_path / "stopped")["execution"]["notes"]
    went_on = [int(line.split()[4]) for line in notes if line.startswith("went on from update")]
    assert went_on == [2, last - 2]


@pytest.mark.parametrize(
    ("given", "stage", "parts"),
    [
        ({"protocol": '"budget"'}, "cross-validate", [f"split-{number}" for number in (1, 2, 3, 4)]),
        ({"protocol": '{ name = "budget", refit = true }', "num_labels": 510, "training": "updates = 24"}, "hold out",
         ["hold-out"]),
    ],
)  # fmt: skip
def test_fits_before_the_one_that_counts_are_kept_too(
    toys: Path, tmp_path: Path, often: None, given: dict[str, Any], stage: str, parts: list[str]
) -> None:
    """Stopped within every one of them in turn: what had ended is read, the one that was stopped goes on."""
    study, out = write_study(toys, tmp_path, **given), tmp_path / "out"
    for done in range(len(parts)):
        with pytest.raises(KeyboardInterrupt):
            run(study, out, stop_after(3, stage, times=min(done, 1) + 1))  # first in the one that goes on, if one does
        names = sorted(path.stem.partition("-")[2] for path in out.glob("checkpoints/*"))
        assert names == sorted([*parts[:done], f"{parts[done]}-within"])
    run(study, out)
    run(study, tmp_path / "whole")
    assert left(out) == left(tmp_path / "whole") and not (out / "checkpoints").exists()
    whole, stopped_often = record(tmp_path / "whole")["execution"], record(out)["execution"]
    assert stopped_often["amounts"] == whole["amounts"]
    notes = stopped_often["notes"]
    assert [note for note in notes if "before" in note] == [f"{part} had been fitted before" for part in parts[:-1]]
    assert len([note for note in notes if note.startswith("went on from update 2 of ")]) == 1


def test_times_of_a_fit_that_was_stopped_twice_are_summed(tmp_path: Path) -> None:
    """Within a fit, and after it: its own seconds and those of the process before it go with what it found."""
    def fit() -> str:
        keeper = checkpoints.keeper({})
        assert keeper is not None
        if keeper.last() is None:
            keeper.keep({}, {})
            told = metadata(path.with_stem("x-fit-within"))
            told["progress"] |= {"total_seconds": 500.0, "amounts": {"steps": 3.0}}
            tamper(path.with_stem("x-fit-within"), told)
            raise KeyboardInterrupt
        return "found"

    path = tmp_path / "x.safetensors"
    for expected in (None, "found", "found"):
        with progress.recording() as journal, checkpoints.place(path, {}):
            try:
                assert checkpoints.once("fit", {}, [TRAIN], fit) == expected
            except KeyboardInterrupt:
                assert expected is None
    assert 500.0 <= journal.earlier_seconds < 600.0 and journal.amounts == {"steps": 3.0}
    assert [file.name for file in tmp_path.iterdir()] == ["x-fit.safetensors"]
    assert checkpoints.once("fit", {}, [TRAIN], lambda: 1) == 1, "nobody named a file"


def test_short_cells_leave_none(toys: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(write_study(toys, tmp_path), tmp_path / "out", stop_after(5))
    assert not (tmp_path / "out/checkpoints").exists()


@pytest.fixture(scope="module")
def half(toys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of one cell, `whole` where it ran, and `stopped` where it was after 9 of 18 updates."""
    folder = tmp_path_factory.mktemp("half")
    study = write_study(toys, folder)
    run(study, folder / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
        stopped(study, folder / "stopped", 9)
    return folder


def taken(half: Path, folder: Path) -> Path:
    """A copy of the stopped study; gives its checkpoint."""
    shutil.copytree(half / "stopped", folder)
    (checkpoint,) = folder.glob("checkpoints/*")
    return checkpoint


def test_times_and_amounts_of_both_processes_are_summed(half: Path, tmp_path: Path) -> None:
    checkpoint = taken(half, tmp_path / "out")
    told = metadata(checkpoint)
    told["progress"]["seconds"]["train"] += 1000.0
    told["progress"]["total_seconds"] += 1000.0
    tamper(checkpoint, told)
    run(half / "study.toml", tmp_path / "out")
    whole, both = record(half / "whole")["execution"], record(tmp_path / "out")["execution"]
    assert both["amounts"] == whole["amounts"]
    assert 1000.0 < both["seconds"]["train"] < both["seconds"]["total"] < 2000.0
    assert "went on from update 8 of 18" in both["notes"]


# -- what is not gone on from ------------------------------------------------------------------------------------


def metadata(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    plain: dict[str, Any] = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["handful"])
    return plain


def tamper(path: Path, told: dict[str, Any]) -> None:
    """The same tensors under other metadata, whole again."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys() if name != "sha256"}  # noqa: SIM118
    checkpoints._write(path, json.dumps(told), tensors)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-200] ^= 1
    path.write_bytes(raw)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_format(path: Path) -> None:
    tamper(path, metadata(path) | {"format": 2})


def other_spec(path: Path) -> None:
    told = metadata(path)
    tamper(path, told | {"made_with": told["made_with"] | {"spec_id": "0" * 16}})


def other_texts(path: Path) -> None:
    told = metadata(path)
    tamper(path, told | {"made_with": told["made_with"] | {"texts": "0" * 64, "seed": 3}})


def without_a_part(path: Path) -> None:
    told = metadata(path)
    del told["progress"]
    tamper(path, told)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (cut, "is damaged or only half written"),
        (flip, "is damaged or only half written"),
        (empty, "is damaged or only half written"),
        (without_a_part, "is damaged or only half written"),
        (other_format, "has format 2, this version of handful reads 1"),
        (other_spec, "was made with another spec_id"),
        (other_texts, "was made with another seed and texts"),
    ],
)
def test_what_cannot_be_used_is_started_over(
    half: Path, tmp_path: Path, harm: Callable[[Path], None], why: str
) -> None:
    harm(taken(half, tmp_path / "out"))
    run(half / "study.toml", tmp_path / "out")
    assert left(tmp_path / "out") == left(half / "whole")
    assert record(tmp_path / "out")["execution"]["notes"] == [f"the checkpoint of this cell {why}: started over"]


def test_another_token_budget_starts_over(toys: Path, half: Path, tmp_path: Path) -> None:
    taken(half, tmp_path / "stopped")
    other = write_study(toys, tmp_path, budget=256)
    run(other, tmp_path / "whole")
    run(other, tmp_path / "stopped")
    assert left(tmp_path / "stopped") == left(tmp_path / "whole")
    (note,) = record(tmp_path / "stopped")["execution"]["notes"]
    assert note == "the checkpoint of this cell was made with another token_budget: started over"


# -- where it cannot be written, and when it goes ----------------------------------------------------------------


def test_a_full_disk_stops_nothing(half: Path, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, told: str, tensors: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write", full)
    run(half / "study.toml", tmp_path / "out")
    assert record(tmp_path / "out")["execution"]["notes"] == ["no checkpoint was written (No space left on device)"]
    assert left(tmp_path / "out") == left(half / "whole")


def test_the_last_room_is_left_to_the_records(
    half: Path, tmp_path: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=checkpoints.SPARE_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    run(half / "study.toml", tmp_path / "out")
    (note,) = record(tmp_path / "out")["execution"]["notes"]
    assert note == "no checkpoint was written: there is no room for its 0.0 GB"


def test_a_folder_that_is_none_stops_nothing(half: Path, tmp_path: Path, often: None) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoints").write_text("a file")
    run(half / "study.toml", tmp_path / "out")
    (note,) = record(tmp_path / "out")["execution"]["notes"]
    assert note.startswith("no checkpoint was written (")


def test_what_a_kill_left_half_written_is_swept_away(half: Path, tmp_path: Path) -> None:
    part = taken(half, tmp_path / "out").with_name(".x.safetensors.1.part")
    part.write_bytes(b"half of it")
    run(half / "study.toml", tmp_path / "out")
    assert left(tmp_path / "out") == left(half / "whole") and not part.parent.exists()


@pytest.mark.parametrize(("error", "stays"), [(RunError("training diverged"), False), (OSError("a card fell"), True)])
def test_a_failed_cell_keeps_it_only_where_the_machine_failed(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, stays: bool
) -> None:
    checkpoint = taken(half, tmp_path / "out")

    def failing(*given: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(local_executor, "run_line", failing)
        run(half / "study.toml", tmp_path / "out")
    assert checkpoint.exists() == stays
    run(half / "study.toml", tmp_path / "out")
    assert left(tmp_path / "out") == left(half / "whole") and not checkpoint.parent.exists()
    assert ("went on" in str(record(tmp_path / "out")["execution"]["notes"])) == stays


def test_a_finished_cell_from_elsewhere_removes_it(half: Path, tmp_path: Path) -> None:
    checkpoint = taken(half, tmp_path / "out")
    assert StudyFolder(tmp_path / "out").take_over(StudyFolder(half / "whole"), checkpoint.stem)
    assert not checkpoint.parent.exists()


# -- the keeper, and the loop ------------------------------------------------------------------------------------


def test_one_every_half_hour(tmp_path: Path) -> None:
    times: Iterator[float] = iter([0.0, 1799.0, 1800.0, 1801.0, 1900.0, 3699.0, 3700.0])
    keeper = Keeper(tmp_path / "a/b.safetensors", {"seed": 1}, [TRAIN], lambda: next(times))
    assert [keeper.is_due(), keeper.is_due()] == [False, True]
    keeper.keep({"update": 7}, {"step": torch.tensor(7.0), "odd": torch.arange(3).bfloat16(), "w": torch.rand(2, 3)})
    assert [keeper.is_due(), keeper.is_due()] == [False, True]
    kept = Keeper(tmp_path / "a/b.safetensors", {"seed": 1}, [TRAIN]).last()
    assert kept is not None and kept.numbers == {"update": 7}
    assert kept.read("odd").tolist() == [0, 1, 2] and kept.read("step") == 7.0 and kept.read("w").shape == (2, 3)
    with progress.recording() as journal:
        assert Keeper(tmp_path / "a/b.safetensors", {"seed": 1}, [TRAIN[1:]]).last() is None
        assert Keeper(tmp_path / "none.safetensors", {"seed": 1}, [TRAIN]).last() is None
    assert journal.notes == ["the checkpoint of this cell was made with another texts: started over"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_bit_goes_on(tmp_path: Path, often: None, dtype: torch.dtype) -> None:
    """Two groups, one tensor without gradients, a best look behind: small updates that bfloat16 alone would lose."""

    def fitted(stop: int | None, path: Path | None) -> tuple[list[torch.Tensor], Any]:
        torch.manual_seed(0)
        tensors = [torch.randn(5, 3, dtype=dtype), torch.randn(7, dtype=dtype), torch.randn(2, dtype=dtype)]
        done = 0

        def step(members: Any, seed: int) -> float:
            nonlocal done
            if stop is not None and done == stop:
                raise KeyboardInterrupt
            done += 1
            torch.manual_seed(seed)
            for tensor in tensors[:2]:
                tensor.grad = torch.randn_like(tensor)
            return 1.0 + float(tensors[0].float().mean())

        def scores() -> np.ndarray:
            loss = 0.5 + abs(float(tensors[1].float().sum()) % 0.3)
            return np.array([[-loss, float(np.log(1 - np.exp(-loss)))]])

        groups = [ParameterGroup(tensors[:1], 1e-4), ParameterGroup(tensors[1:], 1e-3)]
        training = Settled.of(TrainingSpec(batch_size=2, epochs=4, schedule="cosine", weight_decay=0.1), patience=3)

        def go() -> Any:
            return optimise(groups, 10, step, [0], scores, training, 3, lambda examples: scores())

        if path is None:
            return tensors, go()
        with checkpoints.place(path, {}), checkpoints.counting(TRAIN):
            return tensors, go()

    tensors, curve = fitted(None, None)
    path = tmp_path / "kept.safetensors"
    for stop in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            fitted(stop, path)
    again, same = fitted(None, path)
    assert same == curve
    assert all(torch.equal(one, other) for one, other in zip(tensors, again, strict=True))
