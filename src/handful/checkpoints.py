"""The state of a long fit on disk, so that a fit which was stopped goes on from there.

Whoever runs a cell names the file (`place`), the line says on which texts the fit is that counts (`counting`), and the
loop of updates asks for a `keeper`. Without the first two there is none, and nothing is written. A fit before the one
that counts has files of its own (`once`). Knows nothing of methods, studies or what the numbers mean.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from handful import progress
from handful.errors import RunError
from handful.examples import EncodedExample
from handful.files import replace_file

FORMAT = 1

EVERY_SECONDS = 30 * 60.0
"""Between two checkpoints, and before the first: shorter fits leave none."""

SPARE_BYTES = 2**28
"""What a checkpoint leaves free on the disk, for the records."""

_METADATA, _DIGEST = "handful", "sha256"
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_DIGEST_BYTES = 32
_CHUNK_BYTES = 2**22


@dataclass(frozen=True)
class _Place:
    path: Path
    made_with: Mapping[str, Any]
    texts: tuple[Sequence[EncodedExample], ...] | None = None


_place: ContextVar[_Place | None] = ContextVar("handful_checkpoint", default=None)


@contextmanager
def place(path: Path, made_with: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the fit that counts keeps its state in the file `path`.

    made_with: plain data, all that decides the numbers and their rounding. A file made with anything else is not used.
    """
    token = _place.set(_Place(path, made_with))
    try:
        yield
    finally:
        _place.reset(token)


@contextmanager
def counting(*texts: Sequence[EncodedExample]) -> Iterator[None]:
    """The one fit inside keeps its state; texts: all that it learns from and is chosen by."""
    found = _place.get()
    token = _place.set(None if found is None else replace(found, texts=texts))
    try:
        yield
    finally:
        _place.reset(token)


def once(
    part: str, made_with: Mapping[str, Any], texts: Sequence[Sequence[EncodedExample]], make: Callable[[], Any]
) -> Any:
    """What `make` gives: plain data from one fit. A cell that is run again after this fit had ended reads it, and one
    that was stopped within goes on there.

    part: the fit's name, of its own in the cell. made_with: as in `place`; texts: as in `counting`.
    """
    found = _place.get()
    if found is None:
        return make()
    path = found.path.with_stem(f"{found.path.stem}-{part}")
    result = Keeper(path, {**found.made_with, **made_with}, texts)
    kept = result.last()
    if kept is not None:
        progress.note(f"{part} had been fitted before")
        return kept.numbers["made"]
    within = path.with_stem(f"{path.stem}-within")
    with place(within, found.made_with), counting(*texts):
        made = make()
    result.keep({"made": made}, {})
    with suppress(OSError):
        within.unlink()
    return made


def keeper(made_with: Mapping[str, Any]) -> Keeper | None:
    """Keeps the state of the fit that begins here; None where nobody asked for it. made_with: as in `place`."""
    found = _place.get()
    if found is None or found.texts is None:
        return None
    return Keeper(found.path, {**found.made_with, **made_with}, found.texts)


@dataclass(frozen=True)
class Kept:
    """A fit as it was. numbers: plain data; read: name -> tensor on the CPU. read raises RunError."""

    numbers: Mapping[str, Any]
    read: Callable[[str], Tensor]


