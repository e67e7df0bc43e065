"""ModernBERT (Warner et al. 2024) under Hugging Face's names: ModernBertForMaskedLM or ModernBertModel."""

from collections.abc import Collection, Mapping
from typing import Any

from minillm.exchange.hf_config import HFConfig, layer_kinds_from_hf, require_settings, shortest_pattern
from minillm.exchange.weight_map import Rule, WeightMap
from minillm.models.presets import preset
from minillm.nn.config import ModelConfig

_LAYER = "model.layers.{i}"
_BLOCK = "encoder.blocks.{i}"
_FULL, _LOCAL = "full_attention", "sliding_attention"
_THETA = {_FULL: 160_000.0, _LOCAL: 10_000.0}
"""Rotary bases of a config without them."""
_PATTERN_KEY = "global_attn_every_n_layers"


def modernbert_map(config: ModelConfig) -> WeightMap:
    """The table. Queries, keys and values are one matrix there, and so are the gate and the values that it gates."""
    attention, feed_forward, tokens = f"{_BLOCK}.attn", f"{_BLOCK}.ffn", "model.embeddings.tok_embeddings.weight"
    norms = {"model.embeddings.norm": "embed.norm", "model.final_norm": "encoder.final_norm"}
    norms |= {f"{_LAYER}.mlp_norm": f"{feed_forward}.norm"}
    # the first layer has no norm
    norms |= {f"model.layers.{i}.attn_norm": f"encoder.blocks.{i}.attn.norm" for i in range(1, config.num_layers)}
    norms |= {"head.norm": "heads.lm.norm"} if "lm" in config.heads else {}
    linears = {f"{_LAYER}.attn.Wo": f"{attention}.sublayer.out", f"{_LAYER}.mlp.Wo": f"{feed_forward}.sublayer.down"}
    parts = ["weight", *(["bias"] if config.bias else [])]
    head = (
        *(Rule(f"head.dense.{p}", f"heads.lm.dense.{p}") for p in ["weight", *(["bias"] if config.head_bias else [])]),
        Rule("decoder.bias", "heads.lm.proj.bias"),
        Rule("decoder.weight", "heads.lm.proj.weight", tied_to=tokens if config.tie_embeddings else None),
    )
    return WeightMap(
        rows=(
            Rule(tokens, "embed.tokens.weight"),
            *(
                Rule(f"{hf}.{part}", f"{ours}.{part}")
                for hf, ours in norms.items()
                for part in ["weight", *(["bias"] if config.norm_bias else [])]
            ),
            *(Rule(f"{hf}.{part}", f"{ours}.{part}") for hf, ours in linears.items() for part in parts),
            *(
                Rule(f"{_LAYER}.attn.Wqkv.{part}", tuple(f"{attention}.sublayer.{p}.{part}" for p in "qkv"), "stack")
                for part in parts
            ),
            *(
                Rule(f"{_LAYER}.mlp.Wi.{p}", tuple(f"{feed_forward}.sublayer.{w}.{p}" for w in ("gate", "up")), "stack")
                for p in parts
            ),
            *(head if "lm" in config.heads else ()),
        )
    )


_CONFIG = HFConfig(
    names=dict(vocab_size="vocab_size", max_position_embeddings="max_seq_len", hidden_size="d_model")
    | dict(num_hidden_layers="num_layers", num_attention_heads="num_heads", intermediate_size="d_ff")
    | dict(norm_eps="norm_eps", norm_bias="norm_bias", hidden_activation="activation", mlp_bias="bias")
    | dict(embedding_dropout="dropout", attention_dropout="attention_dropout", mlp_dropout="ff_dropout")
    | dict(classifier_bias="head_bias", initializer_range="init_std", tie_word_embeddings="tie_embeddings"),
    defaults=dict(max_position_embeddings=8192, norm_eps=1e-5, norm_bias=False, hidden_activation="gelu")
    | dict(mlp_bias=False, embedding_dropout=0.0, attention_dropout=0.0, mlp_dropout=0.0, classifier_bias=False)
    | dict(initializer_range=0.02, tie_word_embeddings=True, attention_bias=False, decoder_bias=True)
    | dict(classifier_activation="gelu", local_attention=128, global_attn_every_n_layers=3),
    kinds=dict(local_attention=int, global_attn_every_n_layers=int, classifier_activation=str, decoder_bias=bool)
    | dict(attention_bias=bool, global_rope_theta=float, local_rope_theta=float),
)


