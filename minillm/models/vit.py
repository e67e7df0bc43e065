"""Vision Transformer: BERT's encoder over the patches of an image (Dosovitskiy et al. 2020).

Its class head is one linear layer, as in the paper's fine-tuning and in the published checkpoints.
"""

from torch import Tensor

from minillm.models.base import Model
from minillm.nn.block import Stack
from minillm.nn.config import ModelConfig
from minillm.nn.embedding import PatchEmbedding
from minillm.nn.output import Output
from minillm.nn.token_layout import layout_of


class ViT(Model):
    """embed patches -> encoder stack -> heads."""

    writes, class_from = "nothing", "first"
    embedding = PatchEmbedding

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Stack(config, causal=False)
        self.add_heads()

    def forward(self, features: Tensor) -> Output:
        """Predict from images `features` (B, C, height, width) of the size in `input_shape`."""
        x = self.embed(features)  # (B, 1 + patches, D)
        return self.predict(self.encoder(x, layout_of(x[..., 0])))
