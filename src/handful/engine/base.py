"""A loaded causal language model, as the engine sees it. Knows nothing of prompts, methods or files."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Placement:
    """Where the layers of a base lie. why: in words. homes: of each layer the device that runs it, empty where all
    run on the base's own. offloaded: layers that lie elsewhere, in memory or on disk, and are only brought to their
    home to run. The rest of the model (embeddings, last norm, head) always lies on the base's own device.
    """

    why: str = "single"
    homes: tuple[torch.device, ...] = ()
    offloaded: frozenset[int] = frozenset()

    @property
    def is_spread(self) -> bool:
        """Whether some layer lies elsewhere than the base."""
        return bool(self.homes)


@dataclass
class Base:
    """A frozen base: the model, its tokenizer and where it lies. The base `none` has neither.

    facts go into the record (architecture, number of parameters). token_budget: tokens in one forward pass,
    a power of two, chosen once per study; most_tokens: what it came down to when memory ran out; bytes_per_token:
    as measured; recomputes: tokens of the shortest text
    that did not fit alone (all three: engine/budget.py). bare_scores: label scores
    of the base alone, by content of the prompts; prompt_rows: its hidden rows at their ends, alike; stems: keys and
    values of what no adapter touches (engine/stems.py).
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
    placement: Placement = field(default_factory=Placement)

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
    def devices(self) -> tuple[torch.device, ...]:
        """Those that run something of it, its own one first."""
        return tuple(dict.fromkeys([self.device, *self.placement.homes]))

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
