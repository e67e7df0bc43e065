"""Masked language modeling, optionally with next-sentence prediction (Devlin et al. 2019, section 3.1)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from minillm.data.config import DataConfig
from minillm.data.datasets.pairs import Pairs
from minillm.data.loader import Windows
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, RowRNG, Setup, TokenLossConfig, beginning
from minillm.objectives.corruption import choose_tokens, corrupt, number_words
from minillm.objectives.layout import IGNORE_INDEX, pad
from minillm.settings import setting


class _Row(NamedTuple):
    """One masked sequence."""

    read: np.ndarray
    """(T,) ids that the model reads."""
    token_types: np.ndarray
    """(T,) 0 up to the first [SEP], 1 after it."""
    chosen: np.ndarray
    """(P,) positions to predict."""
    labels: np.ndarray
    """(P,) original ids at these positions."""


@dataclass(frozen=True, kw_only=True)
class MaskedConfig(TokenLossConfig):
    """Predict masked tokens from both sides (Devlin et al. 2019, section 3.1)."""

    name: str = "mlm"
    mask_rate: float = setting(0.15, above=0, below=1)
    """Share of the tokens to predict."""
    mask_share: float = setting(0.8, at_least=0, at_most=1)
    """Share of these that become the mask token."""
    random_share: float = setting(0.1, at_least=0, at_most=1)
    """Share of these that become a random token; the rest stay unchanged."""
    whole_words: bool = False
    """Choose whole words instead of single tokens."""
    next_sentence: bool = False
    """Read two passages and predict whether the second one follows the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"objective.mask_share is {self.mask_share} and objective.random_share {self.random_share}; "
                "their sum must be at most 1"
            )


@dataclass(frozen=True, eq=False)
class MaskedLM(CrossEntropyObjective):
    """Reads `[CLS] A [SEP]`, or with pairs `[CLS] A [SEP] B [SEP]`; computes logits at chosen positions only."""

    mask_id: int = 0
    cls_id: int = 0
    sep_id: int = 0
    ordinary: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    """(V,) bool: ids of text. Other ids are never chosen and never replacements."""
    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    pieces: Sequence[bytes] | None = None
    """The bytes of each id, for choosing whole words; None: choose single tokens."""
    pairs: bool = False
    """Whether examples are `PassagePair`s with next-sentence labels instead of rows of ids."""

    unsmoothed: ClassVar[tuple[str, ...]] = ("pair",)

    @property
    def heads(self) -> tuple[str, ...]:
        return ("lm", "pair") if self.pairs else ("lm",)

    @property
    def targets(self) -> dict[str, str]:
        return {"mlm": "lm", "pair": "pair"} if self.pairs else {"mlm": "lm"}

    def examples(self, tokens: Any, data: DataConfig, length: int, *, training: bool) -> Pairs | Windows:
        """Windows or pairs that have `length` tokens, special tokens included."""
        room = length - (3 if self.pairs else 2)
        return Pairs(tokens, room) if self.pairs else Windows(tokens, room)

    def collate(self, examples: Sequence[Any], rng: RowRNG) -> Batch:
        """tokens (B, T), predict_at (B, P), labels "mlm" (B, P) and "pair" (B), 0 where B follows A.

        The first id of a row precedes the window and is skipped. `token_types` (B, T) are included for pairs,
        `key_valid` (B, T) if any row is padded. Rows with fewer targets get position 0 in `predict_at`, without label.
        """
        rows = [self._row(example, rng(i)) for i, example in enumerate(examples)]
        tokens, valid = pad([row.read for row in rows], self.pad_id)
        inputs = {"tokens": tokens, "predict_at": pad([row.chosen for row in rows], 0)[0]}
        labels = {"mlm": pad([row.labels for row in rows], IGNORE_INDEX)[0]}
        counts = {"mlm": sum(len(row.chosen) for row in rows)}
        if not valid.all():
            inputs["key_valid"] = valid
        if self.pairs:
            inputs["token_types"] = pad([row.token_types for row in rows], 0)[0]
            labels["pair"] = torch.tensor([int(not example.follows) for example in examples])
            counts["pair"] = len(rows)
        return Batch(inputs, labels, counts, int(valid.sum()))

    def prompt(self, example: Any, decode: Decode) -> str:
        """The beginning of a text, a gap, and a few more tokens."""
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
        shares = {"mask_share": self.mask_share, "random_share": self.random_share}
        replacements = np.flatnonzero(self.ordinary)
        read = corrupt(tokens, chosen, mask_id=self.mask_id, **shares, replacements=replacements, rng=rng)
        token_types = (np.arange(len(tokens)) > len(first) + 1).astype(np.int64)
        return _Row(read, token_types, np.flatnonzero(chosen), tokens[chosen])


def build(config: MaskedConfig, setup: Setup) -> MaskedLM:
    """The objective for BERT; ValueError if it reads pairs but the model has no token types."""
    ids, loss = setup.tokenizer, (config.label_smoothing, config.z_loss)
    if config.next_sentence and setup.model.num_token_types < 2:
        raise ValueError("objective.next_sentence needs two token types: set model.num_token_types to 2")
    pieces = [ids.decode_bytes([token]) for token in range(ids.vocab_size)] if config.whole_words else None
    special = (ids.mask_id, ids.cls_id, ids.sep_id)
    rates = (config.mask_rate, config.mask_share, config.random_share)
    return MaskedLM(ids.pad_id, *loss, *special, ids.num_bytes > 0, *rates, pieces, config.next_sentence)
