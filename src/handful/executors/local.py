"""One cell after the other in this process, so that a base is loaded once and stays.

Knows nothing of what a run does: it gives a spec to the line and writes down what came back, or why not.
"""

from __future__ import annotations

import gc
import re
import shutil
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import torch

from handful import checkpoints, models
from handful.engine.memory import is_out_of_memory
from handful.errors import HandfulError, StudyError
from handful.executors.environment import PeakMemory, device_name, environment, versions
from handful.executors.executor import CellEnded, CellProgress, CellStarted, OnEvent
from handful.progress import Journal, recording
from handful.results import Predictions, RunRecord, StudyFolder
from handful.run import RunSettings
from handful.run import run as run_line
from handful.spec import RunSpec

SHOWN_FRAMES = 8
"""Innermost frames that a failed record keeps."""


class LocalExecutor:
    """Runs cells in their order in the calling process."""

    name: ClassVar[str] = "local"

    def run(
        self, cells: Sequence[RunSpec], folder: StudyFolder, settings: RunSettings, on_event: OnEvent
    ) -> None:
        """See Executor.run."""
        threads_before = torch.get_num_threads()
        torch.set_num_threads(settings.threads)
        # What the imports left is looked at once and then no more: 10 ms between cells instead of 250.
        gc.collect()
        gc.freeze()
        try:
            for index, spec in enumerate(cells, start=1):
                on_event(CellStarted(index, len(cells), cell_label(spec), spec))
                start = time.perf_counter()
                record = _run_cell(spec, folder, settings, on_event)
                seconds = time.perf_counter() - start
                on_event(CellEnded(index, len(cells), record.status, record.reason, seconds))
                gc.collect()
                if settings.device.startswith("cuda"):
                    torch.cuda.empty_cache()
        finally:
            gc.unfreeze()
            torch.set_num_threads(threads_before)


def cell_label(spec: RunSpec) -> str:
    """A cell in a few words, for a progress line: "lora, 50 labels, seed 0"."""
    init = "" if spec.init_seed is None else f", init seed {spec.init_seed}"
    return f"{spec.method.name}, {spec.num_labels} labels, seed {spec.seed}{init}"


def _run_cell(spec: RunSpec, folder: StudyFolder, settings: RunSettings, on_event: OnEvent) -> RunRecord:
    """Runs one cell and writes its record. Raises StudyError when it cannot be written."""
    adapter = folder.adapter_folder(spec.spec_id)
    _remove(adapter)
    started_at, start = _now(), time.perf_counter()
    memory = PeakMemory(settings.device)

    def failed(error: Exception) -> RunRecord:
        _remove(adapter)
        trace = {} if isinstance(error, HandfulError) else {"traceback": frames(error)}
        return RunRecord(spec.spec_id, spec.as_dict(), "failed", reason(error, settings), execution=trace)

    predictions: Predictions | None = None
    goes_on = False  # from its checkpoint, when it is run again
    made_with = {
        "spec_id": spec.spec_id, "device": settings.device, "device_name": device_name(settings.device),
        "threads": settings.threads, "token_budget": settings.token_budget, "versions": versions(),
    }  # fmt: skip
    with (
        recording(lambda stage, done, total: on_event(CellProgress(stage, done, total))) as journal,
        checkpoints.place(folder.checkpoint(spec.spec_id), made_with),
    ):
        try:
            record, predictions = run_line(spec, settings, adapter if settings.save != "none" else None)
        except Exception as error:
            record = failed(error)
            if not isinstance(error, HandfulError):
                models.forget()
                goes_on = True
        except BaseException:
            # Ctrl-C: what a half-trained cell saved is of no use, it is run again from its checkpoint at most.
            _remove(adapter)
            raise
    told = {
        "started_at": started_at,
        "finished_at": _now(),
        "seconds": {**journal.seconds, "total": journal.earlier_seconds + time.perf_counter() - start},
        "amounts": dict(journal.amounts),
        **rates(journal, record, 0 if predictions is None else len(predictions.ids)),
        "peak_memory_bytes": memory.bytes(),
        "peak_memory_of": memory.kind,
        "device": device_name(settings.device),
        "threads": settings.threads,
        "token_budget": settings.token_budget,
        **environment(),
        "notes": list(journal.notes),
    }
    try:
        written = folder.write_record(replace(record, execution={**told, **record.execution}), predictions)
    except OSError as error:
        raise StudyError(
            f"the record of {cell_label(spec)} cannot be written to {folder.path} "
            f"({error.strerror or error}): make room there and start the study again, it goes on from here"
        ) from None
    except Exception as error:
        # A number that is none, or something that is no plain data, came out of the run: no record holds it.
        record = failed(error)
        written = folder.write_record(replace(record, execution={**told, **record.execution}), None)
    if not goes_on:
        folder.remove_checkpoint(spec.spec_id)
    return written


def reason(error: Exception, settings: RunSettings) -> str:
    """Why a cell failed, in one line and without this machine's folders; the report shows it."""
    if is_out_of_memory(error):
        return f"out of memory on {settings.device}: free memory there, or take a smaller model"
    text = str(error) if isinstance(error, HandfulError) else f"{type(error).__name__}: {error}"
    return _ABSOLUTE_FOLDERS.sub("", " ".join(text.split()))


def frames(error: Exception) -> list[str]:
    """The innermost frames of a traceback, outermost first: "FILE NAME:LINE in FUNCTION"."""
    trace = traceback.extract_tb(error.__traceback__)[-SHOWN_FRAMES:]
    return [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in trace]


def rates(journal: Journal, record: RunRecord, num_test: int) -> dict[str, dict[str, float]]:
    """{"texts_per_second", "tokens_per_second"}, each by "train", "test" and "score", where it is known.

    Time spent on selection counts as scoring, not as training. "score": prior, selection and test together.
    """
    seconds, amounts = journal.seconds, journal.amounts
    training = seconds.get("train", 0.0) - seconds.get("select", 0.0)
    scoring = sum(seconds.get(stage, 0.0) for stage in ("prior", "select", "test"))
    points = record.curve.get("points") or [{}]
    num_trained = points[-1].get("update", 0) * record.spec.get("training", {}).get("batch_size", 0)
    num_scored = num_test - amounts.get("remembered_test_texts", 0)
    texts = {"train": (num_trained, training), "test": (num_scored, seconds.get("test", 0.0))}
    tokens = {
        "train": (amounts.get("train_tokens", 0), training),
        "score": (amounts.get("scored_tokens", 0), scoring),
    }
    return {
        name: {stage: number / time for stage, (number, time) in parts.items() if number and time > 0}
        for name, parts in (("texts_per_second", texts), ("tokens_per_second", tokens))
    }


_ABSOLUTE_FOLDERS = re.compile(r"""(?<![\w:/.])/(?:[^\s/'"`]+/)+(?=[^\s/'"`])""")


def _remove(adapter: Path) -> None:
    shutil.rmtree(adapter, ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
