"""study.lock.json: all that is needed to run a study again, in an empty folder, on another machine.

Every run resolved, with data and bases by content, what it ran on, and under which names its files are looked for.
A lock is a study file that leaves nothing open: what it cannot give again to the last bit, it refuses. Knows nothing of
how runs are done.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handful import data as data_family
from handful import prompts as prompt_family
from handful.errors import HandfulError, ModelError, SpecError
from handful.identity import canonical_json
from handful.results import LOCK_FILE
from handful.spec import FAMILIES, ExecutionSpec, RunSpec, build, build_member
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
    the study gave them. Raises SpecError naming what is missing or is another here.
    """
    plain = _read(path)
    problems: list[str] = []
    execution = build(ExecutionSpec, plain["execution"], "execution", problems)
    places = {canonical_json(place["section"]): place["at"] for place in plain["places"]}
    device = execution.device if execution is not None else "auto"
    found: dict[str, RunSpec] = {}
    for cell in plain["cells"]:
        if cell["spec_id"] not in found:
            try:
                found[cell["spec_id"]] = _run_of(cell, places, path.parent, device)
            except HandfulError as error:
                problems.extend(error.problems if isinstance(error, SpecError) else [str(error)])
    if problems:
        raise SpecError(list(dict.fromkeys(problems)), str(path))
    told = plain.get("versions", {})
    differs = [
        f"{name} {version}, here {versions.get(name, 'none')}"
        for name, version in told.items()
        if versions.get(name) != version
    ]
    return LockedStudy(
        name=str(plain["name"]),
        cells=tuple((cell["asked"], found[cell["spec_id"]]) for cell in plain["cells"]),
        execution=execution,
        notes=tuple(plain.get("notes", ())),
        claims=tuple((first, second) for first, second in plain.get("claims", ())),
        published=plain.get("published"),
        differs=tuple(differs),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise SpecError(f"{path} is no JSON: {error}") from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        given = plain.get("format") if isinstance(plain, dict) else plain
        raise SpecError(f"{path} is no lock of format {FORMAT}, got {given!r}: take the {LOCK_FILE} of a study folder")
    absent = {"name", "cells", "places", "execution"} - plain.keys()
    if absent:
        raise SpecError(f"{path} lacks {', '.join(sorted(absent))}: take the {LOCK_FILE} of a study folder")
    return plain


def _run_of(cell: Mapping[str, Any], places: Mapping[str, Any], beside: Path, device: str) -> RunSpec:
    plain, problems = cell["spec"], list[str]()
    sections = {
        family: plain[family] | _located(family, plain[family], places.get(_key(family, plain[family]), {}), beside)
        for family in _FAMILIES
    }
    source, model, method = (build_member(family, sections[family], problems) for family in _FAMILIES)
    prompt = build_member("prompt", plain["prompt"], problems)
    training = build(TrainingSpec, plain["training"], "training", problems) if "training" in plain else None
    protocol = build_member("protocol", plain["protocol"], problems) if "protocol" in plain else None
    if problems:
        raise SpecError(problems)
    source = data_family.resolve(source)
    try:
        model = model.resolve(device)
    except ModelError:
        folder = places.get(_key("model", plain["model"]), {}).get("checkpoint")
        if folder is None:
            raise
        raise ModelError(
            f"the base's folder {folder!r} is neither in the current folder nor beside the lock: put it there"
        ) from None
    dataset = data_family.load_dataset(source)
    prompt = prompt_family.resolve(prompt, dataset.label_names, dataset.field_names, model.context_length())
    spec = RunSpec(source, model, prompt, method, training, int(plain["num_labels"]), int(plain["seed"]))
    spec = dataclasses.replace(spec, init_seed=plain.get("init_seed"), protocol=protocol or spec.protocol)
    if spec.spec_id != cell["spec_id"]:
        raise SpecError(_another(plain, spec.as_dict()))
    return spec


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
            problems.append(f"{key} is another here: the lock has {was[:200]}, here it is {now[:200]}")
    return sorted(problems) or ["a run is another here than in the lock, though its sections are alike"]
