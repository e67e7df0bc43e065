"""Which keys a query may read: declared once by the caller, resolved once for each stack into what the kernel eats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kernel = Literal["fused", "eager"]
"""fused: torch's scaled_dot_product_attention. eager: matmul, softmax, matmul."""

EAGER_MAX_KEYS = 512
"""Up to here the eager form trains faster on CPU, in bf16 or with a trained bias; at 1024 keys its score matrices no
longer fit the caches."""


@dataclass(frozen=True)
class AttentionMask:
    """What the caller means. True = may attend; None = no restriction."""

    causal: bool = False
    """A query sees no key after itself."""
    key_valid: Tensor | None = None
    """(B, S) bool, False for padding, which nobody sees."""
    prefix_length: Tensor | None = None
    """(B,) keys below it are visible to every query, causal or not (Raffel et al. 2020, section 3.2.1)."""
    document_ids: Tensor | None = None
    """(B, S) int, packed documents: only equal ids see each other."""

    def dense(self, start: int, num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
        """(B|1, 1, T, S) bool, True = may attend; query t is key start + t. None where nothing is forbidden."""
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
            own = self.document_ids[:, start : start + num_queries, None]
            allowed.append(own == self.document_ids[:, None, :])  # (B, T, S)
        if not allowed:
            return None
        both = allowed[0]
        for more in allowed[1:]:
            both = both & more
        return both[:, None]


class ScoreMask(NamedTuple):
    """What the attention kernel eats, and which kernel that is."""

    tensor: Tensor | None = None
    """Broadcastable to (B, H, T, S): bool (True = may attend) or additive float. None: nothing forbidden."""
    is_causal: bool = False
    """Take the fused kernel's own causal path; there is no tensor then."""
    alive: Tensor | None = None
    """(B, 1, T, 1) float, 0 for a query that may read nothing; None where every query may read something."""
    kernel: Kernel = "fused"


def resolve(
    mask: AttentionMask, bias: Tensor | None, *, start: int, num_queries: int, num_keys: int, like: Tensor
) -> ScoreMask:
    """Turn `mask` and the position scheme's additive `bias` into one ScoreMask for all layers of a stack.

    Args:
        bias: (B|1, H, T, S) added to the scores; None: nothing.
        start: query t is key start + t.
        like: the stack's input, whose device and compute dtype the scores will have.

    A query that may read nothing would make the softmax 0/0 in some kernels and gradients NaN in others. It is shown
    every key instead, and `alive` wipes its answer to 0.
    """
    dtype = compute_dtype(like)
    trained_bias = bias is not None and bias.requires_grad
    kernel = choose_kernel(like.device.type, dtype, num_keys, trained_bias=trained_bias)
    free = bias is None and mask.key_valid is None and mask.prefix_length is None and mask.document_ids is None
    if free and (not mask.causal or (num_queries == 1 and num_keys == start + 1)):
        return ScoreMask(kernel=kernel)
    # The fused causal flag is aligned to the top left corner, right only where queries and keys are the same tokens.
    if free and kernel == "fused" and start == 0 and num_queries == num_keys:
        return ScoreMask(is_causal=True)

    allowed, alive = mask.dense(start, num_queries, num_keys, like.device), None
    if allowed is not None and mask.key_valid is not None:
        seen = allowed.any(-1, keepdim=True)  # (B, 1, T|1, 1)
        allowed, alive = allowed | ~seen, seen.to(dtype)
    if bias is None and kernel == "fused":
        return ScoreMask(allowed, alive=alive)
    if bias is None:
        assert allowed is not None
        bias = torch.zeros(allowed.shape, dtype=dtype, device=like.device)
    bias = bias.to(dtype).contiguous()  # T5's has its heads last; every layer would add it at a third of the speed
    tensor = bias if allowed is None else bias.masked_fill(~allowed, float("-inf"))
    return ScoreMask(tensor, alive=alive, kernel=kernel)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which matrix products of `x` run: autocast's where it is on, else x's own."""
    device = x.device.type
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # the meta device has none
    return torch.get_autocast_dtype(device) if cast else x.dtype


def choose_kernel(device: str, dtype: torch.dtype, num_keys: int, *, trained_bias: bool = False) -> Kernel:
    """eager while training on CPU over few keys, in bf16, where the fused kernel's backward is four times slower, and
    where the bias is trained (T5's), for which there is no fused kernel."""
    slow = device == "cpu" and torch.is_grad_enabled() and (dtype == torch.bfloat16 or trained_bias)
    return "eager" if slow and num_keys <= EAGER_MAX_KEYS else "fused"
