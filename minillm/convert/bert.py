"""BERT under the names of Hugging Face's BertForPreTraining, BertForMaskedLM without a pair head, or bare BertModel."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from minillm.convert.rules import (
    CLASSIC_PARTS,
    Rule,
    Rules,
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
_POOLER, _PAIR = ("bert.pooler.dense", "pair_head.pooler"), ("cls.seq_relationship", "pair_head.proj")


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


def bert_rules(config: ModelConfig) -> Rules:
    """The table for a model of this config. Without a pair head, a file's pooler and pair scores are ignored."""
    present = [_POOLER] * (config.pair_head or config.pooler) + [_PAIR] * config.pair_head
    word = f"{_EMBEDDINGS}.word_embeddings.weight"
    names = {f"{_HEAD}.transform.dense": "head.dense", f"{_HEAD}.transform.LayerNorm": "head.norm"}
    head = (
        *(Rule(f"{theirs}.{part}", f"{ours}.{part}") for theirs, ours in names.items() for part in ("weight", "bias")),
        Rule(f"{_HEAD}.bias", "head.proj.bias"),
        Rule(f"{_HEAD}.decoder.bias", "head.proj.bias", tied_to=f"{_HEAD}.bias"),
        Rule(f"{_HEAD}.decoder.weight", "head.proj.weight", tied_to=word if config.tie_embeddings else None),
    )
    return Rules(
        rows=(
            Rule(word, "embed.tokens.weight"),
            Rule(f"{_EMBEDDINGS}.position_embeddings.weight", "embed.position.table.weight"),
            Rule(f"{_EMBEDDINGS}.token_type_embeddings.weight", "embed.types.weight"),
            *_part_rows("weight"),
            *_part_rows("bias"),
            *(head if config.lm_head else ()),
            *(Rule(f"{theirs}.{part}", f"{ours}.{part}") for theirs, ours in present for part in ("weight", "bias")),
        ),
        ignored=(
            r"bert\.embeddings\.position_ids",
            *(rf"{re.escape(pair[0])}\.(weight|bias)" for pair in (_POOLER, _PAIR) if pair not in present),
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


def import_config(
    foreign: Mapping[str, Any], *, pair_head: bool = True, lm_head: bool = True, pooler: bool = False
) -> ModelConfig:
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
        num_segments=foreign["type_vocab_size"],
        lm_head=lm_head,
        pair_head=pair_head,
        pooler=pooler,
        init_std=foreign.get("initializer_range", 0.02),
        residual_init="plain",
    )


def heads_of(names: Collection[str]) -> dict[str, bool]:
    """Which heads a file has, by the names of its weights, as keywords of `import_config`."""
    pair = f"{_PAIR[0]}.weight" in names
    return {
        "pair_head": pair,
        "lm_head": f"{_HEAD}.bias" in names,
        "pooler": f"{_POOLER[0]}.weight" in names and not pair,
    }


def export_config(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a BertConfig.

    Raises:
        ValueError: the model has parts that BERT lacks; the message names the first.
    """
    heads = {(True, True): "BertForPreTraining", (True, False): "BertForMaskedLM", (False, False): "BertModel"}
    heads[False, True] = "BertForNextSentencePrediction"
    name = heads[config.lm_head, config.pair_head]
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
    if not config.num_segments:
        raise ValueError(f"model.num_segments is 0; {name} has segment embeddings: at least 1")
    return {
        "architectures": [name],
        "model_type": "bert",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_seq_len,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ff_width,
        "type_vocab_size": config.num_segments,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": foreign_activation(config.activation),
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_drop,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
    }
