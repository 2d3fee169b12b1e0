"""What every base looks like before its weights are loaded. Knows nothing of methods."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from handful.engine.base import Base
from handful.models.placement import Asked


class Model(Protocol):
    """A frozen dataclass; its fields are its knobs in a study file."""

    name: ClassVar[str]
    speaks: ClassVar[bool]
    """Whether it is a language model that an answer can be read off."""

    def resolve(self, device: str = "auto") -> Model:
        """The same base, named by content: revision and dtype filled, the latter for a device ("auto", "cpu",
        "cuda"). Reads no weights into memory.
        """
        ...

    def outline(self, device: str = "auto") -> Model:
        """The same base for a plan, which needs no weights: as `resolve` gives it where its configuration and tokenizer
        are here or can be had, else with the revision `identity.ESTIMATED` and the shape that ships.
        """
        ...

    def context_length(self) -> int | None:
        """The longest sequence in tokens, from the configuration; None when it has none."""
        ...

    def shape(self) -> dict[str, Any]:
        """The configuration's numbers (layers, width, ...); empty for no model."""
        ...

    def load_tokenizer(self) -> Any:
        """The tokenizer alone; None for no model, and for one of which only an outline is known."""
        ...

    def load(self, device: str = "cpu", placement: Asked = "auto") -> Base:
        """Weights and tokenizer on a device, or, of a language model that is to be spread, from it on."""
        ...
