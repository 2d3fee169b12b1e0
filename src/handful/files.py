"""Files that are whole or not there. Knows nothing of what stands in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(target: Path, write: Callable[[Path], object]) -> None:
    """Has `write` write beside `target`, flushes to disk, then renames: a reader sees the old or the new.

    Raises what `write` raises, and OSError; the old file stays then.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
