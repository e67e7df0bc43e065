"""Keys and values kept from earlier forward passes, so that decoding reads each token once (Shazeer 2019, section 2.4).

A cache holds one window of at most `max_len` tokens. When the window is full, the oldest tokens leave by `reset()` and
a new prefill over the tokens that stay. Nothing cheaper is exact: a deep layer's keys have read every earlier token, so
once the oldest is gone all that are left change, for every position scheme.
"""

from __future__ import annotations

import torch
from torch import Tensor


class LayerKVCache:
    """Keys and values of one attention layer.

    Storage is allocated at the first write: batch, local head count, device and dtype follow the keys.

    Args:
        max_len: keys it can hold.
        fixed: written once and then only read, as the memory of a cross-attention is.
    """

    def __init__(self, max_len: int, *, fixed: bool = False) -> None:
        self.max_len, self.fixed = max_len, fixed
        self.complete = False
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def write(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Store k, v (B, G, T, K) from `start` on; returns all so far, views (B, G, start + T, K)."""
        stop = start + k.size(2)
        if self.k is None or self.v is None:
            shape = (k.size(0), k.size(1), self.max_len, k.size(3))
            self.k, self.v = k.new_empty(shape), v.new_empty(shape)
        # narrow costs half of what Python's slices do, which counts at one token a pass.
        self.k.narrow(2, start, stop - start).copy_(k)
        self.v.narrow(2, start, stop - start).copy_(v)
        self.complete = self.fixed
        return self.k.narrow(2, 0, stop), self.v.narrow(2, 0, stop)

    def read(self) -> tuple[Tensor, Tensor]:
        """All keys and values of a complete layer_cache, (B, G, S, K) each."""
        assert self.k is not None and self.v is not None, "a layer_cache is read after it was written"
        return self.k, self.v

    def repeat(self, copies: int) -> None:
        """Turn each row into `copies` rows side by side."""
        if self.k is not None and self.v is not None:
            self.k, self.v = (x.repeat_interleave(copies, 0) for x in (self.k, self.v))

    def reorder(self, rows: Tensor, length: int) -> None:
        """Let row i hold the first `length` keys and values that row rows[i] held, rows (B)."""
        if self.k is not None and self.v is not None:
            self.k[:, :, :length] = self.k[rows, :, :length]
            self.v[:, :, :length] = self.v[rows, :, :length]


class KVCache:
    """One LayerKVCache a layer, and for every cached token whether it is real, its document and its position.

    Args:
        num_layers: blocks of the decoder stack.
        max_len: tokens the window can hold.
        memory_len: keys of the encoder output; None where there is no cross-attention.
    """

    def __init__(self, num_layers: int, max_len: int, memory_len: int | None = None) -> None:
        if max_len < 1:
            raise ValueError(f"a KV cache holds at least one token, max_len is {max_len}")
        self.num_layers, self.max_len, self.memory_len = num_layers, max_len, memory_len
        self.reset()

    def reset(self) -> None:
        """Forget everything; the next forward pass is a prefill, of any batch size."""
        self.length = 0
        self.self_layers = [LayerKVCache(self.max_len) for _ in range(self.num_layers)]
        self.cross_layers: list[LayerKVCache | None] = [
            None if self.memory_len is None else LayerKVCache(self.memory_len, fixed=True)
            for _ in range(self.num_layers)
        ]
        self.memory: Tensor | None = None
        self.memory_valid: Tensor | None = None
        self._columns: dict[str, Tensor] = {}

    def rewind(self, count: int) -> None:
        """Forget the last `count` tokens."""
        self.length -= count

    def require(self, count: int) -> None:
        """Raise ValueError unless `count` more tokens fit."""
        if self.length + count > self.max_len:
            raise ValueError(
                f"the KV cache holds {self.max_len} tokens and {self.length + count} are needed; "
                "reset it and prefill the newest ones"
            )

    def get(self, name: str) -> Tensor | None:
        """(B, length) what was remembered under `name`; None if nothing was."""
        column = self._columns.get(name)
        return None if column is None else column[:, : self.length]

    def remember(self, name: str, new: Tensor, *, before: int | bool) -> Tensor:
        """Append `new` (B, T) to the column `name`; tokens cached before the column existed count as `before`.

        Returns (B, length + T). The length itself moves on when the stack has run.
        """
        stop = self.length + new.size(1)
        if name not in self._columns:
            self._columns[name] = torch.full((new.size(0), self.max_len), before, dtype=new.dtype, device=new.device)
        self._columns[name][:, self.length : stop] = new
        return self._columns[name][:, :stop]

    def recall(self, memory: Tensor | None, valid: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The encoder output (B, S, D) and its (B, S) validity, of this pass or else of the one that brought them."""
        if memory is not None:
            self.memory, self.memory_valid = memory, valid
        return self.memory, self.memory_valid

    def repeat(self, copies: int) -> None:
        """Turn each row of the batch into `copies` rows side by side, as beam search does after the prefill."""
        for layer_cache in (*self.self_layers, *self.cross_layers):
            if layer_cache is not None:
                layer_cache.repeat(copies)
        self._columns = {name: column.repeat_interleave(copies, 0) for name, column in self._columns.items()}
        self.memory = None if self.memory is None else self.memory.repeat_interleave(copies, 0)
        self.memory_valid = None if self.memory_valid is None else self.memory_valid.repeat_interleave(copies, 0)

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from the tokens of row rows[i]; rows (B). Rows that swap must read the same memory."""
        for layer_cache in self.self_layers:
            layer_cache.reorder(rows, self.length)
        self._columns = {name: column[rows] for name, column in self._columns.items()}
