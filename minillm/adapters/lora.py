"""LoRA: low-rank adaptation of linear layers (Hu et al. 2021).

A frozen weight W (out, in) gets a trained change, scale * B A, with A (rank, in) and B (out, rank). B starts at zero,
so training starts at the unchanged model. A starts uniform in +-1 / sqrt(in), as in the authors' code and in PEFT; the
paper's text says normal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.adapters.config import AdapterConfig, matches


class LoRALinear(nn.Linear):
    """x W^T + b + scale * drop(x) A^T B^T; a linear layer whose weight and bias keep their names."""

    def __init__(self, linear: nn.Linear, config: AdapterConfig) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        like: dict[str, Any] = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.lora_a = nn.Parameter(torch.empty(config.rank, self.in_features, **like))
        self.lora_b = nn.Parameter(torch.empty(self.out_features, config.rank, **like))
        self.scale, self.dropout = config.scale, config.dropout
        self.enabled = True

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in) -> (..., out)."""
        y = F.linear(input, self.weight, self.bias)
        if not self.enabled:
            return y
        x = F.dropout(input, self.dropout) if self.training and self.dropout else input
        return y + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def merged_weight(self) -> Tensor:
        """(out, in) W + scale * B A, computed in fp32."""
        change = self.scale * self.lora_b.float() @ self.lora_a.float()
        return (self.weight.float() + change).to(self.weight.dtype)


def add_adapter(model: nn.Module, config: AdapterConfig, *, pretrained: Collection[str]) -> None:
    """Replace the targeted linear layers by LoRALinear, in place, and freeze all that is not trained.

    Trained are the adapter, parameters that `config.train` matches, and what is new: parameters that are not in
    `pretrained`, the names of the base's weights, and all of a head of which a part is new. The model may be on the
    meta device; `init_adapter` fills the adapter. ValueError if a pattern matches nothing.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    parameters = [name for name, _ in model.named_parameters()]
    _require_matches("targets", config.targets, list(layers))
    _require_matches("train", config.train, parameters)
    heads = {_head(name) for name in parameters if _head(name) and name not in pretrained}
    for name, parameter in model.named_parameters():
        new = name not in pretrained or _head(name) in heads
        parameter.requires_grad_(new or matches(name, config.train))
    for name, layer in layers.items():
        if matches(name, config.targets) and _head(name) not in heads:
            model.set_submodule(name, LoRALinear(layer, config))


def _head(name: str) -> str:
    """The output head that a parameter or module belongs to, such as heads.class; "" for none."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "heads" else ""


def _require_matches(key: str, patterns: tuple[str, ...], names: list[str]) -> None:
    for pattern in patterns:
        if not any(matches(name, (pattern,)) for name in names):
            known = ", ".join(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
            raise ValueError(f"adapter.{key} has {pattern!r}, which matches none of: {known}")


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """Name and module of each adapted layer."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


@torch.no_grad()
def init_adapter(model: nn.Module, generator: torch.Generator) -> None:
    """Fill A with random numbers and B with zeros, so that the adapter changes nothing yet."""
    for _, layer in lora_layers(model):
        bound = layer.in_features**-0.5
        draws = torch.empty(layer.lora_a.shape, device=generator.device).uniform_(-bound, bound, generator=generator)
        layer.lora_a.copy_(draws)
        layer.lora_b.zero_()


@torch.no_grad()
def merge_adapter(model: Any) -> None:
    """Add each change to its weight and make the layers plain again, in place.

    An adapted vocabulary head that was tied to the token table becomes a weight of its own, because the change is not
    one of the embeddings; then `tie_embeddings` of the model's config becomes false.
    """
    for name, layer in list(lora_layers(model)):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        plain.weight, plain.bias = nn.Parameter(layer.merged_weight()), layer.bias
        model.set_submodule(name, plain)
    model.requires_grad_(True)
    if model.config.tie_embeddings and "lm" in model.heads:
        tied = model.heads["lm"].get_submodule("proj").weight is model.embed.tokens.weight
        model.config = replace(model.config, tie_embeddings=tied)


def adapter_names(model: nn.Module) -> set[str]:
    """Names of the parameters of the adapter."""
    return {f"{name}.{part}" for name, _ in lora_layers(model) for part in ("lora_a", "lora_b")}


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """Context in which the model computes what its base does."""
    layers = [layer for _, layer in lora_layers(model)]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True
