"""Scoring and LoRA training on one GPU at Llama-2 shapes: ours, the floor, and transformers Trainer + peft.

    python benchmarks/gpu.py --model 7b --section score       one section, within eight minutes
    python benchmarks/gpu.py --model toy --device cpu         all sections in seconds, to see that they run

Nothing is read but lengths: weights are drawn on the device from the shape alone, prompts are random token
ids (a shared instruction, a text as long as a real IMDB review, a response marker) with two one-token answers.
Needs torch, transformers, peft, accelerate and numpy, and no network. Tables come last, `--json` prints the
same as JSON lines before them. Exit code: 0, or 1 when a section failed (it is named with its reason, the
others go on), or 2 for arguments that make no sense.

gemm     dense matrix products: the rate that every FLOP share below is a share of
score    label scores of many prompts
train    one epoch of LoRA (rank 8, alpha 16, queries and values)
trainer  the same epoch by transformers Trainer + peft (sdpa, grouped by length), in turn with ours
exact    the fast path against the plain one: scores and flipped answers, bf16 and fp32
seventy  a few real layers of the 70B shape, and from them all 80, EXTRAPOLATED
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib import metadata, util
from typing import Any

import numpy as np
import torch
import transformers

from flops import Job, scoring_flops, scoring_job, training_flops, training_job
from gpu_ground import (
    ALPHA,
    LEARNING_RATE,
    MODELS,
    RANK,
    Measured,
    Sample,
    Settings,
    cast,
    draw_sample,
    free_memory,
    fresh_base,
    make_base,
    make_network,
    product_rate,
    square_rate,
    timed,
    to_nf4,
)
from gpu_trainer import TrainerPeer
from handful.engine import chains
from handful.engine.base import Base, PathCheck
from handful.engine.budget import fitting_budget
from handful.engine.graft import Graft
from handful.engine.scoring import label_scores
from handful.examples import Task
from handful.methods.lora import LoRA
from handful.training import TrainingSpec

Figures = dict[str, float | int | str | None]
Section = Callable[[Settings], Iterator["Row"]]
Way = Callable[[Sample, Measured], None]
"""Trains one epoch over a sample and adds what was measured."""

FULL_REVIEWS = 25_000
"""Every time is also scaled, by tokens, to this many reviews of the mean length."""
TASK = Task(("negative", "positive"), ("negative", "positive"), (), ())

GOAL_SECONDS = {
    ("score", "7b"): 161, ("score", "13b"): 314, ("score", "70b"): 1688,
    ("train", "7b"): 374, ("train", "13b"): 729, ("train", "70b"): 3906,
}  # fmt: skip
"""Wanted on an H100 for FULL_REVIEWS: the floor at 790 TFLOP/s over the best share that seems reachable."""
GOAL_RATIO = 2.5
"""Wanted: Trainer's time over ours."""


@dataclass(frozen=True)
class Row:
    """One line of a section's table."""

    what: str
    figures: Figures


# --- measuring ----------------------------------------------------------------------------------------------


def affordable(settings: Settings, trial: Callable[[Sample], Any], passes: int, batch_size: int = 1) -> Sample:
    """As many prompts as `passes` runs of `trial` can take until the deadline, at most the settings' number.

    trial runs twice on a few prompts: once to warm up, once to see how long it takes.
    """
    small = draw_sample(settings, max(settings.model.warm_reviews, batch_size))
    trial(small)
    start = time.perf_counter()
    trial(small)
    per_review = (time.perf_counter() - start) / len(small.prompts)
    left = 0.8 * max(0.0, settings.deadline - time.perf_counter())
    count = min(settings.reviews, int(left / (passes * per_review)))
    return draw_sample(settings, max(batch_size, count - count % batch_size))


def budget(work: str, settings: Settings) -> int:
    """Tokens in one forward pass."""
    own = settings.model.score_budget if work == "score" else settings.model.train_budget
    return settings.token_budget or own


def needed(work: str, settings: Settings, sample: Sample, token_budget: int) -> tuple[Job, float]:
    """What "score" or an epoch of "train" needs, and its FLOPs. The instruction runs once per full pack, and when
    training at least once per optimizer step.
    """
    own, shape = sample.own, settings.model.shape
    if work == "score":
        job = scoring_job(own, sample.instruction, token_budget)
        return job, scoring_flops(shape, job)
    job = training_job(own, sample.instruction, settings.batch_size, token_budget)
    return job, training_flops(shape, job, RANK)


