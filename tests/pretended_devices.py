"""Run as a program: passes over a base whose layers lie on two devices that torch only pretends to have.

torch's fake tensors have a device and a shape and no numbers, and refuse what mixes devices, as two GPUs would. Shows
that every tensor goes where its layer runs; says nothing of numbers, nor of the way back.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from handful.engine.base import Base, PathCheck, Placement
from handful.engine.batching import batches
from handful.engine.forward import read_log_probabilities
from handful.engine.graft import Graft, ParameterGroup
from handful.engine.packing import Item
from handful.models.causal_lm import sliding_window
from toys import toy_model

ITEMS = [Item((*range(4, 24), last, last + 1, last + 2), ((5, 6), (5, 7), (8,))) for last in range(30, 34)]


def put(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """By hand: fake parameters cannot be moved in place."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                moved = torch.empty(weight.shape, dtype=dtype, device=device)
                part._parameters[name] = nn.Parameter(moved, requires_grad=False)
        for name, numbers in part._buffers.items():
            if numbers is not None:
                part._buffers[name] = torch.empty(numbers.shape, dtype=numbers.dtype, device=device)


def spread_base(kind: str, dtype: torch.dtype) -> Base:
    """The first layer on the first device, the others on the second, with the hooks that accelerate sets."""
    network = toy_model(kind)
    first, second = torch.device("pretended", 0), torch.device("pretended", 1)
    homes = (first, second, second)
    put(network, first, dtype)
    for layer, home in zip(network.model.layers, homes, strict=True):
        put(layer, home, dtype)
        add_hook_to_module(layer, AlignDevicesHook(execution_device=home))
    outside = (network.model.embed_tokens, network.model.norm, network.model.rotary_emb, network.lm_head)
    for module in outside:
        add_hook_to_module(module, AlignDevicesHook(execution_device=first))
    config = network.config
    facts = {
        "num_layers": 3, "width": config.hidden_size, "vocabulary": config.vocab_size,
        "sliding_window": sliding_window(config),
    }  # fmt: skip
    return Base(network, None, first, PathCheck(True, ""), 4096, facts, placement=Placement("spread", homes))


def grafts(base: Base) -> dict[str, Graft]:
    width = int(base.facts["width"])
    vectors, edit = (torch.zeros(*shape, width, device=base.device, requires_grad=True) for shape in ((2,), ()))
    return {
        "bare": Graft(),
        "virtual tokens": Graft([ParameterGroup([vectors], 1.0)], prefix_embeddings=lambda: vectors, num_virtual=2),
        "edits": Graft(
            [ParameterGroup([edit], 1.0)], edit=lambda layer, rows, is_last: (rows.to(edit) + edit).to(rows),
            first_rows=1, last_rows=2,
        ),
    }  # fmt: skip


def main(kind: str, dtype: torch.dtype) -> None:
    real = torch.tensor

    def tensor(numbers: Any, device: Any = None, **options: Any) -> torch.Tensor:
        made = real(numbers, **options)
        return made if device is None else torch.empty(made.shape, dtype=made.dtype, device=device)

    torch.tensor = tensor  # the one way of making a tensor that is not pretended
    base = spread_base(kind, dtype)
    for name, graft in grafts(base).items():
        for fast in (True, False):
            base.path = PathCheck(fast, "")
            for batch in batches(base, ITEMS, graft.num_virtual, 512, num_edited=graft.last_rows):
                assert (batch.segments is not None) == fast
                found = read_log_probabilities(base, batch, graft)
                assert found.device == base.device, (name, fast, found.device)


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend("pretended")
    with FakeTensorMode():
        main(sys.argv[1], getattr(torch, sys.argv[2]))
    print("nothing is mixed")
