"""Records attention weights while a model runs.

The forward pass is not changed: a `TorchFunctionMode` sees each call of the attention kernel and computes the weights
from the kernel's own arguments. Nothing of this exists outside of `record_attention`, so it costs nothing otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minillm.nn.attention import Attention
from minillm.nn.block import Stack


class AttentionMap(NamedTuple):
    """The weights of one attention layer."""

    stack: str
    """Name of its stack: encoder or decoder."""
    layer: int
    """Number of its block, from 0."""
    cross: bool
    """Whether keys are those of the encoder's output, not of the stack itself."""
    weights: Tensor
    """(B, H, T, S) fp32 on the CPU; the weights of a query sum to 1, or to 0 if it may attend to no key."""


class _Recorder(TorchFunctionMode):
    """Computes weights for each call of scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention:
            self.weights.append(kernel_weights(*args, **(kwargs or {})).float().cpu())
        return result


@torch.no_grad()
def record_attention(model: nn.Module, *args: Tensor, **kwargs: Any) -> list[AttentionMap]:
    """Run model(*args, **kwargs) in evaluation mode without gradients; the weights of each attention layer, in order.

    RuntimeError if a layer used another kernel, whose weights cannot be seen.
    """
    names = {module: name for name, module in model.named_modules()}
    layers: list[tuple[Attention, int]] = []
    with _Recorder() as recorder:
        hooks = [
            module.register_forward_hook(lambda own, _, __: layers.append((own, len(recorder.weights))))  # type: ignore[arg-type]
            for module in names
            if isinstance(module, Attention)
        ]
        was_training = model.training
        try:
            model.eval()(*args, **kwargs)
        finally:
            model.train(was_training)
            for hook in hooks:
                hook.remove()
    if [count for _, count in layers] != list(range(1, len(layers) + 1)):
        raise RuntimeError("an attention layer did not call scaled_dot_product_attention exactly once")
    return [_named(names[module], weights) for (module, _), weights in zip(layers, recorder.weights, strict=True)]


def _named(name: str, weights: Tensor) -> AttentionMap:
    """The map of the layer `name`, such as `decoder.blocks.3.cross.sublayer`."""
    stack, _, rest = name.partition(".blocks.")
    layer, kind = rest.split(".")[:2]
    return AttentionMap(stack, int(layer), kind == "cross", weights)


def kernel_weights(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """(B, H, T, S) the weights with which scaled_dot_product_attention sums the values, without dropout."""
    k = k.repeat_interleave(q.size(1) // k.size(1), 1)
    scores = (q @ k.transpose(-2, -1)).float() * (q.size(-1) ** -0.5 if scale is None else scale)  # (B, H, T, S)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).nan_to_num(0.0)


def stacks_of(model: nn.Module) -> dict[str, Stack]:
    """Name -> stack of the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Stack)}
