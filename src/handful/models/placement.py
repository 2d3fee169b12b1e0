"""Where a base's weights go: on one device, or spread over GPUs, memory and disk. Decided by what was measured.

Decoder layers are what is spread, each whole. Embeddings, last norm and head stay on the first device, so that
whoever reads them directly finds them there. Loads no weights, and knows nothing of methods.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from handful.engine.memory import available_bytes
from handful.errors import ModelError

Asked = Literal["auto", "single", "spread"]

Place = int | Literal["cpu", "disk"]
"""The number of a GPU, memory, or disk."""

FOUR_BITS = 4.5 / 8
"""Bytes per parameter of the layers in NF4: 4 bits, and one float32 for 64 parameters (Dettmers et al. 2023, QLoRA,
section 3, without its double quantisation). Embeddings and head stay as they are."""

WORKING_TOKENS = 1024
"""Of a long text: the least that has to go through at once while an adapter is trained."""

KEPT_NUMBERS = 17
"""Per token, layer and unit of width, for a backward pass (Korthikanti et al. 2022, without attention matrices)."""

STEPS = 20
"""In how fine steps GPUs are filled evenly."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a base: of each layer's weights, of the weights outside the layers, and what must be free beside them
    to train an adapter on one long text.
    """

    layers: tuple[int, ...]
    outside: int
    working: int

    @property
    def weights(self) -> int:
        """All of them."""
        return sum(self.layers) + self.outside

    def fit(self, room: int) -> bool:
        """Whether the whole base, and what it needs to work in, fits so many bytes."""
        return self.weights + self.working <= room


@dataclass(frozen=True)
class Rooms:
    """Bytes that are free. gpus: on each that is to be used, the study's own first; none when it runs on the CPU. disk:
    where temporary files go.
    """

    gpus: tuple[int, ...]
    cpu: int
    disk: int

    @property
    def one(self) -> int:
        """On the device that a base goes to as a whole."""
        return self.gpus[0] if self.gpus else self.cpu

    @property
    def main(self) -> Place:
        """That device."""
        return 0 if self.gpus else "cpu"


@dataclass(frozen=True)
class Decision:
    """Where each layer goes; None where the base stays whole. why: in words."""

    why: str
    layers: tuple[Place, ...] | None = None


def measured(device: str, asked: Asked, sizes: Sizes) -> Rooms:
    """What is free here, for a study on a device ("cpu", "cuda"). Further GPUs are left alone, since measuring takes
    some of their memory, where the first one will do.
    """
    gpus: list[int] = []
    for number in range(torch.cuda.device_count()) if device.startswith("cuda") else ():
        gpus.append(available_bytes(torch.device("cuda", number)))
        if asked == "single" or (asked == "auto" and sizes.fit(gpus[0])):
            break
    return Rooms(
        gpus=tuple(gpus),
        cpu=available_bytes(torch.device("cpu")),
        disk=shutil.disk_usage(tempfile.gettempdir()).free,
    )


def skeleton(folder: Path, dtype: torch.dtype) -> Any:
    """The model without a number in it, all on torch's `meta` device. Raises what transformers raises."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)


def sizes_of(bare: Any, context_length: int | None, is_quantised: bool) -> Sizes:
    """From a skeleton. is_quantised: linear maps of the layers in NF4."""
    layers = _layers(bare)[1]
    inside = {id(weight) for layer in layers for weight in layer.parameters()}
    outside = sum(_bytes(weight) for weight in bare.parameters() if id(weight) not in inside)
    config = bare.config.get_text_config()
    tokens = min(WORKING_TOKENS, context_length or WORKING_TOKENS)
    working = tokens * KEPT_NUMBERS * config.num_hidden_layers * config.hidden_size * bare.dtype.itemsize
    return Sizes(tuple(_layer_bytes(layer, is_quantised) for layer in layers), outside, working)


def _bytes(weight: torch.Tensor) -> int:
    return weight.numel() * weight.element_size()


def _layer_bytes(layer: nn.Module, is_quantised: bool) -> int:
    linear = {id(module.weight) for module in layer.modules() if isinstance(module, nn.Linear)}
    return sum(
        round(FOUR_BITS * weight.numel()) if is_quantised and id(weight) in linear else _bytes(weight)
        for weight in layer.parameters()
    )


def _layers(bare: Any) -> tuple[str, Sequence[nn.Module]]:
    """Name and content of the list of layers; nothing where there is none, which is then never spread."""
    count = bare.config.get_text_config().num_hidden_layers
    for name, module in bare.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, list(module)
    return "", ()


def device_map(bare: Any, layers: Sequence[Place], main: Place) -> dict[str, Place]:
    """Module name -> place, for all of the model, as transformers takes it: everything but the layers on `main`."""
    name, _ = _layers(bare)
    found: dict[str, Place] = {f"{name}.{number}": place for number, place in enumerate(layers)}

    def add(module: nn.Module, prefix: str) -> None:
        for part, child in module.named_children():
            path = f"{prefix}{part}"
            if name.startswith(f"{path}."):
                add(child, f"{path}.")
            elif path != name:
                found[path] = main
        for part, _ in module.named_parameters(recurse=False):
            found[f"{prefix}{part}"] = main

    add(bare, "")
    return found


