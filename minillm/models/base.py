"""The base class of all models: input embedding, heads, weight tying, initialization."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from minillm.nn.config import ModelConfig
from minillm.nn.embedding import InputEmbedding
from minillm.nn.heads import ClassSource, build_heads
from minillm.nn.init import init_weights
from minillm.nn.output import Output


class Model(nn.Module):
    """Input embedding and heads; subclasses add stacks. Weights are undefined until `init_weights`."""

    writes: Literal["continuation", "answer", "nothing"]
    """Whether the model generates a continuation of its prompt, an answer to it, or nothing, for example because it has
    no vocabulary head."""
    head_transform: ClassVar[bool] = False
    """Whether the vocabulary head transforms the hidden states first, as BERT's does."""
    class_from: ClassVar[ClassSource] = "last"
    """What the class head reads."""
    embedding: ClassVar[Callable[..., nn.Module]] = InputEmbedding
    """Makes the input embedding from the config."""
    draft_cost: float = 0.0
    """Cost of reading one more token in a decoding step, as a fraction of the step; a GPU reads it for nothing."""
    heads: nn.ModuleDict

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = self.embedding(config)

    def add_heads(self) -> None:
        """Add the heads in the config. Subclasses call this last, because init_weights uses the order of modules."""
        self.heads = build_heads(self.config, transform=self.head_transform, class_from=self.class_from)
        if "lm" not in self.heads:
            self.writes = "nothing"
        self.tie_weights()

    def tie_weights(self) -> None:
        """Share the token table with the vocabulary head if configured; required again after `to_empty`."""
        if self.config.tie_embeddings and "lm" in self.heads:
            self.heads["lm"].get_submodule("proj").weight = self.embed.get_parameter("tokens.weight")

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Tie weights and initialize all parameters (nn/init.py)."""
        self.tie_weights()
        init_weights(self, self.config, generator)

    def predict(self, hidden: Tensor, predict_at: Tensor | None = None, key_valid: Tensor | None = None) -> Output:
        """Apply all heads to `hidden` (B, T, D).

        The vocabulary head computes logits at positions `predict_at` (B, P) only, if given. Class heads skip the
        padding, where `key_valid` (B, S) is False; the tokens of this pass are its last T.
        """
        valid = None if key_valid is None else key_valid[:, -hidden.size(1) :]
        return Output(hidden, {name: head(hidden, predict_at, valid) for name, head in self.heads.items()})
