"""The model of a loaded run in the form that generates fastest on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from minillm.data.cache import cache_folder
from minillm.inference.decoder import FastDecoder, supports
from minillm.inference.graph import GraphDecoder, supports_graphs
from minillm.inference.measure import COPIED_BYTES, choose_plan, linear_names, linear_weights, seconds
from minillm.inference.products import Plan, Products
from minillm.nn.kernels.quantized import QuantizedWeight
from minillm.training import precision

DecodingDtype = Literal["auto", "fp32", "bf16"]
PLANS = "decoding.json"
"""File in the cache folder with the plans that were measured."""
SMALL = 1_000_000
"""Models with fewer weights in products are not measured: the time between the products decides."""
GRAPHS = ", CUDA graphs"
"""End of the line that describes a decoder with recorded steps."""

SLOTS = 64
"""Texts in one batch; more would gain little, because products of so many rows are limited by arithmetic."""


@torch.inference_mode()
def step_seconds(decoder: Any) -> float:
    """Duration of one decoding step."""
    token = torch.zeros(1, 1, dtype=torch.long, device=next(decoder.parameters()).device)
    cache, _ = decoder.start(token, max_len=8)
    return seconds(lambda: decoder.step(token, cache))


def make_decoder(
    model: Any,
    compute: precision.Compute,
    quantized: Mapping[str, QuantizedWeight],
    *,
    dtype: str = "auto",
    cache: str | None = None,
) -> tuple[Any, str]:
    """A decoder with the weights of `model`, and one line that describes it.

    `quantized` has the weights of 8 and 4 bits by name, `cache` is the configured cache folder. ValueError for a dtype
    that this device cannot compute in.
    """
    if compute.device.type != "cpu":
        chosen = compute if dtype == "auto" else replace(compute, dtype=precision.choose_dtype(dtype, compute.device))
        return _on_accelerator(model, chosen)
    fast = model.writes == "continuation" and supports(model.config)
    plan = _plan(model, quantized, dtype, only_plain=not fast, cache=cache)
    if fast:
        decoder = FastDecoder(model, Products(plan, linear_names(model), quantized))
        if quantized and plan.packed:
            bits = min(weight.bits for weight in quantized.values())
            return decoder, f"decoding: weights of {bits} bits, packed products"
        return decoder, f"decoding: {plan.describe()}"
    chosen = replace(compute, dtype=plan.dtype)
    return precision.for_decoding(model, chosen), f"decoding: {chosen.precision} weights"


def _on_accelerator(model: Any, compute: precision.Compute) -> tuple[Any, str]:
    """As `make_decoder`, for an accelerator: with CUDA graphs if the device and the model support them."""
    plain, line = precision.for_decoding(model, compute), f"decoding: {compute.precision}"
    small = sum(p.numel() * p.element_size() for p in plain.parameters()) <= COPIED_BYTES
    recordable = compute.device.type == "cuda" and model.writes == "continuation" and supports_graphs(model.config)
    if not (recordable and small):
        return plain, line
    try:
        return GraphDecoder(model, plain, compute.dtype), line + GRAPHS
    except Exception as error:  # drivers and versions of torch fail in many ways; the plain model works without graphs
        return plain, f"{line}; CUDA graphs are off: {str(error).partition(chr(10))[0] or type(error).__name__}"


def _plan(
    model: Any, quantized: Mapping[str, QuantizedWeight], dtype: str, *, only_plain: bool, cache: str | None
) -> Plan:
    weights = linear_weights(model)
    if dtype == "auto" and sum(weight.numel() for weight in weights.values()) < SMALL:
        return Plan(dtype=torch.float32)
    return choose_plan(weights, quantized, dtype=dtype, only_plain=only_plain, cache=cache_folder(cache) / PLANS)