def speed(work: str, settings: Settings, sample: Sample, token_budget: int, run: Measured, rate: float) -> Figures:
    """A measured run in the columns that all speeds share, whoever ran it: the work needed is the same.

    rate: FLOP/s of the square product.
    """
    job, flops = needed(work, settings, sample, token_budget)
    on_gpu = settings.device.type == "cuda"
    return {
        "reviews": len(sample.prompts),
        "runs": len(run.seconds),
        "seconds, median": run.median,
        "seconds, all": " ".join(show(seconds) for seconds in run.seconds),
        "reviews/s": len(sample.prompts) / run.median,
        "needed tokens/s": job.tokens / run.median,
        "FLOP share, %": 100 * flops / run.median / rate,
        "peak GB": None if run.peak_bytes is None else run.peak_bytes / 1e9,
        f"s per {FULL_REVIEWS:,} reviews": run.median * FULL_REVIEWS * settings.model.text / sample.text_tokens,
        "goal, s": GOAL_SECONDS.get((work, settings.model.name)) if on_gpu else None,
        "mean loss": run.loss,
        "notes": "; ".join(run.notes) or None,
    }


def with_path(figures: Figures, base: Base, rate: float) -> Figures:
    """The figures, which way the engine went at what measured rate of the device, and the token budget that a study
    would have found by measuring.
    """
    found = fitting_budget(base)
    return {**figures, "square TFLOP/s": rate / 1e12, "budget by measuring": found, "path": str(base.path)}


# --- the work itself ----------------------------------------------------------------------------------------


def score(base: Base, sample: Sample) -> np.ndarray:
    """[prompts, 2] label scores through the engine."""
    return label_scores(base, sample.prompts, Graft())


def train_ours(base: Base, settings: Settings, sample: Sample, into: Measured) -> None:
    """One epoch of LoRA through the engine; attaching is not timed."""
    method = LoRA(rank=RANK, alpha=ALPHA, dropout=settings.dropout, learning_rate=LEARNING_RATE)
    training = TrainingSpec(batch_size=settings.batch_size, epochs=1, loss="answer")
    with method.attach(base, TASK, settings.seed) as tuned:

        def epoch() -> float:
            curve = tuned.fit(sample.prompts, [], training, settings.seed)
            return float(curve.points[-1]["train_loss"])

        timed(settings.device, into, epoch)


def scoring_runs(base: Base, settings: Settings, sample: Sample) -> Measured:
    """Repeated scoring of one sample."""
    run = Measured()
    for _ in range(settings.repeats):
        timed(settings.device, run, lambda: _forget(score(base, sample)))
    return run


def training_runs(base: Base, settings: Settings, sample: Sample) -> Measured:
    """Repeated epochs over one sample, each from a fresh adapter."""
    run = Measured()
    for _ in range(settings.repeats):
        train_ours(base, settings, sample, run)
    return run


def scoring_sample(base: Base, settings: Settings) -> Sample:
    """As many prompts as can be scored in time."""
    return affordable(settings, lambda few: score(base, few), settings.repeats)


def training_sample(base: Base, settings: Settings) -> Sample:
    """As many prompts as can be trained on in time."""
    passes = settings.repeats * (2 if settings.device.type == "cuda" else 1)
    return affordable(settings, lambda few: train_ours(base, settings, few, Measured()), passes, settings.batch_size)


# --- the sections -------------------------------------------------------------------------------------------


def gemm_section(settings: Settings) -> Iterator[Row]:
    """Squares, and the shapes of the model's own layers on a pack of tokens."""
    shape, tokens = settings.model.shape, settings.model.score_budget
    products = {"square, the denominator": (8192, 8192, 8192), "larger square": (16384, 16384, 16384)}
    if settings.is_toy:
        products = {"square, the denominator": (256, 256, 256)}
    products["queries"] = (tokens, shape.width, shape.query_width)
    products["MLP, up"] = (tokens, shape.width, shape.mlp_width)
    products["MLP, down"] = (tokens, shape.mlp_width, shape.width)
    for what, (m, k, n) in products.items():
        rate = product_rate(settings.device, settings.dtype, m, k, n, 0.05 if settings.is_toy else 3.0)
        kind = str(settings.dtype).removeprefix("torch.")
        yield Row(what, {"m": m, "k": k, "n": n, "type": kind, "TFLOP/s": rate / 1e12})


