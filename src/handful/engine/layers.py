"""One decoder layer over a pack, for the architectures whose layers are known here.

Llama, Mistral, Qwen2, Qwen3, Gemma and Gemma 3 differ in where their norms stand, in the norm's weight and in
the gate's activation. Their weights stay where transformers put them; what runs them is ours, so that a frozen
base costs what it must: the last layer asks only at the answer rows, and nothing is kept for a gradient that
nobody wants. Anything unknown is refused, never guessed.

Knows nothing of prompts, methods by name, or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from handful.engine import kernels
from handful.engine.attention import Layout, tree_attention
from handful.engine.base import Placement
from handful.engine.graft import Graft
from handful.engine.kernels import GatedMLP, Map, Norm
from handful.engine.offload import brought

KNOWN = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text")
"""config.model_type of the architectures that can be run here."""

_NORM_PLUS_ONE = ("gemma", "gemma3_text")
_LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_SANDWICH = _LAYER | {"pre_feedforward_layernorm", "post_feedforward_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj"}
_SET_ASIDE = {"act_fn", "rotary_emb", "rotary_fn"}
_ACTIVATIONS = {"silu": False, "swish": False, "gelu_pytorch_tanh": True}


class Unsupported(TypeError):
    """The fast path cannot run this model or this call exactly."""


@dataclass
class Kept:
    """Keys and values of all rows that ran so far, [rows, key heads, head_dim] per layer: later rows see them."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def extend(self, number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Those of layer `number` with new rows after them."""
        if number in self.layers:
            before = self.layers[number]
            key, value = torch.cat([before[0], key]), torch.cat([before[1], value])
        self.layers[number] = (key, value)
        return key, value


@dataclass
class Call:
    """One forward pass over a pack, as its layers see it.

    rows: the answer rows, where the last layer asks. whole, cut: what sees what in all layers, and in the last
    one. edits: which rows of the pack `graft.edit` gets, first and last ones; edits_cut: the same of the answer
    rows. saves_memory: activations are computed again on the way back. kept: where keys and values stay for a
    later pass over rows that see them, and those of earlier passes. placement: where each layer runs. num_run: layers
    so far.
    """

    num_layers: int
    rows: Tensor
    whole: Layout
    cut: Layout
    graft: Graft
    edits: tuple[Tensor, Tensor] | None = None
    edits_cut: tuple[Tensor, Tensor] | None = None
    saves_memory: bool = False
    kept: Kept | None = None
    placement: Placement = field(default_factory=Placement)
    num_run: int = 0
    rotations: dict[tuple[int, bool, torch.device], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)


def check_anatomy(config: Any, layers: Sequence[nn.Module]) -> None:
    """Raises Unsupported where a layer holds or asks for something that is not run here."""
    kind = config.model_type
    if kind not in KNOWN:
        raise Unsupported(f"layers of {kind!r} are not known")
    for setting in ("attn_logit_softcapping", "use_bidirectional_attention", "num_local_experts"):
        if getattr(config, setting, None):
            raise Unsupported(f"{setting} = {getattr(config, setting)} is not known")
    positions = getattr(config, "rope_parameters", None) or {}
    for kind_of_positions in (positions, *(part for part in positions.values() if isinstance(part, dict))):
        if kind_of_positions.get("rope_type") in ("dynamic", "longrope"):
            # Their angles follow the longest text of a pass: texts of one pack would change each other's.
            raise Unsupported(f"rotary positions of type {kind_of_positions['rope_type']!r} are not known")
    if _activation(config) not in _ACTIVATIONS:
        raise Unsupported(f"the activation {_activation(config)!r} is not known")
    for layer in layers:
        held = {name for name, _ in layer.named_children()}
        attention = {name for name, _ in layer.get_submodule("self_attn").named_children()} - _SET_ASIDE
        mlp = {name for name, _ in layer.get_submodule("mlp").named_children()} - _SET_ASIDE
        if held != (_SANDWICH if kind == "gemma3_text" else _LAYER) or mlp != _MLP:
            raise Unsupported(f"a layer of {sorted(held)} with an MLP of {sorted(mlp)} is not known")
        if attention - {"q_norm", "k_norm"} != _ATTENTION:
            raise Unsupported(f"attention of {sorted(attention)} is not known")


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", ""))


