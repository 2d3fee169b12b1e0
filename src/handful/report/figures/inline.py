"""matplotlib's SVG -> an <svg> element that stands inside a page: themed, named, and alone.

Knows nothing of what the figure shows.
"""

from __future__ import annotations

import re

from markupsafe import escape

from handful.report.figures.style import THEME


def inline(svg: str, name: str, title: str) -> str:
    """The figure as an element whose colours follow the page's CSS variables and that refers to nothing outside.

    name: stands before every id, since several figures share a page. title: what it shows, for those who can't
    see it.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # Its style sheet would hold for the whole page; the page says the same for the figure alone.
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(?:width|height|xmlns|xmlns:xlink|version)="[^"]*"', "", head)
    svg = f'{head} role="img" aria-label="{escape(title)}">{rest}'
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    return re.sub(r"<[^>]*>", lambda tag: _themed(tag.group(), name, referred), svg).strip()


def _themed(tag: str, name: str, referred: set[str]) -> str:
    tag = tag.replace("xlink:href", "href")
    for colour, variable in THEME.items():
        tag = tag.replace(colour, f"var({variable}, {colour})")
    # An id that nothing refers to only makes the page longer, and could occur twice in it.
    tag = re.sub(r'\sid="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in referred else "", tag)
    tag = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", tag)
    # A hundredth of a point can't be seen, and figures are most of a page.
    return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}", tag)
