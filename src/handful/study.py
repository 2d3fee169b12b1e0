"""A study from its file to its records: plan every cell, run those that are not finished yet.

All that a person can mend is found while planning, before anything is written. The plan, the records and
the token budget stay in the study folder, so the same command goes on where the last one ended. Knows
nothing of how a run is done, where it happens, or what its numbers say.
"""

from __future__ import annotations

import dataclasses
import heapq
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from handful import models
from handful.data import draw_split, load_dataset
from handful.data.overlap import overlap_of
from handful.engine.budget import LARGEST_BUDGET, fitting_budget
from handful.errors import DataError, HandfulError, ModelError, SpecError
from handful.examples import Dataset, Example, Split
from handful.executors import EXECUTORS, Event, OnEvent, Told
from handful.executors.environment import available_cores, versions
from handful.identity import canonical_json, derive_seed
from handful.lock import is_lock, lock_of, read_lock
from handful.models.model import Model
from handful.prompts import check_prompt, encode
from handful.protocols import DEFAULT
from handful.results import StudyFolder
from handful.run import RunSettings
from handful.spec import FAMILIES, ExecutionSpec, RunSpec, StudySpec, read_study, resolve_cell

EXECUTOR = "local"


@dataclass(frozen=True)
class PlannedCell:
    """A cell as asked, without this machine's places, and the run that answers it."""

    asked: Mapping[str, Any]
    spec: RunSpec


@dataclass(frozen=True)
class Plan:
    """All cells of a study, resolved, in the order of the study file; several may share one run."""

    name: str
    cells: tuple[PlannedCell, ...]
    notes: tuple[str, ...] = ()
    command: str = ""
    claims: tuple[tuple[str, str], ...] = ()
    published: Mapping[str, Any] | None = None

    @property
    def distinct(self) -> tuple[RunSpec, ...]:
        """The runs, each once, in the order in which they are first asked for."""
        return tuple({cell.spec.spec_id: cell.spec for cell in self.cells}.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data as `StudyFolder.write_plan` takes it."""
        cells = [
            {"spec_id": cell.spec.spec_id, "spec": cell.spec.as_dict(), "asked": dict(cell.asked)}
            | ({"on_test": True} if cell.spec.protocol.chooses_on_test else {})
            for cell in self.cells
        ]
        plain = {"name": self.name, "command": self.command, "notes": list(self.notes), "cells": cells}
        plain |= {"claims": [list(pair) for pair in self.claims]} if self.claims else {}
        return plain | ({"published": self.published} if self.published else {})


@dataclass(frozen=True)
class Outcome:
    """What a study's folder holds after it ran. finished, failed, planned: numbers of distinct runs."""

    finished: int
    failed: int
    planned: int
    folder: StudyFolder


# -- planning ------------------------------------------------------------------------------------------


def plan_study(study: StudySpec, command: str = "", outline: bool = False, is_other_base: bool = False) -> Plan:
    """Every cell resolved and checked against its data and tokenizer; no weights are loaded.

    outline: none are downloaded either, and what is not to be had is taken from the tables that ship (`resolve_cell`):
    for looking at what a study would cost, not for running it. is_other_base: the base is not the one that the study
    was written for, so cells that ask in its own chat template are left out, with a note, where it has none.

    Raises SpecError with every problem of every cell, each once.
    """
    problems: list[str] = []
    unusable: set[str] = set()
    cells = []
    for asked in study.cells:
        # Data or a base that is not there is looked for once, not once more for each of its cells.
        sections = {key: canonical_json([key, asked[key]]) for key in ("data", "model")}
        if unusable.intersection(sections.values()):
            continue
        try:
            spec = resolve_cell(asked, study.execution.device, outline)
            cells.append(PlannedCell(told(asked, spec), spec))
        except DataError as error:
            problems.append(str(error))
            unusable.add(sections["data"])
        except ModelError as error:
            problems.append(str(error))
            unusable.add(sections["model"])
        except HandfulError as error:
            problems.extend(error.problems if isinstance(error, SpecError) else [str(error)])
    published = study.published.as_dict() if study.published else None
    plan = Plan(study.name, tuple(cells), study.notes, command, study.claims, published)
    if is_other_base:
        plan = _without_chat(plan)
    problems.extend(_problems_of_draws(plan))
    problems.extend(_problems_of_prompts(plan))
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))
    return plan


