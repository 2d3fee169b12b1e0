"""What a run is: RunSpec holds all that changes its numbers, StudySpec a grid of them.

Reads a study file (TOML), checks every section against the dataclass that owns it, and reports all
problems at once, before any model loads. Where a run happens (device, threads, folders) is not here.
Knows nothing of records or of how a run is done.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from handful import data as data_family
from handful import identity
from handful import models as model_family
from handful import prompts as prompt_family
from handful import protocols as protocol_family
from handful.data.source import DataSource
from handful.errors import HandfulError, SpecError, nearest
from handful.methods import METHODS
from handful.methods.method import Given, Method
from handful.models.model import Model
from handful.models.shapes import LAYERS, WIDTH, number_of
from handful.prompts.prompt import Prompt
from handful.protocols.protocol import LabelProtocol
from handful.published import PublishedRow, PublishedTable
from handful.training import TrainingSpec

SECTIONS = ("data", "model", "prompt", "method", "training", "protocol", "num_labels", "seed", "init_seed")
FAMILIES: Mapping[str, Mapping[str, type]] = {
    "data": data_family.DATA,
    "model": model_family.MODELS,
    "prompt": prompt_family.PROMPTS,
    "method": METHODS,
    "protocol": protocol_family.PROTOCOLS,
}
DEFAULT_NAMES = {"model": "causal_lm"}
DEFAULTS: Mapping[str, Any] = {
    "model": {"name": "causal_lm", "checkpoint": "reviews-llama-5m"},
    "prompt": {"name": "cloze"},
    "training": {},
    "protocol": {"name": protocol_family.DEFAULT.name},
    "num_labels": 0,
    "seed": 0,
}


@dataclass(frozen=True)
class RunSpec:
    """One cell, resolved: two equal specs give the same record.

    training is None for methods that have no updates; num_labels counts every labelled text that is
    read before the test. seed: of the sample, and of the start and the order of training where init_seed is None.
    """

    data: DataSource
    model: Model
    prompt: Prompt
    method: Method
    training: TrainingSpec | None
    num_labels: int
    seed: int
    protocol: LabelProtocol = protocol_family.DEFAULT
    init_seed: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data with every open value filled, without what only says where things lie."""
        plain: dict[str, Any] = {
            "data": member_dict(self.data),
            "model": member_dict(self.model),
            "prompt": member_dict(self.prompt),
            "method": member_dict(self.method),
        }
        if self.training is not None:
            plain["training"] = member_dict(self.training)
        if self.protocol != protocol_family.DEFAULT:
            plain["protocol"] = member_dict(self.protocol)
        plain |= {"num_labels": self.num_labels, "seed": self.seed}
        return plain if self.init_seed is None else plain | {"init_seed": self.init_seed}

    @property
    def to_settle(self) -> TrainingSpec | None:
        """What its protocol settles: the training section; without one the method's choices, if it settles those."""
        return self.training or (self.method.choices() if self.protocol.settles_choices else None)

    @property
    def start_seed(self) -> int:
        """Of the method's start and of the order of training."""
        return self.seed if self.init_seed is None else self.init_seed

    @property
    def spec_id(self) -> str:
        """16 hex digits over `as_dict`."""
        return identity.spec_id(self.as_dict())


