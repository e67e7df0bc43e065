"""Llama, Mistral, Qwen2 and Qwen3 under the names of Hugging Face's LlamaForCausalLM, MistralForCausalLM, and so on.

Mistral (Jiang et al. 2023) is Llama (Touvron et al. 2023) with local attention. Qwen2 (Yang et al. 2024) has biases on
queries, keys and values. Qwen3 (Yang et al. 2025) has normalized queries and keys instead. All of them use the same
parameter names; SmolLM2 is a Llama.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from minillm.exchange.hf_config import GPT_PARTS, HFConfig, layer_kinds_from_hf, require_settings, shortest_pattern
from minillm.exchange.task_heads import CLASSES, LLAMA, head_of, task_head, task_rows
from minillm.exchange.weight_map import Rule, WeightMap
from minillm.models.presets import preset
from minillm.nn.config import ModelConfig

_LAYER = "model.layers.{i}"
_BLOCK = "decoder.blocks.{i}"


def llama_map(config: ModelConfig) -> WeightMap:
    attention = {f"self_attn.{p}_proj": f"attn.sublayer.{p}" for p in "qkv"}
    out, norms = {"self_attn.o_proj": "attn.sublayer.out"}, {}
    if config.qk_norm:
        norms = {f"self_attn.{p}_norm": f"attn.sublayer.{p}_norm" for p in "qk"}
    norms |= {"input_layernorm": "attn.norm", "post_attention_layernorm": "ffn.norm"}
    feed_forward = {f"mlp.{p}_proj": f"ffn.sublayer.{p}" for p in ("gate", "up", "down")}
    biased = attention if config.biased_projections != "none" else {}
    biased = biased | (out if config.biased_projections == "all" else {}) | (feed_forward if config.bias else {})
    names = {f"{hf}.weight": f"{ours}.weight" for hf, ours in (attention | out | norms | feed_forward).items()}
    names |= {f"{hf}.bias": f"{ours}.bias" for hf, ours in biased.items()}
    tokens = "model.embed_tokens.weight"
    tied = tokens if config.tie_embeddings else None
    return WeightMap(
        rows=(
            Rule(tokens, "embed.tokens.weight"),
            *(Rule(f"{_LAYER}.{hf}", f"{_BLOCK}.{ours}") for hf, ours in names.items()),
            Rule("model.norm.weight", "decoder.final_norm.weight"),
            *([Rule("lm_head.weight", "heads.lm.proj.weight", tied_to=tied)] if "lm" in config.heads else []),
            *task_rows(config.heads, LLAMA),
        ),
        ignored=(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",),
    )


_CONFIG = HFConfig(
    names=dict(vocab_size="vocab_size", max_position_embeddings="max_seq_len", hidden_size="d_model")
    | dict(num_hidden_layers="num_layers", num_attention_heads="num_heads", num_key_value_heads="num_kv_heads")
    | dict(head_dim="head_dim", intermediate_size="d_ff", rms_norm_eps="norm_eps", hidden_act="activation")
    | dict(attention_dropout="attention_dropout", initializer_range="init_std", mlp_bias="bias")
    | dict(tie_word_embeddings="tie_embeddings"),
    defaults=dict(hidden_act="silu", rms_norm_eps=1e-6, num_key_value_heads=None, head_dim=None, mlp_bias=False)
    | dict(attention_dropout=0.0, initializer_range=0.02, tie_word_embeddings=False, rope_theta=10000.0),
    kinds={"rope_theta": float, "partial_rotary_factor": float, "attention_bias": bool, "use_sliding_window": bool}
    | {"sliding_window": int, "max_window_layers": int},
)


def config_from_hf(config: Mapping[str, Any], names: Collection[str] = ()) -> ModelConfig:
    """Our config from a Llama, Mistral, Qwen2 or Qwen3 config; ValueError for an unsupported feature."""
    kind = config["model_type"]
    defaults = {"sliding_window": 4096} if "sliding_window" not in config else {}  # null is off
    defaults |= {"head_dim": 128} if kind == "qwen3" else {}
    keys = replace(_CONFIG, defaults={**_CONFIG.defaults, **defaults})
    settings = keys.read(config, "add_cross_attention")
    rotary = _rotary_settings(settings)
    for part in (settings, rotary):
        if part.get("partial_rotary_factor") not in (None, 1.0):
            raise ValueError(f"partial_rotary_factor is {part['partial_rotary_factor']}; only 1 can be imported")
    attention = "all" if settings.get("attention_bias") else "none"
    task = head_of(config)
    heads = {"heads": (task,)} if task else {}
    return preset(
        "llama-small",
        **heads,
        qk_norm=kind == "qwen3",
        attention_bias="qkv" if kind == "qwen2" else attention,
        residual_init="plain",
        **_window_from_hf(settings),
        **_CONFIG.to_ours(settings),
        **_rotary_from_hf(rotary, settings),
    )


def _window_from_hf(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our pattern and window. All layers of a Mistral have the window; of a Qwen, those after `max_window_layers`."""
    kind, window, layers = settings["model_type"], settings.get("sliding_window"), settings["num_hidden_layers"]
    if window is None or kind == "llama" or (kind != "mistral" and not settings.get("use_sliding_window")):
        return {}
    first = 0 if kind == "mistral" else settings.get("max_window_layers", 28)
    kinds = layer_kinds_from_hf(settings.get("layer_types")) if kind != "mistral" else ()
    kinds = kinds or tuple("local" if i >= first else "full" for i in range(layers))
    return {"layer_pattern": shortest_pattern(kinds), "window": window} if "local" in kinds else {}


