"""Parameters, arithmetic and memory of a model, computed on the meta device without allocating it.

The formula is that of PaLM (Chowdhery et al. 2022, appendix B): 6 N + 12 L H K T floating-point operations per token,
forward and backward. N counts the weights in matrix products, including the vocabulary head but not embedding tables.
The second term is for the two matrix products of attention over a context of T tokens, causal or not. For an
encoder-decoder, "per token" means per pair of a source token and a target token.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from minillm.models.build import build_model
from minillm.nn.attention import Attention
from minillm.nn.block import Block, Stack
from minillm.nn.config import ModelConfig
from minillm.nn.feedforward import FeedForward

BYTES_FP32 = 4


@dataclass(frozen=True)
class Profile:
    """The cost of a model. A weight shared by two parts is counted in the first one."""

    parameters: dict[str, int]
    """Parameters of embeddings, attention, feed_forward, norms and head."""
    total: int
    """Number of parameters."""
    flops_per_token: int
    """Forward and backward, for a context of max_seq_len tokens."""
    kv_bytes_per_token: int
    """Bytes of KV cache per decoder token in fp32; half as many in bf16. 0 for an encoder, which has no cache."""
    training_bytes: int
    """Weights, gradients and AdamW's two moments in fp32, 16 bytes per trained parameter and 4 per frozen one, without
    activations."""
    trained: int
    """Number of parameters that are not frozen."""


def training_bytes(total: int, trained: int) -> int:
    """As `Profile.training_bytes`, for `total` parameters of which `trained` are not frozen."""
    return BYTES_FP32 * (total + 3 * trained)


def profile(config: ModelConfig, adapt: Callable[[nn.Module], None] | None = None) -> Profile:
    """The cost of a model, after `adapt`, which may add an adapter; ValueError without vocab_size.

    A frozen weight needs no gradient of its own, so its products cost 4 operations per token instead of 6.
    """
    with torch.device("meta"):
        model = build_model(config)
        if adapt is not None:
            adapt(model)
    parameters = count_parameters(model)
    total = sum(parameters.values())
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    matrices = [
        p for m in model.modules() if isinstance(m, nn.Linear) for p in m.parameters(recurse=False) if p.ndim > 1
    ]
    products = sum((6 if p.requires_grad else 4) * p.numel() for p in matrices)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    attended = sum(module.q.out_features for module in attentions)  # L H K
    decoders = [module for module in model.modules() if isinstance(module, Stack) and module.causal]
    blocks = [module for decoder in decoders for module in decoder.modules() if isinstance(module, Block)]
    cached = [module for block in blocks for module in block.attn.modules() if isinstance(module, Attention)]
    return Profile(
        parameters=parameters,
        total=total,
        flops_per_token=products + 12 * attended * config.max_seq_len,
        kv_bytes_per_token=BYTES_FP32 * sum(m.k.out_features + m.v.out_features for m in cached),
        training_bytes=training_bytes(total, trained),
        trained=trained,
    )


def count_operations(config: ModelConfig) -> dict[str, int]:
    """`flops_per_token` by part: attention, feed_forward, head, and scores, the two products of attention itself."""
    with torch.device("meta"):
        model = build_model(config)
    weights = {m.weight for m in model.modules() if isinstance(m, nn.Linear)}
    counted = count_parameters(model, weights)
    counted["head"] += counted.pop("embeddings")  # a tied head is counted where the table is
    found = {part: 6 * number for part, number in counted.items() if number}
    return found | {"scores": profile(config).flops_per_token - sum(found.values())}


def count_parameters(model: nn.Module, only: Collection[Any] | None = None) -> dict[str, int]:
    """Parameters per part: the part of the innermost enclosing module in `kinds`, else "head". `only` None: of all."""
    kinds: dict[str, Any] = {"embeddings": nn.Embedding, "attention": Attention, "feed_forward": FeedForward}
    kinds["norms"] = (nn.LayerNorm, nn.RMSNorm)
    counts, owners = dict.fromkeys([*kinds, "head"], 0), dict(model.named_modules())
    for name, parameter in model.named_parameters():
        part = "head"
        while name and part == "head":
            name = name.rpartition(".")[0]
            part = next((part for part, kind in kinds.items() if isinstance(owners[name], kind)), "head")
        if only is None or parameter in only:
            counts[part] += parameter.numel()
    return counts
