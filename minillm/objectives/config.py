"""What a run learns to predict, as data. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The training objective."""

    name: Literal["clm", "mlm", "span", "prefix_lm", "seq2seq"] = "clm"
    """clm: causal language modelling, predict every next token (Radford et al. 2018); mlm: masked language modelling,
    predict chosen tokens from both sides (Devlin et al. 2019); span: span corruption, write what stood in the gaps;
    prefix_lm: read the beginning as a whole, predict the rest; seq2seq: text to text (Raffel et al. 2020)."""
    label_smoothing: float = 0.0
    """Probability mass spread evenly over the vocabulary (Szegedy et al. 2016); training only."""
    z_loss: float = 0.0
    """Weight of the squared log-partition, which keeps logits small (Chowdhery et al. 2022); training only."""
    mask_rate: float = 0.15
    """mlm: share of the tokens that are to be predicted (Devlin et al. 2019, section 3.1)."""
    mask_share: float = 0.8
    """mlm: share of these that are read as the mask token."""
    random_share: float = 0.1
    """mlm: share of these that are read as a random token; the others are left as they are."""
    whole_words: bool = False
    """mlm: choose whole words instead of single tokens."""
    next_sentence: bool = False
    """mlm: read two passages, and predict whether the second one follows the first."""
    span_density: float = 0.15
    """span: share of the tokens that are dropped (Raffel et al. 2020, section 3.3.3)."""
    mean_span_length: float = 3.0
    """span: mean length in tokens of a dropped span (Raffel et al. 2020, section 3.3.4)."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        names = get_args(get_type_hints(ObjectiveConfig)["name"])
        if self.name not in names:
            raise ValueError(f"objective.name is {self.name!r}; it must be one of {', '.join(names)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"objective.label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")
        if not 0 <= self.z_loss < math.inf:
            raise ValueError(f"objective.z_loss is {self.z_loss}; it must be at least 0")
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"objective.mask_rate is {self.mask_rate}; it must be above 0 and below 1")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"objective.mask_share is {self.mask_share} and objective.random_share {self.random_share}; "
                "neither may be negative, nor their sum above 1"
            )
        if not 0 < self.span_density < 1:
            raise ValueError(f"objective.span_density is {self.span_density}; it must be above 0 and below 1")
        if not 1 <= self.mean_span_length < math.inf:
            raise ValueError(f"objective.mean_span_length is {self.mean_span_length}; it must be at least 1")
        if self.next_sentence and self.name != "mlm":
            raise ValueError(f"objective.next_sentence needs objective.name mlm, not {self.name}; set it to false")
