"""Caches keys and values of earlier forward passes, so that decoding reads each token once (Shazeer 2019, section 2.4).

A cache holds at most `max_len` tokens. When it is full, `reset()` it and prefill the most recent tokens again. Dropping
the oldest column would not be exact: in deep layers every key depends on all earlier tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class LayerKVCache:
    """At most `max_len` keys and values of one attention layer.

    Memory is allocated at the first write, for the batch size, heads, device and dtype of its keys. A `fixed` cache is
    written once and then only read, as in cross-attention.
    """

    def __init__(self, max_len: int, *, fixed: bool = False) -> None:
        self.max_len, self.fixed = max_len, fixed
        self.complete = False
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def write(self, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Store k and v (B, G, T, K) at index `start`; returns views of all so far, (B, G, start + T, K)."""
        stop = start + k.size(2)
        if self.k is None or self.v is None:
            shape = (k.size(0), k.size(1), self.max_len, k.size(3))
            self.k, self.v = k.new_empty(shape), v.new_empty(shape)
        # narrow takes half the time of Python slices, which matters when decoding one token at a time.
        self.k.narrow(2, start, stop - start).copy_(k)
        self.v.narrow(2, start, stop - start).copy_(v)
        self.complete = self.fixed
        return self.k.narrow(2, 0, stop), self.v.narrow(2, 0, stop)

    def read(self) -> tuple[Tensor, Tensor]:
        """All keys and values of a complete cache, (B, G, S, K) each."""
        assert self.k is not None and self.v is not None, "read() comes after write()"
        return self.k, self.v

    def repeat(self, copies: int) -> None:
        """Replace each row by `copies` adjacent copies."""
        if self.k is not None and self.v is not None:
            self.k, self.v = (x.repeat_interleave(copies, 0) for x in (self.k, self.v))

    def reorder(self, rows: Tensor, length: int) -> None:
        """Set row i to the first `length` keys and values of row rows[i]; rows (B)."""
        if self.k is not None and self.v is not None:
            self.k[:, :, :length] = self.k[rows, :, :length]
            self.v[:, :, :length] = self.v[rows, :, :length]

    def take(self, rows: Tensor) -> None:
        """Keep only these rows."""
        if self.k is not None and self.v is not None:
            self.k, self.v = self.k[rows], self.v[rows]

    def shift(self, first: int, length: int, to: int) -> None:
        """Move `length` keys and values from column `first` to column `to`."""
        for x in (self.k, self.v):
            if x is not None:
                x[:, :, to : to + length] = x[:, :, first : first + length].clone()

    def insert(self, rows: Sequence[int], other: LayerKVCache, length: int, to: int) -> None:
        """Copy the first `length` columns of another cache to column `to` of these rows."""
        for x, new in ((self.k, other.k), (self.v, other.v)):
            if x is not None and new is not None:
                x[rows, :, to : to + length] = new[:, :, :length]


class KVCache:
    """A LayerKVCache for each layer, and columns with validity, document, position and id of the cached tokens.

    `encoder_len` is the length of the encoder's output; None: no cross-attention.
    """

    def __init__(self, num_layers: int, max_len: int, encoder_len: int | None = None) -> None:
        if max_len < 1:
            raise ValueError(f"a KV cache holds at least one token, max_len is {max_len}")
        self.num_layers, self.max_len, self.encoder_len = num_layers, max_len, encoder_len
        self.reset()

    def reset(self) -> None:
        """Empty the cache; the next batch may have another size."""
        self.length = 0
        self.self_layers = [LayerKVCache(self.max_len) for _ in range(self.num_layers)]
        self.cross_layers: list[LayerKVCache | None] = [
            None if self.encoder_len is None else LayerKVCache(self.encoder_len, fixed=True)
            for _ in range(self.num_layers)
        ]
        self.encoder_output: Tensor | None = None
        self.encoder_valid: Tensor | None = None
        self._columns: dict[str, Tensor] = {}

    def rewind(self, count: int) -> None:
        """Remove the last `count` tokens."""
        self.length -= count

    def require(self, count: int) -> None:
        """Raise ValueError unless `count` more tokens fit."""
        if self.length + count > self.max_len:
            raise ValueError(
                f"the KV cache holds {self.max_len} tokens and {self.length + count} are needed; "
                "reset it and prefill the newest ones"
            )

    def get(self, name: str) -> Tensor | None:
        """(B, length) the column `name`; None if it does not exist."""
        column = self._columns.get(name)
        return None if column is None else column[:, : self.length]

    def remember(self, name: str, new: Tensor, *, before: int | bool) -> Tensor:
        """Append `new` (B, T) to the column `name`; a new column has the value `before` for tokens already cached.

        Returns (B, length + T). The Stack advances `length` itself, after its last block.
        """
        stop = self.length + new.size(1)
        if name not in self._columns:
            self._columns[name] = torch.full((new.size(0), self.max_len), before, dtype=new.dtype, device=new.device)
        self._columns[name][:, self.length : stop] = new
        return self._columns[name][:, :stop]

    def recall(self, output: Tensor | None, valid: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Store the encoder's output (B, S, D) and validity (B, S) if given; returns the stored ones."""
        if output is not None:
            self.encoder_output, self.encoder_valid = output, valid
        return self.encoder_output, self.encoder_valid

    def repeat(self, copies: int) -> None:
        """Replace each row of the batch by `copies` adjacent copies."""
        for layer in (*self.self_layers, *self.cross_layers):
            if layer is not None:
                layer.repeat(copies)
        self._columns = {name: column.repeat_interleave(copies, 0) for name, column in self._columns.items()}
        output, valid = self.encoder_output, self.encoder_valid
        self.encoder_output = None if output is None else output.repeat_interleave(copies, 0)
        self.encoder_valid = None if valid is None else valid.repeat_interleave(copies, 0)

    def reorder(self, rows: Tensor) -> None:
        """Set row i to the tokens of row rows[i]; rows (B). Both rows must have the same encoder output."""
        for layer in self.self_layers:
            layer.reorder(rows, self.length)
        self._columns = {name: column[rows] for name, column in self._columns.items()}

    def take(self, rows: Tensor) -> None:
        """Keep only these rows; for a cache without an encoder's output, as `shift` and `insert`."""
        for layer in self.self_layers:
            layer.take(rows)
        self._columns = {name: column[rows] for name, column in self._columns.items()}

    def shift(self, count: int) -> None:
        """Insert `count` columns of padding before the first, or drop the first -count columns."""
        first, to = max(0, -count), max(0, count)
        length = self.length - first
        for layer in self.self_layers:
            layer.shift(first, length, to)
        for column in self._columns.values():
            column[:, to : to + length] = column[:, first : first + length].clone()
            column[:, :to] = 0
        self.length += count

    def insert(self, rows: Sequence[int], other: KVCache) -> None:
        """Replace `rows` by those of another cache, whose last columns become the last columns here."""
        if other.length > self.length:
            self.shift(other.length - self.length)
        to = self.length - other.length
        for layer, new in zip(self.self_layers, other.self_layers, strict=True):
            layer.insert(rows, new, other.length, to)
        for name, column in self._columns.items():
            known = other.get(name)
            column[rows, :to] = 0
            column[rows, to : self.length] = name == "key_valid" if known is None else known  # type: ignore[assignment]
