"""study.lock.json: all that is needed to run a study again, in an empty folder, on another machine.

Every run resolved, with data and bases by content, what it ran on, and under which names its files are looked for.
A lock is a study file that leaves nothing open: what it cannot give again to the last bit, it refuses. Knows nothing of
how runs are done.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handful import data as data_family
from handful import prompts as prompt_family
from handful.errors import HandfulError, ModelError, SpecError
from handful.identity import canonical_json, spec_id
from handful.results import LOCK_FILE
from handful.spec import (
    DEFAULTS,
    FAMILIES,
    ExecutionSpec,
    RunSpec,
    build,
    build_claims,
    build_member,
    build_published,
    check_cell,
    check_name,
    member_dict,
)
from handful.training import TrainingSpec

FORMAT = 1
_PACKAGE = Path(__file__).resolve().parent

_FAMILIES = ("data", "model", "method")
"""Those whose members may lie in files."""

_EXECUTION = ("device", "threads", "token_budget", "save", "placement")


@dataclass(frozen=True)
class LockedStudy:
    """A lock as read. cells: (as asked, the run that answers it); differs: versions that are others here, in words."""

    name: str
    cells: tuple[tuple[Mapping[str, Any], RunSpec], ...]
    execution: ExecutionSpec
    notes: tuple[str, ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    published: Mapping[str, Any] | None = None
    differs: tuple[str, ...] = ()


def is_lock(file: str) -> bool:
    """Whether a study file is to be read as a lock."""
    return file.endswith(".lock.json")


def lock_of(
    plan: Mapping[str, Any], specs: Iterable[RunSpec], settings: Mapping[str, Any], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Plain data for the file. plan: as plan.json has it. settings: device, threads, token budget and placement.

    Of a file that does not lie in the current folder only the name is kept.
    """
    places: dict[str, dict[str, Any]] = {}
    for spec in specs:
        plain = spec.as_dict()
        for family in _FAMILIES:
            found = _places(getattr(spec, family), family)
            if found:
                places[_key(family, plain[family])] = found
    return {
        "format": FORMAT,
        **{key: plan[key] for key in ("name", "command", "notes", "claims", "published", "cells") if key in plan},
        "places": [{"section": json.loads(key), "at": at} for key, at in sorted(places.items())],
        "execution": {key: settings[key] for key in _EXECUTION if key in settings},
        "versions": dict(versions),
    }


def _places(member: Any, family: str) -> dict[str, Any]:
    if family == "model":
        # A hub's name, or one that ships, is found again by itself.
        folder = getattr(member, "folder", None)
        is_own = folder is not None and "/" not in member.checkpoint and not Path(folder).is_relative_to(_PACKAGE)
        return {"checkpoint": _portable(str(folder))} if is_own else {}
    values = {
        knob.name: getattr(member, knob.name) for knob in dataclasses.fields(member) if knob.metadata.get("where")
    }
    return {name: _portable(str(value)) for name, value in values.items() if value}


def _portable(path: str) -> str:
    given = Path(path).expanduser()
    if not given.is_absolute():
        return given.as_posix()
    return given.relative_to(Path.cwd()).as_posix() if given.is_relative_to(Path.cwd()) else given.name


def _key(family: str, section: Any) -> str:
    return canonical_json([family, section])


def read_lock(path: Path, versions: Mapping[str, str]) -> LockedStudy:
    """The study of a lock, every run found again and held against its identity.

    versions: of the packages here. Files are looked for in the current folder and beside the lock, under the name that
    the study gave them. Raises SpecError with all that is damaged, edited, missing, or another here.
    """
    problems: list[str] = []
    lock = _read(path)
    name = check_name(lock.name, problems)
    execution = build(ExecutionSpec, lock.execution, "execution", problems)
    cells = [_read_cell(cell, f"cell {number}", problems) for number, cell in enumerate(lock.cells, start=1)]
    places = [build(_Place, place, f"place {number}", problems) for number, place in enumerate(lock.places, start=1)]
    published = None if lock.published is None else build_published(lock.published, None, problems)
    claims = build_claims(lock.claims, problems)
    if not cells:
        problems.append("cells is an empty list")
    if problems:
        raise SpecError(problems, f"{path} was edited or damaged ({_WAY_OUT})")
    located = {canonical_json(place.section): place.at for place in places}
    found: dict[str, RunSpec] = {}
    for number, cell in enumerate(cells, start=1):
        sections = _with_places(cell.spec, located, path.parent)
        try:
            if cell.spec_id not in found:
                found[cell.spec_id] = _run_of(cell, sections, located, execution.device)
            _check_asked(cell, sections, found[cell.spec_id], f"cell {number}")
        except HandfulError as error:
            problems.extend(error.problems if isinstance(error, SpecError) else [str(error)])
    if problems:
        raise SpecError(list(dict.fromkeys(problems)), str(path))
    differs = [
        f"{name} {version}, here {versions.get(name, 'none')}"
        for name, version in lock.versions.items()
        if versions.get(name) != version
    ]
    return LockedStudy(
        name=name,
        cells=tuple((cell.asked, found[cell.spec_id]) for cell in cells),
        execution=execution,
        notes=lock.notes,
        claims=claims,
        published=None if published is None else published.as_dict(),
        differs=tuple(differs),
    )