def run_layer(layer: Any, number: int, config: Any, x: Tensor, cos: Tensor, sin: Tensor, call: Call) -> Tensor:
    """Layer `number` on x [tokens, width]; cos, sin [1, tokens, head_dim]. Gives [tokens, width], or [answer rows,
    width] of the last one, on the device where the layer runs.
    """
    if call.placement.homes:
        x = x.to(call.placement.homes[number])
    if number in call.placement.offloaded:
        result: Tensor = _run_offloaded(layer, number, config, x, cos, sin, call)
    elif call.saves_memory and torch.is_grad_enabled():
        result = checkpoint(_run, layer, number, config, x, cos, sin, call, use_reentrant=False)
    else:
        result = _run(layer, number, config, x, cos, sin, call)
    call.num_run += 1
    return result


def _run_offloaded(
    layer: Any, number: int, config: Any, x: Tensor, cos: Tensor, sin: Tensor, call: Call
) -> Tensor:
    """The same, the weights brought and let go again. On the way back they are brought once more: kept in between, all
    of them would lie in memory at once.
    """

    def run(rows: Tensor) -> Tensor:
        with brought(layer):
            return _run(layer, number, config, rows, cos, sin, call)

    if not torch.is_grad_enabled():
        return run(x)
    # The reentrant kind, since the other one keeps what our functions hold beside their tensors: the weights. It gives
    # gradients only where an input asks for one.
    x = x if x.requires_grad else x.detach().requires_grad_()
    result: Tensor = checkpoint(run, x, use_reentrant=True)
    return result


def _run(layer: Any, number: int, config: Any, x: Tensor, cos: Tensor, sin: Tensor, call: Call) -> Tensor:
    plus_one = config.model_type in _NORM_PLUS_ONE
    is_last = number == call.num_layers - 1
    attention = layer.self_attn
    before = _norm(layer.input_layernorm, plus_one)
    if is_last:
        residual = x[call.rows.to(x.device)]
        key, value = _project(x, before, (attention.k_proj, attention.v_proj), call)
        (query,) = _project(residual, before, (attention.q_proj,), call)
    else:
        residual = x
        query, key, value = _project(x, before, (attention.q_proj, attention.k_proj, attention.v_proj), call)
    head_dim = attention.head_dim
    if cos.shape[-1] != head_dim:
        raise Unsupported(f"rotary positions on {cos.shape[-1]} of {head_dim} values are not known")
    asked, seen = (_angles(cos, sin, call, is_cut, x.device) for is_cut in (is_last, False))
    query = _positioned(query, head_dim, getattr(attention, "q_norm", None), plus_one, *asked)
    key = _positioned(key, head_dim, getattr(attention, "k_norm", None), plus_one, *seen)
    value = value.unflatten(1, (-1, head_dim))
    if call.kept is not None:
        key, value = call.kept.extend(number, key, value)
    plan = call.cut if is_last else call.whole
    mixed = tree_attention(query, key, value, plan, attention.scaling)
    sandwich = config.model_type == "gemma3_text"
    if sandwich:
        (out,) = _project(mixed.flatten(1), None, (attention.o_proj,), call)
        x = residual + kernels.rms_norm(out, _norm(layer.post_attention_layernorm, plus_one))
        x = x + kernels.rms_norm(
            _mlp(layer.mlp, x, _norm(layer.pre_feedforward_layernorm, plus_one), config, call, adds=False),
            _norm(layer.post_feedforward_layernorm, plus_one),
        )
    else:
        x = _project_onto(residual, mixed.flatten(1), attention.o_proj, call)
        x = _mlp(layer.mlp, x, _norm(layer.post_attention_layernorm, plus_one), config, call, adds=True)
    edits = call.edits_cut if is_last else call.edits
    if edits is not None and call.graft.edit is not None:
        for rows, is_last_rows in zip(edits, (False, True), strict=True):
            if len(rows):
                rows = rows.to(x.device)
                x = x.index_copy(0, rows, call.graft.edit(number, x[rows], is_last_rows).to(x))
    return x


