"""Chains of element-wise arithmetic, each one kernel where torch.compile can make one: CUDA with Triton.

On a GPU every operation is a launch, and training at 7B waited a quarter of its time for the CPU to launch (H200,
docs/benchmarks.md). Products and attention are one kernel each as they are; what lies between them is here, so that
nothing of a layer's autograd has to be traced. Off on a CPU, where rows go through in tiles that stay in its cache.

Before chains are used they are made once on small tensors and held against the plain arithmetic; what cannot be made,
then or later, is left plain, and the record says which. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import util
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from handful import progress
from handful.engine.memory import is_out_of_memory
from handful.errors import first_line

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Largest difference over the largest absolute value: a few roundings, of which one kernel makes only the last."""

WORTH_PARAMETERS = 300_000_000
"""Of a base; compiling takes some tens of seconds, by which time a smaller one has finished what it was loaded for. A
guess until it has run on a GPU."""


def activation(gate: Tensor, is_gelu: bool) -> Tensor:
    """tanh-GELU, else SiLU."""
    return F.gelu(gate, approximate="tanh") if is_gelu else F.silu(gate)


def activation_backward(grad: Tensor, gate: Tensor, is_gelu: bool) -> Tensor:
    """Gradient to what was activated."""
    if is_gelu:
        return torch.ops.aten.gelu_backward(grad, gate, approximate="tanh")  # type: ignore[no-any-return]
    return torch.ops.aten.silu_backward(grad, gate)  # type: ignore[no-any-return]


def _gated(gate: Tensor, up: Tensor, is_gelu: bool) -> Tensor:
    return activation(gate, is_gelu) * up


def _gated_backward(grad: Tensor, gate: Tensor, up: Tensor, is_gelu: bool) -> tuple[Tensor, Tensor]:
    return activation_backward(grad * up, gate, is_gelu), activation(gate, is_gelu) * grad


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = torch.cat((first * cos + sign * second * sin, second * cos - sign * first * sin), -1)
    return turned.to(x.dtype)


def _with_let_through(total: Tensor, part: Tensor, kept: Tensor) -> Tensor:
    return total + part * kept


class _Chains:
    """Which chains are compiled. mode "off" until `prepare`; the compiled form of each is made at its first use."""

    def __init__(self) -> None:
        self.is_on = False
        self.on_any_device = False
        self.backend = "inductor"
        self._made: dict[Callable[..., Any], Callable[..., Any]] = {}

    def reset(self, is_on: bool) -> None:
        self.is_on = is_on
        self._made.clear()

    def run(self, plain: Callable[..., Any], *inputs: Any) -> Any:
        """The chain, compiled; plain from then on where compiling it fails."""
        if plain not in self._made:
            self._made[plain] = torch.compile(plain, dynamic=True, fullgraph=True, backend=self.backend)
        try:
            return self._made[plain](*inputs)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.is_on = False
            progress.note(f"element-wise chains are no longer compiled: {first_line(error)}")
            return plain(*inputs)


_chains = _Chains()


def are_compiled(x: Tensor) -> bool:
    """Whether a chain that begins with x runs as one kernel."""
    return _chains.is_on and (x.is_cuda or _chains.on_any_device)


def gated(gate: Tensor, up: Tensor, is_gelu: bool) -> Tensor:
    """act(gate) * up, all [rows, width]."""
    result: Tensor = _chains.run(_gated, gate, up, is_gelu)
    return result


def gated_backward(grad: Tensor, gate: Tensor, up: Tensor, is_gelu: bool) -> tuple[Tensor, Tensor]:
    """Gradients of `gated` to gate and up."""
    result: tuple[Tensor, Tensor] = _chains.run(_gated_backward, grad, gate, up, is_gelu)
    return result


def rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """Rotary positions; x [rows, heads, 2 * half], cos and sin [rows, 1, half]; sign -1 forth, 1 back."""
    result: Tensor = _chains.run(_rotated, x, cos, sin, sign)
    return result


def with_let_through(total: Tensor, part: Tensor, kept: Tensor) -> Tensor:
    """total + part where kept (bool), all [rows, width]."""
    result: Tensor = _chains.run(_with_let_through, total, part, kept)
    return result


def prepare(device: torch.device, dtype: torch.dtype) -> str | None:
    """Compiles the chains for a device and says how that went, in words for the record; None on a CPU."""
    if device.type != "cuda":
        return None
    if util.find_spec("triton") is None:
        _chains.reset(False)
        return "element by element as it is, because Triton is not installed"
    return _prepare(device, dtype)


def _prepare(device: torch.device, dtype: torch.dtype) -> str:
    _chains.reset(True)
    try:
        error = _largest_error(device, dtype)
    except Exception as failure:
        if is_out_of_memory(failure):
            raise
        _chains.reset(False)
        return f"element by element as it is, because compiling failed: {first_line(failure)}"
    if not _chains.is_on:
        return "element by element as it is, because compiling failed"
    if error > TOLERANCE.get(dtype, 1e-5):
        _chains.reset(False)
        return f"element by element as it is, because compiled chains are off by {error:.0e}"
    return f"element by element in compiled chains, checked: largest error {error:.0e}"


@torch.no_grad()
def _largest_error(device: torch.device, dtype: torch.dtype) -> float:
    """Of each chain against the plain one in float32, over the largest absolute value there."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, kind)

    gate, up, grad = (draw(37, 24) for _ in range(3))
    heads, angles = draw(37, 3, 16), draw(37, 1, 8, kind=torch.float32)
    turn = angles.cos().to(dtype), angles.sin().to(dtype)
    cases: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (_rotated, (heads, *turn, -1.0)),
        (_rotated, (heads, *turn, 1.0)),
        (_with_let_through, (gate, up, draw(37, 24) > 0)),
    ]
    for is_gelu in (False, True):
        cases += [(_gated, (gate, up, is_gelu)), (_gated_backward, (grad, gate, up, is_gelu))]
    worst = 0.0
    for plain, inputs in cases:
        wide = [x.float() if isinstance(x, Tensor) and x.dtype == dtype else x for x in inputs]
        for ours, truth in zip(_results(_chains.run(plain, *inputs)), _results(plain(*wide)), strict=True):
            worst = max(worst, float((ours.float() - truth).abs().max() / truth.abs().max()))
    return worst


def _results(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


@contextmanager
def plain() -> Iterator[None]:
    """As if nothing had been compiled: for comparing."""
    was, _chains.is_on = _chains.is_on, False
    try:
        yield
    finally:
        _chains.is_on = was


@contextmanager
def compiled(backend: str = "inductor") -> Iterator[None]:
    """On whatever device: for trying the chains without a GPU."""
    before = vars(_chains).copy()
    _chains.on_any_device, _chains.backend = True, backend
    _chains.reset(True)
    try:
        yield
    finally:
        vars(_chains).update(before)
        _chains._made = {}
