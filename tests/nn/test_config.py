from typing import Any

import pytest

from minillm.nn.config import ModelConfig


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": ("lm", "pair")}, r"model\.heads is \['lm', 'pair'\]; a gpt model has"),
        ({"heads": ("lm", "pair"), "family": "t5"}, r"model\.heads is \['lm', 'pair'\]; a t5 model has"),
        ({"num_token_types": 2, "family": "t5"}, r"model\.num_token_types is 2, but a t5 model reads no token types"),
        ({"position": "t5", "relative_buckets": 6}, r"model\.relative_buckets is 6; it must be a multiple of 4"),
        ({"position": "t5", "relative_buckets": 0}, r"model\.relative_buckets is 0"),
        ({"init_std": -1.0}, r"model\.init_std is -1\.0; it must be at least 0"),
        ({"num_token_types": -1}, r"model\.num_token_types is -1; it must be at least 0"),
        ({"norm_eps": -1e-5}, r"model\.norm_eps is -1e-05; it must be above 0"),
        ({"rope_theta": 0.0}, r"model\.rope_theta is 0\.0; it must be above 0"),
        ({"logit_softcap": 0.0}, r"model\.logit_softcap is 0\.0; it must be above 0"),
        ({"attention_scale": 0.0}, r"model\.attention_scale is 0\.0; it must be above 0"),
        ({"layer_pattern": ("near",)}, r"model\.layer_pattern is \['near'\]; it must list full and local layers"),
        ({"layer_pattern": ("local",)}, r"model\.layer_pattern has local layers; set model\.window"),
        ({"window": 4}, r"model\.window has no effect without local layers"),
        (
            {"position": "rotary", "local_rope_theta": 5.0},
            r"model\.local_rope_theta has no effect without local layers",
        ),
        ({"position": "t5", "relative_max_distance": 16}, r"model\.relative_max_distance is 16; it must be above 16"),
    ],
)
def test_unsupported_settings_raise_naming_the_key(wrong: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"heads": ("lm", "pair"), "family": "bert"},
        {"num_token_types": 2, "family": "gpt"},
        {"position": "rotary", "relative_buckets": 0},
        {"position": "t5", "relative_buckets": 4, "relative_max_distance": 3},
    ],
)
def test_supported_settings_are_accepted(right: dict[str, Any]):
    ModelConfig(**right)


def test_too_long_inputs_raise():
    config = ModelConfig(max_seq_len=7)
    config.require_length(7)
    with pytest.raises(ValueError, match=r"8 tokens are more than model\.max_seq_len 7"):
        config.require_length(8)
