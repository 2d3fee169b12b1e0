"""The texts that runs get wrong, shortened for a page.

Knows nothing of where texts come from: whoever makes a report hands over how they are looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from handful.report.wording import printable
from handful.summary import Mistakes, Summary

Fields = Mapping[str, str]
Lookup = Callable[[Mapping[str, Any], Collection[str]], Mapping[str, Fields]]
"""(a resolved data section, ids) -> fields of those texts that are at hand, by id."""

HEAD_SHARE = 0.65
"""How much of a shortened text is its beginning: reviews often say at their end what they mean."""


def excerpts(summary: Summary, lookup: Lookup, length: int) -> dict[tuple[int, str], str]:
    """(group, id) -> at most `length` characters of each text that the page names and `lookup` finds."""
    found = {}
    for mistakes in summary.mistakes:
        for name, fields in lookup(mistakes.data, named(mistakes)).items():
            found[mistakes.group, name] = excerpt(fields, length)
    return found


def named(mistakes: Mistakes) -> tuple[str, ...]:
    """The ids of the texts that a page shows."""
    return tuple(dict.fromkeys(mistake.id for mistake in (*mistakes.all_wrong, *mistakes.disagree)))


def excerpt(fields: Fields, length: int) -> str:
    """Beginning and end of a text in at most `length` characters; several fields follow each other by name."""
    parts = [printable(text) for text in fields.values()]
    if len(fields) > 1:
        parts = [f"{name}: {text}" for name, text in zip(fields, parts, strict=True)]
    text = " / ".join(parts)
    if len(text) <= length:
        return text
    gap = " \N{HORIZONTAL ELLIPSIS} "
    room = length - len(gap)
    if room < 8:
        return text[:length]
    head, tail = text[: round(HEAD_SHARE * room)], text[len(text) - (room - round(HEAD_SHARE * room)) :]
    # Whole words, unless a word is longer than all there is.
    return (head.rpartition(" ")[0] or head) + gap + (tail.partition(" ")[2] or tail)
