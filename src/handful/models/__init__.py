"""FAMILY of bases: what a classifier grows from. One is resident at a time.

The next one: a frozen dataclass with the methods of `model.Model`, and a line in MODELS.
"""

from __future__ import annotations

import gc
import time

from handful import progress
from handful.engine.base import Base
from handful.models.causal_lm import CausalLM
from handful.models.model import Model
from handful.models.none import NoModel
from handful.models.placement import Asked
from handful.models.text_encoder import TextEncoder

MODELS: dict[str, type[CausalLM] | type[TextEncoder] | type[NoModel]] = {
    "causal_lm": CausalLM,
    "text_encoder": TextEncoder,
    "none": NoModel,
}

_resident: dict[tuple[Model, str, Asked], Base] = {}


def forget() -> None:
    """Lets every base go: after a run that broke off, nobody knows what it left on its base."""
    _resident.clear()
    gc.collect()


def resident(model: Model, device: str, placement: Asked = "auto") -> Base:
    """The loaded base; loads it, and lets another one go, only when it is not the one at hand."""
    key = (model, device, placement)
    if key not in _resident:
        if not isinstance(model, NoModel):
            for other in [held for held in _resident if not isinstance(held[0], NoModel)]:
                del _resident[other]
            gc.collect()
        start = time.perf_counter()
        with progress.stage("load"):
            _resident[key] = model.load(device, placement)
        _resident[key].load_seconds = time.perf_counter() - start
    return _resident[key]
