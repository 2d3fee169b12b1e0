"""A study can be killed at any moment, and still ends with the records of one that never was.

Run as a script, this file is the process from which studies are forked: it imports handful once and starts no
thread, so each killed study is a process of its own and costs no start of torch. Commands come in and answers
go out as lines of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SEED = 20
NUM_KILLS = 20
MOMENTS = ("half written", "before the rename", "after the rename")


# -- a small study ------------------------------------------------------------------------------------------


def write_study(folder: Path, methods: str, num_labels: str = "[9, 12]") -> Path:
    """A study file on 63 texts with three labels, no two alike; its base is the toy model there, if any."""
    nouns = {"sport": "match goal team", "food": "bread soup cheese", "music": "song guitar choir"}
    chooser = random.Random(0)
    lines = ["text,label"]
    for index in range(21):
        for label, words in nouns.items():
            said = " ".join(chooser.choices([*words.split(), "the", "was", "good", "loud"], k=6))
            lines.append(f"number {index} {said},{label}")
    (folder / "topics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    toy = folder / "toy"
    base = f"model = {{ checkpoint = '{toy}' }}\n" if toy.is_dir() else ""
    target = folder / "topics.toml"
    target.write_text(
        "name = 'topics'\n[fixed]\n"
        f"data = {{ name = 'table_file', path = '{folder / 'topics.csv'}', test_size = 24 }}\n{base}"
        "prompt = { name = 'alpaca' }\ntraining = { epochs = 2, batch_size = 4 }\n"
        f"[grid]\nmethod = [{methods}]\nnum_labels = {num_labels}\nseed = [0, 1]\n"
        "[execution]\ndevice = 'cpu'\nthreads = 1\ntoken_budget = 1024\n",
        encoding="utf-8",
    )
    return target


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that a study leaves, byte for byte, but for what says when and where it ran."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name in ("lock", "execution.json"):
            continue
        found[name] = path.read_bytes()
        if path.parent.name == "records" and path.suffix == ".json":
            record = json.loads(found[name])
            assert record["execution"].pop("seconds"), name
            record["execution"] = {}
            found[name] = json.dumps(record).encode()
    return found


def finished_records(folder: Path) -> dict[str, bytes]:
    """The bytes of every record that is there, `execution` included."""
    return {path.name: path.read_bytes() for path in sorted((folder / "records").glob("*.json"))}


# -- the script: where studies are forked and killed --------------------------------------------------------


def fork(work: Callable[[], None]) -> int:
    """The process id of a child that does `work`: it exits with 0, 130 after Ctrl-C, 1 after a traceback."""
    child = os.fork()
    if child:
        return child
    code = 0
    # A shell that started the tests in the background may have had Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)


def wait(child: int) -> int:
    """Its exit code, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_once(study_file: str, folder: str) -> int:
    """Forks a child that runs the study as `handful study FILE --output FOLDER` does."""
    from handful.spec import read_study
    from handful.study import run_study

    def work() -> None:
        outcome = run_study(read_study(study_file), Path(folder), "handful study topics.toml")
        assert outcome.finished == outcome.planned, outcome.folder.records()

    return fork(work)


def finish(study_file: str, folder: str) -> None:
    """Runs the study to its end."""
    code = wait(run_once(study_file, folder))
    assert code == 0, f"the study ended with {code}"


def assert_whole(folder: Path) -> int:
    """Every record on disk is whole, whatever was killed; gives their number."""
    from handful.results import StudyFolder

    paths = list((folder / "records").glob("*.json"))
    for path in paths:
        assert StudyFolder(folder).record(path.stem) is not None, f"{path} is not whole"
    return len(paths)