# -- the file ------------------------------------------------------------------------------------------

_WAY_OUT = f"take the {LOCK_FILE} as its study wrote it, or change the study file and run that"


@dataclass(frozen=True)
class _Lock:
    """What `lock_of` writes. Parts that others check are taken as they are."""

    format: int
    name: Any
    cells: tuple[Any, ...]
    places: tuple[Any, ...]
    execution: Any
    command: str = ""
    notes: tuple[str, ...] = ()
    claims: Any = field(default_factory=list)
    published: Any = None
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    section: tuple[Any, ...]
    at: Mapping[str, str]


@dataclass(frozen=True)
class _Cell:
    spec_id: str
    spec: Mapping[str, Any]
    asked: Mapping[str, Any]
    on_test: bool = False


@dataclass(frozen=True)
class _Sections:
    """Of a cell, as asked or as resolved."""

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    prompt: Mapping[str, Any]
    method: Mapping[str, Any]
    num_labels: int
    seed: int
    training: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=lambda: DEFAULTS["protocol"])
    init_seed: int | None = None


def _read(path: Path) -> _Lock:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        canonical_json(plain).encode()  # Python reads NaN and halves of characters, and nobody can write them again
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path} is no JSON: {error}") from None
    given = plain.get("format") if isinstance(plain, dict) else plain
    if given != FORMAT:
        raise SpecError(f"{path} is no lock of format {FORMAT}, got {given!r}: take the {LOCK_FILE} of a study folder")
    problems: list[str] = []
    lock: _Lock | None = build(_Lock, plain, "the lock", problems)
    if lock is None:
        raise SpecError(problems, f"{path} was edited or damaged ({_WAY_OUT})")
    return lock


def _read_cell(plain: Any, where: str, problems: list[str]) -> Any:
    """A `_Cell` of which the parts have their types and the identity is that of the content; None after a problem."""
    before = len(problems)
    cell: _Cell | None = build(_Cell, plain, where, problems)
    if cell is None:
        return None
    for part in ("spec", "asked"):
        build(_Sections, getattr(cell, part), f"{where}, {part}", problems)
    if len(problems) > before:
        return None
    try:
        gives = spec_id(cell.spec)
    except ValueError as error:
        gives = str(error)
    if gives != cell.spec_id:
        problems.append(
            f"{where}: its spec_id is {cell.spec_id!r}, and its spec gives {gives}: the lock was edited, or written by "
            "another version of handful"
        )
    return cell


# -- its runs ------------------------------------------------------------------------------------------


