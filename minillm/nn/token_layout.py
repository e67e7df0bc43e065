"""The layout of one forward pass: position, document and validity of each token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minillm.nn.cache import KVCache


@dataclass(frozen=True)
class TokenLayout:
    """Layout of the T tokens of a forward pass and of the S = start + T keys that they may attend to."""

    start: int
    """Number of cached keys; token t of this pass is key start + t."""
    positions: Tensor
    """(T) or (B, T) positions of the tokens within their documents, counted from 0."""
    all_positions: Tensor | None
    """(B, S) positions of all keys; None: key j has position j."""
    key_valid: Tensor | None
    """(B, S) bool, False for padding; None: no padding."""
    document_ids: Tensor | None
    """(B, S) id of each key's document in a packed row; None: each row is one document."""

    @property
    def key_positions(self) -> Tensor:
        """(S) or (B, S) positions of all keys."""
        if self.all_positions is not None:
            return self.all_positions
        return torch.arange(self.start + self.positions.size(-1), device=self.positions.device)


def layout_of(
    tokens: Tensor,
    *,
    positions: Tensor | None = None,
    key_valid: Tensor | None = None,
    document_ids: Tensor | None = None,
    cache: KVCache | None = None,
) -> TokenLayout:
    """The layout of `tokens` (B, T), which follow those in `cache`; ValueError for shapes that do not match.

    The cache stores the arguments. If a later pass omits `key_valid`, its tokens are valid; if it omits `document_ids`,
    its tokens continue the last document of their row.

    Args:
        positions: (T) or (B, T); None: the number of real tokens before each token in its document, so that neither
            padding nor packing changes the result.
        key_valid: (B, T) bool, False for padding.
        document_ids: (B, T) document ids of packed rows; the tokens of a document are adjacent.
    """
    shape, start = tokens.shape, 0 if cache is None else cache.length
    for name, given in (("positions", positions), ("key_valid", key_valid), ("document_ids", document_ids)):
        if given is not None and given.shape != shape and not (name == "positions" and given.shape == shape[1:]):
            raise ValueError(f"{name} has shape {tuple(given.shape)}, the tokens have {tuple(shape)}")
    if cache is not None:
        key_valid = _append(cache, "key_valid", key_valid, shape)
        document_ids = _append(cache, "document_ids", document_ids, shape)
        positions = _append(cache, "positions", positions, shape)
        if positions is not None:
            return TokenLayout(start, positions[:, start:], positions, key_valid, document_ids)
    if positions is not None:
        all_positions = positions if positions.ndim == 2 else positions.expand(shape)
        return TokenLayout(start, positions, all_positions, key_valid, document_ids)
    if key_valid is None and document_ids is None:
        positions = torch.arange(start, start + shape[1], device=tokens.device)
        return TokenLayout(start, positions, None, None, None)
    counted = count_positions(key_valid, document_ids)  # (B, S)
    return TokenLayout(start, counted[:, start:], counted, key_valid, document_ids)


def count_positions(key_valid: Tensor | None, document_ids: Tensor | None) -> Tensor:
    """(B, S) number of real tokens before each token in its document; one argument may be None."""
    real = torch.ones_like(document_ids) if key_valid is None else key_valid.long()  # type: ignore[arg-type]
    before = real.cumsum(1) - real  # (B, S)
    if document_ids is None:
        return before
    is_first = torch.ones_like(document_ids, dtype=torch.bool)
    is_first[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return before - before.masked_fill(~is_first, 0).cummax(1).values


def _append(cache: KVCache, name: str, new: Tensor | None, shape: torch.Size) -> Tensor | None:
    """(B, S) the column `name`, including the tokens of this pass; None if it was never supplied."""
    known = cache.get(name)
    if new is None:
        if known is None:
            return None
        match name:
            case "key_valid":
                new = known.new_ones(shape)
            case "document_ids":
                new = known[:, -1:].expand(shape)
            case _:
                new = known[:, -1:] + 1 + torch.arange(shape[1], device=known.device)
    if known is None and name == "positions" and cache.length:
        earlier = cache.length
        column = cache.remember(name, new.expand(shape), before=0)
        column[:, :earlier] = torch.arange(earlier, device=new.device)
        return column
    return cache.remember(name, new.expand(shape), before=name == "key_valid")