def kill_at_random(study_file: str, reference: str, output: str) -> dict[str, Any]:
    """NUM_KILLS kills after up to the time that a whole study takes; a new folder when one is finished.

    Gives the folders, each run to its end, and the number of records that each kill found.
    """
    start = time.perf_counter()
    finish(study_file, reference)
    seconds = time.perf_counter() - start
    chooser = random.Random(SEED)
    folders, found = [f"{output}-0"], []
    while len(found) < NUM_KILLS:
        child = run_once(study_file, folders[-1])
        time.sleep(chooser.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if wait(child) == -signal.SIGKILL:
            found.append(assert_whole(Path(folders[-1])))
        else:
            folders.append(f"{output}-{len(folders)}")
    finish(study_file, folders[-1])
    return {"folders": folders, "found": found}


def kill_at_each_rename(study_file: str, output: str, moment: str) -> list[str]:
    """Kills a study at its first rename, another at its second, ...; gives the folders, run to their ends."""
    rename = Path.replace
    folders = []
    while True:
        deadly = len(folders) + 1
        seen = 0

        def killing(path: Path, target: Path, deadly: int = deadly) -> Path:
            nonlocal seen
            seen += 1
            if seen == deadly:
                if moment == "half written":
                    os.truncate(path, path.stat().st_size // 2)
                if moment == "after the rename":
                    rename(path, target)
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        folder = f"{output}-{moment.replace(' ', '-')}-{deadly}"
        Path.replace = killing  # type: ignore[method-assign, assignment]
        try:
            code = wait(run_once(study_file, folder))
        finally:
            Path.replace = rename  # type: ignore[method-assign]
        if code == 0:
            return folders
        assert code == -signal.SIGKILL
        assert_whole(Path(folder))
        finish(study_file, folder)
        folders.append(folder)


def interrupt(study_file: str, folder: str) -> dict[str, int]:
    """Ctrl-C once two records are there; gives the exit code and the number of records."""
    child = run_once(study_file, folder)
    wait_for_records(Path(folder), 2)
    os.kill(child, signal.SIGINT)
    return {"code": wait(child), "records": assert_whole(Path(folder))}


def hold(study_file: str, folder: str) -> int:
    """Stops a study in its middle, with the folder's lock held; gives its process id."""
    child = run_once(study_file, folder)
    wait_for_records(Path(folder), 1)
    os.kill(child, signal.SIGSTOP)
    return child


def let_go(child: str) -> int:
    """The stopped study goes on; gives its exit code."""
    os.kill(int(child), signal.SIGCONT)
    return wait(int(child))


def wait_for_records(folder: Path, number: int) -> None:
    """Waits until that many records are on disk."""
    for _ in range(6000):
        if len(list(folder.glob("records/*.json"))) >= number:
            return
        time.sleep(0.005)
    raise TimeoutError(f"no {number} records in {folder}")


COMMANDS: dict[str, Callable[..., Any]] = {
    "finish": finish,
    "kill_at_random": kill_at_random,
    "kill_at_each_rename": kill_at_each_rename,
    "interrupt": interrupt,
    "hold": hold,
    "let_go": let_go,
}


def serve() -> None:
    """Answers commands until there are no more."""
    # Imported before the first fork, so that no child pays for them.
    import peft  # noqa: F401
    import sklearn.feature_extraction.text
    import sklearn.linear_model  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import handful.study  # noqa: F401

    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"answer": COMMANDS[name](*arguments)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
    sys.exit()


# -- the tests ----------------------------------------------------------------------------------------------


class Nursery:
    """The process from which studies are forked."""

    def __init__(self) -> None:
        quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | quiet,
        )

    def __call__(self, command: str, *arguments: str | Path) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps([command, *map(str, arguments)]), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or '{"error": "the process ended"}')
        assert "error" not in answer, answer["error"]
        return answer["answer"]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    assert nursery.process.stdin is not None
    nursery.process.stdin.close()
    nursery.process.wait()


@pytest.fixture(scope="module")
def light(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(study file, folder of its uninterrupted run): two runs that need no base."""
    folder = tmp_path_factory.mktemp("light")
    study_file = write_study(folder, '{ name = "tfidf" }', "[9]")
    nursery("finish", study_file, folder / "reference")
    return study_file, folder / "reference"


@pytest.fixture(scope="module")
def learning(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(study file, folder of its uninterrupted run): nine runs, some of which train a toy base."""
    from toys import make_toy_model

    folder = tmp_path_factory.mktemp("learning")
    make_toy_model(folder / "toy", max_position_embeddings=512)
    methods = '{ name = "tfidf" }, { name = "zero_shot" }, { name = "lora", rank = 2 }'
    study_file = write_study(folder, methods)
    nursery("finish", study_file, folder / "reference")
    return study_file, folder / "reference"


def test_twenty_kills_change_no_record(
    nursery: Nursery, learning: tuple[Path, Path], tmp_path: Path
) -> None:
    study_file, reference = learning
    told = nursery("kill_at_random", study_file, tmp_path / "whole", tmp_path / "killed")
    whole = contents(reference)
    assert contents(tmp_path / "whole") == whole
    assert sum(name.startswith("records/") and name.endswith(".json") for name in whole) == 9
    assert len(set(told["found"])) > 3, f"the kills are not spread over the study: {told['found']}"
    for folder in told["folders"]:
        assert contents(Path(folder)) == whole


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_each_rename_changes_no_record(
    nursery: Nursery, light: tuple[Path, Path], tmp_path: Path, moment: str
) -> None:
    study_file, reference = light
    folders = nursery("kill_at_each_rename", study_file, tmp_path / "killed", moment)
    whole = contents(reference)
    # execution.json, plan.json, study.lock.json, overlap.json, and for each of two runs its predictions and its record
    assert len(folders) == 4 + 2 * 2
    for folder in folders:
        assert contents(Path(folder)) == whole


def test_ctrl_c_keeps_what_has_finished(
    nursery: Nursery, learning: tuple[Path, Path], tmp_path: Path
) -> None:
    study_file, reference = learning
    folder = tmp_path / "study"
    told = nursery("interrupt", study_file, folder)
    assert told["code"] == 130
    assert 2 <= told["records"] < 9
    kept = finished_records(folder)
    nursery("finish", study_file, folder)
    assert contents(folder) == contents(reference)
    assert kept.items() <= finished_records(folder).items(), "a finished run was run again"


def test_a_second_process_is_refused_by_name(
    nursery: Nursery, learning: tuple[Path, Path], tmp_path: Path
) -> None:
    study_file, reference = learning
    folder = tmp_path / "study"
    holder = nursery("hold", study_file, folder)
    try:
        before = finished_records(folder)
        command = [sys.executable, "-m", "handful", "study", str(study_file), "--output", str(folder)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=120)
        after = finished_records(folder)
    finally:
        code = nursery("let_go", str(holder))
    assert second.returncode == 2, second.stderr
    said = " ".join(second.stderr.split())
    assert f"process {holder} on {socket.gethostname()}" in said
    assert "Traceback" not in said
    assert after == before
    assert code == 0
    assert contents(folder) == contents(reference)