def _with_places(spec: Mapping[str, Any], places: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """All sections of a run, with the files where they are found."""
    sections = dataclasses.asdict(_Sections(**spec))
    for family in _FAMILIES:
        sections[family] |= _located(family, spec[family], places.get(_key(family, spec[family]), {}), beside)
    return sections


def _run_of(cell: _Cell, sections: Mapping[str, Any], places: Mapping[str, Any], device: str) -> RunSpec:
    problems: list[str] = []
    check_cell(sections, problems)
    if problems:
        raise SpecError([f"{problem}; {_WAY_OUT}" for problem in problems])
    source, model, method, prompt, protocol = (
        build_member(family, sections[family], problems) for family in (*_FAMILIES, "prompt", "protocol")
    )
    training = build(TrainingSpec, sections["training"], "training", problems) if "training" in cell.spec else None
    source = data_family.resolve(source)
    try:
        model = model.resolve(device)
    except ModelError:
        folder = places.get(_key("model", cell.spec["model"]), {}).get("checkpoint")
        if folder is None:
            raise
        raise ModelError(
            f"the base's folder {folder!r} is neither in the current folder nor beside the lock: put it there"
        ) from None
    dataset = data_family.load_dataset(source)
    prompt = prompt_family.resolve(prompt, dataset.label_names, dataset.field_names, model.context_length())
    seeds = sections["seed"], protocol, sections["init_seed"]
    spec = RunSpec(source, model, prompt, method, training, sections["num_labels"], *seeds)
    if spec.spec_id != cell.spec_id:
        raise SpecError(_another(cell.spec, spec.as_dict()))
    return spec


def _check_asked(cell: _Cell, sections: Mapping[str, Any], spec: RunSpec, where: str) -> None:
    """Raises SpecError where a cell asks for what its run does not do: its row of the table would be a lie.

    What the run says stands in for what was left open, so that recipes of another version move nothing.
    """
    asked = dataclasses.asdict(_Sections(**cell.asked))
    # A base goes by its name, wherever it lies; a method's knob that training names instead is not left open.
    by_method = {knob: value for knob, value in sections["method"].items() if knob not in asked["training"]}
    sections = {**sections, "model": cell.spec["model"], "method": by_method}

    def filled(given: Mapping[str, Any]) -> dict[str, Any]:
        same = [family for family in FAMILIES if given[family].get("name") == sections[family]["name"]]
        return {**given, **{family: sections[family] | given[family] for family in same}}

    problems: list[str] = []
    asked = filled(asked)
    check_cell(asked, problems)
    if not problems:
        asked["training"] = sections["training"] | asked["training"]
        gives = filled(build_member("method", asked["method"], problems).resolve(asked))
        gives["model"] = _as_found(gives["model"], sections["model"])
        source, model, method, prompt, protocol = (
            build_member(family, gives[family], problems) for family in (*_FAMILIES, "prompt", "protocol")
        )
        training = None if gives["training"] is None else build(TrainingSpec, gives["training"], "training", problems)
    if not problems:
        dataset = data_family.load_dataset(spec.data)
        prompt = prompt_family.resolve(prompt, dataset.label_names, dataset.field_names, spec.model.context_length())
        seeds = gives["seed"], protocol, None if training is None else asked["init_seed"]
        run = RunSpec(source, spec.model, prompt, method, training, gives["num_labels"], *seeds)
        if run != spec or member_dict(model) != sections["model"]:
            problems.append(f"{canonical_json(cell.asked):.300} is not what its run does: the lock was edited")
    if problems:
        raise SpecError([f"{where}, asked: {problem}; {_WAY_OUT}" for problem in problems])


def _as_found(asked: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A base as asked, with what was found in place of what leaves that open: "auto", a branch on the hub."""
    is_hub = "/" in str(asked.get("checkpoint"))
    return {
        knob: found.get(knob) if value == "auto" or (knob == "revision" and is_hub) else value
        for knob, value in asked.items()
    }


def _located(family: str, section: Mapping[str, Any], at: Mapping[str, Any], beside: Path) -> dict[str, str]:
    """Each file where it is found. One that is nowhere keeps its name, for the error that says so; or is left out where
    its member looks for it by itself.
    """
    member = FAMILIES[family].get(str(section.get("name")))
    open_knobs = {knob.name for knob in dataclasses.fields(member) if knob.default is None} if member else set()
    found = {}
    for knob, name in at.items():
        tried = [folder / part for part in (name, Path(name).name) for folder in (Path(), beside)]
        place = next((str(path) for path in tried if path.exists()), None)
        if place is not None or knob not in open_knobs:
            found[knob] = place or name
    return found


def _another(locked: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What of a run is not what it was."""
    problems = []
    for key in {*locked, *here}:
        if locked.get(key) != here.get(key):
            was, now = (canonical_json(plain.get(key)) for plain in (locked, here))
            problems.append(f"{key} is another here: the lock has {was[:200]}, here it is {now[:200]}: {_WAY_OUT}")
    return sorted(problems) or ["a run is another here than in the lock, though its sections are alike"]
