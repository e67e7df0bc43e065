"""BERT (Devlin et al. 2019) under Hugging Face's names: BertForPreTraining, BertForMaskedLM, BertModel, and for tasks
BertForSequenceClassification, BertForTokenClassification and BertForQuestionAnswering.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from minillm.exchange.hf_config import CLASSIC_PARTS, HFConfig, require_settings
from minillm.exchange.task_heads import BERT, CLASSES, TaskNames, head_of, task_head, task_rows
from minillm.exchange.weight_map import Rule, WeightMap
from minillm.models.presets import preset
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
"""Our heads -> the class that has them."""


def _part_rows(part: str) -> tuple[Rule, ...]:
    """Rows of the weights or of the biases, without embedding tables and heads."""
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
    return tuple(Rule(f"{hf}.{part}", f"{ours}.{part}") for hf, ours in names.items())


def bert_map(config: ModelConfig, task_names: TaskNames = BERT) -> WeightMap:
    """The table for a model. Without a pair head, a file's pooler and pair head are ignored."""
    pooled = next((head for head in ("pair", "pooler") if head in config.heads), None)
    present = {} if pooled is None else {_POOLER: f"heads.{pooled}.pooler"}
    present |= {_PAIR: "heads.pair.proj"} if "pair" in config.heads else {}
    task = task_rows(config.heads, task_names)
    used = {*present, *(row.hf.rpartition(".")[0] for row in task)}
    segments = int(config.num_token_types > 0)
    word = f"{_EMBEDDINGS}.word_embeddings.weight"
    names = {f"{_HEAD}.transform.dense": "heads.lm.dense", f"{_HEAD}.transform.LayerNorm": "heads.lm.norm"}
    head = (
        *(Rule(f"{hf}.{part}", f"{ours}.{part}") for hf, ours in names.items() for part in ("weight", "bias")),
        Rule(f"{_HEAD}.bias", "heads.lm.proj.bias"),
        Rule(f"{_HEAD}.decoder.bias", "heads.lm.proj.bias", tied_to=f"{_HEAD}.bias"),
        Rule(f"{_HEAD}.decoder.weight", "heads.lm.proj.weight", tied_to=word if config.tie_embeddings else None),
    )
    return WeightMap(
        rows=(
            Rule(word, "embed.tokens.weight"),
            Rule(f"{_EMBEDDINGS}.position_embeddings.weight", "embed.position.table.weight"),
            *([Rule(f"{_EMBEDDINGS}.token_type_embeddings.weight", "embed.token_types.weight")] * segments),
            *_part_rows("weight"),
            *_part_rows("bias"),
            *(head if "lm" in config.heads else ()),
            *(Rule(f"{hf}.{part}", f"{ours}.{part}") for hf, ours in present.items() for part in ("weight", "bias")),
            *task,
        ),
        ignored=(
            r"bert\.embeddings\.position_ids",
            *(rf"{re.escape(name)}\.(weight|bias)" for name in (_POOLER, _PAIR) if name not in used),
        ),
    )


def modern_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames gamma and beta, as in the first published files, to weight and bias."""
    today = {"gamma": "weight", "beta": "bias"}
    return {re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda m: today[m[0]], key): w for key, w in weights.items()}


CONFIG = HFConfig(
    names=dict(vocab_size="vocab_size", max_position_embeddings="max_seq_len", hidden_size="d_model")
    | dict(num_hidden_layers="num_layers", num_attention_heads="num_heads", intermediate_size="d_ff")
    | dict(type_vocab_size="num_token_types", layer_norm_eps="norm_eps", hidden_act="activation")
    | dict(hidden_dropout_prob="dropout", attention_probs_dropout_prob="attention_dropout")
    | dict(initializer_range="init_std", tie_word_embeddings="tie_embeddings"),
    defaults=dict(hidden_act="gelu", layer_norm_eps=1e-12, position_embedding_type="absolute", type_vocab_size=2)
    | dict(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, initializer_range=0.02)
    | dict(tie_word_embeddings=True),
    kinds={"position_embedding_type": str},
)


def config_from_hf(config: Mapping[str, Any], names: Collection[str] | None = None) -> ModelConfig:
    """Our config from a BertConfig's dictionary; ValueError for an unsupported feature.

    The `names` of the weights determine the heads; None: lm and pair.
    """
    settings = CONFIG.read(config, "is_decoder", "add_cross_attention")
    if (positions := settings["position_embedding_type"]) != "absolute":
        raise ValueError(f"position_embedding_type is {positions!r}; only 'absolute' can be imported")
    task = imported_head(config, settings)
    heads = (task,) if task else ("lm", "pair") if names is None else _heads_of(names)
    return preset("bert-base", heads=heads, **CONFIG.to_ours(settings))


def imported_head(config: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """As `head_of`; ValueError for a dropout before the head that differs from that of the layers."""
    if (dropout := config.get("classifier_dropout")) not in (None, settings["hidden_dropout_prob"]):
        raise ValueError(f"classifier_dropout is {dropout}; only null or hidden_dropout_prob can be imported")
    return head_of(config)


def _heads_of(names: Collection[str]) -> tuple[str, ...]:
    pair, pooler = f"{_PAIR}.weight" in names, f"{_POOLER}.weight" in names
    present = {"lm": f"{_HEAD}.bias" in names, "pair": pair, "pooler": pooler and not pair}
    return tuple(head for head in present if present[head])


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a BertConfig; ValueError listing what BERT cannot hold."""
    task = task_head(config.heads)
    name = f"Bert{CLASSES[task]}" if task else _CLASSES.get(tuple(sorted({*config.heads} - {"pooler"})))
    if name is None:
        raise ValueError(f"model.heads is {list(config.heads)}; no transformers class has this combination")
    parts = {"family": "bert", "norm_order": "post", "input_norm": True, "attention_scale": None}
    parts |= {"kv_heads": config.num_heads, "head_width": config.d_model / config.num_heads}
    require_settings(config, name, **parts | CLASSIC_PARTS)
    if not config.num_token_types:
        raise ValueError(f"model.num_token_types is 0; {name} needs at least 1")
    settings = {"architectures": [name], "model_type": "bert", "position_embedding_type": "absolute"}
    return settings | CONFIG.to_hf(config)