def config_from_hf(config: Mapping[str, Any], names: Collection[str] | None = None) -> ModelConfig:
    """Our config from a ModernBertConfig's dictionary; ValueError for an unsupported feature.

    The `names` of the weights determine whether there is a vocabulary head; None: there is.
    """
    settings = _CONFIG.read(config)
    for key, wanted in {"attention_bias": settings["mlp_bias"], "decoder_bias": True}.items():
        if settings[key] != wanted:
            raise ValueError(f"{key} is {settings[key]}; only {wanted} can be imported here")
    if settings["classifier_activation"] != settings["hidden_activation"]:
        raise ValueError("classifier_activation differs from hidden_activation, which cannot be imported")
    every = settings[_PATTERN_KEY]
    kinds = layer_kinds_from_hf(config.get("layer_types"))
    kinds = kinds or tuple("local" if i % every else "full" for i in range(settings["num_hidden_layers"]))
    local = "local" in kinds
    return preset(
        "modernbert-base",
        heads=("lm",) if names is None or "decoder.bias" in names else (),
        rope_theta=_theta(config, _FULL, "global_rope_theta"),
        local_rope_theta=_theta(config, _LOCAL, "local_rope_theta") if local else None,
        layer_pattern=shortest_pattern(kinds),
        window=settings["local_attention"] // 2 + 1 if local else None,
        **_CONFIG.to_ours(settings),
    )


def _theta(config: Mapping[str, Any], kind: str, early: str) -> float:
    """The rotary base of a kind of layer; before transformers 5 its key was `early`."""
    rotary = (config.get("rope_parameters") or {}).get(kind) or {}
    if (scaling := rotary.get("rope_type", "default")) != "default" or config.get("rope_scaling"):
        raise ValueError(f"rotary scaling {scaling!r} of {kind} cannot be imported")
    return float(rotary.get("rope_theta", config.get(early) or _THETA[kind]))


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a ModernBertConfig; ValueError listing what ModernBERT cannot hold."""
    name = {("lm",): "ModernBertForMaskedLM", (): "ModernBertModel"}.get(config.heads)
    if name is None:
        raise ValueError(f"model.heads is {list(config.heads)}; a ModernBERT can be exported with lm or no head")
    parts = {"norm": "layernorm", "norm_order": "pre", "input_norm": True, "first_norm": False, "gated": True}
    parts |= {"position": "rotary", "rope_scaling": "none", "qk_norm": False, "num_token_types": 0}
    parts |= dict.fromkeys(("attention_scale", "embed_scale", "head_scale", "logit_softcap"), None)
    parts |= {"kv_heads": config.num_heads, "head_width": config.d_model / config.num_heads}
    parts |= {"biased_projections": "all" if config.bias else "none"}
    require_settings(config, name, **parts)
    every = _period(config.layer_kinds)
    thetas = {_FULL: config.rope_theta, _LOCAL: config.local_rope_theta or config.rope_theta}
    return {
        "architectures": [name],
        "model_type": "modernbert",
        **_CONFIG.to_hf(config),
        # without a tokenizer's ids, not the published ones
        **dict.fromkeys(f"{role}_token_id" for role in ("bos", "eos", "pad", "cls", "sep")),
        "attention_bias": config.bias,
        "decoder_bias": True,
        "classifier_activation": _CONFIG.to_hf(config)["hidden_activation"],
        "local_attention": 2 * (config.window - 1) if config.window else 128,
        # transformers 4 reads the first three, transformers 5 the others
        _PATTERN_KEY: every,
        "global_rope_theta": thetas[_FULL],
        "local_rope_theta": thetas[_LOCAL],
        "layer_types": [_FULL if kind == "full" else _LOCAL for kind in config.layer_kinds],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
    }


def _period(kinds: tuple[str, ...]) -> int:
    """n if every n-th layer, beginning with the first, is full and the others are local; else ValueError."""
    for every in range(1, len(kinds) + 1):
        if kinds == tuple("local" if i % every else "full" for i in range(len(kinds))):
            return every
    raise ValueError(
        f"model.layer_pattern makes layers {list(kinds)}; in a ModernBERT the first and every n-th layer is full"
    )
