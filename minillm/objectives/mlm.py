"""Masked language modelling, with next-sentence prediction where it is asked for (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.nn.output import Output
from minillm.objectives.base import IGNORE_INDEX, Batch, RowRNG, cross_entropy_sum, num_correct
from minillm.objectives.corruption import choose, corrupt, number_words


class Passages(Protocol):
    """An example of two passages; `data.pairs.Pair` is one."""

    @property
    def first(self) -> np.ndarray: ...

    @property
    def second(self) -> np.ndarray: ...

    @property
    def follows(self) -> bool:
        """Whether the second one follows the first in the text."""
        ...


class _Row(NamedTuple):
    """One sequence, laid out and masked."""

    read: np.ndarray
    """(T,) ids that the model sees."""
    token_types: np.ndarray
    """(T,) 0 up to the first [SEP], 1 after it."""
    chosen: np.ndarray
    """(P,) places that are to be predicted."""
    labels: np.ndarray
    """(P,) what stood there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedLM:
    """`[CLS] A [SEP]`, or with pairs `[CLS] A [SEP] B [SEP]`; the vocabulary head runs on chosen places alone."""

    pad_id: int
    mask_id: int
    cls_id: int
    sep_id: int
    ordinary: np.ndarray
    """(V,) bool: ids that stand for text. No other is ever chosen, or drawn as a replacement."""
    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    pieces: Sequence[bytes] | None = None
    """The bytes of each id, to choose whole words; None: single tokens."""
    pairs: bool = False
    """Examples are `Passages`, and whether the second follows is predicted too; else they are rows of ids."""
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    covers_text: bool = False
    guessable: str | None = "mlm"

    @property
    def heads(self) -> tuple[str, ...]:
        return ("lm", "pair") if self.pairs else ("lm",)

    @property
    def label_sets(self) -> tuple[str, ...]:
        return ("mlm", "pair") if self.pairs else ("mlm",)

    @property
    def num_special(self) -> int:
        """Tokens of a sequence that the layout adds."""
        return 3 if self.pairs else 2

    def collate(self, examples: Sequence[Any], rng: RowRNG) -> Batch:
        """Examples to tokens (B, T), predict_at (B, P), labels "mlm" (B, P) and "pair" (B), 0 where B follows A.

        A row of ids comes with the one before it, which is left out. `token_types` (B, T) come with pairs, `key_valid`
        (B, T) where a row is short; rows with fewer targets than others point at their place 0, without a label.
        """
        rows = [self._row(example, rng(i)) for i, example in enumerate(examples)]
        lengths = np.array([len(row.read) for row in rows])
        count = sum(len(row.chosen) for row in rows)
        inputs = {
            "tokens": _stack([row.read for row in rows], self.pad_id),
            "predict_at": _stack([row.chosen for row in rows], 0),
        }
        labels, counts = {"mlm": _stack([row.labels for row in rows], IGNORE_INDEX)}, {"mlm": count}
        if lengths.min() < lengths.max():
            inputs["key_valid"] = torch.from_numpy(np.arange(lengths.max()) < lengths[:, None])
        if self.pairs:
            inputs["token_types"] = _stack([row.token_types for row in rows], 0)
            labels["pair"] = torch.tensor([int(not example.follows) for example in examples])
            counts["pair"] = len(rows)
        return Batch(inputs, labels, counts)

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Tensor]:
        """Sums of -log p(token) and of -log p(follows or not), in nats."""
        smoothing, z_loss = (self.label_smoothing, self.z_loss) if training else (0.0, 0.0)
        sums = {"mlm": cross_entropy_sum(output.logits["lm"], labels["mlm"], label_smoothing=smoothing, z_loss=z_loss)}
        if self.pairs:
            sums["pair"] = cross_entropy_sum(output.logits["pair"], labels["pair"])
        return sums

    def correct(self, output: Output, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tokens and pairs that are the model's first choice."""
        right = {"mlm": num_correct(output.logits["lm"], labels["mlm"])}
        if self.pairs:
            right["pair"] = num_correct(output.logits["pair"], labels["pair"])
        return right

    def _row(self, example: Any, rng: np.random.Generator) -> _Row:
        first, second = (example.first, example.second) if self.pairs else (example[1:], None)
        parts = [[self.cls_id], first, [self.sep_id]]
        if second is not None:
            parts += [second, [self.sep_id]]
        tokens = np.concatenate(parts).astype(np.int64)
        words = number_words(tokens, self.ordinary, self.pieces)
        chosen = choose(words, self.mask_rate, rng)
        read = corrupt(
            tokens,
            chosen,
            mask_id=self.mask_id,
            mask_share=self.mask_share,
            random_share=self.random_share,
            replacements=np.flatnonzero(self.ordinary),
            rng=rng,
        )
        token_types = (np.arange(len(tokens)) > len(first) + 1).astype(np.int64)
        return _Row(read, token_types, np.flatnonzero(chosen), tokens[chosen])


def _stack(rows: Sequence[np.ndarray], fill: int) -> Tensor:
    """(B, longest) int64, short rows filled up at the end, and never of width 0."""
    stacked = np.full((len(rows), max(1, *map(len, rows))), fill, np.int64)
    for i, row in enumerate(rows):
        stacked[i, : len(row)] = row
    return torch.from_numpy(stacked)