def decide(asked: Asked, sizes: Sizes, rooms: Rooms, name: str, is_quantised: bool = False) -> Decision:
    """Single where all weights and the working margin fit one device, else spread, or as asked.

    Raises ModelError where the base does not fit as asked, or not at all.
    """
    where = "one GPU" if rooms.gpus else "the CPU"
    told = f"{gigabytes(sizes.weights)} of weights, {gigabytes(rooms.one)} free on {where}"
    fits = sizes.fit(rooms.one)
    if asked == "single" and not fits:
        four_bits = "" if is_quantised else ', model.quantization = "nf4", which changes its numbers,'
        raise ModelError(
            f'the model {name!r} does not fit on {where}: it needs {gigabytes(sizes.weights + sizes.working)}, '
            f"{gigabytes(sizes.working)} of them to work in, and {gigabytes(rooms.one)} are free. Give "
            f'placement = "spread" in [execution]{four_bits} or take a smaller base'
        )
    if asked == "single" or (asked == "auto" and fits):
        return Decision(f"single: {told}")
    layers = _spread(sizes, rooms, name, is_quantised)
    if set(layers) == {rooms.main}:
        return Decision(f"single, since all of it fits on {where}: {told}")
    return Decision(f"spread over {_places_in_words(layers, len(rooms.gpus))}: {told}", layers)


def _spread(sizes: Sizes, rooms: Rooms, name: str, is_quantised: bool) -> tuple[Place, ...]:
    """A place for each layer: GPUs evenly where they hold all of them, else GPUs, memory and disk one after another."""
    largest = max(sizes.layers, default=0)
    if not rooms.gpus:
        first: list[tuple[Place, int]] = [("cpu", rooms.cpu - sizes.outside - sizes.working)]
    else:
        share = sizes.working // len(rooms.gpus)
        outside = [sizes.outside, *[0] * (len(rooms.gpus) - 1)]
        first = [(number, room - share - outside[number]) for number, room in enumerate(rooms.gpus)]
    for step in range(1, STEPS + 1):
        layers = _filled(sizes.layers, [(place, room * step // STEPS) for place, room in first])
        if None not in layers:
            return tuple(place for place in layers if place is not None)
    if is_quantised:
        raise ModelError(
            f"the model {name!r} in NF4 does not fit: {gigabytes(sizes.weights)} of weights, "
            f"{_free_in_words(rooms)}, and layers of 4 bits cannot be offloaded. Take a smaller base, or more GPUs"
        )
    # The first device runs what lies in memory and on disk, one layer at a time.
    first[0] = (first[0][0], first[0][1] - largest)
    if first[0][1] < 0:
        raise ModelError(
            f"the model {name!r} does not fit, not even spread: beside its layers it needs "
            f"{gigabytes(sizes.outside + sizes.working + largest)} on its first device, and there is "
            f"{_free_in_words(rooms)}. Take a smaller base, or model.quantization = \"nf4\", which changes its numbers"
        )
    behind: list[tuple[Place, int]] = [("cpu", rooms.cpu - largest)] if rooms.gpus else []
    layers = _filled(sizes.layers, [*first, *behind, ("disk", rooms.disk)])
    if None in layers:
        raise ModelError(
            f"the model {name!r} does not fit, not even spread: {gigabytes(sizes.weights)} of weights, "
            f"{_free_in_words(rooms)} and {gigabytes(rooms.disk)} for temporary files. Set TMPDIR to a folder with "
            'room, take a smaller base, or give model.quantization = "nf4", which changes its numbers'
        )
    return tuple(place for place in layers if place is not None)


def _filled(layers: Sequence[int], rooms: Sequence[tuple[Place, int]]) -> list[Place | None]:
    """The layers in their order, each in the first room, from the one of the layer before on, that has place for it."""
    places: list[Place | None] = []
    left = [room for _, room in rooms]
    at = 0
    for size in layers:
        while at < len(rooms) and left[at] < size:
            at += 1
        if at == len(rooms):
            return [*places, *[None] * (len(layers) - len(places))]
        left[at] -= size
        places.append(rooms[at][0])
    return places


def gigabytes(number: int) -> str:
    """Bytes in words."""
    return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"


def _free_in_words(rooms: Rooms) -> str:
    memory = f"{gigabytes(rooms.cpu)} free in memory"
    return f"{gigabytes(sum(rooms.gpus))} free on {_gpus_in_words(len(rooms.gpus))}, {memory}" if rooms.gpus else memory


def _gpus_in_words(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"


def _places_in_words(layers: Sequence[Place], num_gpus: int) -> str:
    used = {place for place in layers if isinstance(place, int)} | ({0} if num_gpus else set())
    words = [_gpus_in_words(len(used))] if used else []
    for place in ("cpu", "disk"):
        count = list(layers).count(place)
        if count:
            words.append(f"{'memory' if place == 'cpu' else 'disk'} ({count} of {len(layers)} layers)")
    return " and ".join(words)
