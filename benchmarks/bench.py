"""handful measured against others on this machine, in one run: `make bench`, or `make bench-quick` in five minutes.

    python benchmarks/bench.py [--quick] [--sections train score study] [--shapes 15m 135m] [--rounds 3] [--resume]

Each tool is a process of its own, and they run in turn: A B C A B C A B C. Every measurement waits for a moment in
which the machine is idle, and one that other processes disturbed is done again. Prints one table and writes it, with
all measurements, to --output. --minutes ends a run early, between rounds; --resume goes on where the last one ended.
Peers live in environments of their own (environments.py), what is measured stands in plan.py. Needs the IMDB
reviews: HANDFUL_DATA names the folder that holds imdb/train.parquet and imdb/test.parquet.

Exit codes: 0 all measured; 1 a tool failed, the table says which; 2 something to put right, said on stderr; 3 ended
by --minutes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import environments
import flops
import plan
import report
from jobs import SETTINGS, SHAPES, STUDY_DROPOUTS, STUDY_SIZES, STUDY_TEST
from measure import Measured, run, wait_for_quiet

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
LIMIT_SECONDS = 1800.0
"""After which a tool is given up."""

STUDY_SHAPE = "15m"
TOKENS_PER_PACK = 8192
"""What a pack is taken to hold when FLOPs are counted; a smaller one would repeat the shared tokens more often."""


class OutOfTime(Exception):
    """--minutes are over."""


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with what --quick and the plan leave open filled in."""
    parser = argparse.ArgumentParser(description="Measure handful against other tools.")
    parser.add_argument("--quick", action="store_true", help="training and scoring at 15m, few reviews, fewer peers")
    parser.add_argument("--sections", nargs="+", choices=("train", "score", "study"))
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reviews", type=int, nargs=2, metavar=("TRAIN", "SCORE"), help="for every shape")
    parser.add_argument("--study-sizes", type=int, nargs="+", default=list(STUDY_SIZES), help="numbers of labels")
    parser.add_argument(
        "--study-scripts", type=float, nargs="+", default=[0.1], choices=STUDY_DROPOUTS, metavar="DROPOUT",
        help="whose scripts are all run; the time of the others is reckoned from them (default: 0.1)",
    )  # fmt: skip
    parser.add_argument(
        "--small", type=int, default=150, metavar="N",
        help="up to which N scripts without dropout are run too, since they draw no masks (default: 150)",
    )  # fmt: skip
    parser.add_argument("--study-test", type=int, default=STUDY_TEST, help="test reviews")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of every tool")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of bench.json and bench.md")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds, at most, for an idle machine each time")
    parser.add_argument("--again", type=int, default=1, help="how often a disturbed measurement is repeated")
    parser.add_argument("--minutes", type=float, help="after which no round is begun")
    parser.add_argument("--resume", action="store_true", help="keep what the output folder holds, do what is missing")
    args = parser.parse_args(argv)
    args.sections = args.sections or (["train", "score"] if args.quick else ["train", "score", "study"])
    args.shapes = args.shapes or list(plan.QUICK if args.quick else plan.FULL)
    return args


