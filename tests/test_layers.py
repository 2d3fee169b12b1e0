"""The order of the house: imports run down only, a method is one file, what must do without torch does.

Reads the sources as syntax trees, so imports inside functions and under TYPE_CHECKING count too.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "handful"

# Top to bottom. A module may import what stands in a lower line; those in one line never import each other.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split(" | "))
    for line in (
        "__main__",
        "cli",
        "catalogue | estimate | showing | texts | watching",
        "serving | report",
        "summary",
        "distillation",
        "classifier | study",
        "executors",
        "run | lock",
        "spec",
        "data | prompts | models | methods | protocols",
        "training",
        "evaluation | checkpoints",
        "engine",
        "results",
        "learning_curves",
        "calibration | statistics | examples | progress | identity | tables | published | files",
        "errors",
    )
)
DEPTH = {module: depth for depth, line in enumerate(LAYERS) for module in line}

# Narrower than the order alone: what a module may import, of all that stands below it.
NUMBERS = {"calibration", "learning_curves", "statistics", "examples", "progress", "identity", "tables", "errors"}
ONLY: dict[str, set[str]] = {
    "report": {"summary", "results", "statistics", "errors", "identity", "progress", "files"},
    "summary": {"results", "learning_curves", "statistics", "errors", "identity", "progress"},
    "data": {"results", *NUMBERS},
    "prompts": {"results", *NUMBERS},
}

# These answer at once, or read a study on a machine that has no torch.
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets"}
WITHOUT_HEAVY = {"__init__", "__main__", "cli", "report", "summary", "results", "files", *NUMBERS}

# Names of distributions that differ from what is imported.
DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def module_of(path: Path) -> str:
    """The station or family that a source file belongs to, as LAYERS names it."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, relative imports resolved."""
    package = ("handful", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from handful import data` names a module, `from handful.data import X` a thing in one.
                yield node.lineno, f"{origin}.{alias.name}"


def house_imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module of LAYERS) of what a file imports from handful."""
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] == "handful" and len(parts) > 1 and parts[1] != "__version__":
            yield line, parts[1]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_down_only(path: Path) -> None:
    module = module_of(path)
    if module == "__init__":
        assert not list(house_imports(path)), "src/handful/__init__.py comes before everything: keep it bare"
        return
    assert module in DEPTH, (
        f"src/handful/{module} has no place yet: add {module!r} to LAYERS in tests/test_layers.py, below all "
        "that import it and above all that it imports, and to the map in the documentation"
    )
    for line, other in house_imports(path):
        where = f"{path.relative_to(ROOT)}:{line}: {module} imports {other}"
        assert other in DEPTH, f"{where}, which is not in LAYERS of tests/test_layers.py: add it there"
        if other == module:
            continue
        assert DEPTH[other] != DEPTH[module], f"{where}, its sibling: they meet further up, as in run.py"
        assert DEPTH[other] > DEPTH[module], f"{where}, which stands above it: imports run down only"
        if module in ONLY:
            assert other in ONLY[module], f"{where}; it may import only {', '.join(sorted(ONLY[module]))}"


def test_light_modules_name_no_heavy_library() -> None:
    for path in sources():
        if module_of(path) in WITHOUT_HEAVY:
            for line, name in imported(path):
                assert name.split(".")[0] not in HEAVY, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=\[;! ]", line)[0].lower() for line in project["dependencies"]}
    # The shapes in annotations are a development tool: a plain installation does without.
    declared |= {"jaxtyping", "beartype"}
    for path in sources():
        for line, name in imported(path):
            top = name.split(".")[0]
            if top == "handful" or top in sys.stdlib_module_names:
                continue
            distribution = DISTRIBUTIONS.get(top, top.replace("_", "-"))
            assert distribution in declared, (
                f"{path.relative_to(ROOT)}:{line} imports {top}: add {distribution} to pyproject.toml"
            )


def spoken_strings(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every string in a file that is no docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in bare:
            yield node.lineno, node.value


def test_a_method_is_one_file() -> None:
    """Only its own file and the table say a method's name, so adding one changes nothing else."""
    from handful.methods import METHODS

    table = PACKAGE / "methods" / "__init__.py"
    found = []
    for name, method in METHODS.items():
        own = Path(sys.modules[method.__module__].__file__ or "").resolve()
        quoted = re.compile(rf"""^{name}$|["'`]{name}["'`]""")
        found += [
            f"{path.relative_to(ROOT)}:{line} says {name!r}: {text!r}"
            for path in sources()
            if path.resolve() not in (own, table)
            for line, text in spoken_strings(path)
            if quoted.search(text)
        ]
    assert not found, "\n".join(found)
