"""Measurements -> one table of absolute figures and ratios, as Markdown. Needs nothing but Python.

A ratio is taken between two processes of the same round, one right after the other, and the median of the rounds
is quoted with the smallest and the largest: speeds of one machine differ more from hour to hour than within one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from plan import OURS, TARGETS, Target

Row = Mapping[str, Any]
"""One measurement: section, shape, tool, round, and figures or the reason why there are none."""

SHOWN_PACKAGES = ("torch", "transformers", "peft", "trl", "lm_eval", "accelerate", "tokenizers", "numpy")
"""Those that matter stand first."""
_VERBS = {"train": "Training", "score": "Scoring"}
BUSY = 0.2
"""Cores kept busy by other processes from which on a measurement is called disturbed."""


def markdown(results: Mapping[str, Any]) -> str:
    """The whole report."""
    rows = results["measurements"]
    parts = [_head(results), _targets(results)]
    for section, shape in dict.fromkeys((row["section"], row["shape"]) for row in rows):
        own = [row for row in rows if (row["section"], row["shape"]) == (section, shape)]
        if section == "study":
            parts.append(_study(own, results))
        else:
            parts.append(_section(section, shape, own, results))
    parts.append(_disturbed(rows))
    parts.append(_versions(results["environments"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def ratios(rows: Sequence[Row], tool: str, figure: str) -> list[float]:
    """`figure` of a tool over that of handful, per round in which both have it."""
    ours = {row["round"]: row[figure] for row in rows if row["tool"] == OURS and figure in row}
    theirs = {row["round"]: row[figure] for row in rows if row["tool"] == tool and figure in row}
    return [theirs[number] / ours[number] for number in sorted(ours.keys() & theirs.keys())]


def spread(values: Sequence[float], digits: int = 1, unit: str = "x") -> str:
    """Median, smallest and largest: "2.0x (1.8 to 2.1)"."""
    if not values:
        return "-"
    around = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{median(values):.{digits}f}{unit}{around}"


def shares(rows: Sequence[Row], job: Mapping[str, Any]) -> list[float]:
    """Per round, per cent of the matrix-product rate, the mean of the ones measured right before and right after, at
    which handful did the FLOPs that the job needs.
    """
    ours = [row for row in rows if row["tool"] == OURS and "gemm" in row]
    return [100 * job["flops"] / row["seconds"] / row["gemm"]["best"] for row in ours]


def script_seconds(rows: Sequence[Row], job: Mapping[str, Any]) -> dict[tuple[int, float], float]:
    """Per (N, dropout) the time of its script, of those that ran."""
    seconds = {(row["num_labels"], row["dropout"]): row["wall_seconds"] for row in rows if row["tool"] != OURS}
    return {(size, dropout): seconds[size, dropout] for size, dropout in job["scripted"] if (size, dropout) in seconds}


def reckoned_seconds(measured: Mapping[tuple[int, float], float], job: Mapping[str, Any]) -> dict[Any, float]:
    """The same of every cell. A script that did not run takes what the one of the same N took with the nearest
    dropout that ran for every N, times what this dropout made of it at those N where both ran.
    """
    whole = [dropout for dropout in job["dropouts"] if all((size, dropout) in measured for size in job["sizes"])]
    reckoned = {}
    for size in job["sizes"]:
        for dropout in job["dropouts"]:
            near = min(whole, key=lambda other: abs(other - dropout))
            both = [n for n in job["sizes"] if (n, dropout) in measured and (n, near) in measured]
            factor = sum(measured[n, dropout] for n in both) / sum(measured[n, near] for n in both) if both else 1.0
            reckoned[size, dropout] = measured.get((size, dropout), factor * measured[size, near])
    return reckoned


def study_ratio(rows: Sequence[Row], results: Mapping[str, Any]) -> list[float]:
    """Time of all scripts over that of the one study; none before all of them are done."""
    job = results["jobs"].get("study 15m", {"sizes": (), "dropouts": (), "scripted": ()})
    ours = [row["wall_seconds"] for row in rows if row["tool"] == OURS]
    measured = script_seconds(rows, job)
    if not ours or len(measured) != len(job["scripted"]) or any(row.get("reason") for row in rows):
        return []
    return [sum(reckoned_seconds(measured, job).values()) / sum(ours)]


def _head(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    rows = results["measurements"]
    commands = dict.fromkeys(row["command"] for row in rows)
    return "\n".join(
        [
            f"{machine['cpu']}, {results['threads']} threads of {machine['cores']} cores, "
            f"{machine['memory_gb']:.0f} GB, {machine['system']}.",
            "",
            *(f"    {command}" for command in commands),
        ]
    )


def _when(rows: Sequence[Row]) -> str:
    """From when to when a section was measured, and of which commits."""
    dates = sorted(row["date"] for row in rows)
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"Measured {span}, commit {commits}."


def _targets(results: Mapping[str, Any]) -> str:
    """Each target that this run has measured, and whether it was met."""
    lines = [line for target in TARGETS if (line := _target(target, results)) is not None]
    return table(("target", "wanted", "measured", ""), lines) if lines else ""


def _target(target: Target, results: Mapping[str, Any]) -> tuple[str, ...] | None:
    key = (target.section, target.shape)
    rows = [row for row in results["measurements"] if (row["section"], row["shape"]) == key]
    if target.section == "study":
        values = study_ratio(rows, results)
        what = "12-cell study, 12 scripts against one run, time"
    elif target.figure == "share":
        values = shares(rows, results["jobs"].get(" ".join(key), {}))
        what = f"{_VERBS[target.section]}, share of the matrix-product rate"
    else:
        values = ratios(rows, target.tool, target.figure)
        figure = {"seconds": "time", "peak_bytes": "peak memory"}[target.figure]
        what = f"{_VERBS[target.section]}, {target.tool}, {figure}"
    if not values:
        return None
    unit = " %" if target.figure == "share" else "x"
    digits = 0 if target.figure == "share" else 2 if target.wanted < 2 else 1
    met = "met" if median(values) >= target.wanted else "missed"
    return f"{target.shape.upper()}: {what}", f"{target.wanted:g}{unit}", spread(values, digits, unit), met


def _section(section: str, shape: str, rows: Sequence[Row], results: Mapping[str, Any]) -> str:
    job = results["jobs"][f"{section} {shape}"]
    verb = _VERBS[section]
    about = (
        f"### {verb}, {shape.upper()} shape\n\n{job['reviews']} reviews of {job['mean_tokens']:.0f} tokens on average, "
        f"{job['shared_tokens']} of them shared; {job['rounds']} rounds. Seconds count from texts to "
        f"{'a trained adapter' if section == 'train' else 'scores'}, tokenising included, without imports and loading. "
        f"{_when(rows)}"
    )
    lines = [_line(tool, rows) for tool in dict.fromkeys(row["tool"] for row in rows)]
    header = ("", "reviews/s", "tokens/s", "seconds", "peak memory", "time against handful", "memory against handful")
    parts = [about, table(header, lines), _share(section, shape, rows, job), _agreement(section, rows)]
    return "\n\n".join(part for part in parts if part)


def _line(tool: str, rows: Sequence[Row]) -> tuple[str, ...]:
    own = [row for row in rows if row["tool"] == tool]
    good = [row for row in own if "seconds" in row]
    if not good:
        return (tool, f"failed: {own[-1]['reason']}", "-", "-", "-", "-", "-")
    seconds = median(row["seconds"] for row in good)
    is_ours = tool == OURS
    name = f"**{tool}**" if is_ours else tool
    if len(good) < len(own):
        name += f" (failed in {len(own) - len(good)} of {len(own)} rounds)"
    return (
        name,
        f"{good[0]['reviews'] / seconds:.2f}",
        f"{good[0]['tokens'] / seconds:,.0f}",
        f"{seconds:.2f}",
        f"{median(row['peak_bytes'] for row in good) / 1e9:.2f} GB",
        "-" if is_ours else spread(ratios(rows, tool, "seconds")),
        "-" if is_ours else spread(ratios(rows, tool, "peak_bytes")),
    )


def _share(section: str, shape: str, rows: Sequence[Row], job: Mapping[str, Any]) -> str:
    """What handful makes of the rate at which this machine multiplied matrices in the same rounds."""
    found = shares(rows, job)
    if not found:
        return ""
    rates = [row["gemm"] for row in rows if "gemm" in row]
    best = " or ".join(dict.fromkeys(max(rate["rates"], key=rate["rates"].__getitem__) for rate in rates))
    return (
        f"handful did the {job['flops'] / 1e9:,.0f} GFLOP that this job needs (benchmarks/flops.py) at "
        f"**{median(found):.0f} %** ({min(found):.0f} to {max(found):.0f}) of the fp32 matrix-product rate "
        f"measured right before and after, {median(rate['best'] for rate in rates) / 1e9:.0f} GFLOP/s ({best})."
    )


def _agreement(section: str, rows: Sequence[Row]) -> str:
    """That all tools did the same: tokens and, where there are any, scores."""
    tokens = {row["tokens"] for row in rows if "tokens" in row}
    same = "All tools read the same tokens." if len(tokens) == 1 else f"TOKENS DIFFER between tools: {sorted(tokens)}."
    if section == "train":
        losses = {row["tool"]: row["loss"] for row in rows if "loss" in row}
        return same + " Mean training loss: " + ", ".join(f"{tool} {loss:.3f}" for tool, loss in losses.items()) + "."
    errors = {row["tool"]: row["largest_difference"] for row in rows if "largest_difference" in row}
    told = ", ".join(f"{tool} {error:.0e}" for tool, error in errors.items())
    return f"{same} Largest difference to handful's log-odds of the two answers: {told}." if told else same


def _study(rows: Sequence[Row], results: Mapping[str, Any]) -> str:
    job = results["jobs"]["study 15m"]
    ours = [row for row in rows if row["tool"] == OURS]
    cells = [row for row in rows if row["tool"] != OURS]
    failed = [row for row in rows if row.get("reason")]
    measured = script_seconds([row for row in cells if not row.get("reason")], job)
    lines = []
    for size in job["sizes"]:
        mine = [seconds for row in ours for seconds in row.get("cells", {}).get(str(size), [])]
        theirs = [f"{measured[size, each]:.1f}" if (size, each) in measured else "-" for each in job["dropouts"]]
        lines.append((str(size), _mean(mine), *theirs))
    number = len(job["sizes"]) * len(job["dropouts"])
    own = sum(row["wall_seconds"] for row in ours)
    found = study_ratio(rows, results)
    ratio = ""
    if found:
        total = sum(reckoned_seconds(measured, job).values())
        ratio = (
            f"All {number} cells as whole processes: handful {own:.0f} s, scripts {total:.0f} s, **{found[0]:.1f} times"
            "** as long."
        )
        if len(measured) < number:
            ratio += (
                f" {len(measured)} of {number} scripts ran ({sum(measured.values()):.0f} s); the others are counted "
                "like that of the nearest dropout at the same N, times what the dropout made of it where both ran."
            )
    broken = "".join(f"\n\nFAILED: {row['tool']}: {row['reason']}" for row in failed)
    header = ("N", "handful, mean seconds a cell", *(f"script, dropout {each}" for each in job["dropouts"]))
    return (
        f"### A study, 15M shape\n\n{number} LoRA cells: dropouts {_list(job['dropouts'])}, N = "
        f"{_list(job['sizes'])}, one epoch, {job['test']} test reviews. One `handful study` (which also holds out and "
        "scores a fifth of the labels above 50) against as many Trainer scripts (start, load, tokenise, train on the "
        "same texts in random order, score by the careful forward pass). Half of the scripts ran before the study, "
        f"half after it, once each. {_when(rows)}\n\n{table(header, lines)}\n\n"
        f"{ratio} Peak memory: handful {_peak(ours)}, scripts {_peak(cells)}.{broken}"
    )


def _peak(rows: Sequence[Row]) -> str:
    return f"{max((row['peak_bytes'] for row in rows), default=0) / 1e9:.2f} GB"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.1f}" if values else "-"


def _list(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def _disturbed(rows: Sequence[Row]) -> str:
    busy = [row for row in rows if row.get("others", 0.0) > BUSY]
    if not busy:
        return ""
    worst = max(busy, key=lambda row: row["others"])
    return (
        f"DISTURBED: during {len(busy)} of {len(rows)} measurements other processes kept more than {BUSY} cores busy, "
        f"at most {worst['others']:.1f} ({worst['tool']}, round {worst['round']})."
    )


def _versions(environments: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for environment, packages in environments.items():
        rest = [name for name in packages if name not in SHOWN_PACKAGES]
        ordered = [name for name in SHOWN_PACKAGES if name in packages] + rest
        lines.append(f"- {environment}: " + ", ".join(f"{name} {packages[name]}" for name in ordered))
    return "Versions:\n\n" + "\n".join(lines)
