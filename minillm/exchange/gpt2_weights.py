"""GPT-2 (Radford et al. 2019) under the names of Hugging Face's GPT2LMHeadModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minillm.exchange.weight_map import (
    CLASSIC_PARTS,
    Rule,
    WeightMap,
    activation_from_hf,
    activation_to_hf,
    read_settings,
    refuse_keys,
    require_settings,
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


_KINDS: dict[type, tuple[str, ...]] = {
    int: ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"),
    float: ("layer_norm_epsilon", "resid_pdrop", "embd_pdrop", "attn_pdrop", "initializer_range"),
    bool: ("scale_attn_weights", "tie_word_embeddings"),
    str: ("activation_function",),
}
_DEFAULTS: dict[str, Any] = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
}


def config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """Our config from a GPT2Config's dictionary.

    Raises:
        ValueError: it has a feature that is not supported here.
    """
    settings = read_settings(config, _KINDS, _DEFAULTS)
    refuse_keys(settings, "scale_attn_by_inverse_layer_idx", "add_cross_attention")
    return ModelConfig(
        preset="gpt2",
        vocab_size=settings["vocab_size"],
        max_seq_len=settings["n_positions"],
        d_model=settings["n_embd"],
        num_layers=settings["n_layer"],
        num_heads=settings["n_head"],
        d_ff=settings.get("n_inner"),
        norm_eps=settings["layer_norm_epsilon"],
        activation=activation_from_hf(settings, "activation_function"),
        dropout=settings["resid_pdrop"],
        attention_dropout=settings["attn_pdrop"],
        ff_dropout=0.0,
        attention_scale=None if settings.get("scale_attn_weights", True) else 1.0,
        tie_embeddings=settings.get("tie_word_embeddings", True),
        init_std=settings.get("initializer_range", 0.02),
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
        "vocab_size": config.vocab_size,
        "n_positions": config.max_seq_len,
        "n_embd": config.d_model,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.ff_width,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": activation_to_hf(config.activation),
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_drop,
        "scale_attn_weights": config.attention_scale is None,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    }
