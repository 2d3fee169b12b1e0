"""The verbs: study, plan, report, list. Hyper-parameters live in study files, not in flags.

Each verb imports its stations when it is called, so that `handful --help` answers at once and
`handful report` runs without torch. Knows nothing of how anything is computed.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from handful import __version__
from handful.errors import HandfulError, SpecError, StudyError, nearest

if TYPE_CHECKING:
    from handful.catalogue import Entry
    from handful.estimate import Estimate, RunEstimate
    from handful.report import Lookup
    from handful.results import StudyFolder
    from handful.spec import ExecutionSpec
    from handful.study import Plan

UNFINISHED, MISTAKE, FAULT, INTERRUPTED = 1, 2, 70, 130
"""Exit codes: cells failed or are missing; a person can mend it; a fault of handful; Ctrl-C."""

ESTIMATED_MARK = "~"
"""Before a number of a plan that comes from tables that ship instead of the base and the texts."""

LARGE_BASE = 100e6
"""Parameters from which a plan tells which GPUs a base needs."""

WIDTH = 80
"""Characters that a listing takes at most: longer lines are hard to read."""

QUIET_LIBRARIES = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # Said outright, or the tokenizers library warns whenever a child process starts (git, for a record).
    "TOKENIZERS_PARALLELISM": "true",
    # Threads that wait for each other by spinning make a busy machine many times slower: they sleep soon instead, but
    # not so soon that an idle machine has to wake them for every operation (docs/benchmarks.md).
    "GOMP_SPINCOUNT": "3000",
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


def _ran_out_of_memory(error: Exception) -> bool:
    from handful.engine.memory import is_out_of_memory

    return is_out_of_memory(error)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. `arguments`: as typed, without the program's name. Always ends in SystemExit."""
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    # What these warn of is how handful calls them, nothing that a person could change.
    warnings.filterwarnings("ignore", module=r"(peft|transformers|huggingface_hub)\b")
    # peft imports bitsandbytes where it is installed, which then misses kernels that nothing here would use.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="handful")
    except HandfulError as error:
        _complain(str(error))
        sys.exit(MISTAKE)
    except Exception as error:
        if _ran_out_of_memory(error):
            _complain(
                "out of memory: free some, or raise the limit of the process. What has finished is kept: the same "
                "command goes on, and `handful report FOLDER` writes a report"
            )
            sys.exit(MISTAKE)
        traceback.print_exc()
        _complain(f"{type(error).__name__}: a fault of handful, not yours. Please report the lines above")
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
    str,
    typer.Argument(metavar="FILE_OR_PRESET", help="A study file (TOML), the name of a preset, or a study.lock.json."),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME_OR_FOLDER", help="Take this base in place of those in the study."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="FOLDER", help="The study folder, else studies/NAME.")
]


# -- study ---------------------------------------------------------------------------------------------


NoTextsOption = Annotated[bool, typer.Option("--no-texts", help="Leave test texts out of the report page.")]


@app.command("study")
def study_verb(
    file_or_preset: StudyArgument,
    model: ModelOption = None,
    output: OutputOption = None,
    no_texts: NoTextsOption = False,
    reuse: Annotated[
        list[Path] | None,
        typer.Option("--reuse", metavar="FOLDER", help="Take finished cells from this study folder (repeatable)."),
    ] = None,
) -> None:
    """Run what is missing of a study, show its table, write its report."""
    console = _console()
    with console.status("reading the study"):
        from handful.engine.memory import give_back_freed_memory
        from handful.report import print_table
        from handful.results import StudyFolder
        from handful.study import pending_runs, run_plan
        from handful.summary import summarise
        from handful.texts import from_sources
        from handful.watching import watched

        command = _command("study", file_or_preset, model, output, reuse or ())
        plan, execution, notes = _planned(file_or_preset, model, command)
        folder = StudyFolder(_output_folder(output, plan.name))
        is_done = not pending_runs(plan, folder)
        seconds = _cell_seconds(execution, plan, folder)
    for note in notes:
        _say(console, note)
    try:
        with watched(console, seconds) as show:
            outcome = run_plan(plan, execution, folder.path, show, reuse or ())
    except KeyboardInterrupt:
        console.print()
        if folder.path.is_dir():
            _say(console, f"Stopped. Finished cells are kept in {folder.path}; the same command goes on:")
            _say(console, f"  {command}")
        else:
            _say(console, "Stopped before anything was written.")
        raise typer.Exit(INTERRUPTED) from None
    if is_done:
        _say(console, "Nothing is left to run: every cell has its record.")
    texts = None if no_texts else from_sources((spec.as_dict()["data"], spec.data) for spec in plan.distinct)
    give_back_freed_memory()  # the figures need some of it
    page = _write_report(folder, texts)
    console.print()
    print_table(summarise(folder), console)
    console.print()
    _say(console, f"Report: {page}")
    for note in plan.notes:
        console.print()
        console.print(Text(note))
    if outcome.finished < outcome.planned:
        console.print()
        _say(console, "Not all cells finished. Once the reasons are mended, the same command runs the rest:")
        _say(console, f"  {command}")
        raise typer.Exit(UNFINISHED)