def _norm(module: Any, plus_one: bool) -> Norm:
    eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
    return Norm(1.0 + module.weight.float() if plus_one else module.weight, eps)


def _angles(cos: Tensor, sin: Tensor, call: Call, is_cut: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """[rows, 1, head_dim / 2] each: both halves of a head turn alike. Made once per pack, kind of layer and device."""
    key = (id(cos), is_cut, device)
    if key not in call.rotations:
        half = cos.shape[-1] // 2
        rows = (tensor[0, call.rows] if is_cut else tensor[0] for tensor in (cos, sin))
        first, second = (tensor[:, :half].unsqueeze(1).contiguous().to(device) for tensor in rows)
        call.rotations[key] = (first, second, cos)  # kept alive: its id is the key
    return call.rotations[key][:2]


def _positioned(x: Tensor, head_dim: int, norm: Any, plus_one: bool, cos: Tensor, sin: Tensor) -> Tensor:
    """[rows, heads * head_dim] -> [rows, heads, head_dim], normed per head where there is a norm, and rotated."""
    heads = x.unflatten(1, (-1, head_dim))
    if norm is not None:
        heads = kernels.rms_norm(heads, _norm(norm, plus_one))
    return kernels.rotate(heads, cos, sin)


def _is_frozen(module: Any, call: Call) -> bool:
    """A plain linear map that gets no gradient itself, or one with a known addition."""
    linear = call.graft.added[module].frozen if module in call.graft.added else module
    return type(linear) is nn.Linear and not any(map(_gets_gradient, linear.parameters()))


def _gets_gradient(tensor: Tensor) -> bool:
    """Not even a trained one does while a model is only scored."""
    return tensor.requires_grad and torch.is_grad_enabled()


def _project(x: Tensor, norm: Norm | None, modules: Sequence[Any], call: Call) -> tuple[Tensor, ...]:
    """norm -> every module, of the same input."""
    trains_norm = norm is not None and _gets_gradient(norm.weight)
    if all(_is_frozen(module, call) for module in modules) and not trains_norm:
        maps = []
        for module in modules:
            added = call.graft.added.get(module)
            linear = module if added is None else added.frozen
            maps.append(Map(linear.weight, linear.bias, None if added is None else added.low_rank))
        return kernels.norm_linears(x, norm, maps, call.graft.is_training)
    h = x if norm is None else kernels.rms_norm(x, norm)
    return tuple(module(h) for module in modules)


def _project_onto(residual: Tensor, x: Tensor, module: Any, call: Call) -> Tensor:
    """residual + module(x)"""
    if type(module) is nn.Linear and module.bias is None:
        return torch.addmm(residual, x, module.weight.T)
    return residual + _project(x, None, (module,), call)[0]


def _mlp(mlp: Any, x: Tensor, norm: Norm, config: Any, call: Call, adds: bool) -> Tensor:
    """mlp(norm(x)), with x added where `adds`."""
    parts = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
    is_gelu = _ACTIVATIONS[_activation(config)]
    is_plain = all(part not in call.graft.added and _is_frozen(part, call) and part.bias is None for part in parts)
    if is_plain and not _gets_gradient(norm.weight):
        shape = GatedMLP(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, is_gelu)
        return kernels.norm_mlp(x, norm, shape, adds)
    gate, up = _project(x, norm, parts[:2], call)
    active = nn.functional.gelu(gate, approximate="tanh") if is_gelu else nn.functional.silu(gate)
    if adds:
        return _project_onto(x, active * up, mlp.down_proj, call)
    return _project(active * up, None, (mlp.down_proj,), call)[0]
