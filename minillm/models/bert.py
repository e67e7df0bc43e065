"""BERT: a bidirectional encoder that predicts masked tokens (Devlin et al. 2019)."""

from torch import Tensor

from minillm.models.base import Model
from minillm.nn.block import Stack
from minillm.nn.config import ModelConfig
from minillm.nn.output import Output
from minillm.nn.token_layout import layout_of


class BERT(Model):
    """embed -> encoder stack -> heads."""

    writes, head_transform, class_from = "nothing", True, "pooled"

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Stack(config, causal=False)
        self.add_heads()

    def forward(
        self,
        tokens: Tensor,
        *,
        token_types: Tensor | None = None,
        positions: Tensor | None = None,
        key_valid: Tensor | None = None,
        document_ids: Tensor | None = None,
        predict_at: Tensor | None = None,
    ) -> Output:
        """Predict the token at each position of `tokens` (B, T) from the tokens on both sides.

        Heads for a whole sequence read its first token, [CLS]. `token_types` (B, T) are 0 for sentence A and 1
        for B; None: all 0. Other arguments and errors are as in `GPT.forward`.
        """
        self.config.require_length(tokens.size(1))
        layout = layout_of(tokens, positions=positions, key_valid=key_valid, document_ids=document_ids)
        hidden = self.encoder(self.embed(tokens, layout.positions, token_types), layout)
        return self.predict(hidden, predict_at, layout.key_valid)