def planned(
    file_or_preset: str, model: str | None = None, command: str = "", outline: bool = False
) -> tuple[Plan, ExecutionSpec, list[str]]:
    """(plan, where it runs, what is to be said first) of a study file, a preset or a lock.

    model: takes the place of every base. outline: as in `plan_study`; a lock is held against what is here all the same.
    Raises SpecError with every problem.
    """
    if not is_lock(file_or_preset):
        study = read_study(file_or_preset, model)
        plan = plan_study(study, command, outline, is_other_base=model is not None)
        return plan, study.execution, list(plan.notes[len(study.notes):])
    if model is not None:
        raise SpecError(f"--model cannot go with {file_or_preset}: a lock names its bases. Take the study file")
    locked = read_lock(Path(file_or_preset), versions())
    cells = tuple(PlannedCell(asked, spec) for asked, spec in locked.cells)
    plan = Plan(locked.name, cells, locked.notes, command, locked.claims, locked.published)
    problems = [*_problems_of_draws(plan), *_problems_of_prompts(plan)]
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))
    differs = [f"Numbers may move in their last digits: the lock was made with {told}." for told in locked.differs]
    return plan, locked.execution, differs


def told(asked: Mapping[str, Any], spec: RunSpec) -> dict[str, Any]:
    """A cell as asked, for the plan: a section that says where things lie is told by content instead.

    So two files of one name stay two rows of the table, and no folder of this machine is in the plan.
    """
    plain = dict(asked)
    resolved = spec.as_dict()
    for family, members in FAMILIES.items():
        section = asked[family]
        member = members[section["name"]]
        places = {knob.name for knob in dataclasses.fields(member) if knob.metadata.get("where")}
        given = {key: value for key, value in section.items() if key not in places}
        is_template = any("{" in str(section.get(place)) for place in places)
        checkpoint = given.get("checkpoint")
        is_folder = isinstance(checkpoint, str) and Path(checkpoint).expanduser().is_dir()
        if len(given) < len(section) or is_folder:
            if resolved[family]["name"] == section["name"]:
                # What a place with {num_labels} or {seed} in it gives to each cell is no part of its row.
                of_cell = {knob.name for knob in dataclasses.fields(member) if knob.metadata.get("per_cell")}
                given = {k: v for k, v in resolved[family].items() if not (is_template and k in of_cell)}
            elif is_folder:
                # The method reads no base, so nothing resolved it: its name is all there is to tell.
                given["checkpoint"] = Path(str(checkpoint)).expanduser().resolve().name
            plain[family] = given
    if spec.protocol == DEFAULT:
        del plain["protocol"]
    if plain["init_seed"] is None:
        del plain["init_seed"]
    return plain


def _without_chat(plan: Plan) -> Plan:
    """The plan without the cells that ask in a chat template which their base lacks, or as it is where none is left."""
    lacking: dict[tuple[Model, str], bool] = {}
    for spec in plan.distinct:
        if (spec.model, spec.prompt.name) not in lacking:
            dataset = load_dataset(spec.data)
            tokenizer = spec.model.load_tokenizer() if spec.model.speaks else None
            asks_by_template = bool(spec.prompt.messages(dataset.label_names, dataset.field_names))
            lacking[spec.model, spec.prompt.name] = (
                asks_by_template and tokenizer is not None and not tokenizer.chat_template
            )
    kept = tuple(cell for cell in plan.cells if not lacking[cell.spec.model, cell.spec.prompt.name])
    if not kept or len(kept) == len(plan.cells):
        return plan
    notes = [
        f"Without the prompt {prompt}: {getattr(model, 'checkpoint', model.name)} has no chat template."
        for (model, prompt), lacks in lacking.items() if lacks
    ]
    return dataclasses.replace(plan, cells=kept, notes=(*plan.notes, *notes))


def _problems_of_draws(plan: Plan) -> list[str]:
    """What `draw_split` says of each number of labels; it says the same for every seed."""
    problems = []
    draws = {(canonical_json(spec.as_dict()["data"]), spec.num_labels): spec for spec in plan.distinct}
    for spec in draws.values():
        try:
            draw_split(
                load_dataset(spec.data), spec.num_labels, derive_seed(spec.seed, "sample"), spec.protocol.selection_size
            )
        except DataError as error:
            problems.append(str(error))
    return problems