@dataclass(frozen=True)
class ExecutionSpec:
    """Where and how a study runs; nothing here changes a number beyond rounding."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    token_budget: int | None = None
    save: Literal["adapters", "all", "none"] = "adapters"
    placement: Literal["auto", "single", "spread"] = "auto"

    def __post_init__(self) -> None:
        if self.token_budget is not None and (self.token_budget < 64 or self.token_budget.bit_count() != 1):
            raise SpecError(f"token_budget must be a power of two from 64, got {self.token_budget}")
        if self.threads is not None and self.threads < 1:
            raise SpecError(f"threads must be at least 1, got {self.threads}")


@dataclass(frozen=True)
class StudySpec:
    """A study as asked: its name, its cells in the order of the file, where it runs, its notes, the pairs of
    methods (or labels of rows) that it claims to compare, and a table of others that is to stand beside its own.
    """

    name: str
    cells: tuple[Mapping[str, Any], ...]
    execution: ExecutionSpec = field(default_factory=ExecutionSpec)
    notes: tuple[str, ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    published: PublishedTable | None = None


# -- reading a study file ------------------------------------------------------------------------------


def preset_names() -> list[str]:
    """The study files that ship, by name."""
    folder = resources.files("handful") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def read_study(file_or_preset: str, model: str | None = None) -> StudySpec:
    """The study of a TOML file or of a preset. `model` replaces the checkpoint of every base.

    Raises SpecError with every problem found: unknown keys, values of the wrong type, empty grids.
    """
    text, source = _study_text(file_or_preset)
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"is not TOML: {error}", source) from None
    problems: list[str] = []
    if model is not None and not model.strip():
        raise SpecError("--model is empty: give a folder, a hub name, or reviews-llama-5m")
    study = _study_from(plain, model, problems)
    if problems or study is None:
        raise SpecError(list(dict.fromkeys(problems)), source)
    return study


def _study_text(file_or_preset: str) -> tuple[str, str]:
    path = Path(file_or_preset)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError:
            raise SpecError(f"{path} is not UTF-8 text, so it is no TOML study file") from None
        except OSError as error:
            raise SpecError(f"{path} cannot be read: {error.strerror}") from None
    names = preset_names()
    if file_or_preset in names:
        return (resources.files("handful") / "presets" / f"{file_or_preset}.toml").read_text("utf-8"), (
            f"preset {file_or_preset}"
        )
    raise SpecError(
        f"there is no study file and no preset {file_or_preset!r}.{nearest(file_or_preset, names)} "
        f"Presets: {', '.join(names)}"
    )


def _study_from(plain: Mapping[str, Any], model: str | None, problems: list[str]) -> StudySpec | None:
    known = {"name", "notes", "claims", "published", "fixed", "grid", "execution"}
    for key in plain.keys() - known:
        problems.append(f"unknown key {key!r}.{nearest(key, known)} A study file has {', '.join(sorted(known))}")
    name = check_name(plain.get("name"), problems)
    notes = plain.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(line, str) for line in notes):
        problems.append(f"notes must be a list of texts, got {notes!r}")
        notes = []
    fixed, grids = plain.get("fixed", {}), plain.get("grid", {})
    places = [f"grid {number}" for number in range(1, len(grids) + 1)] if isinstance(grids, list) else ["grid"]
    grids = grids if isinstance(grids, list) else [grids]
    for part, table in (("fixed", fixed), *zip(places, grids, strict=True)):
        if not isinstance(table, dict):
            problems.append(f"[{part}] must be a table, got {table!r}")
            return None
        for key in table.keys() - set(SECTIONS):
            problems.append(f"unknown key {part}.{key}.{nearest(key, SECTIONS)} Known: {', '.join(SECTIONS)}")
    if not grids:
        problems.append("grid is an empty list: give it at least one [[grid]]")
    for key in set(fixed).intersection(*grids):
        problems.append(f"{key} stands in [fixed] and in {'[grid]' if len(grids) == 1 else 'every grid'}: keep one")
    for place, grid in zip(places, grids, strict=True):
        _check_axes(place, fixed, grid, problems)
    if problems:
        return None
    # From here on the file has the shape of a study, so what is wrong in one place hides nothing in another.
    execution = build(ExecutionSpec, plain.get("execution", {}), "execution", problems)
    cells = [cell for grid in grids for cell in _cells(fixed, grid, model)]
    if model is not None:
        # Cells that differed by their base alone are one cell now.
        cells = list({repr(cell): cell for cell in cells}.values())
    for cell in cells:
        check_cell(cell, problems)
    claims = build_claims(plain.get("claims", []), problems)
    published = build_published(plain["published"], model, problems) if "published" in plain else None
    assert execution is not None or problems
    return StudySpec(name, tuple(cells), execution or ExecutionSpec(), tuple(notes), claims, published)


def check_name(given: Any, problems: list[str]) -> str:
    """A study's name, which names its folder under studies/, too."""
    if isinstance(given, str) and given and given.isprintable() and "/" not in given and not given.startswith("."):
        return given
    problems.append(f'name must be a text without "/", got {given!r}, such as name = "my-study"')
    return "study"