def _cell_seconds(execution: ExecutionSpec, plan: Plan, folder: StudyFolder) -> dict[str, float]:
    """spec_id -> estimated seconds of each pending cell; empty when there is no estimate to be had."""
    from handful.estimate import BRIEFLY, estimate

    try:
        estimated = estimate(plan, folder, execution, measure_seconds=BRIEFLY)
    except Exception:
        # A bar that runs unevenly is no reason to keep a study from running.
        return {}
    seconds = {run.spec.spec_id: run.seconds for run in estimated.pending}
    if seconds:
        # The base and the texts are loaded inside the first run.
        seconds[estimated.pending[0].spec.spec_id] += estimated.load_seconds
    return seconds


def _planned(
    file_or_preset: str, model: str | None, command: str = "", outline: bool = False
) -> tuple[Plan, ExecutionSpec, list[str]]:
    """`study.planned`, its claims and the table that it quotes held against the rows that the study will have."""
    from handful.lock import is_lock
    from handful.study import planned
    from handful.summary import problems_of_plan

    plan, execution, said = planned(file_or_preset, model, command, outline)
    problems = problems_of_plan(plan.as_dict(), is_other_base=model is not None)
    if problems and not is_lock(file_or_preset):
        raise SpecError(problems, file_or_preset)
    # What a lock declares is settled: it runs again as it ran.
    return plan, execution, [*said, *problems]


# -- plan ----------------------------------------------------------------------------------------------


@app.command("plan")
def plan_verb(
    file_or_preset: StudyArgument,
    model: ModelOption = None,
    output: OutputOption = None,
    show_prompts: Annotated[
        bool, typer.Option("--show-prompts", help="Show two whole prompts, token by token, in place of the costs.")
    ] = False,
) -> None:
    """Show what a study would run: cells, tokens, time, memory. Runs and writes nothing, needs no weights."""
    console = _console()
    if show_prompts:
        _show_prompts(console, file_or_preset, model)
        return
    with console.status("reading the study"):
        from handful.estimate import estimate
        from handful.results import StudyFolder

        plan, execution, differs = _planned(file_or_preset, model, outline=True)
        folder = StudyFolder(_output_folder(output, plan.name))
        estimated = estimate(plan, folder, execution)
    for line in differs:
        _say(console, line)
    _print_estimate(console, plan, folder, estimated)


CUT_CHARACTERS = 1000
"""How much is shown of what was cut from a text, from its beginning."""


def _show_prompts(console: Console, file_or_preset: str, model: str | None) -> None:
    with console.status("reading the study"):
        from handful.showing import SEAM, escaped, two_prompts
        from handful.study import planned

        shown, different = two_prompts(planned(file_or_preset, model, outline=True)[0])
    for number, one in enumerate(shown, start=1):
        rendered = one.rendered
        _say(
            console,
            f"Prompt {number} of {len(shown)}: {one.prompt}, {escaped(one.checkpoint)}, text {escaped(one.example_id)} "
            f"({escaped(one.label)}), {rendered.num_tokens:,} tokens",
            style="bold",
        )
        _say(console, one.seamed or escaped(rendered.text))
        console.print()
        _say(console, f"answers, as they follow ({SEAM} between tokens, their ids in brackets):")
        for label, tokens in zip(one.label_names, rendered.answer_tokens, strict=True):
            spelled = SEAM.join(escaped(token) for _, token in tokens)
            _say(console, f"  {escaped(label)}: {spelled}  [{', '.join(str(number) for number, _ in tokens)}]")
        if rendered.num_cut:
            cut = rendered.cut_text
            more = f" ... and {len(cut) - CUT_CHARACTERS:,} characters more" if len(cut) > CUT_CHARACTERS else ""
            _say(console, f"cut from the text: {rendered.num_cut:,} tokens, {len(cut):,} characters:")
            _say(console, escaped(cut[:CUT_CHARACTERS]) + more)
        else:
            _say(console, "cut from the text: nothing")
        console.print()
    if different > len(shown):
        _say(console, f"The study has {different} different prompts; these are its first two.")