def _problems_of_prompts(plan: Plan) -> list[str]:
    """What `check_prompt` says of each prompt beside its data and base, with the base's own tokenizer."""
    problems = []
    tokenizers: dict[Model, Any] = {}
    checked = set()
    for spec in plan.distinct:
        parts = spec.as_dict()
        key = canonical_json([parts["data"], parts["model"], parts["prompt"]])
        if key in checked:
            continue
        checked.add(key)
        try:
            if spec.model not in tokenizers:
                tokenizers[spec.model] = spec.model.load_tokenizer()
            if spec.prompt.asks and tokenizers[spec.model] is None and spec.model.speaks:
                continue  # an outline: there is nothing to check it with
            dataset = load_dataset(spec.data)
            check_prompt(
                spec.prompt,
                dataset.label_names,
                dataset.field_names,
                tokenizers[spec.model],
                spec.model.context_length(),
            )
            encode(_hardest(dataset, spec.prompt.shorten), spec.prompt, tokenizers[spec.model])
        except HandfulError as error:
            problems.append(str(error))
    return problems


def _hardest(dataset: Dataset, shortened: str | None) -> Split:
    """The texts whose other fields are longest: what does not fit beside them can't be shortened away."""

    def length(example: Example) -> int:
        return sum(len(text) for name, text in example.fields.items() if name != shortened)

    examples = heapq.nlargest(3, [*dataset.train, *dataset.test], key=length) if len(dataset.field_names) > 1 else []
    return Split(dataset.label_names, dataset.field_names, (), (), tuple(examples), (), revision="")


# -- running -------------------------------------------------------------------------------------------


def default_settings(
    execution: ExecutionSpec, stored: Mapping[str, Any], fitting_budget: int | None = None
) -> RunSettings:
    """Where runs happen: what the study file says, else what the folder keeps, else what fits this machine.

    stored: `StudyFolder.execution()`. Keeping budget and threads keeps the rounding, so a cell that is run
    again gives the same record. fitting_budget: as measured, else the largest. Raises SpecError for a CUDA
    device that is not there.
    """
    device = execution.device
    if device == "cuda" and not torch.cuda.is_available():
        raise SpecError('device = "cuda", but torch finds no CUDA device here: take "cpu" or "auto"')
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    # A folder from a larger machine must not crowd this one.
    fitting = fitting_budget or LARGEST_BUDGET[device]
    budget = execution.token_budget or min(_stored_integer(stored, "token_budget") or fitting, fitting)
    cores = _threads()
    threads = execution.threads or min(_stored_integer(stored, "threads") or cores, cores)
    return RunSettings(
        device=device, threads=threads, token_budget=budget, save=execution.save, placement=execution.placement
    )


def run_study(study: StudySpec, output: Path, command: str = "", on_event: OnEvent | None = None) -> Outcome:
    """Plans a study and runs what is missing of it in the folder `output`.

    command: what was typed, for the report. Raises SpecError before anything is written when the study
    cannot be run as asked, and whatever `run_plan` raises.
    """
    default_settings(study.execution, {})
    return run_plan(plan_study(study, command), study.execution, output, on_event)


def run_plan(
    plan: Plan,
    execution: ExecutionSpec,
    output: Path,
    on_event: OnEvent | None = None,
    reuse: Sequence[Path] = (),
) -> Outcome:
    """Runs every planned run that has no finished record in the folder `output`, failed ones included.

    reuse: study folders whose finished records of the same runs are copied first.

    Raises StudyError when the folder cannot be used or is in use, SpecError for a device that is not there.
    It can be killed at any moment: what has finished stays, and the next call goes on from there.
    """
    default_settings(execution, {})
    folder = StudyFolder(output)
    folder.plan_if_any()  # raises on a format not read here, which is left alone
    others = [StudyFolder(path) for path in reuse]
    for other in others:
        other.plan()  # raises where there is no study
    to_run = [
        spec for spec in pending_runs(plan, folder) if not any(_is_finished(other, spec.spec_id) for other in others)
    ]
    fitting = _load_bases(to_run, default_settings(execution, folder.execution()), on_event or _ignore)
    folder.create()
    with folder.locked():
        stored = folder.execution()
        settings = default_settings(execution, stored, fitting)
        for spec in pending_runs(plan, folder):
            for other in others:
                if folder.take_over(other, spec.spec_id):
                    break
        pending = pending_runs(plan, folder)
        finished = len(plan.distinct) - len(pending)
        told = plan.as_dict()
        if pending or not stored:
            stored = _kept_settings(settings, stored, finished)
            folder.write_execution(stored)
        else:
            # Nothing runs: what is said of how the records were made stays as it was.
            told["command"] = (folder.plan_if_any() or told).get("command", told["command"])
        folder.write_plan(told)
        if pending or not folder.lock_sha256():
            folder.write_lock(lock_of(told, plan.distinct, stored, versions()))
        EXECUTORS[EXECUTOR]().run(pending, folder, settings, on_event or _ignore)
        _count_overlap(plan, folder)
    return outcome(plan, folder)


