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

    def write(self, new: Tensor) -> None:
        """Store keys and values (B, T, 2 G, K) of this pass."""
        self.new.copy_(new)


class FlatCache(KVCache):
    """A KVCache whose memory is one fp32 tensor (L, B, 2 G, max_len, K), keys before values."""

    def __init__(self, config: ModelConfig, batch: int, max_len: int, device: torch.device | None = None) -> None:
        super().__init__(0, max_len)
        shape = (config.num_layers, batch, 2 * config.kv_heads, max_len, config.head_width)
        self.memory = torch.empty(shape, device=device)
        self.rotations: Tensor | None = None
        """(max_len, K / 2) complex, by position; None without rotary positions."""

    @property
    def key_valid(self) -> Tensor | None:
        """(B, S) False for padding; None without padding."""
        return self._valid

    def place(self, batch: int, length: int, key_valid: Tensor | None) -> Tensor:
        """Append `length` tokens, valid unless `key_valid` (B, T) says otherwise -> their positions (T) or (B, T)."""
        known = self.get("key_valid")
        if key_valid is None and known is None:
            self._valid = None
            return torch.arange(self.length, self.length + length, device=self.memory.device)
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

    def views(self, length: int) -> list[LayerView]:
        """The part of each layer in a pass over `length` tokens."""
        new = self.memory.narrow(3, self.length, length).transpose(2, 3).unbind(0)
        keys, values = self.memory.narrow(3, 0, self.length + length).chunk(2, 2)
        return [LayerView(*views) for views in zip(new, keys.unbind(0), values.unbind(0), strict=True)]

    def repeat(self, copies: int) -> None:
        super().repeat(copies)
        self.memory = self.memory.repeat_interleave(copies, 1)

    def reorder(self, rows: Tensor) -> None:
        super().reorder(rows)
        known = self.memory[..., : self.length, :]
        known.copy_(known[:, rows])

    def take(self, rows: Tensor) -> None:
        super().take(rows)
        self.memory = self.memory[:, rows]

    def shift(self, count: int) -> None:
        first, to = max(0, -count), max(0, count)
        length = self.length - first
        self.memory[..., to : to + length, :] = self.memory[..., first : first + length, :].clone()
        super().shift(count)

    def insert(self, rows: Sequence[int], other: KVCache) -> None:
        super().insert(rows, other)
        assert isinstance(other, FlatCache)
        to = self.length - other.length
        self.memory[:, rows, :, to : self.length] = other.memory[..., : other.length, :]
