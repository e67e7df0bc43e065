"""One block of the fast decoder; see inference/decoder.py."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.inference.products import Products
from minillm.nn.config import ModelConfig


class CacheView(Protocol):
    """A layer's part of the cache; see LayerView."""

    @property
    def keys(self) -> Tensor: ...

    @property
    def values(self) -> Tensor: ...

    @property
    def wide(self) -> bool: ...

    def write(self, new: Tensor) -> None: ...


class FastNorm:
    """A norm over the last dimension of fp32 x, whose result has another dtype if a product takes that."""

    def __init__(self, norm: Any, dtype: torch.dtype) -> None:
        self.dtype, self.width = dtype, norm.weight.numel()
        self.rms, self.eps = isinstance(norm, nn.RMSNorm), float(norm.eps)
        self.weight = norm.weight.detach().float()
        self.bias = None if self.rms or norm.bias is None else norm.bias.detach().float()
        if self.rms:
            # x / sqrt(mean(x^2) + eps) = x sqrt(D) / sqrt(|x|^2 + D eps)
            self.weight = self.weight * math.sqrt(self.width)
            self.floor = torch.tensor(math.sqrt(self.width * self.eps), device=self.weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., width) -> (..., width)."""
        if self.rms:
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return (x / torch.hypot(length, self.floor)).mul_(self.weight)
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)


class Packing:
    """Leaves out the padding of a batch: rows (B T, D) of all tokens from and to rows (N, D) of the real ones."""

    def __init__(self, valid: Tensor) -> None:
        """`valid` (B, T) is False for padding."""
        self.size = valid.numel()
        self.rows = valid.flatten().nonzero().flatten()

    def pack(self, x: Tensor) -> Tensor:
        """(B T, D) -> (N, D)."""
        return x[self.rows]

    def unpack(self, x: Tensor) -> Tensor:
        """(N, D) -> (B T, D), with zeros for padding."""
        return x.new_zeros(self.size, x.size(1)).index_copy_(0, self.rows, x)


class FastLayer:
    """x + attention(norm(x)), then x + feed_forward(norm(x)), on rows x (N, D), N = B T or less with a Packing."""

    def __init__(self, block: Any, config: ModelConfig, products: Products) -> None:
        attention, ffn = block.attn.sublayer, block.ffn.sublayer
        self.heads, self.groups, self.width = config.num_heads, config.kv_heads, config.head_width
        self.scale = attention.scale
        self.attention_norm = FastNorm(block.attn.norm, products.plan.dtype)
        self.ffn_norm = FastNorm(block.ffn.norm, products.plan.dtype)
        self.q_norm, self.k_norm = attention.q_norm, attention.k_norm
        self.rotary = config.position == "rotary"
        # Rotating neighbors (2i, 2i+1) is one product of complex numbers. Scores do not change if the rows of q and k
        # are permuted alike.
        order = half_split_to_pairs(self.width) if self.rotary else None
        if self.q_norm is not None:
            self.q_norm, self.k_norm = (permuted_norm(norm, order) for norm in (self.q_norm, self.k_norm))
        self.qkv = products.fused((attention.q, attention.k, attention.v), (order, order, None))
        self.out = products.of(attention.out)
        self.gated = ffn.gate is not None
        self.up = products.fused((ffn.gate, ffn.up)) if self.gated else products.of(ffn.up)
        self.down, self.activation = products.of(ffn.down), ffn.activation

    def __call__(
        self,
        x: Tensor,
        cache: CacheView,
        angles: Tensor | None,
        mask: Tensor | None,
        batch: int,
        packing: Packing | None = None,
    ) -> Tensor:
        """x (N, D) -> (N, D). `angles` (B|1, T, 1, K/2) complex; `mask` (B|1, 1, T, S) bool."""
        qkv = self.qkv(self.attention_norm(x))
        if packing is None:
            x = x + self.out(self._attend(qkv, cache, angles, mask, batch))
        else:
            x = x + self.out(packing.pack(self._attend(packing.unpack(qkv), cache, angles, mask, batch)))
        hidden = self.up(self.ffn_norm(x))  # (N, F) or (N, 2 F)
        if self.gated:
            gate, up = hidden.chunk(2, 1)
            hidden = self.activation(gate).mul_(up)
        else:
            hidden = self.activation(hidden)
        return x.add_(self.down(hidden))

    def _attend(self, qkv: Tensor, cache: CacheView, angles: Tensor | None, mask: Tensor | None, batch: int) -> Tensor:
        """qkv (N, (H + 2 G) K) -> (N, H K)."""
        heads, groups, width = self.heads, self.groups, self.width
        num_rows = qkv.size(0)
        split = qkv.float().view(batch, num_rows // batch, heads + 2 * groups, width)  # (B, T, H + 2 G, K)
        turned = split.narrow(2, 0, heads + groups)
        if self.q_norm is not None:
            turned.narrow(2, 0, heads).copy_(self.q_norm(turned.narrow(2, 0, heads)))
            turned.narrow(2, heads, groups).copy_(self.k_norm(turned.narrow(2, heads, groups)))
        if angles is not None:
            turned.view(torch.complex64).mul_(angles)
        cache.write(split.narrow(2, heads, 2 * groups))
        q = split.narrow(2, 0, heads).transpose(1, 2)  # (B, H, T, K)
        keys, values = cache.keys, cache.values
        if cache.wide:
            if num_rows == batch:
                return one_query_each(q, keys, values, mask, scale=self.scale)
            if keys.size(2) * batch == num_rows:  # the first pass has keys and values in fp32
                keys, values = split.narrow(2, heads, 2 * groups).transpose(1, 2).chunk(2, 1)
            else:
                keys, values = keys.float(), values.float()
        causal = mask is None and num_rows > batch
        y = F.scaled_dot_product_attention(
            q, keys, values, mask, is_causal=causal, scale=self.scale, enable_gqa=heads != groups
        )
        return y.transpose(1, 2).reshape(num_rows, heads * width)


def one_query_each(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, *, scale: float) -> Tensor:
    """Attention of one query in each row, q (B, H, 1, K), over keys and values (B, G, S, K) -> (B, H K).

    With many rows on a CPU, two batched products take half the time of `scaled_dot_product_attention` or less.
    """
    batch, groups, length, width = values.shape
    q = q.to(values.dtype).reshape(batch * groups, -1, width)
    scores = torch.bmm(q, keys.transpose(2, 3).flatten(0, 1)).float().mul_(scale).view(batch, groups, -1, length)
    if mask is not None:
        scores.masked_fill_(~mask, -math.inf)
    weights = scores.softmax(-1).to(values.dtype).view(batch * groups, -1, length)
    return torch.bmm(weights, values.flatten(0, 1)).float().view(batch, -1)


def half_split_to_pairs(width: int) -> Tensor:
    """(width) the order in which the halves of a head alternate."""
    return torch.arange(width).view(2, -1).t().flatten()


def permuted_norm(norm: Any, order: Tensor | None) -> FastNorm:
    """A norm of heads in another order."""
    fast = FastNorm(norm, torch.float32)
    if order is not None:
        fast.weight = fast.weight[order]
        fast.bias = None if fast.bias is None else fast.bias[order]
    return fast
