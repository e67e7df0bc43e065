"""Attention masks. Callers declare who may attend to what; each Stack converts that once into the kernel's form."""

from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kernel = Literal["fused", "eager"]
"""fused: torch's scaled_dot_product_attention. eager: matrix product, softmax, matrix product."""

EAGER_MAX_KEYS = 512
"""The eager kernel is faster up to this many keys. At 1024 its score matrices no longer fit the caches of a CPU."""


@dataclass(frozen=True)
class AttentionMask:
    """Who may attend to what, in the caller's terms. Tensors are True where attending is allowed; None: no limit."""

    causal: bool = False
    """No query attends to a later key."""
    key_valid: Tensor | None = None
    """(B, S) bool, False for padding: no query attends to it."""
    prefix_length: Tensor | None = None
    """(B,) every query attends to the keys before this index (Raffel et al. 2020, section 3.2.1)."""
    document_ids: Tensor | None = None
    """(B, S) int: in packed rows, a query attends to keys of the same document only."""
    window: int | None = None
    """A query attends to keys at a distance below this number (Beltagy et al. 2020, section 3.1)."""
    key_positions: Tensor | None = None
    """(S) or (B, S) positions between which `window` measures the distance; required with it."""

    def dense(self, start: int, num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
        """(B|1, 1, T, S) bool, True = may attend. Query t is key start + t. None: no limit."""
        allowed: list[Tensor] = []
        if self.causal:
            q = torch.arange(start, start + num_queries, device=device)[:, None]
            k = torch.arange(num_keys, device=device)
            causal = (k <= q)[None]  # (1, T, S)
            if self.prefix_length is not None:
                causal = causal | (k < self.prefix_length[:, None, None])  # (B, T, S)
            allowed.append(causal)
        if self.key_valid is not None:
            allowed.append(self.key_valid[:, None, :])  # (B, 1, S)
        if self.document_ids is not None:
            query_ids = self.document_ids[:, start : start + num_queries, None]
            allowed.append(query_ids == self.document_ids[:, None, :])  # (B, T, S)
        if self.window is not None:
            assert self.key_positions is not None, "a window measures distances between positions"
            keys = self.key_positions if self.key_positions.ndim == 2 else self.key_positions[None]
            distance = keys[:, start : start + num_queries, None] - keys[:, None, :]  # (B|1, T, S)
            allowed.append(distance.abs() < self.window)
        return reduce(torch.logical_and, allowed)[:, None] if allowed else None


class ScoreMask(NamedTuple):
    """An attention mask in the form that the attention kernel takes, and which kernel that is."""

    tensor: Tensor | None = None
    """Broadcastable to (B, H, T, S): bool (True = may attend) or float, added to the scores. None: no limit."""
    is_causal: bool = False
    """Use the fused kernel's causal mode, which needs no tensor."""
    has_keys: Tensor | None = None
    """(B, 1, T, 1) float, 0 for a query that may attend to no key; None: there is no such query."""
    kernel: Kernel = "fused"


def resolve_mask(
    mask: AttentionMask, bias: Tensor | None, *, start: int, num_queries: int, num_keys: int, like: Tensor
) -> ScoreMask:
    """Combine `mask` and the position scheme's `bias` into one ScoreMask for all layers of a stack.

    `bias` (B|1, H, T, S) is added to the scores. Query t is key start + t. The scores have the device and compute dtype
    of `like`, the input of the stack.

    For a query without any allowed key the softmax is 0/0, which gives NaN results or gradients. Such a query attends
    to every key instead, and `has_keys` sets its result to 0.
    """
    dtype = compute_dtype(like)
    trained_bias = bias is not None and bias.requires_grad
    kernel = choose_kernel(like.device.type, dtype, num_keys, trained_bias=trained_bias)
    limits = (mask.key_valid, mask.prefix_length, mask.document_ids, mask.window)
    only_causal = bias is None and all(limit is None for limit in limits)
    if only_causal and (not mask.causal or (num_queries == 1 and num_keys == start + 1)):
        return ScoreMask(kernel=kernel)
    # The fused causal mode aligns queries and keys at the top left, so they must be the same tokens.
    if only_causal and kernel == "fused" and start == 0 and num_queries == num_keys:
        return ScoreMask(is_causal=True)

    allowed, has_keys = mask.dense(start, num_queries, num_keys, like.device), None
    if allowed is not None and mask.key_valid is not None:
        any_key = allowed.any(-1, keepdim=True)  # (B, 1, T|1, 1)
        allowed, has_keys = allowed | ~any_key, any_key.to(dtype)
    if bias is None and kernel == "fused":
        return ScoreMask(allowed, has_keys=has_keys)
    if bias is None:
        assert allowed is not None
        bias = torch.zeros(allowed.shape, dtype=dtype, device=like.device)
    bias = bias.to(dtype).contiguous()  # T5 computes it with heads last, a layout that is three times slower to add
    tensor = bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))
    return ScoreMask(tensor, has_keys=has_keys, kernel=kernel)


def choose_kernel(device: str, dtype: torch.dtype, num_keys: int, *, trained_bias: bool = False) -> Kernel:
    """eager for CPU training over few keys, in bf16 (the fused kernel's backward pass is four times slower there) or
    with a trained bias such as T5's (which no fused kernel supports)."""
    slow = device == "cpu" and torch.is_grad_enabled() and (dtype == torch.bfloat16 or trained_bias)
    return "eager" if slow and num_keys <= EAGER_MAX_KEYS else "fused"


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which matrix products of `x` run: that of autocast if it is on, else that of x."""
    device = x.device.type
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # the meta device has none
    return torch.get_autocast_dtype(device) if cast else x.dtype
