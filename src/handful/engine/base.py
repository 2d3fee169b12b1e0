"""A loaded causal language model, as the engine sees it. Knows nothing of prompts, methods or files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from handful.errors import ModelError


@dataclass(frozen=True)
class PathCheck:
    """Which way forward passes take on a base, and why.

    fast: packed trees with our attention; else padded batches with the model's own. largest_error: the
    largest difference to the plain path over the largest absolute logit, as measured at load.
    """

    fast: bool
    why: str
    largest_error: float | None = None

    def __str__(self) -> str:
        return self.why


@contextmanager
def at_hand(module: nn.Module) -> Iterator[None]:
    """Inside, all weights of a module are where it runs, though they lie on disk or in another memory.

    By accelerate's own hooks; a module without any is as it is.
    """
    hooked: list[tuple[nn.Module, Any]] = [
        (part, part._hf_hook) for part in module.modules() if hasattr(part, "_hf_hook")
    ]
    for part, hook in hooked:
        hook.pre_forward(part)
    try:
        yield
    finally:
        for part, hook in hooked:
            hook.post_forward(part, None)


@dataclass
class Base:
    """A frozen base: the model, its tokenizer and where it lies. The base `none` has neither.

    facts go into the record (architecture, number of parameters). token_budget: tokens in one forward pass,
    a power of two, chosen once per study; most_tokens: what it came down to when memory ran out; bytes_per_token:
    as measured; recomputes: tokens of the shortest text
    that did not fit alone (all three: engine/budget.py). bare_scores: label scores
    of the base alone, by content of the prompts; prompt_rows: its hidden rows at their ends, alike; stems: keys and
    values of what no adapter touches (engine/stems.py). placement: where its weights lie and why, in words; spread:
    None on a single device, else whatever keeps the places of its layers.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    path: PathCheck
    context_length: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    token_budget: int = 4096
    most_tokens: int | None = None
    bytes_per_token: float | None = None
    recomputes: int | None = None
    bare_scores: dict[str, Any] = field(default_factory=dict)
    prompt_rows: dict[str, Any] = field(default_factory=dict)
    stems: Any = None
    load_seconds: float = 0.0
    placement: str = ""
    spread: Any = None

    @property
    def runs_on_several(self) -> bool:
        """Whether its layers run on more than one device; those that lie in memory or on disk run on the first."""
        places = getattr(self.network, "hf_device_map", {}).values() if self.spread is not None else ()
        return len({place for place in places if place not in ("cpu", "disk")}) > 1

    @property
    def is_offloaded(self) -> bool:
        """Whether some weights lie on disk, and come to memory only while their layer runs."""
        return self.spread is not None and any(weight.device.type == "meta" for weight in self.network.parameters())

    @property
    def network(self) -> Any:
        """The model. Raises ModelError on the base `none`."""
        if self.model is None:
            raise ModelError(
                "this method needs a causal language model, but the study names the model `none`: "
                'give it one, such as model = { checkpoint = "reviews-llama-5m" }'
            )
        return self.model

    @property
    def head(self) -> nn.Module:
        """The vocabulary head."""
        head: nn.Module = self.network.get_output_embeddings()
        return head

    @property
    def decoder(self) -> Any:
        """The model without its head: embeddings, layers, last norm."""
        return self.network.get_decoder()

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers, in their order."""
        for module in self.network.modules():
            if isinstance(module, nn.ModuleList) and len(module) == self.facts["num_layers"]:
                return module
        raise ModelError(f"no list of {self.facts['num_layers']} layers was found in this model")

    def embed(self, token_ids: Tensor) -> Tensor:
        """[...] token ids -> [..., width]."""
        embedded: Tensor = self.network.get_input_embeddings()(token_ids)
        return embedded
