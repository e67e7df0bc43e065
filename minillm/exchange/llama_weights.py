"""Llama's shape under the names of Hugging Face's LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM.

Llama (Touvron et al. 2023), of which SmolLM2 is one; Qwen2 (Yang et al. 2024) adds biases to queries, keys and values,
Qwen3 (Yang et al. 2025) normalised queries and keys instead. The three name their weights alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minillm.exchange.weight_map import (
    Rule,
    WeightMap,
    activation_of,
    foreign_activation,
    read_settings,
    refuse_keys,
    require_parts,
)
from minillm.nn.config import ModelConfig

_LAYER = "model.layers.{i}"
_BLOCK = "decoder.blocks.{i}"


def llama_map(config: ModelConfig) -> WeightMap:
    """The table for a model of this config."""
    attention = {f"self_attn.{p}_proj": f"attn.sublayer.{p}" for p in "qkv"}
    out, norms = {"self_attn.o_proj": "attn.sublayer.out"}, {}
    if config.qk_norm:
        norms = {f"self_attn.{p}_norm": f"attn.sublayer.{p}_norm" for p in "qk"}
    norms |= {"input_layernorm": "attn.norm", "post_attention_layernorm": "ffn.norm"}
    feed_forward = {f"mlp.{p}_proj": f"ffn.sublayer.{p}" for p in ("gate", "up", "down")}
    biased = attention if config.biased_projections != "none" else {}
    biased = biased | (out if config.biased_projections == "all" else {}) | (feed_forward if config.bias else {})
    names = {f"{theirs}.weight": f"{ours}.weight" for theirs, ours in (attention | out | norms | feed_forward).items()}
    names |= {f"{theirs}.bias": f"{ours}.bias" for theirs, ours in biased.items()}
    tokens = "model.embed_tokens.weight"
    return WeightMap(
        rows=(
            Rule(tokens, "embed.tokens.weight"),
            *(Rule(f"{_LAYER}.{theirs}", f"{_BLOCK}.{ours}") for theirs, ours in names.items()),
            Rule("model.norm.weight", "decoder.final_norm.weight"),
            Rule("lm_head.weight", "heads.lm.proj.weight", tied_to=tokens if config.tie_embeddings else None),
        ),
        ignored=(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    )


_KINDS: dict[type, tuple[str, ...]] = {
    int: (
        *("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "intermediate_size"),
    ),
    float: ("rms_norm_eps", "attention_dropout", "initializer_range", "rope_theta", "partial_rotary_factor"),
    bool: ("attention_bias", "mlp_bias", "tie_word_embeddings", "use_sliding_window"),
    str: ("hidden_act",),
}
_DEFAULTS: dict[str, Any] = {"hidden_act": "silu", "rms_norm_eps": 1e-6}


def import_config(foreign: Mapping[str, Any]) -> ModelConfig:
    """Our config of a LlamaConfig's, Qwen2Config's or Qwen3Config's dictionary.

    Raises:
        ValueError: it asks for arithmetic that this model does not have.
    """
    kind = foreign["model_type"]
    defaults = {"sliding_window": 4096} if kind == "mistral" and "sliding_window" not in foreign else {}
    foreign = read_settings(foreign, _KINDS, _DEFAULTS | defaults)
    refuse_keys(foreign, "use_sliding_window", "add_cross_attention")
    if kind == "mistral":
        refuse_keys(foreign, "sliding_window")
    rotary = _settings_of_rotary(foreign)
    for part in (foreign, rotary):
        if part.get("partial_rotary_factor") not in (None, 1.0):
            raise ValueError(f"partial_rotary_factor is {part['partial_rotary_factor']}; only 1 can be imported")
    attention = "all" if foreign.get("attention_bias") else "none"
    return ModelConfig(
        preset="llama-small",
        vocab_size=foreign["vocab_size"],
        max_seq_len=foreign["max_position_embeddings"],
        d_model=foreign["hidden_size"],
        num_layers=foreign["num_hidden_layers"],
        num_heads=foreign["num_attention_heads"],
        num_kv_heads=foreign.get("num_key_value_heads"),
        head_dim=foreign.get("head_dim") or (128 if kind == "qwen3" else None),
        d_ff=foreign["intermediate_size"],
        norm="rmsnorm",
        norm_eps=foreign["rms_norm_eps"],
        activation=activation_of(foreign, "hidden_act"),
        gated=True,
        position="rotary",
        qk_norm=kind == "qwen3",
        bias=bool(foreign.get("mlp_bias")),
        attention_bias="qkv" if kind == "qwen2" else attention,
        attention_dropout=foreign.get("attention_dropout", 0.0),
        tie_embeddings=foreign.get("tie_word_embeddings", False),
        init_std=foreign.get("initializer_range", 0.02),
        residual_init="plain",
        **_rotary(rotary, foreign),
    )


def export_config(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a LlamaConfig, Qwen2Config or Qwen3Config.

    Raises:
        ValueError: the model has parts that none of the three has; the message names the first.
    """
    require_parts(
        config,
        "LlamaForCausalLM",
        family="gpt",
        norm="rmsnorm",
        norm_order="pre",
        input_norm=False,
        gated=True,
        position="rotary",
        embed_scale=None,
        head_scale=None,
        attention_scale=None,
        logit_softcap=None,
        ngram_order=1,
        num_token_types=0,
    )
    kind, biased = "llama", config.biased_projections
    if config.qk_norm:
        kind = "qwen3"
        require_parts(config, "Qwen3ForCausalLM", bias=False)
        if biased == "qkv":
            raise ValueError("model.attention_bias is 'qkv' beside model.qk_norm; Qwen3ForCausalLM has none or all")
    elif biased == "qkv":
        kind = "qwen2"
        require_parts(config, "Qwen2ForCausalLM", bias=False)
        if config.head_width * config.num_heads != config.d_model:
            raise ValueError("model.head_dim times model.num_heads is not model.d_model, as Qwen2ForCausalLM has it")
    rotary = _foreign_rotary(config)
    return {
        "architectures": [{"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind] + "ForCausalLM"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_seq_len,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.ff_width,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": foreign_activation(config.activation),
        "attention_bias": biased == "all",
        "mlp_bias": config.bias,
        "attention_dropout": config.attention_drop,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "use_sliding_window": False,
        # transformers 4 reads the first two, 5 the last
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling == "none" else rotary,
        "rope_parameters": rotary,
    }


_SCALING = {
    "factor": "rope_factor",
    "original_max_position_embeddings": "rope_original_len",
    "low_freq_factor": "rope_low_freq_factor",
    "high_freq_factor": "rope_high_freq_factor",
}


def _settings_of_rotary(foreign: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings, which the library has written under two keys."""
    found = foreign.get("rope_parameters") or foreign.get("rope_scaling") or {}
    if not isinstance(found, dict):
        raise ValueError(f"the rotary settings are {found!r}; an object is expected")
    return read_settings(found, {float: ("rope_theta", *_SCALING), str: ("rope_type", "type")}, {})


def _rotary(scaling: Mapping[str, Any], foreign: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary keys of our config."""
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"rotary scaling {kind!r} is not supported; only default, linear and llama3 can be imported")
    found: dict[str, Any] = {"rope_theta": float(scaling.get("rope_theta", foreign.get("rope_theta", 10000.0)))}
    if kind == "default":
        return found
    found |= {ours: scaling[theirs] for theirs, ours in _SCALING.items() if theirs in scaling}
    return {**found, "rope_scaling": kind, "rope_factor": float(scaling["factor"])}


def _foreign_rotary(config: ModelConfig) -> dict[str, Any]:
    """The inverse of `_rotary`."""
    kind = config.rope_scaling
    found: dict[str, Any] = {"rope_type": "default" if kind == "none" else kind, "rope_theta": config.rope_theta}
    names = {"none": 0, "linear": 1, "llama3": 4}[kind]
    return found | {theirs: getattr(config, ours) for theirs, ours in list(_SCALING.items())[:names]}