def _count_overlap(plan: Plan, folder: StudyFolder) -> None:
    """Writes which test texts stand on the training side too, for data of the plan that it was not yet counted for.

    A file of its own: no record speaks of texts that its run did not read, and records of before stay as they are.
    """
    parts = {canonical_json(part.get("data")): part for part in folder.overlap().get("data") or ()}
    sources = {canonical_json(spec.as_dict()["data"]): spec for spec in plan.distinct}
    wanted = {key: spec for key, spec in sources.items() if key not in parts}
    for key, spec in wanted.items():
        dataset = load_dataset(spec.data)
        found = overlap_of(dataset)
        parts[key] = {
            "data": spec.as_dict()["data"], "has_test_side": bool(dataset.test), "num_test": found.num_test,
            "num_train": found.num_train, "is_complete": found.is_complete,
            "equal": [list(pair) for pair in found.equal], "near": [list(pair) for pair in found.near],
        }  # fmt: skip
    if wanted:
        folder.write_overlap({"data": [parts[key] for key in sources]})


TOLD_PARAMETERS = 5e8
"""From so many on, a person is told where a base lies even if it is one device."""


def _load_bases(pending: Sequence[RunSpec], settings: RunSettings, on_event: OnEvent) -> int | None:
    """Loads every base that is needed once, so that one which can't be loaded ends the study before it writes.

    The first one is loaded last: it stays for the first runs. Tells where each lies, and why. Gives the token budget
    that fits all of them, None where none is a language model. Raises ModelError.
    """
    budgets = []
    for model in reversed(list(dict.fromkeys(spec.model for spec in pending))):
        base = models.resident(model, settings.device, settings.placement)
        if model.speaks:  # an encoder takes what fits it of that
            budgets.append(fitting_budget(base))
            if base.placement.is_spread or base.facts.get("num_parameters", 0) >= TOLD_PARAMETERS:
                on_event(Told(f"{base.facts['checkpoint']}: placement {base.placement.why}"))
    return min(budgets, default=None)


def pending_runs(plan: Plan, folder: StudyFolder) -> tuple[RunSpec, ...]:
    """The planned runs that have no whole finished record yet. Raises StudyError on an unknown format."""
    return tuple(spec for spec in plan.distinct if not _is_finished(folder, spec.spec_id))


def outcome(plan: Plan, folder: StudyFolder) -> Outcome:
    """How many planned runs finished and failed, by their records."""
    records = [folder.record(spec.spec_id) for spec in plan.distinct]
    statuses = [record.status for record in records if record is not None]
    return Outcome(statuses.count("finished"), statuses.count("failed"), len(records), folder)


def _is_finished(folder: StudyFolder, spec_id: str) -> bool:
    record = folder.record(spec_id)
    return record is not None and record.status == "finished"


def _kept_settings(settings: RunSettings, stored: Mapping[str, Any], finished: int) -> dict[str, Any]:
    """execution.json: the settings, and a note for each change that can move the rounding of later cells."""
    kept = dataclasses.asdict(settings)
    notes = stored.get("notes")
    notes = list(notes) if isinstance(notes, list) else []
    for name in ("device", "threads", "token_budget", "placement"):
        before = stored.get(name)
        if before not in (None, kept[name]) and finished:
            notes.append(f"{name} changed from {before} to {kept[name]} after {finished} finished runs")
    return {**kept, "notes": notes}


def _threads() -> int:
    """What OMP_NUM_THREADS says, as other programs read it, else the cores at hand."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) > 0 else available_cores()


def _stored_integer(stored: Mapping[str, Any], name: str) -> int | None:
    value = stored.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _ignore(event: Event) -> None:
    """Nobody listens."""
