"""BERT under the names of Hugging Face's BertForPreTraining, BertForMaskedLM without a pair head, or bare BertModel."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from minillm.exchange.weight_map import (
    CLASSIC_PARTS,
    Rule,
    WeightMap,
    activation_of,
    foreign_activation,
    read_settings,
    refuse_keys,
    require_parts,
)
from minillm.nn.config import ModelConfig

_LAYER = "bert.encoder.layer.{i}"
_BLOCK = "encoder.blocks.{i}"
_EMBEDDINGS = "bert.embeddings"
_HEAD = "cls.predictions"
_POOLER, _PAIR = "bert.pooler.dense", "cls.seq_relationship"

_CLASSES = {
    ("lm", "pair"): "BertForPreTraining",
    ("lm",): "BertForMaskedLM",
    (): "BertModel",
    ("pair",): "BertForNextSentencePrediction",
}
"""Our heads to the class that has them."""


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
    }
    return tuple(Rule(f"{foreign}.{part}", f"{ours}.{part}") for foreign, ours in names.items())


def bert_map(config: ModelConfig) -> WeightMap:
    """The table for a model of this config. Without a pair head, a file's pooler and pair scores are ignored."""
    pooled = next((head for head in ("pair", "pooler") if head in config.heads), None)
    present = {} if pooled is None else {_POOLER: f"heads.{pooled}.pooler"}
    present |= {_PAIR: "heads.pair.proj"} if "pair" in config.heads else {}
    word = f"{_EMBEDDINGS}.word_embeddings.weight"
    names = {f"{_HEAD}.transform.dense": "heads.lm.dense", f"{_HEAD}.transform.LayerNorm": "heads.lm.norm"}
    head = (
        *(Rule(f"{theirs}.{part}", f"{ours}.{part}") for theirs, ours in names.items() for part in ("weight", "bias")),
        Rule(f"{_HEAD}.bias", "heads.lm.proj.bias"),
        Rule(f"{_HEAD}.decoder.bias", "heads.lm.proj.bias", tied_to=f"{_HEAD}.bias"),
        Rule(f"{_HEAD}.decoder.weight", "heads.lm.proj.weight", tied_to=word if config.tie_embeddings else None),
    )
    return WeightMap(
        rows=(
            Rule(word, "embed.tokens.weight"),
            Rule(f"{_EMBEDDINGS}.position_embeddings.weight", "embed.position.table.weight"),
            Rule(f"{_EMBEDDINGS}.token_type_embeddings.weight", "embed.token_types.weight"),
            *_part_rows("weight"),
            *_part_rows("bias"),
            *(head if "lm" in config.heads else ()),
            *(
                Rule(f"{theirs}.{part}", f"{ours}.{part}")
                for theirs, ours in present.items()
                for part in ("weight", "bias")
            ),
        ),
        ignored=(
            r"bert\.embeddings\.position_ids",
            *(rf"{re.escape(name)}\.(weight|bias)" for name in (_POOLER, _PAIR) if name not in present),
        ),
    )


def modern_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published files' first names for a norm's weight and bias, gamma and beta, replaced by today's."""
    today = {"gamma": "weight", "beta": "bias"}
    return {re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda m: today[m[0]], key): w for key, w in weights.items()}


_KINDS: dict[type, tuple[str, ...]] = {
    int: (
        *("vocab_size", "max_position_embeddings", "hidden_size", "num_hidden_layers", "num_attention_heads"),
        *("intermediate_size", "type_vocab_size"),
    ),
    float: ("layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range"),
    bool: ("tie_word_embeddings",),
    str: ("hidden_act", "position_embedding_type"),
}
_DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 2,
}


def import_config(foreign: Mapping[str, Any], *, heads: tuple[str, ...] = ("lm", "pair")) -> ModelConfig:
    """Our config of a BertConfig's dictionary; it does not say which heads the file has.

    Raises:
        ValueError: it asks for arithmetic that this model does not have.
    """
    foreign = read_settings(foreign, _KINDS, _DEFAULTS)
    refuse_keys(foreign, "is_decoder", "add_cross_attention")
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
        activation=activation_of(foreign, "hidden_act"),
        dropout=foreign["hidden_dropout_prob"],
        attention_dropout=foreign["attention_probs_dropout_prob"],
        ff_dropout=0.0,
        tie_embeddings=foreign.get("tie_word_embeddings", True),
        num_token_types=foreign["type_vocab_size"],
        heads=heads,
        init_std=foreign.get("initializer_range", 0.02),
        residual_init="plain",
    )


def heads_of(names: Collection[str]) -> tuple[str, ...]:
    """Which heads a file has, by the names of its weights."""
    pair, pooler = f"{_PAIR}.weight" in names, f"{_POOLER}.weight" in names
    found = {"lm": f"{_HEAD}.bias" in names, "pair": pair, "pooler": pooler and not pair}
    return tuple(head for head, there in found.items() if there)


def export_config(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a BertConfig.

    Raises:
        ValueError: the model has parts that BERT lacks; the message names the first.
    """
    name = _CLASSES.get(tuple(sorted({*config.heads} - {"pooler"})))
    if name is None:
        raise ValueError(f"model.heads is {list(config.heads)}; no class of transformers has these together")
    require_parts(
        config,
        name,
        family="bert",
        **CLASSIC_PARTS,
        norm_order="post",
        input_norm=True,
        kv_heads=config.num_heads,
        head_width=config.d_model / config.num_heads,
        attention_scale=None,
    )
    if not config.num_token_types:
        raise ValueError(f"model.num_token_types is 0; {name} has segment embeddings: at least 1")
    return {
        "architectures": [name],
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_seq_len,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ff_width,
        "type_vocab_size": config.num_token_types,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": foreign_activation(config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_drop,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    }
