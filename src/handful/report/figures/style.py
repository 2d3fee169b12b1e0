"""How rows look, the same in every figure and legend: colours, markers, dashes, and axes that are easy to read.

Knows nothing of what is drawn. Colours are those of the light page; `inline` turns them into the page's variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from handful.summary import Row, Spread, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GRID, GREY, PAPER, BAD = "#1f2933", "#d5dae0", "#7b8794", "#ffffff", "#98281a"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b85c92", "#b97f00", "#3d9bd1")
"""Okabe and Ito (2008), told apart by colour-blind readers; without yellow, and the last three darker: on white
each has a contrast of at least 3."""
RAMP = ("#5fa343", "#2f9a74", "#20868b", "#30648a", "#433e7f", "#3a0f57")
"""From light to dark, from few labels to many; after viridis, so it is no red."""
THEME = (
    {INK: "--ink", GRID: "--grid", GREY: "--grey", PAPER: "--paper", BAD: "--bad-ink"}
    | {colour: f"--series-{number}" for number, colour in enumerate(SERIES, start=1)}
    | {colour: f"--ramp-{number}" for number, colour in enumerate(RAMP, start=1)}
)
"""The page's CSS variable for each colour."""

Dash = Literal["-"] | tuple[float, tuple[float, ...]]
DASHES: tuple[Dash, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
_MARKER_PATHS = {
    "o": "M14 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "s": "M14.5 2.5h7v7h-7z", "^": "M18 2l4.2 7.6h-8.4z",
    "D": "M18 1.4l4.6 4.6l-4.6 4.6l-4.6 -4.6z", "v": "M18 10l4.2 -7.6h-8.4z",
    "P": "M16.6 2h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6z",
    "X": "M14 3.6l1.6 -1.6l2.4 2.4l2.4 -2.4l1.6 1.6l-2.4 2.4l2.4 2.4l-1.6 1.6l-2.4 -2.4l-2.4 2.4l-1.6 -1.6l2.4 -2.4z",
    "<": "M14 6l7.6 -4.2v8.4z", ">": "M22 6l-7.6 -4.2v8.4z",
}
"""matplotlib's markers as SVG paths around (18, 6), for legends that are part of a page."""
MARKERS = tuple(_MARKER_PATHS)

NICE = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100)
ROUND = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
MOST_TICKS = 8


@dataclass(frozen=True)
class Look:
    """How a row is drawn. marker: "" for a horizontal line."""

    colour: str
    marker: str
    dash: Dash


def looks_of(summary: Summary) -> dict[str, Look]:
    """Label of a row or spread -> its look. Without a language model: grey. Without labels: ink."""
    looks: dict[str, Look] = {}
    for rows in summary.groups:
        curves = [row for row in rows if row.reads_labels]
        coloured = [row for row in curves if row.uses_model]
        for place, row in enumerate(curves):
            colour, dash = GREY, DASHES[1]
            if row.uses_model:
                turn, hue = divmod(coloured.index(row), len(SERIES))
                colour, dash = SERIES[hue], DASHES[turn % len(DASHES)]
            looks[row.label] = Look(colour, MARKERS[place % len(MARKERS)], dash)
        levels = levels_of(summary, rows[0].group) if rows else []
        for place, level in enumerate(levels):
            looks[level.label] = Look(INK, "", DASHES[place % len(DASHES)])
    return looks


def levels_of(summary: Summary, group: int) -> list[Row | Spread]:
    """What reads no labels: rows, those of one method under several prompts together."""
    spreads = [spread for spread in summary.spreads if spread.group == group and not spread.reads_labels]
    spread_of = {row.label: spread for spread in spreads for row in spread.rows}
    rows = [row for row in summary.rows if row.group == group and not row.reads_labels]
    found: dict[str, Row | Spread] = {}
    for row in rows:
        level = spread_of.get(row.label, row)
        found[level.label] = level
    return list(found.values())


def ramp(place: int, length: int) -> str:
    """The colour of the place-th of `length` numbers of labels."""
    return RAMP[round(place * (len(RAMP) - 1) / max(1, length - 1))] if length > 1 else RAMP[3]


def swatch(look: Look) -> Markup:
    """A little SVG for a legend in the page."""
    colour = f"var({THEME[look.colour]})"
    # matplotlib counts dashes in line widths
    dash = "" if isinstance(look.dash, str) else ",".join(str(2 * part) for part in look.dash[1])
    line = Markup('<path d="M0 6h36" fill="none" stroke="{}" stroke-width="2" stroke-dasharray="{}"/>').format(
        colour, dash or "none"
    )
    marker = Markup('<path d="{}" fill="{}"/>').format(_MARKER_PATHS[look.marker], colour) if look.marker else ""
    return Markup('<svg class="swatch" viewBox="0 0 36 12" aria-hidden="true">{}{}</svg>').format(line, marker)


def settings(size: float) -> dict[Any, Any]:
    """matplotlib's settings for a figure with text of `size` points."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "handful",
        "font.family": "sans-serif",
        "font.size": size,
        "axes.titlesize": size,
        "axes.labelsize": size,
        "xtick.labelsize": size,
        "ytick.labelsize": size,
        "legend.fontsize": size,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": GREY,
        "axes.linewidth": 0.8,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        # A label is text: a dollar sign in it starts no formula.
        "text.parse_math": False,
    }


def tidy(panel: Axes) -> None:
    """A light grid behind the data, and no box around it."""
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def number_axis(panel: Axes, columns: Sequence[int]) -> tuple[float, float]:
    """A log axis of numbers of labels with a tick for each; gives its ends."""
    from matplotlib.ticker import FixedLocator, NullLocator

    # The log axis has no place for 0 labels; a row there reads none, and is a horizontal line.
    ticks = [number for number in columns if number > 0] or [1]
    low, high = ticks[0] / 1.25, ticks[-1] * 1.25
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([f"{tick:,}" for tick in ticks] if any(columns) else [""])
    panel.set_xlabel("labelled texts, training and selection")
    return low, high


FURTHEST = 3.0
"""How far a band is followed beyond all errors: as a factor."""


def error_axis(panel: Axes, errors: Sequence[float], ends: Sequence[float]) -> None:
    """A log axis of errors in percent around `errors` and the ends of their bands, all above 0, with ticks at plain
    numbers. One wide band would flatten all else, so it is cut where it leaves the errors by FURTHEST."""
    from matplotlib.ticker import FixedLocator, NullLocator

    least, most = min([*errors, *ends]), max([*errors, *ends])
    low = max(least, min(errors) / FURTHEST) / 1.08
    high = min(most, max(errors) * FURTHEST, 100.0) * 1.08
    panel.set_yscale("log")
    panel.set_ylim(low, high)
    ticks = [tick for tick in NICE if low <= tick <= high]
    if len(ticks) > MOST_TICKS:
        ticks = [tick for tick in ROUND if low <= tick <= high]
    if len(ticks) < 2:
        ticks = sorted({round(low * (high / low) ** part, 1) for part in (0.1, 0.5, 0.9)})
    panel.yaxis.set_major_locator(FixedLocator(ticks))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_yticklabels([f"{tick:g}" for tick in ticks])
    panel.set_ylabel("error on the test texts, %")
