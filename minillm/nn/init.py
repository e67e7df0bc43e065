"""Initial weights. Biases are 0, norm weights 1, all others normal with mean 0 and this standard deviation:

| parameter | `init = "normal"` | `init = "fan_in"` |
|---|---|---|
| token table | init_std | 1 / embed_scale |
| n-gram, segment and learned position tables | init_std | 1 |
| T5's bucket table | init_std | d_model^-1/2 |
| attention q | init_std | d_model^-1/2 head_dim^-1/2 / attention_scale |
| attention k, v; feed-forward gate, up; heads | init_std | (inputs)^-1/2 |
| attention out; feed-forward down | init_std r | (inputs)^-1/2 r |

`residual_init` determines r: "scaled" is 1 / sqrt(2 num_layers) (Radford et al. 2019), "plain" is 1, and "zero" is 0,
which makes every block start as the identity (Zhang et al. 2019).

With "normal" the first loss is within a few hundredths of a nat of ln(vocab_size). "fan_in" is the initialization in
T5's code (Raffel et al. 2020, Mesh TensorFlow): every sum, including attention scores, has the variance of one of its
terms. Logits then start with variance 1, and the first loss is half a nat higher. Hugging Face's T5 v1.1 differs: its
untied head has standard deviation 1.
"""

import torch
from torch import Tensor, nn

from minillm.nn.attention import Attention
from minillm.nn.config import ModelConfig
from minillm.nn.embedding import InputEmbedding
from minillm.nn.feedforward import FeedForward
from minillm.nn.position import T5RelativeBias


@torch.no_grad()
def init_weights(model: nn.Module, config: ModelConfig, generator: torch.Generator | None = None) -> None:
    """Initialize every parameter of `model` according to the table above, in the order of `model.modules()`.

    Numbers are drawn in fp32 on the generator's device, so the dtype and device of the model do not matter.
    """
    stds = standard_deviations(model, config)
    filled: set[nn.Parameter] = set()
    for module in model.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, nn.Linear | nn.Embedding):
            if weight not in filled:  # a tied weight is drawn once
                _fill_normal(module.weight, stds[module], generator)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            nn.init.ones_(module.weight)
        else:
            continue
        if bias is not None:
            nn.init.zeros_(bias)
        filled.update(module.parameters(recurse=False))
    missed = [name for name, parameter in model.named_parameters() if parameter not in filled]
    assert not missed, f"no initial value for {missed}"


def standard_deviations(model: nn.Module, config: ModelConfig) -> dict[nn.Module, float]:
    """The table above: the standard deviation of every Linear and Embedding of `model`."""
    fan_in = config.init == "fan_in"
    residual = {"scaled": (2 * config.num_layers) ** -0.5, "plain": 1.0, "zero": 0.0}[config.residual_init]
    stds: dict[nn.Module, float] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            stds[module] = module.in_features**-0.5 if fan_in else config.init_std
        elif isinstance(module, nn.Embedding):
            stds[module] = 1.0 if fan_in else config.init_std
    for module in model.modules():
        match module:
            case Attention():
                stds[module.out] *= residual
                if fan_in:
                    stds[module.q] *= module.head_dim**-0.5 / module.scale
            case FeedForward():
                stds[module.down] *= residual
            case InputEmbedding() if fan_in and module.scale is not None:
                stds[module.tokens] /= module.scale
            case T5RelativeBias() if fan_in:
                stds[module.table] = config.d_model**-0.5
    return stds


def _fill_normal(weight: Tensor, std: float, generator: torch.Generator | None) -> None:
    """Draw `weight` from N(0, std^2)."""
    if std == 0:
        weight.zero_()
    else:
        device = "cpu" if generator is None else generator.device
        weight.copy_(torch.empty(weight.shape, device=device).normal_(0.0, std, generator=generator))