def score_section(settings: Settings) -> Iterator[Row]:
    """Scoring through the engine."""
    base, rate = fresh_base(settings, budget("score", settings)), square_rate(settings)
    sample = scoring_sample(base, settings)
    run = scoring_runs(base, settings, sample)
    figures = speed("score", settings, sample, base.token_budget, run, rate)
    yield Row(f"score {settings.model.name}", with_path(figures, base, rate))


def train_section(settings: Settings) -> Iterator[Row]:
    """LoRA training through the engine, in turn with the same without compiled chains (engine/chains.py)."""
    base, rate = fresh_base(settings, budget("train", settings)), square_rate(settings)
    sample = training_sample(base, settings)
    run, plainly = Measured(), Measured()
    for _ in range(settings.repeats):
        train_ours(base, settings, sample, run)
        if settings.device.type == "cuda":
            with chains.plain():
                train_ours(base, settings, sample, plainly)
    figures = speed("train", settings, sample, base.token_budget, run, rate)
    yield Row(f"train {settings.model.name}", with_path(figures, base, rate))
    if plainly.seconds:
        figures = {"time over ours": plainly.median / run.median}
        figures |= speed("train", settings, sample, base.token_budget, plainly, rate)
        yield Row(f"train {settings.model.name}, chains not compiled", figures)


def trainer_section(settings: Settings) -> Iterator[Row]:
    """Ours, Trainer without and with checkpointing, one after the other, round after round."""
    base, rate = fresh_base(settings, budget("train", settings)), square_rate(settings)
    ways: dict[str, Way] = {
        "ours": lambda sample, into: train_ours(base, settings, sample, into),
        "Trainer, grouped": TrainerPeer(base.network, settings, False, settings.batch_size).train,
        "Trainer, grouped, checkpointing": TrainerPeer(base.network, settings, True, settings.batch_size).train,
    }
    failures: dict[str, str] = {}
    sample = affordable(settings, lambda few: in_turn(ways, few, failures), settings.repeats, settings.batch_size)
    runs = {what: Measured() for what in ways}
    for _ in range(settings.repeats):
        start = time.perf_counter()
        in_turn(ways, sample, failures, runs)
        # The pace was taken from a few texts, and memory may have run out only now: look again at the clock.
        if 2 * time.perf_counter() - start > settings.deadline:
            break
    yield from compared(base, settings, sample, runs, failures, rate)


def in_turn(
    ways: dict[str, Way], sample: Sample, failures: dict[str, str], runs: dict[str, Measured] | None = None
) -> None:
    """Every way once that has not failed yet; a failure is noted and the others go on."""
    for what in [name for name in ways if name not in failures]:
        run = Measured() if runs is None else runs[what]
        failure = attempt(partial(ways[what], sample, run))
        if failure:
            failures[what] = failure


def compared(
    base: Base, settings: Settings, sample: Sample, runs: dict[str, Measured], failures: dict[str, str], rate: float
) -> Iterator[Row]:
    """Each way's figures with its time over ours. Raises SectionFailure after them when one of them failed."""
    ours = runs["ours"]
    for what, run in runs.items():
        if what in failures:
            continue
        figures = speed("train", settings, sample, base.token_budget, run, rate)
        is_ours = what == "ours" or "ours" in failures
        ratio = None if is_ours else run.median / ours.median
        goal = GOAL_RATIO if ratio is not None and settings.device.type == "cuda" else None
        figures = {"time over ours": ratio, "goal": goal, **figures}
        yield Row(what, with_path(figures, base, rate) if what == "ours" else figures)
    if failures:
        raise SectionFailure("; ".join(f"{what}: {why}" for what, why in failures.items()))


