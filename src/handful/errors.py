"""The errors that are a person's to mend: each says what, what was given, and the way out.

The command line prints them without a traceback and ends with exit code 2. Anything else that is
raised is a fault of handful. Knows nothing of where they are raised.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class HandfulError(Exception):
    """Something a person can mend. `str(error)` is what they read."""


class SpecError(HandfulError):
    """A study file, a preset or a flag says something that cannot be run.

    Holds every problem that was found, so that a person mends them in one go.
    """

    def __init__(self, problems: str | Sequence[str], source: str = "") -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        self.source = source
        head = f"{source}: " if source else ""
        if len(self.problems) == 1:
            super().__init__(head + self.problems[0])
        else:
            lines = "\n".join(f"  - {problem}" for problem in self.problems)
            super().__init__(f"{head}{len(self.problems)} problems\n{lines}")


class DataError(HandfulError):
    """Labelled texts that cannot be used: a missing file or column, an empty table, one label only."""


class PromptError(HandfulError):
    """A prompt that cannot be built: it does not fit, or two labels have the same answer."""


class ModelError(HandfulError):
    """A base that cannot be loaded: no model there, pickled weights only, a context too short."""


class StudyError(HandfulError):
    """A study folder that cannot be used: not writable, held by another process, not a study."""


class RunError(HandfulError):
    """A run that started and could not end well, such as a loss that is not a number.

    It fails its own cell, with this reason, and no other.
    """


LEAST_PART = 4
"""Letters of a part of a name."""


def nearest(given: str, known: Iterable[str]) -> str:
    """`" Did you mean X?"` for the closest of `known`, or an empty string when none is close: capitals, hyphens and
    underscores aside, and a part of a name is close to it.
    """

    def plain(name: str) -> str:
        return name.lower().replace("-", "").replace("_", "").replace(" ", "")

    names = {plain(name): name for name in known}
    asked = plain(given)
    inside = [name for name in names if len(asked) >= LEAST_PART and asked in name]
    close = inside[:1] or difflib.get_close_matches(asked, list(names), n=1, cutoff=0.6)
    return f" Did you mean {names[close[0]]!r}?" if close else ""


def first_line(error: Exception) -> str:
    """The first line of a library's message, without the machine's paths being the whole of it."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
