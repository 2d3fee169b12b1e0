"""Weights that do not lie where they run: brought there for one layer at a time, by the hooks that accelerate set.

Such a weight is on torch's `meta` device: it has a shape and no numbers, and whatever reads it directly reads nothing.
Knows nothing of packs, methods or why a base lies where it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


def _absent(module: nn.Module) -> list[tuple[nn.Module, Any]]:
    """The parts of a module whose weights are elsewhere, with the hook of each that brings them."""
    found = ((part, getattr(part, "_hf_hook", None)) for part in module.modules())
    return [(part, hook) for part, hook in found if getattr(hook, "offload", False)]


def absent_weights(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """(part, name) of each weight that lies elsewhere."""
    return [
        (part, name)
        for part, _ in _absent(network)
        for name, weight in part._parameters.items()
        if weight is not None
    ]


@contextmanager
def brought(layer: nn.Module) -> Iterator[None]:
    """The layer's weights lie on its device inside. What autograd keeps of them stays until it is let go."""
    with ExitStack() as after:
        for part, hook in _absent(layer):
            hook.pre_forward(part)
            after.callback(hook.post_forward, part, None)
        yield


@contextmanager
def stand_ins(network: nn.Module) -> Iterator[None]:
    """For putting adapters on and taking them off: in place of each absent weight stands one zero on the device where
    it runs, in the weight's shape, so that nothing is read from disk, and what is made beside it lies there too.

    Without its hook, since peft would bring the weights and write them back.
    """
    kept: list[tuple[nn.Module, Any, dict[str, nn.Parameter | None]]] = []
    for part, hook in _absent(network):
        kept.append((part, hook, dict(part._parameters)))
        del part._hf_hook
        for name, weight in part._parameters.items():
            if weight is not None:
                zero = torch.zeros((), dtype=weight.dtype, device=hook.execution_device)
                part._parameters[name] = nn.Parameter(zero.expand(weight.shape), requires_grad=weight.requires_grad)
    try:
        yield
    finally:
        for part, hook, weights in kept:
            for name, weight in weights.items():
                stand_in = part._parameters[name]
                if weight is not None and stand_in is not None:
                    weight.requires_grad_(stand_in.requires_grad)  # peft froze it in the weight's place
                part._parameters[name] = weight
            part._hf_hook = hook