class Bench:
    """A run in the making; `results` is what is written."""

    def __init__(self, args: argparse.Namespace, command: str) -> None:
        self.args = args
        self.command = command
        self._study_at: Path | None = None
        self._jobs: dict[tuple[str, int, int], Path] = {}
        self.end = time.perf_counter() + 60 * args.minutes if args.minutes else float("inf")
        self.file = args.output / ("quick.json" if args.quick else "bench.json")
        self.results: dict[str, Any] = {
            "machine": _machine(),
            "threads": args.threads,
            "settings": SETTINGS,
            "code": _code(),
            "environments": {},
            "jobs": {},
            "measurements": [],
        }
        if args.resume and self.file.is_file():
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            for name in ("machine", "threads", "settings", "code"):
                if kept.get(name) != json.loads(json.dumps(self.results[name])):
                    _refuse(f"{self.file} was measured with another {name}: leave --resume away")
            # What failed is tried again.
            kept["measurements"] = [row for row in kept["measurements"] if not row.get("reason")]
            self.results = kept

    def run(self) -> None:
        """All sections asked for. Raises OutOfTime."""
        # What can be missing is asked for first: making the environments takes minutes.
        for shape in self.args.shapes:
            for section in self.args.sections:
                if section != "study":
                    self._job(section, shape)
        if "study" in self.args.sections:
            self._study_folder()
        needed = [tool.environment for section in self.args.sections for tool in self._tools(section)]
        for name in dict.fromkeys([environments.MAIN, *needed]):
            self._environment(name)
        for shape in self.args.shapes:
            for section in self.args.sections:
                if section != "study":
                    self._section(section, shape)
        if "study" in self.args.sections:
            self._study()

    def write(self) -> None:
        """JSON and Markdown, again after every measurement so that nothing is lost."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        self.file.with_suffix(".md").write_text(report.markdown(self.results), encoding="utf-8")

    def _environment(self, name: str) -> None:
        try:
            environments.ensure(name)
        except subprocess.CalledProcessError as error:
            _refuse(
                f"the environment of {name} could not be made: {shlex.join(map(str, error.cmd))} ended with "
                f"{error.returncode}. It needs a package index that pip knows, with the pins of benchmarks/peers."
            )
        versions, kept = environments.versions(name), self.results["environments"]
        if kept.setdefault(name, versions) != versions:
            _refuse(f"{self.file} was measured with other versions in the environment {name}: leave --resume away")

    def _tools(self, section: str) -> list[plan.Tool]:
        every = {"train": plan.TRAINING, "score": plan.SCORING, "study": plan.TRAINING[:2]}[section]
        return [tool for tool in every if tool.is_quick or not self.args.quick]

    # -- training and scoring --

    def _job(self, section: str, shape: str) -> Path:
        """The job of a section, made and described."""
        amounts = (plan.QUICK if self.args.quick else plan.FULL).get(shape) or plan.FULL[shape]
        train, test = self.args.reviews or (amounts.train, amounts.test)
        if (shape, train, test) not in self._jobs:
            options = ("--shape", shape, "--train", str(train), "--test", str(test))
            self._jobs[shape, train, test] = Path(_prepare(*options))
        path = self._jobs[shape, train, test]
        job = json.loads(path.read_text(encoding="utf-8"))
        self._describe(f"{section} {shape}", _about(job, section, shape, self.args.rounds))
        return path

    def _section(self, section: str, shape: str) -> None:
        path = self._job(section, shape)
        titles = {tool.title for tool in self._tools(section)}
        for number in range(1, self.args.rounds + 1):
            rows = self._rows(section, shape, number)
            if {row["tool"] for row in rows} == titles:
                continue
            # A ratio is taken within a round, so a round that was cut off begins anew.
            self.results["measurements"] = [row for row in self.results["measurements"] if row not in rows]
            self._check_time()
            self._round(section, shape, number, path)

    def _round(self, section: str, shape: str, number: int, job: Path) -> None:
        common = {"section": section, "shape": shape, "round": number}
        margins: list[float] = []
        for tool in self._tools(section):
            is_ours = tool.title == plan.OURS
            measured = self._run_tool(tool, job)
            row = {**common, "tool": tool.title, **_figures(measured)}
            found = measured.result.get("margins")
            if is_ours:
                margins = found or []
            elif found and margins:
                row["largest_difference"] = max(abs(a - b) for a, b in zip(found, margins, strict=True))
            self._add(row)

    def _run_tool(self, tool: plan.Tool, job: Path, *options: str) -> Measured:
        script = HERE / "tools" / f"{tool.script}.py"
        command = [str(environments.python_of(tool.environment)), str(script), str(job), "{result}"]
        filled = [*command, *tool.options, *options]
        return self._quietly(lambda: run(filled, tool.variables, self.args.threads, LIMIT_SECONDS))

    # -- the study --

    def _study_folder(self) -> tuple[Path, list[tuple[int, float]]]:
        """Where the study lies, and which of its cells are done by scripts too."""
        sizes, test = self.args.study_sizes, self.args.study_test
        small = [size for size in sizes if size <= self.args.small]
        cells = [(size, dropout) for dropout in STUDY_DROPOUTS for size in sizes]
        cells = [cell for cell in cells if cell[1] in self.args.study_scripts or (cell[1] == 0 and cell[0] in small)]
        if self._study_at is None:
            options = ["--study", *map(str, sizes), "--test", str(test)]
            self._study_at = Path(_prepare("--shape", STUDY_SHAPE, *options))
        about = {"sizes": sizes, "dropouts": STUDY_DROPOUTS, "scripted": cells, "test": test}
        self._describe(f"study {STUDY_SHAPE}", json.loads(json.dumps(about)))
        return self._study_at, cells

    def _study(self) -> None:
        folder, cells = self._study_folder()
        half = len(cells) // 2
        for size, dropout in cells[:half]:
            self._cell(folder, size, dropout)
        self._whole_study(folder)
        for size, dropout in cells[half:]:
            self._cell(folder, size, dropout)

    def _cell(self, folder: Path, size: int, dropout: float) -> None:
        title = f"Trainer script, N = {size}, dropout {dropout}"
        if self._is_done(title):
            return
        self._check_time()
        measured = self._run_tool(plan.TRAINING[1], folder / f"cell-{size}-{dropout}.json", "--score")
        row = {"section": "study", "shape": STUDY_SHAPE, "tool": title, "round": 1, "num_labels": size}
        self._add({**row, "dropout": dropout, **_figures(measured)})

    def _whole_study(self, folder: Path) -> None:
        if self._is_done(plan.OURS):
            return
        self._check_time()
        row: dict[str, Any] = {"section": "study", "shape": STUDY_SHAPE, "tool": plan.OURS, "round": 1}
        measured, records = self._quietly_with(lambda: self._run_study(folder))
        failed = [record for record in records if record["status"] != "finished"]
        seconds: dict[str, list[float]] = {}
        for record in records:
            seconds.setdefault(str(record["spec"]["num_labels"]), []).append(record["execution"]["seconds"]["total"])
        row["cells"] = seconds
        if failed:
            row["reason"] = failed[0]["reason"]
        self._add({**row, **_figures(measured)})

    def _run_study(self, folder: Path) -> tuple[Measured, list[dict[str, Any]]]:
        with tempfile.TemporaryDirectory() as output:
            command = [sys.executable, "-m", "handful", "study", str(folder / "study.toml"), "--output", output]
            measured = run(command, {}, self.args.threads, LIMIT_SECONDS)
            return measured, list(_records(Path(output)))

    # -- measurements --

    def _rows(self, section: str, shape: str, number: int) -> list[dict[str, Any]]:
        wanted = (section, shape, number)
        return [r for r in self.results["measurements"] if (r["section"], r["shape"], r["round"]) == wanted]

    def _is_done(self, title: str) -> bool:
        return any(row["tool"] == title for row in self._rows("study", STUDY_SHAPE, 1))

    def _describe(self, name: str, about: dict[str, Any]) -> None:
        """Notes what a section measures. Exits when kept measurements are of another job."""
        kept = self.results["jobs"].get(name)
        if kept is not None and {**kept, "rounds": 0} != {**about, "rounds": 0}:
            _refuse(f"{self.file} holds another job for {name}: leave --resume away")
        self.results["jobs"][name] = about

    def _quietly(self, work: Callable[[], Measured]) -> Measured:
        return self._quietly_with(lambda: (work(), None))[0]

    def _quietly_with(self, work: Callable[[], tuple[Measured, Any]]) -> tuple[Measured, Any]:
        """Runs a measurement on an idle machine, as far as it can be had; keeps the least disturbed one."""
        done = []
        for _ in range(1 + self.args.again):
            wait_for_quiet(self.args.wait)
            done.append(work())
            if done[-1][0].others <= report.BUSY or done[-1][0].reason:
                break
        return min(done, key=lambda pair: (bool(pair[0].reason), pair[0].others))

    def _check_time(self) -> None:
        if time.perf_counter() > self.end:
            raise OutOfTime

    def _add(self, row: dict[str, Any]) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        self.results["measurements"].append({**row, "date": now, "commit": _commit(), "command": self.command})
        said = row.get("reason") or f"{row['wall_seconds']:.1f} s in all, {row['peak_bytes'] / 1e9:.2f} GB"
        if "seconds" in row:
            said = f"{row['seconds']:.2f} s, {said}"
        if row["others"] > report.BUSY:
            said += f", DISTURBED ({row['others']:.1f} cores busy with something else)"
        print(f"  {row['section']} {row['shape']} {row['round']}: {row['tool']}: {said}", flush=True)
        self.write()


def _figures(measured: Measured) -> dict[str, Any]:
    """What a row keeps of a measurement."""
    told = {"wall_seconds": measured.wall_seconds, "peak_bytes": measured.peak_bytes, "others": measured.others}
    if measured.reason:
        return {**told, "reason": measured.reason}
    kept = ("seconds", "reviews", "tokens", "loss", "engine", "score_seconds", "gemm")
    return {**told, **{name: measured.result[name] for name in kept if name in measured.result}}


def _about(job: dict[str, Any], section: str, shape: str, rounds: int) -> dict[str, Any]:
    """What the table says of a job, with the FLOPs that it needs."""
    if any(number != 1 for number in job["answer_tokens"]):
        _refuse(f"the FLOPs are counted for answers of one token, these have {job['answer_tokens']}")
    lengths = [entry["tokens"] for entry in job["train" if section == "train" else "test"]]
    shared = job["shared_tokens"]
    own = [length - shared for length in lengths]
    if section == "train":
        work = flops.training_job(own, shared, job["batch_size"], TOKENS_PER_PACK)
        needed = flops.training_flops(SHAPES[shape], work, job["rank"])
    else:
        needed = flops.scoring_flops(SHAPES[shape], flops.scoring_job(own, shared, TOKENS_PER_PACK))
    return {
        "reviews": len(lengths), "mean_tokens": sum(lengths) / len(lengths), "shared_tokens": shared,
        "rounds": rounds, "flops": needed,
    }  # fmt: skip


def _prepare(*options: str) -> str:
    """Runs jobs.py in a process of its own, so that this one stays small; gives the path that it prints."""
    command = [sys.executable, str(HERE / "jobs.py"), "--cache", str(CACHE), *options]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if made.returncode:
        raise SystemExit(2)
    return made.stdout.strip().splitlines()[-1]


def _refuse(why: str) -> NoReturn:
    print(why, file=sys.stderr)
    raise SystemExit(2)


def _records(output: Path) -> Iterator[dict[str, Any]]:
    """Of a study folder."""
    for path in sorted((output / "records").glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def _machine() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    system = f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}".strip()
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gb": memory, "system": system}


def _commit() -> str:
    """Of this checkout, with a plus when it has changes; "unknown" outside of one."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _code() -> str:
    """Of what is measured and what measures, by content: other files may change between two parts of a run."""
    files = [*HERE.glob("*.py"), *HERE.glob("tools/*.py"), *HERE.glob("peers/*.txt"), *HERE.parent.glob("src/**/*.py")]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(str(path.relative_to(HERE.parent)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs, prints the table last, and exits."""
    args = parse_arguments(argv)
    words = sys.argv[1:] if argv is None else argv
    command = "python benchmarks/bench.py" + "".join(f" {shlex.quote(word)}" for word in words)
    bench = Bench(args, command)
    start = time.perf_counter()
    is_cut = False
    try:
        bench.run()
    except OutOfTime:
        is_cut = True
    print("\n" + report.markdown(bench.results))
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes; written to {args.output}")
    failed = any(row.get("reason") for row in bench.results["measurements"])
    sys.exit(1 if failed else 3 if is_cut else 0)


if __name__ == "__main__":
    main()
