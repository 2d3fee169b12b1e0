"""What a run tells while it works: stages with their seconds, steps done, lines worth keeping.

The stations call `stage`, `advance` and `note`; whoever runs them listens. Without a listener the calls
do nothing. Knows nothing of terminals, files or methods.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

Listener = Callable[[str, int, int], None]
"""Called with (stage name, steps done, steps in all)."""


@dataclass
class Journal:
    """What one run told: seconds per stage (summed over its visits), amounts per name, and notes.

    earlier_seconds: wall time that an earlier process spent on it, beside this one's.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    amounts: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    listener: Listener | None = None
    current: str = ""
    earlier_seconds: float = 0.0


_journal: ContextVar[Journal | None] = ContextVar("handful_journal", default=None)


@contextmanager
def recording(listener: Listener | None = None) -> Iterator[Journal]:
    """Everything told inside goes to the journal it gives, and steps to `listener`."""
    journal = Journal(listener=listener)
    token = _journal.set(journal)
    try:
        yield journal
    finally:
        _journal.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A named part of the run ("load", "encode", "train", "test"); its wall seconds are summed."""
    journal = _journal.get()
    if journal is None:
        yield
        return
    outer, journal.current = journal.current, name
    start = time.perf_counter()
    try:
        yield
    finally:
        journal.seconds[name] = journal.seconds.get(name, 0.0) + time.perf_counter() - start
        journal.current = outer


def advance(done: int, total: int) -> None:
    """`done` of `total` steps of the current stage are finished."""
    journal = _journal.get()
    if journal is not None and journal.listener is not None:
        journal.listener(journal.current, done, total)


def amount(name: str, value: float) -> None:
    """Adds to a counted amount, such as "train_tokens"."""
    journal = _journal.get()
    if journal is not None:
        journal.amounts[name] = journal.amounts.get(name, 0.0) + value


def remembered(count: int) -> None:
    """So many texts of the current stage were known from an earlier run: their time says nothing about speed."""
    journal = _journal.get()
    if journal is not None and count:
        amount(f"remembered_{journal.current}_texts", count)


def note(line: str) -> None:
    """A line worth keeping in the record's `execution`, such as a halved token budget."""
    journal = _journal.get()
    if journal is not None and line not in journal.notes:
        journal.notes.append(line)


def told() -> Journal:
    """A copy of what was told so far; nothing without a listener."""
    journal = _journal.get() or Journal()
    return replace(
        journal, seconds=dict(journal.seconds), amounts=dict(journal.amounts), notes=list(journal.notes), listener=None
    )


def add_earlier(
    seconds: Mapping[str, float], amounts: Mapping[str, float], notes: Sequence[str], total_seconds: float
) -> None:
    """What an earlier process told of the part that this one goes on from; total_seconds: its wall time."""
    journal = _journal.get()
    if journal is None:
        return
    for name, value in seconds.items():
        journal.seconds[name] = journal.seconds.get(name, 0.0) + value
    for name, value in amounts.items():
        amount(name, value)
    for line in notes:
        note(line)
    journal.earlier_seconds += total_seconds
