"""Masked language modeling, with next-sentence prediction where it is asked for (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.pairs import Pairs
from minillm.data.loader import Windows
from minillm.objectives.base import (
    IGNORE_INDEX,
    Batch,
    CrossEntropyObjective,
    Decode,
    RowRNG,
    Setup,
    TokenLossConfig,
    beginning,
)
from minillm.objectives.corruption import choose_tokens, corrupt, number_words
from minillm.settings import setting


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


@dataclass(frozen=True, kw_only=True)
class MaskedConfig(TokenLossConfig):
    """Masked language modeling: predict chosen tokens from both sides (Devlin et al. 2019, section 3.1)."""

    name: str = "mlm"
    mask_rate: float = setting(0.15, above=0, below=1)
    """Share of the tokens that are to be predicted."""
    mask_share: float = setting(0.8, at_least=0, at_most=1)
    """Share of these that are read as the mask token."""
    random_share: float = setting(0.1, at_least=0, at_most=1)
    """Share of these that are read as a random token; the others are left as they are."""
    whole_words: bool = False
    """Choose whole words instead of single tokens."""
    next_sentence: bool = False
    """Read two passages, and predict whether the second one follows the first."""

    def __post_init__(self) -> None:
        """As for every objective, and the shares together are at most 1."""
        super().__post_init__()
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"objective.mask_share is {self.mask_share} and objective.random_share {self.random_share}; "
                "their sum must be at most 1"
            )


@dataclass(frozen=True, eq=False)
class MaskedLM(CrossEntropyObjective):
    """`[CLS] A [SEP]`, or with pairs `[CLS] A [SEP] B [SEP]`; the vocabulary head runs on chosen places alone."""

    mask_id: int = 0
    cls_id: int = 0
    sep_id: int = 0
    ordinary: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    """(V,) bool: ids that stand for text. No other is ever chosen, or drawn as a replacement."""
    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    pieces: Sequence[bytes] | None = None
    """The bytes of each id, to choose whole words; None: single tokens."""
    pairs: bool = False
    """Examples are `Passages`, and whether the second follows is predicted too; else they are rows of ids."""

    unsmoothed: ClassVar[tuple[str, ...]] = ("pair",)

    @property
    def heads(self) -> tuple[str, ...]:
        return ("lm", "pair") if self.pairs else ("lm",)

    @property
    def targets(self) -> dict[str, str]:
        return {"mlm": "lm", "pair": "pair"} if self.pairs else {"mlm": "lm"}

    def examples(self, tokens: Any, data: DataConfig, length: int, *, training: bool) -> Pairs | Windows:
        """Windows, or pairs of passages, that fill `length` tokens with the special ones."""
        room = length - self.num_special
        return Pairs(tokens, room) if self.pairs else Windows(tokens, room)

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
        return Batch(inputs, labels, counts, int(lengths.sum()))

    def prompt(self, example: Any, decode: Decode) -> str:
        """The beginning of a text with a gap after it, and a few tokens more."""
        text = example.first if self.pairs else example[1:]
        return f"{beginning(text, decode)} [MASK]{decode(text[15:21].tolist())}"

    def _row(self, example: Any, rng: np.random.Generator) -> _Row:
        first, second = (example.first, example.second) if self.pairs else (example[1:], None)
        parts = [[self.cls_id], first, [self.sep_id]]
        if second is not None:
            parts += [second, [self.sep_id]]
        tokens = np.concatenate(parts).astype(np.int64)
        words = number_words(tokens, self.ordinary, self.pieces)
        chosen = choose_tokens(words, self.mask_rate, rng)
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


def build(config: MaskedConfig, setup: Setup) -> MaskedLM:
    """The objective of a BERT; ValueError where it reads pairs but has no token types to tell them apart."""
    tokenizer = setup.tokenizer
    if config.next_sentence and setup.model.num_token_types < 2:
        raise ValueError("objective.next_sentence tells two passages apart: set model.num_token_types to 2")
    pieces = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)] if config.whole_words else None
    return MaskedLM(
        tokenizer.pad_id,
        config.label_smoothing,
        config.z_loss,
        tokenizer.mask_id,
        tokenizer.cls_id,
        tokenizer.sep_id,
        ordinary=tokenizer.num_bytes > 0,
        mask_rate=config.mask_rate,
        mask_share=config.mask_share,
        random_share=config.random_share,
        pieces=pieces,
        pairs=config.next_sentence,
    )


def _stack(rows: Sequence[np.ndarray], fill: int) -> Tensor:
    """(B, longest) int64, short rows filled up at the end, and never of width 0."""
    stacked = np.full((len(rows), max(1, *map(len, rows))), fill, np.int64)
    for i, row in enumerate(rows):
        stacked[i, : len(row)] = row
    return torch.from_numpy(stacked)
