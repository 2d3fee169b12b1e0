"""The base of methods that need none. Knows nothing of why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from handful.engine.base import Base, PathCheck
from handful.models.placement import Asked


@dataclass(frozen=True)
class NoModel:
    """No language model at all."""

    name: ClassVar[str] = "none"
    speaks: ClassVar[bool] = False

    def resolve(self, device: str = "auto") -> NoModel:
        """Itself: there is nothing to fill."""
        return self

    def outline(self, device: str = "auto") -> NoModel:
        """Itself."""
        return self

    def context_length(self) -> int | None:
        """None: no bound."""
        return None

    def shape(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_tokenizer(self) -> Any:
        """None."""
        return None

    def load(self, device: str = "cpu", placement: Asked = "auto") -> Base:
        """A base without model and tokenizer."""
        return Base(None, None, torch.device(device), PathCheck(False, "no base"))
