"""BERT under the names of Hugging Face's BertForPreTraining, or BertForMaskedLM where there is no pair head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from minillm.convert.rules import Rule, Rules
from minillm.nn.config import ModelConfig

_LAYER = "bert.encoder.layer.{i}"
_BLOCK = "encoder.blocks.{i}"
_EMBEDDINGS = "bert.embeddings"
_HEAD = "cls.predictions"
_PAIR = {"bert.pooler.dense": "pair_head.pooler", "cls.seq_relationship": "pair_head.proj"}


def _part_rows(part: str) -> tuple[Rule, ...]:
    """Rows of everything but tables and heads, for its weights or its biases."""
    attention, feed_forward = f"{_BLOCK}.attn.sublayer", f"{_BLOCK}.ffn.sublayer"
    names = {
        f"{_EMBEDDINGS}.LayerNorm": "embed.norm",
        f"{_LAYER}.attention.self.query": f"{attention}.q",
        f"{_LAYER}.attention.self.key": f"{attention}.k",
        f"{_LAYER}.attention.self.value": f"{attention}.v",
        f"{_LAYER}.attention.output.dense": f"{attention}.out",
        f"{_LAYER}.attention.output.LayerNorm": f"{_BLOCK}.attn.norm",
        f"{_LAYER}.intermediate.dense": f"{feed_forward}.up",
        f"{_LAYER}.output.dense": f"{feed_forward}.down",
        f"{_LAYER}.output.LayerNorm": f"{_BLOCK}.ffn.norm",
        f"{_HEAD}.transform.dense": "head.dense",
        f"{_HEAD}.transform.LayerNorm": "head.norm",
    }
    return tuple(Rule(f"{foreign}.{part}", f"{ours}.{part}") for foreign, ours in names.items())


def bert_rules(config: ModelConfig) -> Rules:
    """The table for a model of this config. Without a pair head, a file's pooler and pair scores are ignored."""
    pair = [Rule(f"{foreign}.{p}", f"{ours}.{p}") for foreign, ours in _PAIR.items() for p in ("weight", "bias")]
    word = f"{_EMBEDDINGS}.word_embeddings.weight"
    return Rules(
        rows=(
            Rule(word, "embed.tokens.weight"),
            Rule(f"{_EMBEDDINGS}.position_embeddings.weight", "embed.position.table.weight"),
            Rule(f"{_EMBEDDINGS}.token_type_embeddings.weight", "embed.types.weight"),
            *_part_rows("weight"),
            *_part_rows("bias"),
            Rule(f"{_HEAD}.bias", "head.proj.bias"),
            Rule(f"{_HEAD}.decoder.bias", "head.proj.bias", tied_to=f"{_HEAD}.bias"),
            Rule(f"{_HEAD}.decoder.weight", "head.proj.weight", tied_to=word if config.tie_embeddings else None),
            *(pair if config.pair_head else ()),
        ),
        ignored=(
            r"bert\.embeddings\.position_ids",
            *(() if config.pair_head else (rf"{re.escape(foreign)}\.(weight|bias)" for foreign in _PAIR)),
        ),
    )


def modern_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published files' first names for a norm's weight and bias, gamma and beta, replaced by today's."""
    today = {"gamma": "weight", "beta": "bias"}
    return {re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda m: today[m[0]], key): w for key, w in weights.items()}


_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu", "silu": "silu"}


def import_config(foreign: Mapping[str, Any], *, pair_head: bool = True) -> ModelConfig:
    """Our config of a BertConfig's dictionary; it does not say whether the file has a pair head.

    Raises:
        ValueError: it asks for arithmetic that this model does not have.
    """
    activation = _ACTIVATIONS.get(foreign["hidden_act"])
    if activation is None:
        raise ValueError(f"hidden_act {foreign['hidden_act']!r} is not one of {', '.join(_ACTIVATIONS)}")
    for key in ("is_decoder", "add_cross_attention"):
        if foreign.get(key):
            raise ValueError(f"{key} is true in this BERT config; only false can be imported")
    positions = foreign.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ValueError(f"position_embedding_type is {positions!r}; only 'absolute' can be imported")
    return ModelConfig(
        preset="bert-base",
        family="bert",
        vocab_size=foreign["vocab_size"],
        max_seq_len=foreign["max_position_embeddings"],
        d_model=foreign["hidden_size"],
        num_layers=foreign["num_hidden_layers"],
        num_heads=foreign["num_attention_heads"],
        d_ff=foreign["intermediate_size"],
        norm_order="post",
        norm_eps=foreign["layer_norm_eps"],
        input_norm=True,
        activation=activation,  # type: ignore[arg-type]
        dropout=foreign["hidden_dropout_prob"],
        attention_dropout=foreign["attention_probs_dropout_prob"],
        ff_dropout=0.0,
        tie_embeddings=foreign.get("tie_word_embeddings", True),
        num_segments=foreign["type_vocab_size"],
        pair_head=pair_head,
        init_std=foreign.get("initializer_range", 0.02),
        residual_init="plain",
    )