def build_published(given: Any, model: str | None, problems: list[str]) -> PublishedTable | None:
    """The table of others. With a base of one's own, their bases tell no rows apart any more."""
    rows = given.get("rows") if isinstance(given, dict) else None
    if not isinstance(rows, list) or not rows:
        problems.append(
            "published must be a table with source, base, num_test and rows, such as rows = [{ label = \"d = 0.1\", "
            f'where = {{ "method.dropout" = 0.1 }}, accuracy = {{ 50 = 0.91 }} }}]; got {given!r}'
        )
        return None
    made = []
    for number, row in enumerate(rows, start=1):
        built = build(PublishedRow, row, f"published row {number}", problems)
        if built is not None and model is not None:
            where = {name: value for name, value in built.where.items() if not name.startswith("model.")}
            built = dataclasses.replace(built, where=where)
        made.append(built)
    whole = {**given, "rows": [row for row in made if row is not None]}
    table: PublishedTable | None = build(PublishedTable, whole, "published", problems)
    return None if None in made else table


def build_claims(given: Any, problems: list[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of names. Which rows they mean is seen once all cells are resolved."""
    example = 'such as claims = [["ONE METHOD", "ANOTHER"]]'
    if not isinstance(given, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in given
    ):
        problems.append(f"claims must be a list of pairs of methods, {example}; got {given!r}")
        return ()
    problems.extend(f"claims compare {first!r} with itself" for first, second in given if first == second)
    return tuple((first, second) for first, second in given)


def _check_axes(place: str, fixed: Mapping[str, Any], grid: Mapping[str, Any], problems: list[str]) -> None:
    """Adds what is wrong with the lists of one grid."""
    for key, values in grid.items():
        if not isinstance(values, list):
            problems.append(
                f"{place}.{key} must be a list of values, got {values!r}. Did you mean {key} = [{values!r}]?"
            )
        elif not values:
            problems.append(f"{place}.{key} is an empty list: give it at least one value")
    for key in ("data", "method"):
        if key not in fixed and key not in grid:
            problems.append(f"{key} is missing: name it in [fixed] or [{place}], such as {key} = {_example(key)}")


def _cells(fixed: Mapping[str, Any], grid: Mapping[str, Any], model: str | None) -> Iterator[dict[str, Any]]:
    """Every combination of a grid's items; what the grid does not name is fixed, or has its default."""
    axes = [(key, grid[key] if key in grid else [fixed.get(key, DEFAULTS.get(key))]) for key in SECTIONS]
    names_seed = "seed" in grid or "seed" in fixed
    for values in itertools.product(*(values for _, values in axes)):
        cell = {key: _named(key, value) for (key, _), value in zip(axes, values, strict=True)}
        asked = cell["model"]
        if model is not None and isinstance(asked, dict) and _speaks(asked.get("name")):
            cell["model"] = {k: v for k, v in cell["model"].items() if k != "revision"} | {"checkpoint": model}
        for seed in [cell["seed"]] if names_seed else range(_default_seeds(cell)):
            yield cell | {"seed": seed}


def _default_seeds(cell: Mapping[str, Any]) -> int:
    """How many seeds its protocol runs where the study names none."""
    protocol = build_member("protocol", cell["protocol"], [])
    number = cell["num_labels"]
    is_number = isinstance(number, int) and not isinstance(number, bool)
    return int(protocol.default_seeds(number)) if protocol is not None and is_number and number > 0 else 1


def _speaks(model: Any) -> bool:
    """Whether a member of the model family is a language model, which another one can stand in for."""
    return isinstance(model, str) and getattr(FAMILIES["model"].get(model), "speaks", False)


def _named(key: str, value: Any) -> Any:
    """`"tfidf"` means `{name = "tfidf"}`; a model table may leave its name out."""
    if key not in FAMILIES:
        return value
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and "name" not in value and key in DEFAULT_NAMES:
        return {"name": DEFAULT_NAMES[key], **value}
    return value


def _example(key: str) -> str:
    if key == "data":
        return '{ name = "table_file", path = "reviews.csv" }'
    return f'"{next(iter(METHODS))}"'


# -- cells ---------------------------------------------------------------------------------------------


def check_cell(cell: Mapping[str, Any], problems: list[str]) -> None:
    """Adds every problem of a cell as asked that can be seen without reading data or models."""
    for key in FAMILIES:
        build_member(key, cell[key], problems)
    build(TrainingSpec, cell["training"], "training", problems)
    for key in ("num_labels", "seed", "init_seed"):
        value = cell[key]
        if key == "init_seed" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            problems.append(f"{key} must be an integer, got {value!r}")
        elif value < 0:
            problems.append(f"{key} must not be negative, got {value}")


def resolve_cell(asked: Mapping[str, Any], device: str = "auto", outline: bool = False) -> RunSpec:
    """The run that a cell asks for, with every default filled and data and base named by content.

    device: "auto", "cpu" or "cuda", where it is to run; an open dtype depends on it. outline: for a plan, which needs
    no weights; a well-known base and IMDB may then be missing, and have the revision ESTIMATED.

    Reads the data and the base's configuration, no weights. Raises HandfulError with the way out.
    """
    problems: list[str] = []
    check_cell(asked, problems)
    if problems:
        raise SpecError(problems)
    method: Method = build_member("method", asked["method"], problems)
    protocol: LabelProtocol = build_member("protocol", asked["protocol"], problems)
    cell = method.resolve({key: asked[key] for key in SECTIONS} | {"training": protocol.fill(asked["training"])})
    method = build_member("method", cell["method"], problems)
    source = _resolved_data(identity.canonical_json(cell["data"]), outline)
    dataset = data_family.load_dataset(source)
    base = _resolved_model(identity.canonical_json(cell["model"]), device, outline)
    asked_prompt = build_member("prompt", cell["prompt"], problems)
    prompt = prompt_family.resolve(asked_prompt, dataset.label_names, dataset.field_names, base.context_length())
    training = build(TrainingSpec, cell["training"], "training", problems) if cell["training"] is not None else None
    if problems:
        raise SpecError(problems)
    init_seed = None if training is None else cell["init_seed"]
    spec = RunSpec(source, base, prompt, method, training, cell["num_labels"], cell["seed"], protocol, init_seed)
    if spec.to_settle is None:  # there is nothing to choose, whoever would choose it
        spec = dataclasses.replace(spec, protocol=protocol_family.DEFAULT)
    texts = len(dataset.train) + len(dataset.unlabelled) if dataset.test else spec.num_labels
    answers = bool(prompt.answers)
    method.check(
        Given(
            spec.num_labels,
            texts,
            base.context_length(),
            prompt.max_tokens,
            base.speaks,
            answers,
            is_quantised=getattr(base, "quantization", "none") != "none",
            num_layers=number_of(base.shape(), LAYERS),
            width=number_of(base.shape(), WIDTH),
        )
    )
    return spec


@cache
def _resolved_data(section: str, outline: bool) -> DataSource:
    problems: list[str] = []
    source: DataSource = build_member("data", json.loads(section), problems)
    return data_family.outline(source) if outline else data_family.resolve(source)


@cache
def _resolved_model(section: str, device: str, outline: bool) -> Model:
    problems: list[str] = []
    model: Model = build_member("model", json.loads(section), problems)
    return model.outline(device) if outline else model.resolve(device)


# -- plain data <-> dataclasses ------------------------------------------------------------------------


def member_dict(member: Any) -> dict[str, Any]:
    """A member's name and knobs as plain data: open (None) values and places left out, and so are knobs that came
    later ("later" in their metadata) at their default, so that specs from before keep their ids.
    """
    plain: dict[str, Any] = {"name": member.name} if hasattr(type(member), "name") else {}
    for knob in dataclasses.fields(member):
        value = getattr(member, knob.name)
        is_silent = knob.metadata.get("where") or (knob.metadata.get("later") and value == knob.default)
        if value is not None and not is_silent:
            plain[knob.name] = _plain(value)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def build_member(family: str, plain: Any, problems: list[str]) -> Any:
    """The family's member that `plain["name"]` names, from its table of knobs; None after a problem."""
    table = FAMILIES[family]
    if not isinstance(plain, dict):
        problems.append(f"{family} must be a table or a name, got {plain!r}, such as {family} = {{ name = \"...\" }}")
        return None
    name = plain.get("name")
    if not isinstance(name, str) or name not in table:
        problems.append(
            f"{family} has no {name!r}.{nearest(str(name), table)} Known: {', '.join(sorted(table))}"
        )
        return None
    knobs = {key: value for key, value in plain.items() if key != "name"}
    return build(table[name], knobs, f"{family} {name}", problems)


def build(cls: type, plain: Any, where: str, problems: list[str]) -> Any:
    """An instance of a dataclass from plain data; adds to `problems` and returns None when it cannot be."""
    if not isinstance(plain, dict):
        problems.append(f"{where} must be a table, got {plain!r}")
        return None
    hints = typing.get_type_hints(cls)
    knobs = {knob.name: knob for knob in dataclasses.fields(cls)}
    before = len(problems)
    values: dict[str, Any] = {}
    for key, value in plain.items():
        if key not in knobs:
            problems.append(
                f"{where}: unknown key {key!r}.{nearest(key, knobs)} Known: {', '.join(sorted(knobs)) or 'none'}"
            )
            continue
        try:
            values[key] = _coerce(value, hints[key])
        except TypeError:
            hint = _listed(value, hints[key])
            problems.append(f"{where}: {key} must be {type_words(hints[key])}, got {value!r}{hint}")
    for key, knob in knobs.items():
        open_default = knob.default is dataclasses.MISSING and knob.default_factory is dataclasses.MISSING
        if open_default and key not in plain:
            problems.append(f"{where}: {key} is missing, give it {type_words(hints[key])}")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except (HandfulError, ValueError) as error:
        problems.append(f"{where}: {error}")
        return None


def _coerce(value: Any, hint: Any) -> Any:
    """`value` as the type that a knob declares. Raises TypeError when it is none."""
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for option in get_args(hint):
            try:
                return _coerce(value, option)
            except TypeError:
                continue
        raise TypeError
    if hint is type(None):
        if value is None:
            return None
        raise TypeError
    if origin is Literal:
        if value in get_args(hint) and not isinstance(value, bool):
            return value
        raise TypeError
    if origin is tuple:
        if isinstance(value, str) and get_args(hint)[0] is str:
            return (value,)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise TypeError
        return tuple(_coerce(item, get_args(hint)[0]) for item in value)
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, str]):
        if not isinstance(value, dict):
            raise TypeError
        return {str(key): _coerce(item, get_args(hint)[1]) for key, item in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise TypeError
        return float(value)
    if hint is int and isinstance(value, bool):
        raise TypeError
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise TypeError


_WORDS = {Any: "anything", int: "an integer", float: "a finite number", str: "a text", bool: "true or false"}


def type_words(hint: Any) -> str:
    """A declared type in words, for people."""
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(option) for option in get_args(hint) if option is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in get_args(hint))
    if origin is tuple:
        return f"a list, each item {type_words(get_args(hint)[0])}"
    if origin is not None:
        return f"a table, each value {type_words(get_args(hint)[-1])}"
    return _WORDS.get(hint, str(hint))


def _listed(value: Any, hint: Any) -> str:
    if get_origin(hint) is tuple and isinstance(value, (int, float)):
        return f". Did you mean [{value}]?"
    if isinstance(value, list) and len(value) > 0 and get_origin(hint) is not tuple:
        return ". To try several values, put this into [grid]"
    return ""