class Keeper:
    """Writes the state of one fit every EVERY_SECONDS and gives back what an earlier process left.

    What the fit told of itself (`progress`) goes with its state: times and amounts of both processes are summed.
    """

    def __init__(
        self,
        path: Path,
        made_with: Mapping[str, Any],
        texts: Sequence[Sequence[EncodedExample]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._path, self._given, self._texts, self._clock = path, made_with, texts, clock
        self._before = progress.told()
        self._start = self._last = clock()

    @cached_property
    def _made_with(self) -> dict[str, Any]:
        """As JSON gives it back. The texts are hashed only here, where there is something to compare or to write."""
        digest = hashlib.sha256()
        for texts in self._texts:
            digest.update(b"%d texts" % len(texts))
            for example in texts:
                digest.update(repr(example).encode("utf-8", "surrogatepass"))
        plain: dict[str, Any] = json.loads(json.dumps({**self._given, "texts": digest.hexdigest()}))
        return plain

    def last(self) -> Kept | None:
        """The state that was left, or None; a note says why one that is there cannot be used."""
        try:
            told = _verified(self._path)
            why = self._why_not(told)
            if why:
                _say_refused(why)
                return None
            kept = Kept(told["numbers"], partial(_read, safe_open(self._path, framework="pt")))
            earlier = told["progress"]
            progress.add_earlier(earlier["seconds"], earlier["amounts"], earlier["notes"], earlier["total_seconds"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            _say_refused("is damaged or only half written")
            return None
        return kept

    def _why_not(self, told: Mapping[str, Any]) -> str:
        """Why a whole file cannot be used, or nothing."""
        if told["format"] != FORMAT:
            return f"has format {told['format']!r}, this version of handful reads {FORMAT}"
        before, now = told["made_with"], self._made_with
        differ = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        return f"was made with another {' and '.join(differ)}" if differ else ""

    def is_due(self) -> bool:
        """Whether the last one is old enough."""
        return self._clock() - self._last >= EVERY_SECONDS

    def keep(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Replaces the file. numbers: plain data. Where it cannot be written a note says so, and no more happens."""
        told = {"format": FORMAT, "made_with": self._made_with, "numbers": numbers, "progress": self._told()}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            if shutil.disk_usage(self._path.parent).free < size + SPARE_BYTES:
                progress.note(f"no checkpoint was written: there is no room for its {size / 1e9:.1f} GB")
            else:
                replace_file(self._path, lambda path: _write(path, json.dumps(told), tensors))
        except OSError as error:
            progress.note(f"no checkpoint was written ({error.strerror or type(error).__name__})")
        self._last = self._clock()

    def _told(self) -> dict[str, Any]:
        """What was told since the fit began, the stage that still runs included."""
        now, elapsed = progress.told(), self._clock() - self._start
        seconds = {name: value - self._before.seconds.get(name, 0.0) for name, value in now.seconds.items()}
        if now.current:
            seconds[now.current] = seconds.get(now.current, 0.0) + elapsed
        return {
            "seconds": seconds,
            "total_seconds": now.earlier_seconds - self._before.earlier_seconds + elapsed,
            "amounts": {name: value - self._before.amounts.get(name, 0.0) for name, value in now.amounts.items()},
            "notes": now.notes,
        }


def _say_refused(why: str) -> None:
    progress.note(f"the checkpoint of this cell {why}: started over")


# -- the file: safetensors, whose last tensor is the SHA-256 of all bytes before it -------------------------------


def _write(path: Path, told: str, tensors: Mapping[str, Tensor]) -> None:
    """One tensor after the other, so that only one is copied at a time."""
    # The largest numbers first: each then begins at a multiple of its size, as the format wants it.
    ordered = sorted(tensors.items(), key=lambda pair: -pair[1].element_size())
    header: dict[str, Any] = {"__metadata__": {_METADATA: told}}
    offset = 0
    for name, tensor in ordered:
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    header[_DIGEST] = {"dtype": "U8", "shape": [_DIGEST_BYTES], "data_offsets": [offset, offset + _DIGEST_BYTES]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for part in (struct.pack("<Q", len(text)), text):
            digest.update(part)
            stream.write(part)
        for _, tensor in ordered:
            plain = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            digest.update(plain)
            stream.write(plain)
        stream.write(digest.digest())


def _verified(path: Path) -> dict[str, Any]:
    """The metadata of a whole file. Raises ValueError for any other, and what reading raises."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        left = path.stat().st_size - _DIGEST_BYTES
        while left > 0 and (chunk := stream.read(min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
        if stream.read() != digest.digest():
            raise ValueError("its bytes are not those that were written")
    with safe_open(path, framework="pt") as tensors:
        told: dict[str, Any] = json.loads(tensors.metadata()[_METADATA])
    return told


def _read(tensors: Any, name: str) -> Tensor:
    try:
        read: Tensor = tensors.get_tensor(name)
    except (OSError, SafetensorError) as error:
        # Half of the fit is overwritten by now, so there is no starting over in this process.
        raise RunError(f"the checkpoint of this cell cannot be read ({error}): start the study again") from None
    return read
