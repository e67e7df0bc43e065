"""Recorded attention weights are those with which the kernel summed the values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minillm.inspection.recorder import record_attention
from minillm.models.build import build_model
from minillm.nn.attention import Attention
from minillm.nn.config import ModelConfig

SHAPE: dict[str, Any] = {"vocab_size": 29, "d_model": 24, "num_layers": 3, "num_heads": 4, "max_seq_len": 20}
SCHEMES: dict[str, dict[str, Any]] = {
    "learned": {},
    "rotary, shared key heads": {"position": "rotary", "num_kv_heads": 2, "head_dim": 8, "qk_norm": True},
    "rotary, windows": {"position": "rotary", "window": 3, "layer_pattern": ("local", "full"), "head_dim": 8},
    "alibi": {"position": "alibi"},
    "encoder": {"family": "bert"},
    "t5": {"family": "t5", "position": "t5", "attention_scale": 1.0},
}


def model_of(**shape: Any) -> Any:
    model = build_model(ModelConfig(**{**SHAPE, "init_std": 0.4, **shape}))
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(29, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_weights_times_the_values_are_what_the_kernel_returned(scheme: str):
    model = model_of(**SCHEMES[scheme])
    layers = [module for module in model.modules() if isinstance(module, Attention)]
    seen: dict[Any, Tensor] = {}
    for layer in layers:
        layer.v.register_forward_hook(lambda module, _, result: seen.__setitem__(module, result))  # type: ignore[arg-type]
        layer.out.register_forward_pre_hook(lambda module, args: seen.__setitem__(module, args[0]))
    inputs = [ids(2, 11), ids(2, 7, seed=1)] if scheme == "t5" else [ids(2, 11)]
    maps = record_attention(model, *inputs)
    assert len(maps) == len(layers)
    order = {(m.stack, m.layer, m.cross): m.weights for m in maps}
    for name, layer in ((n, m) for n, m in model.named_modules() if isinstance(m, Attention)):
        stack, rest = name.split(".blocks.")
        weights = order[stack, int(rest[0]), ".cross." in name]
        values = seen[layer.v].unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)  # (B, G, S, K)
        values = values.repeat_interleave(weights.size(1) // values.size(1), 1)
        expected = seen[layer.out].unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)  # (B, H, T, K)
        assert torch.allclose(weights @ values, expected, atol=1e-6), name
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5)


def test_nothing_is_seen_that_a_query_may_not_attend_to():
    local, full, _ = record_attention(model_of(**SCHEMES["rotary, windows"]), ids(2, 11))
    assert (local.weights.triu(1) == 0).all() and (full.weights.triu(1) == 0).all()
    assert (local.weights.tril(-3) == 0).all() and (full.weights.tril(-3) > 0).any()


def test_a_padded_key_gets_no_weight_and_a_row_without_keys_none_at_all():
    valid = torch.ones(2, 11, dtype=torch.bool)
    valid[0, :4] = False
    for found in record_attention(model_of(), ids(2, 11), key_valid=valid):
        assert (found.weights[0, :, 4:, :4] == 0).all()
        assert torch.allclose(found.weights[0, :, 4:].sum(-1), torch.ones(4, 7), atol=1e-5)


def test_recording_leaves_no_trace_and_changes_no_output():
    model = model_of(dropout=0.5).train()
    before = model.eval()(ids(2, 11)).hidden
    model.train()
    record_attention(model, ids(2, 11))
    assert model.training and torch.equal(model.eval()(ids(2, 11)).hidden, before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_it_costs_nothing_when_it_is_not_asked_for():
    import subprocess
    import sys

    code = "import minillm, sys; minillm.train, minillm.load_run; print('minillm.inspection.recorder' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
