"""The forest plot: paired differences with their intervals, what the study declared first, then every row against the
best.

A grey zone around 0 is as wide as the smallest difference that such data find with 80 % power: within it, "can't tell"
says more of the data than of the methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten, wrap
from typing import TYPE_CHECKING

from handful.report.figures.style import GREY, GRID, INK, PAPER, SERIES
from handful.report.wording import printable
from handful.statistics import Interval
from handful.summary import Difference, Row, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.235
"""Inches from one difference to the next."""
STRAIGHT, LONGEST = 1.0, 8.0
"""Points around 0 that are drawn to scale where a difference is beyond `LONGEST`; the rest is logarithmic."""
TICKS = (0, 1, 3, 10, 30, 100)


@dataclass(frozen=True)
class Line:
    """One difference: what stands beside it, in fractions, and whether the data tell it from none, by more than the run
    of one seed."""

    label: str
    interval: Interval
    detectable: float | None
    is_told: bool


@dataclass(frozen=True)
class Part:
    """Differences under one title. is_declared: else they are exploratory, and drawn hollow."""

    title: str
    lines: tuple[Line, ...]
    is_declared: bool


def parts_of(summary: Summary, titles: Sequence[str]) -> list[Part]:
    """The claims pair by pair, then each data source's rows against its best. titles: of the data sources."""
    pairs: dict[tuple[str, str], list[Line]] = {}
    for claim in summary.claims:
        interval = claim.difference.interval
        if interval is not None:
            at = f"N = {claim.num_labels:,}" if claim.num_labels else "no labels"
            line = Line(at, interval, claim.difference.detectable, claim.is_settled)
            pairs.setdefault((claim.first, claim.second), []).append(line)
    parts = [Part(f"{first} minus {second}", tuple(lines), True) for (first, second), lines in pairs.items()]
    for title, rows in zip(titles, summary.groups, strict=True):
        part = _against_best(title, rows, summary.columns)
        if part is not None:
            parts.append(part)
    return parts


def _against_best(title: str, rows: Sequence[Row], columns: Sequence[int]) -> Part | None:
    """At the largest number of labels at which the most rows have numbers."""
    finished = {number: sum(row.cells[number].accuracy is not None for row in rows) for number in columns}
    number = max(columns, key=lambda column: (finished[column], column), default=None)
    best = next((row for row in rows if number is not None and row.cells[number].is_best), None)
    if number is None or best is None:
        return None
    found = [(row, versus) for row in rows if (versus := row.cells[number].versus_best) and versus.interval]
    found.sort(key=lambda pair: -_estimate(pair[1]))
    lines = tuple(
        Line(row.label, versus.interval, versus.detectable, bool(versus.distinguishable) and not versus.is_single)
        for row, versus in found
        if versus.interval is not None
    )
    where = f" on {title}" if title else ""
    title = f"exploratory{where}: minus {best.label}, best at N = {number:,}"
    return Part(title, lines, False) if lines else None


def _estimate(difference: Difference) -> float:
    return difference.interval.estimate if difference.interval else 0.0


def height(parts: Sequence[Part], is_narrow: bool) -> float:
    """Inches that the lines and titles need."""
    return LINE * (_positions(parts, is_narrow)[-1] + 1.2) + 0.55


def draw_differences(panel: Axes, parts: Sequence[Part], is_narrow: bool) -> None:
    """Draws all parts, one under the other."""
    positions = _positions(parts, is_narrow)
    ends = [
        100 * end
        for part in parts
        for line in part.lines
        for end in (line.interval.low, line.interval.high, line.detectable or 0.0, -(line.detectable or 0.0))
    ]
    panel.set_ylim(positions[-1] + 0.7, -0.7)
    _difference_axis(panel, min([*ends, -0.5]), max([*ends, 0.5]))
    panel.axvline(0.0, color=INK, linewidth=0.9, zorder=1)
    ticks: dict[float, str] = {}
    place = 0
    for part in parts:
        room = 48 if is_narrow else 70
        panel.text(
            0.0, positions[place], _fit(part.title, room), transform=panel.get_yaxis_transform(), va="center",
            ha="left", fontweight="bold" if part.is_declared else "normal", color=INK, zorder=5, bbox=_paper(),
        )  # fmt: skip
        place += 1
        for line in part.lines:
            height = positions[place]
            _draw_line(panel, line, height, part.is_declared)
            if _is_above(line, is_narrow):
                words = _wrapped(line.label, is_narrow)
                panel.text(
                    0.0, height - 0.4 - 0.37 * len(words), "\n".join(words), transform=panel.get_yaxis_transform(),
                    va="center", ha="left", color=INK, zorder=5, bbox=_paper(),
                )  # fmt: skip
            else:
                ticks[height] = printable(line.label)
            place += 1
    panel.set_yticks(list(ticks), list(ticks.values()))
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)


def _draw_line(panel: Axes, line: Line, height: float, is_declared: bool) -> None:
    low, middle, high = (100 * end for end in (line.interval.low, line.interval.estimate, line.interval.high))
    if line.detectable:
        zone = 100 * line.detectable
        panel.barh(height, 2 * zone, left=-zone, height=0.72, color=GREY, alpha=0.2, linewidth=0, zorder=0)
    colour = SERIES[0] if line.is_told else GREY
    panel.hlines(height, low, high, color=colour, linewidth=1.9, zorder=3)
    panel.plot(
        [middle], [height], marker="o" if is_declared else "D", markersize=5.5 if is_declared else 4.8, color=colour,
        markerfacecolor=colour if is_declared else PAPER, markeredgewidth=1.4, zorder=4,
    )  # fmt: skip


def _positions(parts: Sequence[Part], is_narrow: bool) -> list[float]:
    """Heights of every title and line in turn, from the top, in lines."""
    found: list[float] = []
    at = 0.0
    for part in parts:
        at += 0.45 if found else 0.0
        found.append(at)
        for line in part.lines:
            at += 1.15 + 0.74 * len(_wrapped(line.label, is_narrow)) if _is_above(line, is_narrow) else 1.0
            found.append(at)
        at += 1.0
    return found


def _is_above(line: Line, is_narrow: bool) -> bool:
    return len(line.label) > (14 if is_narrow else 40)


def _wrapped(label: str, is_narrow: bool) -> list[str]:
    return wrap(printable(label), 38 if is_narrow else 64, max_lines=3, placeholder=" …")


def _fit(text: str, length: int) -> str:
    text = printable(text)
    return text if len(text) <= length else shorten(text, length, placeholder=" …") or text[: length - 1] + "…"


def _paper() -> dict[str, object]:
    return {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.6}


def _difference_axis(panel: Axes, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    if max(-low, high) > LONGEST:
        panel.set_xscale("symlog", linthresh=STRAIGHT, linscale=0.6)
        ticks = [sign * tick for tick in TICKS for sign in (-1, 1) if tick or sign == 1]
        panel.set_xlim(1.25 * min(low, -STRAIGHT), 1.25 * max(high, STRAIGHT))
        shown = [tick for tick in sorted(ticks) if 1.25 * low <= tick <= 1.25 * high or tick == 0]
        panel.xaxis.set_major_locator(FixedLocator(shown))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticklabels([f"{tick:+d}" if tick else "0" for tick in shown])
        panel.set_xlabel("difference, points; beyond ±1 on a log scale")
    else:
        margin = 0.06 * (high - low)
        panel.set_xlim(low - margin, high + margin)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=7))
        panel.set_xlabel("difference, points")
