"""handful measured against others on this machine, in one run: `make bench`, or `make bench-quick` in five minutes.

    python benchmarks/bench.py [--quick] [--sections train score study] [--shapes 15m 135m] [--rounds 3]

Each tool is a process of its own, and they run in turn: A B C A B C A B C. Prints one table and writes it, with all
measurements, to --output. Peers live in environments of their own (environments.py), what is measured stands in
plan.py. Needs the IMDB reviews: HANDFUL_DATA names the folder that holds imdb/train.parquet and imdb/test.parquet.

Exit codes: 0 all measured; 1 a tool failed, the table says which; 2 something to put right, said on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import environments
import flops
import plan
import report
from jobs import SETTINGS, SHAPES, STUDY_DROPOUTS, STUDY_SIZES, STUDY_TEST
from measure import Measured, run

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
LIMIT_SECONDS = 1800.0
"""After which a tool is given up."""

STUDY_SHAPE = "15m"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with what --quick and the plan leave open filled in."""
    parser = argparse.ArgumentParser(description="Measure handful against other tools.")
    parser.add_argument("--quick", action="store_true", help="training and scoring at 15m, few reviews, fewer peers")
    parser.add_argument("--sections", nargs="+", choices=("train", "score", "study"))
    parser.add_argument("--shapes", nargs="+", choices=tuple(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reviews", type=int, nargs=2, metavar=("TRAIN", "SCORE"), help="for every shape")
    parser.add_argument("--study-sizes", type=int, nargs="+", default=list(STUDY_SIZES), help="numbers of labels")
    parser.add_argument("--study-test", type=int, default=STUDY_TEST, help="test reviews")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of every tool")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of bench.json and bench.md")
    args = parser.parse_args(argv)
    args.sections = args.sections or (["train", "score"] if args.quick else ["train", "score", "study"])
    args.shapes = args.shapes or list(plan.QUICK if args.quick else plan.FULL)
    return args


class Bench:
    """A run in the making; `results` is what is written."""

    def __init__(self, args: argparse.Namespace, command: str) -> None:
        self.args = args
        self.results: dict[str, Any] = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": command,
            "commit": _commit(),
            "machine": _machine(),
            "threads": args.threads,
            "settings": SETTINGS,
            "environments": {},
            "jobs": {},
            "measurements": [],
        }

    def run(self) -> None:
        """All sections asked for."""
        needed = [tool.environment for section in self.args.sections for tool in self._tools(section)]
        for name in dict.fromkeys([environments.MAIN, *needed]):
            environments.ensure(name)
            self.results["environments"][name] = environments.versions(name)
        for shape in self.args.shapes:
            for section in self.args.sections:
                if section != "study":
                    self._section(section, shape)
        if "study" in self.args.sections:
            self._study()

    def write(self) -> None:
        """JSON and Markdown, again after every measurement so that nothing is lost."""
        folder = self.args.output
        folder.mkdir(parents=True, exist_ok=True)
        name = "quick" if self.args.quick else "bench"
        (folder / f"{name}.json").write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        (folder / f"{name}.md").write_text(report.markdown(self.results), encoding="utf-8")

    def _tools(self, section: str) -> list[plan.Tool]:
        every = {"train": plan.TRAINING, "score": plan.SCORING, "study": plan.TRAINING[:2]}[section]
        return [tool for tool in every if tool.is_quick or not self.args.quick]

    # -- training and scoring --

    def _section(self, section: str, shape: str) -> None:
        amounts = (plan.QUICK if self.args.quick else plan.FULL).get(shape) or plan.FULL[shape]
        train, test = self.args.reviews or (amounts.train, amounts.test)
        path = Path(_prepare("--shape", shape, "--train", str(train), "--test", str(test)))
        job = json.loads(path.read_text(encoding="utf-8"))
        self.results["jobs"][f"{section} {shape}"] = _about(job, section, shape, self.args.rounds)
        for number in range(1, self.args.rounds + 1):
            margins: list[float] = []
            self._gemm(section, shape, number)
            for tool in self._tools(section):
                measured = self._run_tool(tool, path)
                row = {"section": section, "shape": shape, "tool": tool.title, "round": number, **_figures(measured)}
                found = measured.result.get("margins")
                if tool.title == plan.OURS:
                    margins = found or []
                elif found and margins:
                    row["largest_difference"] = max(abs(a - b) for a, b in zip(found, margins, strict=True))
                self._add(row)

    def _run_tool(self, tool: plan.Tool, job: Path, *options: str) -> Measured:
        script = HERE / "tools" / f"{tool.script}.py"
        command = [str(environments.python_of(tool.environment)), str(script), str(job), "{result}"]
        return run([*command, *tool.options, *options], tool.variables, self.args.threads, LIMIT_SECONDS)

    def _gemm(self, section: str, shape: str, number: int) -> None:
        size = SHAPES[shape]
        script = str(HERE / "tools" / "gemm.py")
        command = [sys.executable, script, "{result}", "--width", str(size.width), "--mlp", str(size.mlp)]
        measured = run(command, {}, self.args.threads, LIMIT_SECONDS)
        row = {"section": section, "shape": shape, "tool": "matrix products", "round": number, **_figures(measured)}
        self._add({**row, "gemm": measured.result} if measured.result else row)

    # -- the study --

    def _study(self) -> None:
        sizes, test = self.args.study_sizes, self.args.study_test
        options = ["--study", *map(str, sizes), "--test", str(test)]
        folder = Path(_prepare("--shape", STUDY_SHAPE, *options))
        self.results["jobs"][f"study {STUDY_SHAPE}"] = {"sizes": sizes, "dropouts": STUDY_DROPOUTS, "test": test}
        cells = [(size, dropout) for dropout in STUDY_DROPOUTS for size in sizes]
        half = len(cells) // 2
        for size, dropout in cells[:half]:
            self._cell(folder, size, dropout)
        self._whole_study(folder)
        for size, dropout in cells[half:]:
            self._cell(folder, size, dropout)

    def _cell(self, folder: Path, size: int, dropout: float) -> None:
        measured = self._run_tool(plan.TRAINING[1], folder / f"cell-{size}-{dropout}.json", "--score")
        title = f"Trainer script, N = {size}, dropout {dropout}"
        row = {"section": "study", "shape": STUDY_SHAPE, "tool": title, "round": 1, "num_labels": size}
        self._add({**row, **_figures(measured)})

    def _whole_study(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory() as output:
            command = [sys.executable, "-m", "handful", "study", str(folder / "study.toml"), "--output", output]
            measured = run(command, {}, self.args.threads, LIMIT_SECONDS)
            records = list(_records(Path(output)))
        failed = [record for record in records if record["status"] != "finished"]
        seconds: dict[str, list[float]] = {}
        for record in records:
            seconds.setdefault(str(record["spec"]["num_labels"]), []).append(record["execution"]["seconds"]["total"])
        row = {"section": "study", "shape": STUDY_SHAPE, "tool": plan.OURS, "round": 1, "cells": seconds}
        if failed:
            row["reason"] = failed[0]["reason"]
        self._add({**row, **_figures(measured)})

    def _add(self, row: dict[str, Any]) -> None:
        self.results["measurements"].append(row)
        said = row.get("reason") or f"{row['wall_seconds']:.1f} s in all, {row['peak_bytes'] / 1e9:.2f} GB"
        if "seconds" in row:
            said = f"{row['seconds']:.1f} s, {said}"
        print(f"  {row['section']} {row['shape']} {row['round']}: {row['tool']}: {said}", flush=True)
        self.write()


def _figures(measured: Measured) -> dict[str, Any]:
    """What a row keeps of a measurement."""
    told = {"wall_seconds": measured.wall_seconds, "peak_bytes": measured.peak_bytes, "others": measured.others}
    if measured.reason:
        return {**told, "reason": measured.reason}
    kept = ("seconds", "reviews", "tokens", "loss", "engine", "score_seconds")
    return {**told, **{name: measured.result[name] for name in kept if name in measured.result}}


def _about(job: dict[str, Any], section: str, shape: str, rounds: int) -> dict[str, Any]:
    """What the table says of a job, with the FLOPs that it needs."""
    if any(number != 1 for number in job["answer_tokens"]):
        raise SystemExit(f"the FLOPs are counted for answers of one token, these have {job['answer_tokens']}")
    lengths = [entry["tokens"] for entry in job["train" if section == "train" else "test"]]
    shared = job["shared_tokens"]
    if section == "train":
        needed = flops.training_flops(SHAPES[shape], lengths, shared, job["batch_size"], job["rank"])
    else:
        needed = flops.scoring_flops(SHAPES[shape], lengths, shared)
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


def main(argv: Sequence[str] | None = None) -> None:
    """Runs, prints the table last, and exits."""
    args = parse_arguments(argv)
    words = sys.argv[1:] if argv is None else argv
    command = "python benchmarks/bench.py" + "".join(f" {shlex.quote(word)}" for word in words)
    bench = Bench(args, command)
    start = time.perf_counter()
    bench.run()
    print("\n" + report.markdown(bench.results))
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes; written to {args.output}")
    sys.exit(any(row.get("reason") for row in bench.results["measurements"]))


if __name__ == "__main__":
    main()
