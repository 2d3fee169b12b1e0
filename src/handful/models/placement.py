"""Where the weights of a base lie: on one device, or layer by layer over several, the rest in memory and on disk.

What is decided follows from bytes alone: `choose` is a pure function of what the weights need and what is free. Knows
nothing of methods. Training that shares one step between several devices is not there yet; it would begin here.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from handful.engine.memory import available_bytes
from handful.errors import ModelError

Asked = Literal["auto", "single", "spread"]

WORKING_BYTES = {"cuda": 2 * 10**9, "cpu": 5 * 10**8}
"""What a device keeps free beside the weights: activations of one long text and the libraries' own."""

FOUR_BITS = 4.5 / 8
"""Bytes per number in NF4: 4 bits, and one float32 for 64 numbers (Dettmers et al. 2023, QLoRA, section 3)."""


@dataclass(frozen=True)
class Placement:
    """kind: where to. why: in words, with the bytes that decided it."""

    kind: Literal["single", "spread"]
    why: str


def choose(asked: Asked, name: str, weight_bytes: int, free: Mapping[str, int]) -> Placement:
    """One device where the weights fit beside WORKING_BYTES, else spread; as asked where something is.

    free: bytes on every device of the kind that is asked for, the first one first: {"cuda:0": ...} or {"cpu": ...}.
    Raises ModelError where a single placement is asked for and does not fit.
    """
    first, room = next(iter(free.items()))
    needs = f"{_gigabytes(weight_bytes)} of weights, {_gigabytes(room)} free on {first}"
    if asked == "spread":
        return Placement("spread", f"spread, as asked: {needs}")
    fits = weight_bytes + WORKING_BYTES[first.partition(":")[0]] <= room
    if fits or (asked == "auto" and len(free) == 1 and weight_bytes <= room):
        # Close to the brim of the only device, one device is still much faster than a disk.
        return Placement("single", f"one device: {needs}")
    if asked == "single":
        raise ModelError(
            f"the model {name!r} does not fit: {needs}. Take placement = \"spread\" in [execution], "
            'model.quantization = "nf4" (numbers change), or a smaller base'
        )
    others = f" and {_gigabytes(sum(free.values()))} on all {len(free)}" if len(free) > 1 else ""
    return Placement("spread", f"spread: {needs}{others}")


def free_bytes(device: str) -> dict[str, int]:
    """Of every device of this kind, now."""
    if torch.device(device).type != "cuda":
        return {"cpu": available_bytes(torch.device("cpu"))}
    return {f"cuda:{number}": torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())}


def weight_bytes(folder: Path, bytes_per_number: int, is_quantised: bool = False) -> int:
    """What a folder's weights take once they are loaded, from the headers of its files; no weight is read.

    is_quantised: the matrices inside of layers in NF4, everything else with bytes_per_number.
    """
    total = 0.0
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(length))
        for name, told in header.items():
            if name != "__metadata__":
                numbers = 1
                for size in told["shape"]:
                    numbers *= size
                is_small = is_quantised and ".layers." in name and len(told["shape"]) == 2
                total += numbers * (FOUR_BITS if is_small else bytes_per_number)
    return round(total)


class Spread:
    """The device map of a spread base, and the folder of what lies on disk, which goes when this does.

    mapping: as transformers' `device_map` takes it, layers whole.
    """

    def __init__(self, name: str, folder: Path, dtype: torch.dtype, device: str, is_quantised: bool) -> None:
        from accelerate import infer_auto_device_map, init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM

        with init_empty_weights():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            empty: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        empty.tie_weights()
        room: dict[Any, int] = {}
        for place, size in free_bytes(device).items():
            kind, _, number = place.partition(":")
            room[int(number) if number else kind] = max(0, size - WORKING_BYTES[kind])
        if "cpu" not in room:
            room["cpu"] = max(0, free_bytes("cpu")["cpu"] - WORKING_BYTES["cpu"])
        whole = [str(kind) for kind in getattr(empty, "_no_split_modules", None) or ()]
        self.mapping: dict[str, Any] = dict(
            infer_auto_device_map(empty, max_memory=room, no_split_module_classes=whole, dtype=dtype)
        )
        places = [str(place) for place in self.mapping.values()]
        self.on_disk = "disk" in places
        if is_quantised and {"cpu", "disk"}.intersection(places) and torch.device(device).type == "cuda":
            raise ModelError(
                f"the model {name!r} does not fit the GPUs in 4 bits, and 4 bits are not spread to memory or disk: "
                "take more GPUs or a smaller base"
            )
        self._folder = tempfile.TemporaryDirectory(prefix="handful-offload-")
        size = weight_bytes(folder, dtype.itemsize)
        if self.on_disk and shutil.disk_usage(self._folder.name).free < size:
            raise ModelError(
                f"the model {name!r} does not fit: {_gigabytes(size)} of weights are more than memory and the disk "
                f"of {tempfile.gettempdir()} hold. Take a smaller base"
            )

    @property
    def folder(self) -> str:
        """Where weights on disk lie."""
        return self._folder.name

    @property
    def words(self) -> str:
        """"12 parts on cuda:0, 20 on disk"."""
        places = [f"cuda:{place}" if isinstance(place, int) else str(place) for place in self.mapping.values()]
        counted = [f"{places.count(place)} on {place}" for place in dict.fromkeys(places)]
        return "parts " + ", ".join(counted)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
