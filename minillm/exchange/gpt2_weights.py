"""GPT-2 (Radford et al. 2019) under the names of Hugging Face's GPT2LMHeadModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minillm.exchange.weight_map import (
    CLASSIC_PARTS,
    Key,
    Rule,
    WeightMap,
    activation_from_hf,
    activation_to_hf,
    read_settings,
    refuse_keys,
    require_settings,
    values_from_hf,
    values_to_hf,
)
from minillm.nn.config import ModelConfig

_LAYER = "transformer.h.{i}"
_BLOCK = "decoder.blocks.{i}"


def _layer_rows(part: str) -> tuple[Rule, ...]:
    """Rows of one block's weights or of its biases."""
    attention = f"{_BLOCK}.attn.sublayer"
    return (
        Rule(f"{_LAYER}.ln_1.{part}", f"{_BLOCK}.attn.norm.{part}"),
        Rule(f"{_LAYER}.attn.c_attn.{part}", tuple(f"{attention}.{p}.{part}" for p in "qkv"), "split"),
        Rule(f"{_LAYER}.attn.c_proj.{part}", f"{attention}.out.{part}", "transpose"),
        Rule(f"{_LAYER}.ln_2.{part}", f"{_BLOCK}.ffn.norm.{part}"),
        Rule(f"{_LAYER}.mlp.c_fc.{part}", f"{_BLOCK}.ffn.sublayer.up.{part}", "transpose"),
        Rule(f"{_LAYER}.mlp.c_proj.{part}", f"{_BLOCK}.ffn.sublayer.down.{part}", "transpose"),
    )


def gpt2_map(config: ModelConfig) -> WeightMap:
    """The table. They store linear weights as (in, out), and queries, keys and values in one matrix."""
    tokens = "transformer.wte.weight"
    return WeightMap(
        rows=(
            Rule(tokens, "embed.tokens.weight"),
            Rule("transformer.wpe.weight", "embed.position.table.weight"),
            *_layer_rows("weight"),
            *_layer_rows("bias"),
            Rule("transformer.ln_f.weight", "decoder.final_norm.weight"),
            Rule("transformer.ln_f.bias", "decoder.final_norm.bias"),
            Rule("lm_head.weight", "heads.lm.proj.weight", tied_to=tokens if config.tie_embeddings else None),
        ),
        ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
    )


_KEYS = {
    "vocab_size": Key("vocab_size"),
    "n_positions": Key("max_seq_len"),
    "n_embd": Key("d_model"),
    "n_layer": Key("num_layers"),
    "n_head": Key("num_heads"),
    "n_inner": Key("d_ff"),
    "layer_norm_epsilon": Key("norm_eps", float),
    "resid_pdrop": Key("dropout", float),
    "attn_pdrop": Key("attention_dropout", float),
    "initializer_range": Key("init_std", float),
    "tie_word_embeddings": Key("tie_embeddings", bool),
    "embd_pdrop": Key(None, float),
    "scale_attn_weights": Key(None, bool),
    "activation_function": Key(None, str),
}
_DEFAULTS: dict[str, Any] = {
    **{"n_inner": None, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": True},
    **{"resid_pdrop": 0.1, "attn_pdrop": 0.1, "initializer_range": 0.02, "tie_word_embeddings": True},
}


def config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """Our config from a GPT2Config's dictionary.

    Raises:
        ValueError: it has a feature that is not supported here.
    """
    settings = read_settings(config, _KEYS, _DEFAULTS)
    refuse_keys(settings, "scale_attn_by_inverse_layer_idx", "add_cross_attention")
    return ModelConfig(
        preset="gpt2",
        activation=activation_from_hf(settings, "activation_function"),
        ff_dropout=0.0,
        attention_scale=None if settings["scale_attn_weights"] else 1.0,
        **values_from_hf(settings, _KEYS),
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a GPT2Config.

    Raises:
        ValueError: GPT2LMHeadModel cannot hold the model; the message lists every key that differs.
    """
    require_settings(
        config,
        "GPT2LMHeadModel",
        family="gpt",
        **CLASSIC_PARTS,
        norm_order="pre",
        input_norm=False,
        kv_heads=config.num_heads,
        head_width=config.d_model / config.num_heads,
        num_token_types=0,
    )
    if config.attention_scale not in (None, 1.0):
        raise ValueError(f"model.attention_scale is {config.attention_scale}; GPT2LMHeadModel allows none or 1")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activation_to_hf(config.activation),
        "embd_pdrop": config.dropout,
        "scale_attn_weights": config.attention_scale is None,
        **values_to_hf(config, _KEYS),
    }