def _window_to_hf(config: ModelConfig, kind: str) -> dict[str, Any]:
    """The inverse; the class of a Mistral has no other keys."""
    if kind in ("llama", "mistral"):
        return {"sliding_window": config.window} if kind == "mistral" else {}
    kinds = config.layer_kinds
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": kinds.index("local") if "local" in kinds else len(kinds),
        "layer_types": ["sliding_attention" if kind == "local" else "full_attention" for kind in kinds],
    }


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a Llama, Mistral, Qwen2 or Qwen3 config; ValueError if none of them can hold the model."""
    parts = GPT_PARTS | {"norm": "rmsnorm", "gated": True, "position": "rotary", "attention_scale": None}
    parts |= {"first_norm": True, "local_rope_theta": None}
    require_settings(config, "LlamaForCausalLM", **parts)
    kind, biased = "llama", config.biased_projections
    if config.qk_norm:
        kind = "qwen3"
        require_settings(config, "Qwen3ForCausalLM", bias=False)
        if biased == "qkv":
            raise ValueError("model.attention_bias is 'qkv' with model.qk_norm; Qwen3ForCausalLM allows none or all")
    elif biased == "qkv":
        kind = "qwen2"
        require_settings(config, "Qwen2ForCausalLM", bias=False)
        if config.head_width * config.num_heads != config.d_model:
            raise ValueError("model.head_dim * model.num_heads is not model.d_model, as Qwen2ForCausalLM requires")
    elif config.window is not None:
        kind = "mistral"
        require_settings(config, "MistralForCausalLM", bias=False, biased_projections="none", layer_pattern=("local",))
    rotary = _rotary_to_hf(config)
    task = task_head(config.heads)
    return {
        "architectures": [kind.capitalize() + (CLASSES[task] if task else "ForCausalLM")],
        "model_type": kind,
        "attention_bias": biased == "all",
        **_CONFIG.to_hf(config),
        **_window_to_hf(config, kind),
        # transformers 4 reads the first two, transformers 5 the last
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling == "none" else rotary,
        "rope_parameters": rotary,
    }


_SCALING = {"factor": "rope_factor", "original_max_position_embeddings": "rope_original_len"}
_SCALING |= {"low_freq_factor": "rope_low_freq_factor", "high_freq_factor": "rope_high_freq_factor"}
_ROTARY = HFConfig(kinds={**dict.fromkeys(("rope_theta", *_SCALING), float), "rope_type": str, "type": str})


def _rotary_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Their rotary settings; the key depends on the version of transformers."""
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rotary, dict):
        raise ValueError(f"the rotary settings are {rotary!r}; expected an object")
    return _ROTARY.read(rotary)


def _rotary_from_hf(rotary: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"rotary scaling {kind!r} is not supported; use default, linear or llama3")
    theta = {"rope_theta": float(rotary.get("rope_theta", config["rope_theta"]))}
    if kind == "default":
        return theta
    scaling = {ours: rotary[hf] for hf, ours in _SCALING.items() if hf in rotary}
    return {**theta, **scaling, "rope_scaling": kind, "rope_factor": float(rotary["factor"])}


def _rotary_to_hf(config: ModelConfig) -> dict[str, Any]:
    kind = config.rope_scaling
    rotary: dict[str, Any] = {"rope_type": "default" if kind == "none" else kind, "rope_theta": config.rope_theta}
    num_keys = {"none": 0, "linear": 1, "llama3": 4}[kind]
    return rotary | {hf: getattr(config, ours) for hf, ours in list(_SCALING.items())[:num_keys]}
