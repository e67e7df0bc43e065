"""GPT-2 under the names of Hugging Face's GPT2LMHeadModel (Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minillm.convert.rules import Rule, Rules
from minillm.nn.config import ModelConfig

_LAYER = "transformer.h.{i}"
_BLOCK = "decoder.blocks.{i}"


def _layer_rows(part: str) -> tuple[Rule, ...]:
    """Rows of one block for its weights or its biases."""
    attention = f"{_BLOCK}.attn.sublayer"
    return (
        Rule(f"{_LAYER}.ln_1.{part}", f"{_BLOCK}.attn.norm.{part}"),
        Rule(f"{_LAYER}.attn.c_attn.{part}", tuple(f"{attention}.{p}.{part}" for p in "qkv"), "split"),
        Rule(f"{_LAYER}.attn.c_proj.{part}", f"{attention}.out.{part}", "transpose"),
        Rule(f"{_LAYER}.ln_2.{part}", f"{_BLOCK}.ffn.norm.{part}"),
        Rule(f"{_LAYER}.mlp.c_fc.{part}", f"{_BLOCK}.ffn.sublayer.up.{part}", "transpose"),
        Rule(f"{_LAYER}.mlp.c_proj.{part}", f"{_BLOCK}.ffn.sublayer.down.{part}", "transpose"),
    )


GPT2_RULES = Rules(
    rows=(
        Rule("transformer.wte.weight", "embed.tokens.weight"),
        Rule("transformer.wpe.weight", "embed.position.table.weight"),
        *_layer_rows("weight"),
        *_layer_rows("bias"),
        Rule("transformer.ln_f.weight", "decoder.final_norm.weight"),
        Rule("transformer.ln_f.bias", "decoder.final_norm.bias"),
        Rule("lm_head.weight", "head.proj.weight", tied_to="transformer.wte.weight"),
    ),
    ignored=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),
)
"""Linear weights are stored (in, out) there, with queries, keys and values side by side."""

_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu", "tanh": "tanh"}


def import_config(foreign: Mapping[str, Any]) -> ModelConfig:
    """Our config of a GPT2Config's dictionary.

    Raises:
        ValueError: it asks for arithmetic that this model does not have.
    """
    activation = _ACTIVATIONS.get(foreign["activation_function"])
    if activation is None:
        raise ValueError(
            f"activation_function {foreign['activation_function']!r} is not one of {', '.join(_ACTIVATIONS)}"
        )
    for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if foreign.get(key):
            raise ValueError(f"{key} is true in this GPT-2 config; only false can be imported")
    return ModelConfig(
        preset="gpt2",
        vocab_size=foreign["vocab_size"],
        max_seq_len=foreign["n_positions"],
        d_model=foreign["n_embd"],
        num_layers=foreign["n_layer"],
        num_heads=foreign["n_head"],
        d_ff=foreign.get("n_inner"),
        norm_eps=foreign["layer_norm_epsilon"],
        activation=activation,  # type: ignore[arg-type]
        dropout=foreign["resid_pdrop"],
        attention_dropout=foreign["attn_pdrop"],
        ff_dropout=0.0,
        attention_scale=None if foreign.get("scale_attn_weights", True) else 1.0,
        tie_embeddings=foreign.get("tie_word_embeddings", True),
        init_std=foreign.get("initializer_range", 0.02),
    )
