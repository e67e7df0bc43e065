"""What GPT, BERT and T5 have in common: an embedding, heads, and how their weights are tied and filled."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from minillm.nn.config import ModelConfig
from minillm.nn.embedding import InputEmbedding
from minillm.nn.heads import build_heads
from minillm.nn.init import init_weights
from minillm.nn.output import Output


class Model(nn.Module):
    """An embedding; a subclass adds its stacks. The constructor only allocates, `init_weights` fills."""

    writes: ClassVar[Literal["continuation", "answer", "nothing"]]
    """The text that the model generates: a continuation of its prompt, an answer to it, or none."""
    heads: nn.ModuleDict

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = InputEmbedding(config)

    def add_heads(self) -> None:
        """Add the heads that the config lists. A subclass calls this last: parameters are filled in order."""
        self.heads = build_heads(self.config)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Share the token table with the vocabulary head where the config says so; needed again after `to_empty`."""
        if self.config.tie_embeddings and "lm" in self.heads:
            self.heads["lm"].get_submodule("proj").weight = self.embed.tokens.weight

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Tie, then fill every parameter by the table in `nn/init.py`; one generator state gives one model."""
        self.tie_weights()
        init_weights(self, self.config, generator)

    def predict(self, hidden: Tensor, predict_at: Tensor | None = None) -> Output:
        """Run every head on hidden (B, T, D); the vocabulary head only at predict_at (B, P) where it is given."""
        return Output(hidden, {name: head(hidden, predict_at) for name, head in self.heads.items()})