def _print_estimate(console: Console, plan: Plan, folder: StudyFolder, estimated: Estimate) -> None:
    from handful.report.wording import count, plural, seconds, size

    pending = estimated.pending
    done = len(estimated.runs) - len(pending)
    # What is finished is known by the base's and the texts' content.
    unknown = sum(run.is_estimated for run in pending) if folder.path.is_dir() else 0
    finished = f"{done:,} finished already, {len(pending):,} to run"
    _say(
        console,
        f"{plan.name}: {plural(len(plan.cells), 'cell')}, {plural(len(estimated.runs), 'distinct run')}, "
        + (f"{done:,} known to be finished, {unknown:,} unknown without their base or texts" if unknown else finished),
        style="bold",
    )
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("method", overflow="fold", max_width=26)
    for heading in ("N", "runs", "done", "train tokens", "test tokens", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    told = ""
    for (label, num_labels), runs in _grouped(plan, estimated.runs).items():
        open_runs = [run for run in runs if not run.is_done]
        mark = ESTIMATED_MARK if any(run.is_estimated for run in open_runs) else ""
        table.add_row(
            Text("" if label == told else label),  # a long one takes several lines
            f"{num_labels:,}",
            str(len(runs)),
            str(len(runs) - len(open_runs)),
            mark + count(sum(run.train_tokens for run in open_runs)),
            mark + count(sum(run.test_tokens for run in open_runs)),
            mark + seconds(sum(run.seconds for run in open_runs)) if open_runs else "",
        )
        told = label
    console.print(table)
    console.print()
    if estimated.stand_ins:
        _print_stand_ins(console, estimated)
    if any(base.is_estimated or base.parameters > LARGE_BASE for base in estimated.bases):
        _print_needs(console, estimated)
    settings = estimated.settings
    threads = f", {plural(settings.threads, 'thread')}" if settings.device == "cpu" else ""
    rate = estimated.flops_per_second / 1e9
    facts = {
        "time": _time_words(estimated) if pending else "nothing to run",
        "memory": f"about {size(estimated.memory_bytes)}, from the base's shape" if pending else "",
        "measured": f"{rate:,.0f} GFLOP/s in matrix products of the base's shape" if rate else "",
        "detects": _power_words(estimated),
        # Where every base is a stand-in, nothing is reckoned for this machine.
        "where": "" if estimated.bases and all(base.is_estimated for base in estimated.bases) else (
            f"{settings.device}{threads}, {settings.token_budget:,} tokens in a pack"
        ),
        "folder": f"{folder.path}" + ("" if folder.path.is_dir() else " (not there yet)"),
    }
    for name, value in facts.items():
        if value:
            console.print(Text.assemble((f"{name:10}", "bold"), value), soft_wrap=True)


def _print_stand_ins(console: Console, estimated: Estimate) -> None:
    """What was taken from the tables that ship, and how to get at the real thing."""
    from handful.estimate import DEVICE
    from handful.models.checkpoint import ACCESS

    _say(console, f"{ESTIMATED_MARK} estimated from tables that ship, since these are not here:")
    gated = {base.checkpoint: base.terms for base in estimated.bases if base.terms}
    for name in estimated.stand_ins:
        _say(console, f"  {name}" + (f" (gated: {gated[name]})" if name in gated else ""))
    if any(base.is_estimated for base in estimated.bases):
        words = (
            f"Their times are those of {DEVICE}, as if it held them: 7B and 13B by measured throughput, 70B by that of "
            "a few of its layers, other sizes scaled by FLOPs."
        )
        console.print(Text(words))
    if gated:
        console.print(Text(f"A gated base: {ACCESS}."))
    console.print()


def _print_needs(console: Console, estimated: Estimate) -> None:
    """Memory and GPUs of each base."""
    from handful.estimate import GPU_BYTES, GPU_TOKENS, LONG_TEXT
    from handful.report.wording import extent

    def needs(mark: str, least: int | None, most: int | None, gpus: int | None) -> str:
        if least is None or most is None:
            return "-"
        held = extent((round(least / 1e9), round(most / 1e9)))
        return f"{mark}{held} GB, {f'{gpus} GPU' + 's' * (gpus > 1) if gpus else 'too large'}"

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("base", overflow="fold", max_width=30)
    here = any(base.seconds_here is not None for base in estimated.bases)
    for heading in ("size", "in bf16", "in 4 bits", "hours", *(["hours here"] if here else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for base in estimated.bases:
        mark = ESTIMATED_MARK if base.is_estimated else ""
        table.add_row(
            Text(base.checkpoint),
            f"{base.parameters:.1e}".replace("e+0", "e").replace("e+", "e"),
            needs(mark, base.bf16_least, base.bf16_bytes, base.gpus),
            needs(mark, base.four_bit_least, base.four_bit_bytes, base.four_bit_gpus),
            f"{mark}{base.seconds / 3600:,.1f}",
            *([] if not here else ["-" if base.seconds_here is None else f"{mark}{base.seconds_here / 3600:,.1f}"]),
        )
    console.print(table)
    console.print(
        Text(
            f"Size in parameters. Memory with packs of {LONG_TEXT:,} tokens (a long text, the least to be held) to "
            f"{GPU_TOKENS:,}; so many GPUs of {GPU_BYTES / 1e9:.0f} GB hold the weights and the former."
        )
    )
    console.print()


def _time_words(estimated: Estimate) -> str:
    from handful.estimate import DEVICE
    from handful.report.wording import seconds

    words = f"about {seconds(estimated.seconds)}"
    absent = [base for base in estimated.bases if base.is_estimated]
    if not absent:
        return f"{words}, within a factor of two"
    here = " and what is here on this machine" if len(absent) < len(estimated.bases) else ""
    return f"{words}, estimated: on {DEVICE}{here}"


def _power_words(estimated: Estimate) -> str:
    from handful.estimate import DISAGREEMENT, SEED_SD
    from handful.report.wording import plural

    power = estimated.power
    if power is None:
        return ""
    between = "methods" if power.num_seeds > 1 else "fixed classifiers"
    share = max(DISAGREEMENT, power.difference)
    moved = f"; seeds move their difference by {100 * SEED_SD:g} point" if power.num_seeds > 1 else ""
    single = ". Where there is one seed, texts alone are sampled: that tells fixed classifiers apart, not methods"
    return (
        f"differences of {100 * power.difference:.1f} points between two {between}, with 80 % power at 5 %, paired: "
        f"{plural(power.num_texts, 'test text')}, {plural(power.num_seeds, 'seed')}. Assumed: one is right where the "
        f"other is wrong on {100 * share:.2g} % of the texts{moved}{single if power.has_single else ''}"
    )


def _grouped(plan: Plan, runs: Sequence[RunEstimate]) -> dict[tuple[str, int], list[RunEstimate]]:
    """(label of a row as in the report, number of labels) -> its runs, in the order of the plan.

    A run that several rows ask for stands with the first of them.
    """
    from handful.summary import rows_of_plan

    label_of: dict[str, str] = {}
    for row in rows_of_plan(plan.as_dict()):
        for planned in (one for cell in row.cells.values() for one in cell.runs):
            label_of.setdefault(planned.spec_id, row.label)
    groups: dict[tuple[str, int], list[RunEstimate]] = {}
    for run in runs:
        groups.setdefault((label_of[run.spec.spec_id], run.spec.num_labels), []).append(run)
    return groups


# -- report --------------------------------------------------------------------------------------------


@app.command("report")
def report_verb(
    study_folder: Annotated[Path, typer.Argument(metavar="STUDY_FOLDER", help="What `handful study` wrote.")],
    no_texts: NoTextsOption = False,
    text_length: Annotated[
        int, typer.Option("--text-length", min=1, metavar="CHARACTERS", help="Of a test text on the page, at most.")
    ] = 300,
    latex: Annotated[bool, typer.Option("--latex", help="Write table.tex too, with booktabs.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Write table.csv too, a line for each cell and seed.")] = False,
) -> None:
    """Write a study's report again and show its table."""
    from handful.report import TABLES, print_table
    from handful.results import StudyFolder
    from handful.summary import summarise
    from handful.texts import from_section

    console = _console()
    folder = StudyFolder(study_folder)
    print_table(summarise(folder), console)
    tables = [name for name, wanted in (("latex", latex), ("csv", csv)) if wanted]
    absent: dict[str, None] = {}

    def look_up(section: Mapping[str, Any], ids: Collection[str]) -> dict[str, Mapping[str, str]]:
        found = from_section(section, ids)
        if ids and not found:
            absent[str(section["name"])] = None
        return found

    page = _write_report(folder, None if no_texts else look_up, text_length, tables)
    console.print()
    if absent:
        _say(
            console,
            f"The test texts of {', '.join(absent)} are not at hand, so the page shows none (HANDFUL_DATA names the "
            "folder that holds them)",
        )
    for name in tables:
        _say(console, f"Table: {folder.path / TABLES[name][0]}")
    _say(console, f"Report: {page}")


def _write_report(
    folder: StudyFolder, texts: Lookup | None, text_length: int = 300, tables: Sequence[str] = ()
) -> Path:
    """Writes all formats; gives the page. Raises StudyError when the folder cannot be written to."""
    from handful.report import write_report

    try:
        paths = write_report(folder, texts, text_length, tables)
    except OSError as error:
        raise StudyError(
            f"the report cannot be written to {folder.path} ({error.strerror}): make the folder writable, "
            "or copy it to where you may write"
        ) from None
    return next(path for path in paths if path.suffix == ".html")


# -- list ----------------------------------------------------------------------------------------------


@app.command("list")
def list_verb(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help="methods, prompts, data, models, settings or presets."),
    ] = None,
) -> None:
    """List what a study file can name, with every knob, its type and default."""
    from handful.catalogue import catalogue

    listed = catalogue()
    if kind is not None and kind not in listed:
        raise SpecError(f"there is no list of {kind!r}.{nearest(kind, listed)} Lists: {', '.join(listed)}")
    console = _console()
    for title, entries in listed.items():
        if kind in (None, title):
            console.rule(Text(title, style="bold"), align="left", characters="-")
            for entry in entries:
                _print_entry(console, entry)


def _print_entry(console: Console, entry: Entry) -> None:
    console.print(Text(entry.name, style="bold cyan"))
    if entry.summary:
        console.print(Padding(Text(entry.summary), (0, 0, 0, 2)))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(width=18, overflow="fold", style="green")
    table.add_column(width=30, overflow="fold")
    table.add_column(overflow="fold", style="dim")
    for knob in entry.knobs:
        default = Text(knob.default) if knob.default else Text("must be given", style="yellow")
        table.add_row(Text(knob.key), Text(knob.words), default)
    if entry.knobs:
        console.print(Padding(table, (0, 0, 0, 4)))
    console.print()


# -- words ---------------------------------------------------------------------------------------------


def _console() -> Console:
    """For what a person asked for: standard output, no guesses at numbers and paths to colour."""
    console = Console(highlight=False)
    if console.width > WIDTH:
        console.width = WIDTH
    return console


def _say(console: Console, line: str, style: str = "") -> None:
    """One line as it is: never folded (a path must stay whole), never read as markup."""
    console.print(Text(line, style=style), soft_wrap=True)


def _output_folder(output: Path | None, name: str) -> Path:
    return output if output is not None else Path("studies") / name


def _command(
    verb: str, file_or_preset: str, model: str | None, output: Path | None, reuse: Sequence[Path] = ()
) -> str:
    """What was typed, as a shell takes it."""
    words = ["handful", verb, file_or_preset]
    words += [] if model is None else ["--model", model]
    words += [] if output is None else ["--output", str(output)]
    words += [word for folder in reuse for word in ("--reuse", str(folder))]
    return shlex.join(words)