def exact_section(settings: Settings) -> Iterator[Row]:
    """Few layers at full width with widely drawn weights, in fp32 and bf16; then the whole model in bf16."""
    shape = settings.model.shape
    sample = draw_sample(settings, min(settings.reviews, 256))
    shallow = replace(shape, layers=min(4, shape.layers))
    # As sharp at any width as a standard deviation of 0.5 at width 32: on small weights all paths agree.
    network = make_network(shallow, settings.device, torch.bfloat16, settings.seed, 0.5 * math.sqrt(32 / shape.width))
    seen = Scores(settings, sample)
    few, whole = f"{shallow.layers} layers", f"all {shape.layers} layers"
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        cast(network, dtype)
        seen.add(f"{few}, {kind}", network)
        yield from seen.compare(f"{few}, {kind}, fast", f"{few}, {kind}, plain")
    for way in ("fast", "plain"):
        yield from seen.compare(f"{few}, bf16, {way}", f"{few}, fp32, plain")
    del network
    free_memory()
    network = make_network(shape, settings.device, torch.bfloat16, settings.seed)
    seen.add(f"{whole}, bf16", network)
    yield from seen.compare(f"{whole}, bf16, fast", f"{whole}, bf16, plain")
    if seen.failures:
        raise SectionFailure("; ".join(seen.failures))


@dataclass
class Scores:
    """Scores of one sample by name, "..., fast" and "..., plain", what the check at load said of the fast way,
    and the reasons of those that failed.
    """

    settings: Settings
    sample: Sample
    by_name: dict[str, np.ndarray] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, network: Any) -> None:
        """Scores by both paths."""
        for way in ("fast", "plain"):
            failure = attempt(partial(self._score, name, way, network))
            if failure:
                self.failures.append(f"{name}, {way}: {failure}")

    def _score(self, name: str, way: str, network: Any) -> None:
        """The fast path is taken even where the check forbids it: how far off it is, is the question here."""
        settings = self.settings
        base = make_base(network, settings.model.name, min(4096, budget("score", settings)))
        self.verdicts[f"{name}, {way}"] = str(base.path)
        if base.path.fast != (way == "fast"):
            base.path = PathCheck(way == "fast", "forced")
        self.by_name[f"{name}, {way}"] = score(base, self.sample)

    def compare(self, tried: str, truth: str) -> Iterator[Row]:
        """One row, or none where either failed."""
        if tried in self.by_name and truth in self.by_name:
            verdict = self.verdicts[tried] if tried.endswith("fast") else None
            yield Row(f"{tried} against {truth}", difference(self.by_name[tried], self.by_name[truth], verdict))


def difference(tried: np.ndarray, truth: np.ndarray, verdict: str | None) -> Figures:
    """How far two [prompts, 2] scores are apart, in nats; a margin is the difference of the two label logits.

    Flips at margins below the error are no fault, so the median margin stands beside them.
    """
    margins, others = tried[:, 0] - tried[:, 1], truth[:, 0] - truth[:, 1]
    return {
        "reviews": len(truth),
        "largest score error, nats": float(np.abs(tried - truth).max()),
        "mean score error, nats": float(np.abs(tried - truth).mean()),
        "largest margin error, nats": float(np.abs(margins - others).max()),
        "median margin, nats": float(np.median(np.abs(others))),
        "flipped, %": 100 * float(np.mean((margins > 0) != (others > 0))),
        "check at load": verdict,
    }


def seventy_section(settings: Settings) -> Iterator[Row]:
    """The 70B shape from two depths. In bf16 its weights alone are 138 GB, in NF4 35 GB."""
    model = MODELS["toy-70b" if settings.is_toy else "70b"]
    settings = replace(settings, model=model)
    has_nf4 = util.find_spec("bitsandbytes") is not None
    plain = str(settings.dtype).removeprefix("torch.")
    kinds = (plain, "NF4") if has_nf4 else (plain,)
    failures = []
    for number, kind in enumerate(kinds):
        rows: list[Row] = []
        failure = attempt(partial(_fill, rows, extrapolated(settings, kind, len(kinds) - number)))
        yield from rows
        if failure:
            failures.append(f"{kind}: {failure}")
    if not has_nf4:
        yield Row("NF4", {"notes": "not measured: bitsandbytes is not installed"})
    if failures:
        raise SectionFailure("; ".join(failures))


