"""GPT-2 (Radford et al. 2019) under the names of Hugging Face's GPT2LMHeadModel."""

from collections.abc import Collection, Mapping
from typing import Any

from minillm.exchange.hf_config import CLASSIC_PARTS, GPT_PARTS, HFConfig, require_settings
from minillm.exchange.task_heads import CLASSES, GPT2, head_of, task_head, task_rows
from minillm.exchange.weight_map import Rule, WeightMap
from minillm.models.presets import preset
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
    """The table. Their linear weights are (in, out), with queries, keys and values in one matrix."""
    tokens = "transformer.wte.weight"
    tied = tokens if config.tie_embeddings else None
    return WeightMap(
        rows=(
            Rule(tokens, "embed.tokens.weight"),
            Rule("transformer.wpe.weight", "embed.position.table.weight"),
            *_layer_rows("weight"),
            *_layer_rows("bias"),
            Rule("transformer.ln_f.weight", "decoder.final_norm.weight"),
            Rule("transformer.ln_f.bias", "decoder.final_norm.bias"),
            *([Rule("lm_head.weight", "heads.lm.proj.weight", tied_to=tied)] if "lm" in config.heads else []),
            *task_rows(config.heads, GPT2),
        ),
        ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
    )


_CONFIG = HFConfig(
    names=dict(vocab_size="vocab_size", n_positions="max_seq_len", n_embd="d_model", n_layer="num_layers")
    | dict(n_head="num_heads", n_inner="d_ff", layer_norm_epsilon="norm_eps", activation_function="activation")
    | dict(resid_pdrop="dropout", attn_pdrop="attention_dropout", initializer_range="init_std")
    | dict(tie_word_embeddings="tie_embeddings"),
    defaults=dict(n_inner=None, activation_function="gelu_new", layer_norm_epsilon=1e-5, scale_attn_weights=True)
    | dict(resid_pdrop=0.1, attn_pdrop=0.1, initializer_range=0.02, tie_word_embeddings=True),
    kinds={"embd_pdrop": float, "scale_attn_weights": bool},
)


def config_from_hf(config: Mapping[str, Any], names: Collection[str] = ()) -> ModelConfig:
    """Our config from a GPT2Config's dictionary; ValueError for an unsupported feature."""
    settings = _CONFIG.read(config, "scale_attn_by_inverse_layer_idx", "add_cross_attention")
    scale = None if settings["scale_attn_weights"] else 1.0
    task = head_of(config)
    heads = {"heads": (task,)} if task else {}
    return preset("gpt2", attention_scale=scale, **heads, **_CONFIG.to_ours(settings))


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a GPT2Config; ValueError listing what GPT2LMHeadModel cannot hold."""
    heads = {"kv_heads": config.num_heads, "head_width": config.d_model / config.num_heads}
    require_settings(config, "GPT2LMHeadModel", **CLASSIC_PARTS | GPT_PARTS | heads)
    if config.attention_scale not in (None, 1.0):
        raise ValueError(f"model.attention_scale is {config.attention_scale}; GPT2LMHeadModel allows none or 1")
    return {
        "architectures": [f"GPT2{CLASSES[task]}" if (task := task_head(config.heads)) else "GPT2LMHeadModel"],
        "model_type": "gpt2",
        "embd_pdrop": config.dropout,
        "scale_attn_weights": config.attention_scale is None,
        **_CONFIG.to_hf(config),
    }
