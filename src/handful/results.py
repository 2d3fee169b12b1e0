"""Records and plans on disk: written atomically, read back as plain mappings.

A study folder holds

    plan.json                        all planned cells: {"format", "name", "cells": [Cell, ...]}
    execution.json                   where it runs: token budget, threads, device (never identity)
    records/SPEC_ID.json             one record per cell that ended, finished or failed
    records/SPEC_ID.parquet          its predictions; the record is written after them
    adapters/SPEC_ID/                what the cell learned, in the standard format of its kind
    checkpoints/SPEC_ID*.safetensors  how far the training of a long cell is; gone once its record is there
    overlap.json                     which test texts stand on the training side too, by id
    report.md, report.html           made from the above at any time
    lock                             held while a process works in the folder

Knows nothing of torch, methods or what a spec means.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from handful.errors import StudyError
from handful.files import replace_file
from handful.identity import canonical_json, file_hash, text_hash

FORMAT = 1


@dataclass(frozen=True)
class Predictions:
    """What a run answered for each test text, in test order.

    ids: one per text. labels: [texts] int, the gold labels. log_probabilities: [texts, labels] float64,
    natural log, each row normalised.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    log_probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """[texts] int: the label with the largest probability; the first one on a tie."""
        return self.log_probabilities.argmax(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """[texts] bool."""
        return self.predicted == self.labels


@dataclass(frozen=True)
class RunRecord:
    """One cell's outcome. Two records are equal when all but `execution` is byte-equal.

    status: "finished", or "failed" with a `reason`. sample: drawn example ids. curve: what training
    showed, and which update was kept. execution: times, memory, host, versions.
    """

    spec_id: str
    spec: Mapping[str, Any]
    status: str
    reason: str = ""
    label_names: tuple[str, ...] = ()
    sample: Mapping[str, Any] = field(default_factory=dict)
    curve: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    learned: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    predictions_sha256: str = ""
    execution: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data, in the order it is written."""
        return {"format": FORMAT} | {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> RunRecord:
        """The inverse of `as_dict`.

        Raises StudyError on a format this version does not read, KeyError when a part is missing.
        """
        if plain.get("format") != FORMAT:
            raise StudyError(_unknown_format("a record", plain.get("format")))
        values = {name: plain[name] for name in cls.__dataclass_fields__}
        values["label_names"] = tuple(values["label_names"])
        return cls(**values)


LOCK_FILE = "study.lock.json"

CIRCUMSTANCES = ("command", "places")
"""Parts of a lock that the same study has otherwise elsewhere: what was typed, and under which names its files, which
its runs name by content, are looked for."""


class StudyFolder:
    """Reads and writes the files of one study. Raises StudyError when the folder cannot be used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # -- plan ---------------------------------------------------------------------------------------

    def create(self) -> None:
        """Makes the folder and proves that it can be written to."""
        try:
            (self.path / "records").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise StudyError(
                f"the folder {self.path} cannot be written to ({error.strerror}): "
                "choose another with --output FOLDER"
            ) from None

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Replaces plan.json. Each cell of plan["cells"] is {"spec_id", "spec", "asked"}, and "on_test" where
        the test texts choose what counts."""
        self._write_json(self.path / "plan.json", {"format": FORMAT, **plan})

    def plan(self) -> dict[str, Any]:
        """plan.json. Raises StudyError when the folder is no study, or of a format not read here."""
        plan = self.plan_if_any()
        if plan is None:
            raise StudyError(
                f"{self.path} is no study folder: there is no readable plan.json in it. "
                "Name the folder that `handful study` printed"
            )
        return plan

    def plan_if_any(self) -> dict[str, Any] | None:
        """plan.json, or None when there is none that is whole. Raises StudyError on an unknown format."""
        plan = self._read_json(self.path / "plan.json")
        if plan is not None and plan.get("format") != FORMAT:
            raise StudyError(_unknown_format(self.path / "plan.json", plan.get("format")))
        return plan

    def write_lock(self, lock: Mapping[str, Any]) -> None:
        """Replaces study.lock.json."""
        self._write_json(self.path / LOCK_FILE, lock)

    def lock_sha256(self) -> str:
        """64 hex digits over what study.lock.json says but for `CIRCUMSTANCES`; empty where none can be read."""
        lock = self._read_json(self.path / LOCK_FILE) or {}
        told = {name: part for name, part in lock.items() if name not in CIRCUMSTANCES}
        try:
            return text_hash(canonical_json(told)) if told else ""
        except ValueError:  # a NaN that somebody wrote into it
            return ""

    def write_execution(self, settings: Mapping[str, Any]) -> None:
        """Replaces execution.json."""
        self._write_json(self.path / "execution.json", settings)

    def execution(self) -> dict[str, Any]:
        """execution.json, or an empty mapping."""
        return self._read_json(self.path / "execution.json") or {}

    def write_overlap(self, told: Mapping[str, Any]) -> None:
        """Replaces overlap.json: {"data": [one part for each resolved data section]}."""
        self._write_json(self.path / "overlap.json", {"format": FORMAT, **told})

    def overlap(self) -> dict[str, Any]:
        """overlap.json, or an empty mapping where nothing was counted. Raises StudyError on an unknown format."""
        told = self._read_json(self.path / "overlap.json")
        if told is not None and told.get("format") != FORMAT:
            raise StudyError(_unknown_format(self.path / "overlap.json", told.get("format")))
        return told or {}

    # -- records ------------------------------------------------------------------------------------

    def write_record(self, record: RunRecord, predictions: Predictions | None) -> RunRecord:
        """Predictions first, the record last, each by an atomic rename; returns the record as written."""
        plain = record.as_dict()
        if predictions is not None:
            target = self.path / "records" / f"{record.spec_id}.parquet"
            replace_file(target, lambda path: _write_predictions(path, predictions, record.label_names))
            plain["predictions_sha256"] = file_hash(target)
        self._write_json(self.path / "records" / f"{record.spec_id}.json", plain)
        return RunRecord.from_dict(plain)

    def record(self, spec_id: str) -> RunRecord | None:
        """The record of a cell, or None when there is none, or it or its predictions are not whole.

        Raises StudyError on an unknown format.
        """
        target = self.path / "records" / f"{spec_id}.json"
        plain = self._read_json(target)
        if plain is None:
            return None
        if plain.get("format", FORMAT) != FORMAT:
            raise StudyError(_unknown_format(target, plain["format"]))
        try:
            record = RunRecord.from_dict(plain)
        except (StudyError, KeyError, TypeError):
            return None
        if record.spec_id != spec_id:
            return None
        if record.status == "finished":
            parquet = self.path / "records" / f"{spec_id}.parquet"
            if not parquet.is_file() or file_hash(parquet) != record.predictions_sha256:
                return None
        return record

    def records(self) -> dict[str, RunRecord]:
        """All whole records, by spec_id, those outside the current plan included."""
        found = sorted((self.path / "records").glob("*.json"))
        named = {path.stem: self.record(path.stem) for path in found}
        return {name: record for name, record in named.items() if record is not None}

    def predictions(self, spec_id: str) -> Predictions:
        """The predictions of a finished cell."""
        table = pq.read_table(self.path / "records" / f"{spec_id}.parquet")
        scores = np.stack(
            [column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)
             if name.startswith("log_probability/")], axis=1)
        return Predictions(tuple(table["id"].to_pylist()), table["label"].to_numpy(), scores)

    def take_over(self, other: StudyFolder, spec_id: str) -> bool:
        """Copies a finished record and its predictions from another folder; whether there was one. Adapters stay."""
        record = other.record(spec_id)
        if record is None or record.status != "finished":
            return False
        for name in (f"{spec_id}.parquet", f"{spec_id}.json"):  # the record last
            source = other.path / "records" / name
            try:
                replace_file(self.path / "records" / name, partial(shutil.copyfile, source))
            except OSError as error:
                raise StudyError(f"{source} cannot be copied to {self.path}: {error.strerror}") from None
        self.remove_checkpoint(spec_id)
        return True

    def adapter_folder(self, spec_id: str) -> Path:
        """Where a cell saves what it learned."""
        return self.path / "adapters" / spec_id

    def checkpoint(self, spec_id: str) -> Path:
        """Where a cell keeps how far its training is."""
        return self.path / "checkpoints" / f"{spec_id}.safetensors"

    def remove_checkpoint(self, spec_id: str) -> None:
        """Removes all that it kept, and the folder of checkpoints with the last of them."""
        folder = self.checkpoint(spec_id).parent
        with suppress(OSError):  # one that stays takes room and does no harm
            for kept in folder.glob(f"{spec_id}*"):
                kept.unlink()
            folder.rmdir()

    # -- one process at a time ----------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder. Raises StudyError that names the process which holds it already.

        The kernel drops the lock when its process ends, however it ends.
        """
        with (self.path / "lock").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    raise StudyError(
                        f"the folder {self.path} cannot be locked ({error.strerror}), so two processes could "
                        "mix their records in it: choose one on another file system with --output FOLDER"
                    ) from None
                stream.seek(0)
                holder = stream.read().strip() or "another process"
                raise StudyError(
                    f"the study folder {self.path} is in use by {holder}: wait for it, stop it, "
                    "or choose another folder with --output FOLDER"
                ) from None
            stream.seek(0)
            stream.truncate()
            stream.write(f"process {os.getpid()} on {socket.gethostname()}")
            stream.flush()
            self._sweep()
            try:
                yield
            finally:
                stream.seek(0)
                stream.truncate()

    def _sweep(self) -> None:
        """Removes what a killed process left half written; only the holder of the lock may."""
        for pattern in (".*.part", "records/.*.part", "checkpoints/.*.part"):
            for left in self.path.glob(pattern):
                left.unlink(missing_ok=True)

    # -- files --------------------------------------------------------------------------------------

    def _write_json(self, target: Path, plain: Mapping[str, Any]) -> None:
        text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(target, lambda path: path.write_text(text, encoding="utf-8"))

    @staticmethod
    def _read_json(path: Path) -> dict[str, Any] | None:
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return plain if isinstance(plain, dict) else None


def _unknown_format(what: Path | str, given: Any) -> str:
    return (
        f"{what} has format {given!r}, this version of handful reads {FORMAT}: "
        "use the version that wrote it, or another folder with --output FOLDER"
    )


def _write_predictions(path: Path, predictions: Predictions, label_names: tuple[str, ...]) -> None:
    columns: dict[str, Any] = {
        "id": pa.array(predictions.ids, pa.string()),
        "label": pa.array(predictions.labels, pa.int64()),
        "predicted": pa.array(predictions.predicted, pa.int64()),
    }
    for index, name in enumerate(label_names):
        scores = np.ascontiguousarray(predictions.log_probabilities[:, index], dtype=np.float64)
        columns[f"log_probability/{name}"] = pa.array(scores)
    pq.write_table(pa.table(columns), path, compression="zstd")
