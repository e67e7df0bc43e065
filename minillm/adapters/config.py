"""Settings of adapters. Does not import torch."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from minillm.settings import Only, check, setting

_LORA: Only = {"name": ("lora",)}


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The adapter: which part of a model is trained instead of all its weights."""

    name: Literal["none", "lora"] = setting("none")
    """none: all weights are trained; lora: a low-rank change of linear layers (Hu et al. 2021), with --init-from."""
    rank: int = setting(8, at_least=1, only=_LORA)
    """Rank r of the change B A of each weight."""
    alpha: float = setting(16.0, above=0, only=_LORA)
    """The change is multiplied by alpha / rank."""
    rank_stabilized: bool = setting(False, only=_LORA)
    """Multiply the change by alpha / sqrt(rank) instead, so that its size does not depend on the rank (Kalajdzievski
    2023)."""
    dropout: float = setting(0.0, at_least=0, below=1, only=_LORA)
    """Dropout probability on the input of A; training only."""
    targets: tuple[str, ...] = setting(("blocks",), only=_LORA)
    """Patterns of the linear layers to change, such as q and v, attn or blocks.0.ffn; a pattern matches parts of a
    layer's name. Default: all in the blocks, attention and feed-forward."""
    train: tuple[str, ...] = setting((), only=_LORA)
    """Patterns of other parameters to train in full, such as heads or norm. New heads are always trained."""
    base: str | None = setting(None, only=_LORA)
    """Checkpoint whose weights are adapted; set by --init-from. Change it if that run has moved."""
    base_hash: str | None = setting(None, only=_LORA)
    """Fingerprint of those weights; set by --init-from."""

    def __post_init__(self) -> None:
        check("adapter", self)

    @property
    def on(self) -> bool:
        """Whether there is an adapter."""
        return self.name != "none"

    @property
    def scale(self) -> float:
        """The factor on the change B A."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern matches parts of the dotted `name` that follow each other."""
    return any(fnmatchcase(f".{name}.", f"*.{pattern}.*") for pattern in patterns)
