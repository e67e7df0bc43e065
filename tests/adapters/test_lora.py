"""Low-rank adapters: what is computed, what is trained, and what merging gives."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from minillm.adapters.config import AdapterConfig, matches
from minillm.adapters.lora import (
    LoRALinear,
    adapter_names,
    add_adapter,
    init_adapter,
    lora_layers,
    merge_adapter,
    without_adapter,
)
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.training.checkpoint import weights

SHAPE: dict[str, Any] = {"vocab_size": 23, "max_seq_len": 12, "d_model": 16, "num_layers": 2, "num_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt": {},
    "llama": {"norm": "rmsnorm", "gated": True, "position": "rotary", "bias": False, "num_kv_heads": 1},
    "bert": {"family": "bert", "norm_order": "post", "num_token_types": 2},
    "t5": {"family": "t5", "position": "t5", "bias": False},
}
LORA = AdapterConfig(name="lora", rank=3, alpha=5.0)


def made(family: str = "gpt", **shape: Any) -> Any:
    model = build_model(ModelConfig(**{**SHAPE, **FAMILIES[family], **shape}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def adapted(model: Any, config: AdapterConfig = LORA, *, new: tuple[str, ...] = (), noise: float = 0.3) -> Any:
    """The model with an adapter that changes something."""
    add_adapter(model, config, pretrained={name for name in weights(model) if not name.startswith(new or ("-",))})
    init_adapter(model, torch.Generator().manual_seed(2))
    draws = torch.Generator().manual_seed(3)
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.lora_b, std=noise, generator=draws)
    return model


def outputs(model: Any) -> dict[str, torch.Tensor]:
    tokens = torch.randint(0, 23, (3, 9), generator=torch.Generator().manual_seed(4))
    more = (tokens.flip(1),) if model.writes == "answer" else ()
    return model.eval()(tokens, *more).logits


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_adapter_changes_nothing_and_a_trained_one_equals_its_merged_weights(family: str):
    model = made(family)
    plain = outputs(model)["lm"]
    torch.testing.assert_close(outputs(adapted(copy.deepcopy(model), noise=0.0))["lm"], plain, rtol=0, atol=0)
    changed = adapted(model)
    found = outputs(changed)["lm"]
    assert (found - plain).abs().max() > 0.02
    with without_adapter(changed):
        assert torch.equal(outputs(changed)["lm"], plain)
    merge_adapter(changed)
    assert not any(isinstance(module, LoRALinear) for module in changed.modules())
    torch.testing.assert_close(outputs(changed)["lm"], found, rtol=1e-5, atol=1e-5)


def test_the_change_is_scaled_by_alpha_over_rank_or_over_its_root():
    layer, x = nn.Linear(5, 7), torch.randn(4, 5)
    for stabilized, scale in ((False, 6 / 4), (True, 6 / 2)):
        config = AdapterConfig(name="lora", rank=4, alpha=6.0, rank_stabilized=stabilized)
        lora = LoRALinear(layer, config)
        nn.init.normal_(lora.lora_a), nn.init.normal_(lora.lora_b)
        expected = layer(x).double() + scale * x.double() @ lora.lora_a.double().T @ lora.lora_b.double().T
        torch.testing.assert_close(lora(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_weights_get_no_gradient(family: str):
    model = adapted(made(family))
    outputs(model.train())["lm"].square().sum().backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    assert names == adapter_names(model) == set(weights(model))
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.grad is not None)


def test_targets_name_layers_by_the_end_of_their_names_and_blocks_by_default():
    every = {f"decoder.blocks.{i}.{part}" for i in range(2) for part in ("ffn.sublayer.up", "ffn.sublayer.down")}
    every |= {f"decoder.blocks.{i}.attn.sublayer.{part}" for i in range(2) for part in ("q", "k", "v", "out")}
    assert {name for name, _ in lora_layers(adapted(made()))} == every
    some = adapted(made(), AdapterConfig(name="lora", targets=("q", "blocks.1.ffn")))
    expected = {"decoder.blocks.0.attn.sublayer.q", "decoder.blocks.1.attn.sublayer.q"}
    expected |= {"decoder.blocks.1.ffn.sublayer.up", "decoder.blocks.1.ffn.sublayer.down"}
    assert {name for name, _ in lora_layers(some)} == expected


def test_a_pattern_matches_whole_parts_of_a_name():
    name = "decoder.blocks.10.attn.sublayer.q"
    fitting = ("q", "sublayer.q", "blocks.10", "blocks.1*.attn", "decoder", "blocks.*.q", name)
    assert all(matches(name, (pattern,)) for pattern in fitting)
    assert not any(matches(name, (pattern,)) for pattern in ("blocks.1", "layer.q", "q.weight", "ffn", "decoder.q"))


def test_a_pattern_that_matches_nothing_is_refused_with_the_names_that_exist():
    for key in ("targets", "train"):
        with pytest.raises(ValueError, match=rf"adapter.{key} has 'query', which matches none of: .*attn\.sublayer\.q"):
            adapted(made(), replace(LORA, **{key: ("query",)}))


def test_new_heads_and_chosen_parameters_are_trained_in_full():
    model = made("gpt", heads=("lm", "class:3"))
    config = AdapterConfig(name="lora", targets=("q", "heads"), train=("final_norm",))
    adapted(model, config, new=("heads.class",))
    trained = {name for name, p in model.named_parameters() if p.requires_grad} - adapter_names(model)
    assert trained == {"heads.class.proj.weight", "decoder.final_norm.weight", "decoder.final_norm.bias"}
    assert "heads.class.proj" not in dict(lora_layers(model)), "a new head needs no adapter"


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_merging_an_adapted_head_that_is_tied_leaves_the_token_table_alone(family: str):
    """PEFT's issue 2018: the change of the head must not become one of the embeddings."""
    model = adapted(made(family), AdapterConfig(name="lora", targets=("heads.lm.proj",)))
    table, found = model.embed.tokens.weight.detach().clone(), outputs(model)["lm"]
    merge_adapter(model)
    assert torch.equal(model.embed.tokens.weight, table) and not model.config.tie_embeddings
    torch.testing.assert_close(outputs(model)["lm"], found, rtol=1e-5, atol=1e-5)
    twin = build_model(model.config)
    twin.load_state_dict(model.state_dict())
    assert torch.equal(outputs(twin)["lm"], outputs(model)["lm"])
    untouched = adapted(made(family))
    merge_adapter(untouched)
    assert untouched.config.tie_embeddings
    assert untouched.heads["lm"].proj.weight is untouched.embed.tokens.weight


def test_a_model_in_bf16_is_merged_in_fp32():
    """PEFT's issue 1388: adding up in bf16 loses most of a small change."""
    layer = LoRALinear(nn.Linear(64, 64).bfloat16(), AdapterConfig(name="lora", rank=4, alpha=4.0))
    nn.init.normal_(layer.lora_a), nn.init.normal_(layer.lora_b, std=0.01)
    exact = layer.weight.double() + layer.lora_b.double() @ layer.lora_a.double()
    assert torch.equal(layer.merged_weight(), exact.float().bfloat16())


def test_dropout_acts_on_the_change_alone_and_only_in_training():
    layer, x = nn.Linear(5, 7), torch.randn(4, 5)
    lora = LoRALinear(layer, AdapterConfig(name="lora", dropout=0.5))
    nn.init.normal_(lora.lora_a), nn.init.zeros_(lora.lora_b)
    assert torch.equal(lora.train()(x), layer(x))
    nn.init.normal_(lora.lora_b)
    assert not torch.equal(lora(x), lora(x)) and torch.equal(lora.eval()(x), lora(x))
