"""Counts of parameters, arithmetic and memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from minillm.models.build import build_model
from minillm.models.presets import PRESETS, preset
from minillm.models.profile import count_parameters, profile
from minillm.nn.config import ModelConfig
from minillm.nn.families import FAMILIES

TINY = ModelConfig(vocab_size=11, max_seq_len=6, d_model=8, num_layers=2, num_heads=4)


def test_gpt2_has_its_published_size_part_by_part():
    counted = profile(preset("gpt2"))
    assert counted.total == 124_439_808
    assert counted.parameters == {
        "embeddings": 50257 * 768 + 1024 * 768,  # the tied head is the token table
        "attention": 12 * 4 * (768 * 768 + 768),
        "feed_forward": 12 * (2 * 768 * 3072 + 3072 + 768),
        "norms": (12 * 2 + 1) * 2 * 768,
        "head": 0,
    }
    assert counted.kv_bytes_per_token == 2 * 12 * 768 * 4
    assert counted.training_bytes == 16 * 124_439_808


def test_flops_follow_palms_formula():
    counted = profile(preset("gpt2"))
    products = 12 * (4 * 768 * 768 + 2 * 768 * 3072) + 50257 * 768
    assert counted.flops_per_token == 6 * products + 12 * 12 * 768 * 1024


def test_grouped_query_attention_shrinks_the_cache():
    assert profile(replace(TINY, num_kv_heads=1)).kv_bytes_per_token * 4 == profile(TINY).kv_bytes_per_token


def test_the_cache_grows_with_decoder_tokens_only():
    kept = profile(TINY).kv_bytes_per_token
    assert profile(replace(TINY, family="bert")).kv_bytes_per_token == 0
    assert profile(replace(TINY, family="t5")).kv_bytes_per_token == kept


def test_an_untied_head_is_counted_as_the_head():
    tied, untied = profile(TINY), profile(replace(TINY, tie_embeddings=False))
    assert (tied.parameters["head"], untied.parameters["head"]) == (0, 11 * 8)
    assert tied.flops_per_token == untied.flops_per_token


@pytest.mark.parametrize("name", [name for name in PRESETS if preset(name).num_layers <= 12])
def test_the_parts_of_every_preset_add_up(name: str):
    shape = preset(name) if "vocab_size" in PRESETS[name] else preset(name, vocab_size=300)
    if FAMILIES[shape.family].features:
        shape = replace(shape, input_shape=shape.input_shape or (3,))
    with torch.device("meta"):
        model = build_model(shape)
    assert sum(count_parameters(model).values()) == sum(p.numel() for p in model.parameters())


def test_a_config_without_vocab_size_raises():
    with pytest.raises(ValueError, match=r"model\.vocab_size"):
        profile(ModelConfig())