def extrapolated(settings: Settings, kind: str, shares: int) -> Iterator[Row]:
    """Two depths measured, the model's full depth computed from them: time is linear in the layers.

    shares: the first of so many that the time left is for.
    """
    model = settings.model
    depths = (1, 6) if settings.is_toy else (2, 6)
    left = max(0.0, settings.deadline - time.perf_counter()) / shares
    samples: dict[str, Sample] = {}
    tried: dict[tuple[str, int], Measured] = {}
    path = ""
    for depth in reversed(depths):  # the deeper one finds out how many prompts fit, so half of the time is its
        shallow = replace(
            settings,
            model=replace(model, shape=replace(model.shape, layers=depth)),
            deadline=time.perf_counter() + left / 2,
        )
        network = make_network(shallow.model.shape, settings.device, settings.dtype, settings.seed)
        if kind == "NF4":
            to_nf4(network)
        base = make_base(network, model.name, model.score_budget)
        path = str(base.path)
        for work in ("score", "train"):
            tried[work, depth] = shallow_runs(work, base, shallow, samples)
        del network, base
        free_memory()
    rate = square_rate(settings)
    how = f"EXTRAPOLATED to {model.shape.layers} layers from {depths[0]} and {depths[1]}"
    for work in ("score", "train"):
        figures = whole_depth(work, settings, depths, samples[work], [tried[work, depth] for depth in depths], rate)
        yield Row(f"{work} {model.name} {kind}, {how}", {**figures, "square TFLOP/s": rate / 1e12, "path": path})


def shallow_runs(work: str, base: Base, settings: Settings, samples: dict[str, Sample]) -> Measured:
    """Runs of one kind of work, on the sample that is known or on a new one, which is kept in `samples`."""
    base.token_budget = budget(work, settings)
    find, measure = (scoring_sample, scoring_runs) if work == "score" else (training_sample, training_runs)
    if work in samples:
        measure(base, replace(settings, repeats=1), draw_sample(settings, settings.model.warm_reviews))
    else:
        now = time.perf_counter()
        share = 0.5 if work == "score" else 1.0  # training comes second and may have what is left
        samples[work] = find(base, replace(settings, deadline=now + share * (settings.deadline - now)))
    return measure(base, settings, samples[work])


def whole_depth(
    work: str, settings: Settings, depths: tuple[int, int], sample: Sample, runs: Sequence[Measured], rate: float
) -> Figures:
    """All layers' time from two depths. Raises SectionFailure when more layers took no longer."""
    few, many = runs
    per_layer = (many.median - few.median) / (depths[1] - depths[0])
    if per_layer <= 0:
        raise SectionFailure(f"{work}: {depths[1]} layers took no longer than {depths[0]}, nothing to extrapolate from")
    seconds = few.median + per_layer * (settings.model.shape.layers - depths[0])
    notes = list(dict.fromkeys([*few.notes, *many.notes]))
    figures = speed(work, settings, sample, budget(work, settings), Measured([seconds], notes=notes), rate)
    for measured_only in ("runs", "seconds, median", "seconds, all", "mean loss", "peak GB"):
        figures.pop(measured_only)
    return {
        f"seconds, {depths[0]} layers": few.median,
        f"seconds, {depths[1]} layers": many.median,
        f"peak GB, {depths[1]} layers": None if many.peak_bytes is None else many.peak_bytes / 1e9,
        "seconds, all layers": seconds,
        **figures,
    }


def _fill(rows: list[Row], source: Iterator[Row]) -> None:
    """Row by row, so that those before a failure are kept."""
    for row in source:
        rows.append(row)


SECTIONS: dict[str, Section] = {
    "gemm": gemm_section,
    "score": score_section,
    "train": train_section,
    "trainer": trainer_section,
    "exact": exact_section,
    "seventy": seventy_section,
}


# --- running and printing -----------------------------------------------------------------------------------


class SectionFailure(Exception):
    """A section that cannot give what it should; its message says why."""


def attempt(work: Callable[[], Any]) -> str | None:
    """Runs `work`; gives the reason when it failed, and lets go of the memory it held."""
    reason = None
    try:
        work()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        kind = "" if isinstance(error, SectionFailure) else f"{type(error).__name__}: "
        reason = f"{kind}{lines[0][:300]}"
    if reason:
        free_memory()
    return reason


def run_section(name: str, settings: Settings) -> tuple[list[Row], str | None]:
    """A section's rows, those before a failure included, and the failure's reason."""
    rows: list[Row] = []
    limited = replace(settings, deadline=time.perf_counter() + 60 * settings.minutes)

    def collect() -> None:
        for row in SECTIONS[name](limited):
            rows.append(row)
            print(f"  {name}: {row.what}", file=sys.stderr, flush=True)

    failure = attempt(collect)
    free_memory()
    return rows, failure


