"""The verbs: study, plan, report, list. Hyper-parameters live in study files, not in flags.

Each verb imports its stations when it is called, so that `handful --help` answers at once and
`handful report` runs without torch. Knows nothing of how anything is computed.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from handful import __version__
from handful.errors import HandfulError, SpecError, StudyError, nearest

if TYPE_CHECKING:
    from handful.catalogue import Entry
    from handful.estimate import CellEstimate, Estimate
    from handful.executors import Event
    from handful.results import StudyFolder
    from handful.study import Plan

UNFINISHED, MISTAKE, FAULT, INTERRUPTED = 1, 2, 70, 130
"""Exit codes: cells failed or are missing; a person can mend it; a fault of handful; Ctrl-C."""

WIDTH = 80
"""Characters that a listing takes at most: longer lines are hard to read."""

QUIET_LIBRARIES = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # Said outright, or the tokenizers library warns whenever a child process starts (git, for a record).
    "TOKENIZERS_PARALLELISM": "true",
}
"""Set before these libraries are imported, unless the person has set them."""

app = typer.Typer(
    name="handful",
    help="A handful of labelled texts and a causal language model make a text classifier, with evidence.",
    epilog="Start with: handful study quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. `arguments`: as typed, without the program's name. Always ends in SystemExit."""
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="handful")
    except HandfulError as error:
        _complain(str(error))
        sys.exit(MISTAKE)
    except Exception as error:
        traceback.print_exc()
        _complain(f"{type(error).__name__}: this is a fault of handful, not yours. Please report the lines above")
        sys.exit(FAULT)


def _complain(message: str) -> None:
    console = Console(stderr=True, highlight=False)
    console.print(Text.assemble(("error: ", "bold red"), (message, "red")), soft_wrap=True)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"handful {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


StudyArgument = Annotated[
    str, typer.Argument(metavar="FILE_OR_PRESET", help="A study file (TOML), or the name of a preset.")
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME_OR_FOLDER", help="Take this base in place of those in the study."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="FOLDER", help="The study folder, else studies/NAME.")
]


# -- study ---------------------------------------------------------------------------------------------


@app.command("study")
def study_verb(file_or_preset: StudyArgument, model: ModelOption = None, output: OutputOption = None) -> None:
    """Run what is missing of a study, show its table, write its report."""
    console = _console()
    with console.status("reading the study"):
        from handful.report import print_table
        from handful.results import StudyFolder
        from handful.spec import read_study
        from handful.study import plan_study, run_study
        from handful.summary import summarise

        study = read_study(file_or_preset, model)
        command = _command("study", file_or_preset, model, output)
        folder = StudyFolder(_output_folder(output, study.name))
        plan = plan_study(study, command)
        seconds = _cell_seconds(plan, folder)
    try:
        with _shown(console, seconds) as show:
            outcome = run_study(study, folder.path, command, show)
    except KeyboardInterrupt:
        console.print()
        if folder.path.is_dir():
            _say(console, f"Stopped. Finished cells are kept in {folder.path}; the same command goes on:")
            _say(console, f"  {command}")
        else:
            _say(console, "Stopped before anything was written.")
        raise typer.Exit(INTERRUPTED) from None
    page = _write_report(folder)
    console.print()
    print_table(summarise(folder), console)
    console.print()
    _say(console, f"Report: {page}")
    for note in study.notes:
        console.print()
        console.print(Text(note))
    if outcome.finished < outcome.planned:
        console.print()
        _say(console, "Not all cells finished. Once the reasons are mended, the same command runs the rest:")
        _say(console, f"  {command}")
        raise typer.Exit(UNFINISHED)


def _cell_seconds(plan: Plan, folder: StudyFolder) -> dict[str, float]:
    """spec_id -> estimated seconds of each pending cell; empty when there is no estimate to be had."""
    from handful.estimate import BRIEFLY, estimate

    try:
        estimated = estimate(plan, folder, measure_seconds=BRIEFLY)
    except Exception:
        # A bar that runs unevenly is no reason to keep a study from running.
        return {}
    return {cell.spec.spec_id: cell.seconds for cell in estimated.cells if not cell.is_done}


