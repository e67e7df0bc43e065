"""The KV cache of the fast decoder: the keys and values of all layers in one tensor, with their views made at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig


class LayerView(NamedTuple):
    """A layer's part of the cache in one forward pass over T tokens."""

    new: Tensor
    """(B, T, 2 G, K) where this pass writes keys and values."""
    keys: Tensor
    """(B, G, S, K) all keys, those of this pass included."""
    values: Tensor
    """(B, G, S, K)."""

    @property
    def wide(self) -> bool:
        """Whether it belongs to a wide cache."""
        return False

    def write(self, new: Tensor) -> None:
        """Store keys and values (B, T, 2 G, K) of this pass."""
        self.new.copy_(new)


class WideView(NamedTuple):
    """As LayerView, of a wide cache."""

    new_keys: Tensor
    """(B, T, G, K)."""
    new_values: Tensor
    """(B, T, G, K)."""
    keys: Tensor
    """(B, G, S, K)."""
    values: Tensor
    """(B, G, S, K)."""

    @property
    def wide(self) -> bool:
        """Whether it belongs to a wide cache."""
        return True

    def write(self, new: Tensor) -> None:
        """Store keys and values (B, T, 2 G, K) of this pass."""
        keys, values = new.chunk(2, 2)
        self.new_keys.copy_(keys)
        self.new_values.copy_(values)


class FlatCache(KVCache):
    """A KVCache whose memory is one fp32 tensor (L, B, 2 G, max_len, K), keys before values.

    A wide cache is for many rows. Its keys (L, B, G, K, max_len) and its values (L, B, G, max_len, K) are two tensors,
    so that a batched product reads the keys of a head in order. They may be bf16, because most of the time is spent
    reading them.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        max_len: int,
        device: torch.device | None = None,
        *,
        wide: torch.dtype | None = None,
    ) -> None:
        """`wide` is the dtype of a wide cache; None: the cache is not wide."""
        super().__init__(0, max_len)
        start, heads, width = (config.num_layers, batch), config.kv_heads, config.head_width
        shapes = [(2 * heads, max_len, width)] if wide is None else [(heads, width, max_len), (heads, max_len, width)]
        self.wide = wide is not None
        self.stored = [torch.empty(*start, *shape, device=device, dtype=wide or torch.float32) for shape in shapes]
        self.rotations: Tensor | None = None
        """(max_len, K / 2) complex, by position; None without rotary positions."""

    @property
    def memory(self) -> Tensor:
        """The tensor of a cache that is not wide."""
        (memory,) = self.stored
        return memory

    @property
    def halves(self) -> tuple[Tensor, Tensor]:
        """Keys and values, (L, B, G, max_len, K) each."""
        if self.wide:
            return self.stored[0].transpose(3, 4), self.stored[1]
        keys, values = self.memory.chunk(2, 2)
        return keys, values

    @property
    def key_valid(self) -> Tensor | None:
        """(B, S) False for padding; None without padding."""
        return self._valid

    def place(self, batch: int, length: int, key_valid: Tensor | None) -> Tensor:
        """Append `length` tokens, valid unless `key_valid` (B, T) says otherwise -> their positions (T) or (B, T)."""
        known = self.get("key_valid")
        if key_valid is None and known is None:
            self._valid = None
            return torch.arange(self.length, self.length + length, device=self.stored[0].device)
        new = torch.ones(batch, length, dtype=torch.bool) if key_valid is None else key_valid
        self._valid = self.remember("key_valid", new, before=True)
        before = self._valid.long().cumsum(1) - self._valid.long()
        return before[:, self.length :]

    def angles(self, positions: Tensor) -> Tensor:
        """(B|1, T, 1, K / 2) complex rotations at `positions` (T) or (B, T)."""
        assert self.rotations is not None, "the model has rotary positions"
        if positions.ndim == 1:
            return self.rotations.narrow(0, self.length, len(positions))[None, :, None]
        return self.rotations[positions][:, :, None]

    def views(self, length: int) -> Sequence[LayerView | WideView]:
        """The part of each layer in a pass over `length` tokens."""
        known = [half.narrow(3, 0, self.length + length).unbind(0) for half in self.halves]
        parts = self.halves if self.wide else self.stored
        new = [part.narrow(3, self.length, length).transpose(2, 3).unbind(0) for part in parts]
        view = WideView if self.wide else LayerView
        return [view(*views) for views in zip(*new, *known, strict=True)]

    def repeat(self, copies: int) -> None:
        super().repeat(copies)
        self.stored = [x.repeat_interleave(copies, 1) for x in self.stored]

    def reorder(self, rows: Tensor) -> None:
        super().reorder(rows)
        for half in self.halves:
            known = half.narrow(3, 0, self.length)
            known.copy_(known[:, rows])

    def take(self, rows: Tensor) -> None:
        super().take(rows)
        self.stored = [x[:, rows] for x in self.stored]

    def shift(self, count: int) -> None:
        first, to = max(0, -count), max(0, count)
        length = self.length - first
        for half in self.halves:
            half.narrow(3, to, length).copy_(half.narrow(3, first, length).clone())
        super().shift(count)

    def insert(self, rows: Sequence[int], other: KVCache) -> None:
        super().insert(rows, other)
        assert isinstance(other, FlatCache)
        for half, new in zip(self.halves, other.halves, strict=True):
            half[:, rows, :, self.length - other.length : self.length] = new[..., : other.length, :].to(half.dtype)
