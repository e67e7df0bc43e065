"""BERT: a bidirectional encoder that fills in masked tokens (Devlin et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minillm.nn.block import Stack
from minillm.nn.config import ModelConfig
from minillm.nn.embedding import InputEmbedding, LMHead, NoHead, select
from minillm.nn.init import init_weights
from minillm.nn.output import Output
from minillm.nn.placement import place


class PairHead(nn.Module):
    """Does B follow A? The first token's state through the pooler, then two scores (section 3.1, task 2).

    Some encoders are published with the pooler alone: there is no score then.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.d_model, config.d_model)
        self.proj = nn.Linear(config.d_model, 2) if config.pair_head else None

    def forward(self, hidden: Tensor) -> Tensor | None:
        """hidden (B, T, D) -> (B, 2), or None."""
        return None if self.proj is None else self.proj(torch.tanh(self.pooler(hidden[:, 0])))


class BERT(nn.Module):
    """embed -> encoder stack -> vocabulary head, and the next-sentence head where the config asks for one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = InputEmbedding(config)
        self.encoder = Stack(config, causal=False)
        self.head = LMHead(config, transform=True) if config.lm_head else NoHead()
        self.pair_head = PairHead(config) if config.pair_head or config.pooler else None
        self.tie_weights()

    def tie_weights(self) -> None:
        """Let the head use the token table where the config says so; needed again after `to_empty`."""
        if self.config.tie_embeddings and isinstance(self.head, LMHead):
            self.head.proj.weight = self.embed.tokens.weight

    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Tie, then fill every parameter by the table in `nn/init.py`; one generator state gives one model."""
        self.tie_weights()
        init_weights(self, self.config, generator)

    def forward(
        self,
        tokens: Tensor,
        *,
        types: Tensor | None = None,
        positions: Tensor | None = None,
        key_valid: Tensor | None = None,
        segments: Tensor | None = None,
        predict_at: Tensor | None = None,
    ) -> Output:
        """Predict the token at each place, from both sides.

        Args:
            tokens: (B, T) ids; where there is a pair head, each row starts with its [CLS].
            types: (B, T) segment ids, 0 for sentence A and 1 for B; None: all 0.
            positions: (T) or (B, T); None: counted over the real tokens of each document.
            key_valid: (B, T) bool, False for padding.
            segments: (B, T) document ids of packed rows; documents do not see each other.
            predict_at: (B, P) indices into T where logits are wanted; None: everywhere.

        Returns:
            Output with logits (B, T, V) or (B, P, V), (B, T, 0) without a vocabulary head, and pair_logits (B, 2)
            where there is a pair head.

        Raises:
            ValueError: more tokens than max_seq_len, or shapes that do not fit `tokens`.
        """
        self.config.require_length(tokens.size(1))
        placement = place(tokens, positions=positions, key_valid=key_valid, segments=segments)
        hidden = self.encoder(self.embed(tokens, placement.positions, types), placement)
        pair_logits = None if self.pair_head is None else self.pair_head(hidden)
        return Output(self.head(select(hidden, predict_at)), hidden, pair_logits)