def _forget(_: Any) -> None:
    """For work whose result nobody wants."""


def environment(settings: Settings) -> Figures:
    """What a figure must be read with."""
    if settings.device.type == "cuda":
        properties = torch.cuda.get_device_properties(settings.device)
        device = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
    else:
        device = f"CPU {platform.machine()}, {torch.get_num_threads()} threads"
    facts: Figures = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]]),
        "device": device,
        "python": platform.python_version(),
    }
    for package in ("torch", "transformers", "peft", "accelerate", "bitsandbytes"):
        facts[package] = metadata.version(package) if util.find_spec(package) else "not installed"
    return facts


def show(value: float | int | str | None) -> str:
    """A cell: about three digits."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(title: str, rows: Sequence[Row]) -> str:
    """A Markdown table; columns that are empty in all rows are left out."""
    names = dict.fromkeys(name for row in rows for name in row.figures)
    columns = [name for name in names if any(row.figures.get(name) is not None for row in rows)]
    lines = [[title, *columns], ["---"] * (len(columns) + 1)]
    lines += [[row.what, *(show(row.figures.get(name)) for name in columns)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(facts: Figures, results: dict[str, tuple[list[Row], str | None]], as_json: bool) -> str:
    """All that is printed: JSON lines if wanted, then what it was measured with, then the tables."""
    parts = []
    if as_json:
        parts.append(json.dumps({"environment": facts}))
        for name, (rows, failure) in results.items():
            parts += [json.dumps({"section": name, "what": row.what, **row.figures}) for row in rows]
            if failure:
                parts.append(json.dumps({"section": name, "failed": failure}))
        parts.append("")
    parts += [f"{name}: {value}" for name, value in facts.items()]
    for name, (rows, failure) in results.items():
        parts.append("")
        if rows:
            parts.append(table(name, rows))
        if failure:
            parts.append(f"FAILED {name}: {failure}")
    return "\n".join(parts)


def read_arguments(arguments: Sequence[str] | None) -> tuple[Settings, list[str], bool]:
    """Settings, sections, and whether JSON is wanted. Exits with 2 on what makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--section", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="NAME", help="default: all")
    add("--model", choices=("7b", "13b", "toy"), default="7b")
    add("--device", default="cuda", help="cuda, or cpu with --model toy")
    add("--reviews", type=int, help="at most so many in a run (default 4096; 32 for toy)")
    add("--minutes", type=float, default=7.0, help="of measuring per section; fewer reviews where it is too short")
    add("--repeats", type=int, default=3, help="runs of each measurement, of which the median is given")
    add("--batch-size", type=int, default=8, help="reviews in an optimizer step, a power of two")
    add("--token-budget", type=int, help="tokens in one forward pass of ours (default: by model and work)")
    add("--limit", type=int, default=0, help="cut texts to so many tokens; 0: whole texts")
    add("--dropout", type=float, default=0.1, help="of LoRA, ours and Trainer's")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="JSON lines before the tables")
    given = parser.parse_args(arguments)
    if given.device == "cpu" and given.model != "toy":
        parser.error("a CPU would take days with --model 7b or 13b: say --model toy")
    if given.device != "cpu" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device: say --model toy --device cpu to see the sections run")
    if min(given.repeats, given.reviews or 1) < 1 or given.minutes <= 0:
        parser.error("--repeats, --reviews and --minutes must be above 0")
    if given.batch_size < 1 or given.batch_size & (given.batch_size - 1):
        parser.error("--batch-size must be a power of two, so that it can be halved when memory runs out")
    settings = Settings(
        model=MODELS[given.model], device=torch.device(given.device),
        reviews=given.reviews or (32 if given.model == "toy" else 4096), batch_size=given.batch_size,
        token_budget=given.token_budget, limit=given.limit, dropout=given.dropout, repeats=given.repeats,
        minutes=given.minutes, seed=given.seed,
    )  # fmt: skip
    return settings, given.section, given.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the sections one after the other, prints, and gives the exit code."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # Trainer would spread over all GPUs that it sees
    settings, names, as_json = read_arguments(arguments)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries to each other
    results = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results[name] = run_section(name, settings)
    print(report(environment(settings), results, as_json))
    return 1 if any(failure for _, failure in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
