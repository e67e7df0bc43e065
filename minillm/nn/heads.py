"""Output heads: each maps the final hidden states to the logits of one kind of prediction."""

import torch
from torch import Tensor, nn

from minillm.nn.config import HeadSpec, ModelConfig
from minillm.nn.feedforward import ACTIVATIONS
from minillm.nn.norm import make_norm


class LMHead(nn.Module):
    """Vocabulary logits proj(h * scale); with a softcap c, c * tanh(proj(h * scale) / c).

    With `transform`, as in BERT, norm(act(dense(h))) replaces h first, and proj has a bias.
    """

    def __init__(self, config: ModelConfig, *, transform: bool = False) -> None:
        super().__init__()
        assert config.vocab_size is not None, "build_model checks it"
        self.dense = nn.Linear(config.d_model, config.d_model) if transform else None
        self.norm = make_norm(config) if transform else None
        self.activation = ACTIVATIONS[config.activation]
        self.proj = nn.Linear(config.d_model, config.vocab_size, bias=transform)
        self.scale, self.softcap = config.head_scale, config.logit_softcap

    def forward(self, hidden: Tensor, predict_at: Tensor | None = None) -> Tensor:
        """hidden (B, T, D) -> logits (B, T, V), or (B, P, V) at the positions predict_at (B, P) only."""
        if predict_at is not None:
            hidden = hidden.take_along_dim(predict_at[..., None], dim=1)  # (B, P, D)
        if self.dense is not None and self.norm is not None:
            hidden = self.norm(self.activation(self.dense(hidden)))
        logits = self.proj(hidden if self.scale is None else hidden * self.scale)
        if self.softcap is None:
            return logits
        return self.softcap * torch.tanh(logits / self.softcap)


class PooledHead(nn.Module):
    """Class logits proj(tanh(pooler(h))) of a sequence, h the state of its first token (Devlin et al. 2019, 3.1).

    With num_classes = 0 there is no proj: some encoders are published with the pooler only.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.d_model, config.d_model)
        self.proj = nn.Linear(config.d_model, num_classes) if num_classes else nn.Identity()

    def forward(self, hidden: Tensor, predict_at: Tensor | None = None) -> Tensor:
        """hidden (B, T, D) -> (B, num_classes), or (B, D) without classes. Only LMHead uses `predict_at`."""
        return self.proj(torch.tanh(self.pooler(hidden[:, 0])))


def build_heads(config: ModelConfig, *, transform: bool) -> nn.ModuleDict:
    """The heads in `config.heads`; `transform` is as in LMHead."""

    def head(spec: HeadSpec) -> nn.Module:
        if spec.name == "lm":
            return LMHead(config, transform=transform)
        return PooledHead(config, {"pair": 2, "pooler": 0}.get(spec.name, spec.size))

    return nn.ModuleDict({spec.name: head(spec) for spec in config.head_specs})