class Pace:
    """How long a study still takes: estimates of its cells, corrected by how long finished ones took.

    seconds: spec_id -> estimate, of the cells that are to be run.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self._open = dict(seconds)
        self._estimated = 0.0
        self._taken = 0.0

    def ended(self, spec_id: str, seconds: float) -> None:
        """A cell ended after so many seconds."""
        self._estimated += self._open.pop(spec_id, 0.0)
        self._taken += seconds

    def remaining(self, spec_id: str, elapsed: float) -> float | None:
        """Seconds left, `elapsed` of them gone in the current cell; None when nothing is known."""
        if not self._open:
            return None
        ratio = self._taken / self._estimated if self._estimated and self._taken else 1.0
        current = self._open.get(spec_id, 0.0)
        others = sum(self._open.values()) - current
        return ratio * others + max(ratio * current - elapsed, 0.0)


@contextmanager
def _shown(console: Console, seconds: Mapping[str, float]) -> Iterator[Callable[[Event], None]]:
    """A listener that shows a study: two bars on a terminal, one line a cell elsewhere."""
    from handful.executors import CellEnded, CellStarted

    pace = Pace(seconds)
    bars = _Bars(console, pace) if console.is_terminal else None
    label = spec_id = ""

    def show(event: Event) -> None:
        nonlocal label, spec_id
        if isinstance(event, CellStarted):
            label, spec_id = event.label, event.spec.spec_id
        if isinstance(event, CellEnded):
            pace.ended(spec_id, event.seconds)
        if bars is not None:
            bars.update(event)
        if isinstance(event, CellEnded):
            line = Text(f"[{event.index}/{event.total}] {label}: ")
            line.append(event.status, style="green" if event.status == "finished" else "red")
            line.append(f" in {_duration(event.seconds)}")
            if event.reason:
                line.append(f": {event.reason}", style="red")
            console.print(line, soft_wrap=True)

    if bars is None:
        yield show
    else:
        with bars.progress:
            yield show


class _Bars:
    """One bar for the study, one for the cell."""

    def __init__(self, console: Console, pace: Pace) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
        )
        self._pace = pace
        self._study = self.progress.add_task("study", total=None, count="", left="")
        self._cell = self.progress.add_task("", total=None, count="", left="", visible=False)
        self._label = self._spec_id = ""
        self._start = time.monotonic()

    def update(self, event: Event) -> None:
        """Moves the bars."""
        from handful.executors import CellEnded, CellProgress, CellStarted

        if isinstance(event, CellStarted):
            self._label, self._spec_id, self._start = event.label, event.spec.spec_id, time.monotonic()
            self.progress.update(
                self._study, total=event.total, completed=event.index - 1, count=f"{event.index - 1}/{event.total}"
            )
            self.progress.reset(self._cell, total=None, description=event.label, count="", visible=True)
        elif isinstance(event, CellProgress):
            share = f"{event.done / event.total:4.0%}" if event.total else ""
            self.progress.update(
                self._cell,
                total=event.total or None,
                completed=event.done,
                description=self._label,
                count=f"{event.stage} {share}",
            )
        elif isinstance(event, CellEnded):
            self.progress.update(self._study, completed=event.index, count=f"{event.index}/{event.total}")
            self.progress.update(self._cell, visible=False)
            self._spec_id, self._start = "", time.monotonic()
        left = self._pace.remaining(self._spec_id, time.monotonic() - self._start)
        if left is not None:
            self.progress.update(self._study, left=f"about {_duration(left)} left")


# -- plan ----------------------------------------------------------------------------------------------


@app.command("plan")
def plan_verb(file_or_preset: StudyArgument, model: ModelOption = None, output: OutputOption = None) -> None:
    """Show what a study would run: cells, tokens, time, memory. Runs and writes nothing."""
    console = _console()
    with console.status("reading the study"):
        from handful.estimate import estimate
        from handful.results import StudyFolder
        from handful.spec import read_study
        from handful.study import plan_study

        study = read_study(file_or_preset, model)
        folder = StudyFolder(_output_folder(output, study.name))
        plan = plan_study(study)
        estimated = estimate(plan, folder, study.execution)
    _print_estimate(console, plan, folder, estimated)


def _print_estimate(console: Console, plan: Plan, folder: StudyFolder, estimated: Estimate) -> None:
    from handful.report.wording import count, plural, size

    pending = [cell for cell in estimated.cells if not cell.is_done]
    done = len(estimated.cells) - len(pending)
    console.print(
        Text.assemble(
            (plan.name, "bold"),
            f": {plural(len(plan.cells), 'cell')}, {plural(len(estimated.cells), 'distinct run')}, ",
            f"{done:,} finished already, {len(pending):,} to run",
        )
    )
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("method", overflow="fold", max_width=26)
    for heading in ("N", "runs", "done", "train tokens", "test tokens", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, cells in _grouped(estimated.cells).items():
        to_run = [cell for cell in cells if not cell.is_done]
        table.add_row(
            Text(label),
            f"{cells[0].spec.num_labels:,}",
            str(len(cells)),
            str(len(cells) - len(to_run)),
            count(sum(cell.train_tokens for cell in to_run)),
            count(sum(cell.test_tokens for cell in to_run)),
            _duration(sum(cell.seconds for cell in to_run)) if to_run else "",
        )
    console.print(table)
    console.print()
    rate = estimated.flops_per_second / 1e9
    settings = estimated.settings
    threads = f", {plural(settings.threads, 'thread')}" if settings.device == "cpu" else ""
    rows = [
        ("time", f"about {_duration(estimated.seconds)}, within a factor of two" if pending else "nothing to run"),
        ("memory", f"about {size(estimated.memory_bytes)} at most, estimated from shapes" if pending else ""),
        ("measured", f"{rate:,.0f} GFLOP/s at the base's own shapes" if rate else ""),
        ("where", f"{settings.device}{threads}, {settings.token_budget:,} tokens in a pack"),
        ("folder", f"{folder.path}" + ("" if folder.path.is_dir() else " (new)")),
    ]
    facts = Table.grid(padding=(0, 2, 0, 0))
    for key, value in rows:
        if value:
            facts.add_row(Text(key, style="bold"), Text(value))
    console.print(facts)


def _grouped(cells: Sequence[CellEstimate]) -> dict[str, list[CellEstimate]]:
    """Row label -> the cells that differ by their seed alone, in the order of the plan."""
    alike: dict[str, list[CellEstimate]] = {}
    for cell in cells:
        parts = {key: value for key, value in cell.spec.as_dict().items() if key != "seed"}
        alike.setdefault(json.dumps(parts, sort_keys=True), []).append(cell)
    rows: dict[str, list[CellEstimate]] = {}
    for same in alike.values():
        spec = same[0].spec
        rivals = [cell for cell in cells if cell.spec.num_labels == spec.num_labels]
        label = spec.method.name + _distinction(spec.as_dict(), [cell.spec.as_dict() for cell in rivals])
        rows[f"{label}"] = same if label not in rows else rows[label] + same
    return rows
