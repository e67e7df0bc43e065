"""RoBERTa (Liu et al. 2019) and DistilBERT (Sanh et al. 2019) under Hugging Face's names, from the table of BERT.

RoBERTa has one segment, and its positions begin after the id of the padding token; architectures.py shifts its table.
DistilBERT has no segments, and a vocabulary head like BERT's. The task heads of both are like BERT's, except that the
class head of DistilBERT has a ReLU instead of tanh.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from minillm.exchange import bert_weights as bert
from minillm.exchange.hf_config import CLASSIC_PARTS, HFConfig, require_settings
from minillm.exchange.task_heads import CLASSES, ROBERTA, head_of, task_head
from minillm.exchange.weight_map import WeightMap
from minillm.models.presets import preset
from minillm.nn.config import ModelConfig

POSITIONS = "roberta.embeddings.position_embeddings.weight"
_HEAD, _LAYER = "cls.predictions", "bert.encoder.layer.{i}"
_ROBERTA = {
    "bert.": "roberta.",
    f"{_HEAD}.transform.dense": "lm_head.dense",
    f"{_HEAD}.transform.LayerNorm": "lm_head.layer_norm",
    f"{_HEAD}.": "lm_head.",
}
_BLOCK = "distilbert.transformer.layer.{i}"
_DISTILBERT = {
    "bert.": "distilbert.",
    **{f"{_LAYER}.attention.self.{name}": f"{_BLOCK}.attention.{name[0]}_lin" for name in ("query", "key", "value")},
    f"{_LAYER}.attention.output.dense": f"{_BLOCK}.attention.out_lin",
    f"{_LAYER}.attention.output.LayerNorm": f"{_BLOCK}.sa_layer_norm",
    f"{_LAYER}.intermediate.dense": f"{_BLOCK}.ffn.lin1",
    f"{_LAYER}.output.dense": f"{_BLOCK}.ffn.lin2",
    f"{_LAYER}.output.LayerNorm": f"{_BLOCK}.output_layer_norm",
    f"{_HEAD}.transform.dense": "vocab_transform",
    f"{_HEAD}.transform.LayerNorm": "vocab_layer_norm",
    f"{_HEAD}.bias": "vocab_projector.bias",
    f"{_HEAD}.decoder": "vocab_projector",
}


def roberta_map(config: ModelConfig) -> WeightMap:
    pooler = () if "pooler" in config.heads else (r"roberta\.pooler\.dense\.(weight|bias)",)
    ignored = (r"roberta\.embeddings\.position_ids", *pooler)
    return replace(bert.bert_map(config, ROBERTA).renamed(_ROBERTA), ignored=ignored)


def distilbert_map(config: ModelConfig) -> WeightMap:
    table = bert.bert_map(config)
    rows = tuple(row for row in table.rows if row.hf != f"{_HEAD}.decoder.bias")  # there it is the bias itself
    return replace(WeightMap(rows).renamed(_DISTILBERT), ignored=(r"distilbert\.embeddings\.position_ids",))


_ROBERTA_CONFIG = HFConfig(
    names=bert.CONFIG.names,
    defaults={**bert.CONFIG.defaults, "pad_token_id": 1},
    kinds={**bert.CONFIG.kinds, "pad_token_id": int},
)
_DISTILBERT_CONFIG = HFConfig(
    names=dict(vocab_size="vocab_size", max_position_embeddings="max_seq_len", dim="d_model", n_layers="num_layers")
    | dict(n_heads="num_heads", hidden_dim="d_ff", activation="activation", dropout="dropout")
    | dict(attention_dropout="attention_dropout", initializer_range="init_std", tie_word_embeddings="tie_embeddings"),
    defaults=dict(max_position_embeddings=512, activation="gelu", dropout=0.1, attention_dropout=0.1)
    | dict(initializer_range=0.02, tie_word_embeddings=True),
)


def roberta_config_from_hf(config: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """Our config from a RobertaConfig's dictionary; ValueError for an unsupported feature."""
    settings = _ROBERTA_CONFIG.read(config, "is_decoder", "add_cross_attention")
    if (positions := settings["position_embedding_type"]) != "absolute":
        raise ValueError(f"position_embedding_type is {positions!r}; only 'absolute' can be imported")
    values = _ROBERTA_CONFIG.to_ours(settings)
    values["max_seq_len"] -= settings["pad_token_id"] + 1
    present = {"lm": "lm_head.dense.weight" in names, "pooler": "roberta.pooler.dense.weight" in names}
    task = bert.imported_head(config, settings)
    heads = (task,) if task else ("lm",) if present["lm"] else ("pooler",) * present["pooler"]
    return preset("bert-base", heads=heads, **values)


def roberta_config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a RobertaConfig; ValueError listing what RoBERTa cannot hold."""
    task = task_head(config.heads)
    name = f"Roberta{CLASSES[task]}" if task else "RobertaForMaskedLM" if "lm" in config.heads else "RobertaModel"
    _require(config, name, num_token_types=1, **{"activation": "gelu"} if "lm" in config.heads else {})
    settings = {"architectures": [name], "model_type": "roberta", "position_embedding_type": "absolute"}
    return settings | _ROBERTA_CONFIG.to_hf(config)


def distilbert_config_from_hf(config: Mapping[str, Any], names: Collection[str]) -> ModelConfig:
    """Our config from a DistilBertConfig's dictionary. `sinusoidal_pos_embds` only says how the table began."""
    task = head_of(config)
    if task and task.startswith("class"):
        raise ValueError(
            "DistilBertForSequenceClassification has a ReLU between the layers of its head, which minillm does not "
            "support; to import the encoder alone, save it as a DistilBertModel"
        )
    heads = (task,) if task else ("lm",) if "vocab_transform.weight" in names else ()
    return preset(
        "bert-base", heads=heads, num_token_types=0, **_DISTILBERT_CONFIG.to_ours(_DISTILBERT_CONFIG.read(config))
    )


def distilbert_config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a DistilBertConfig; ValueError listing what DistilBERT cannot hold."""
    task = task_head(config.heads)
    if task == "class":
        raise ValueError(
            "model.num_token_types is 0, as in a DistilBERT, whose class head has a ReLU where this model has tanh; "
            "only encoders with token types can be exported with a class head"
        )
    name = f"DistilBert{CLASSES[task]}" if task else f"DistilBert{'ForMaskedLM' if 'lm' in config.heads else 'Model'}"
    _require(config, name, num_token_types=0, norm_eps=1e-12)
    settings = {"architectures": [name], "model_type": "distilbert", "sinusoidal_pos_embds": False}
    settings |= {"qa_dropout": 0.0} if task == "span" else {}  # our head has no dropout; their default is 0.1
    return settings | _DISTILBERT_CONFIG.to_hf(config)


def _require(config: ModelConfig, name: str, **more: object) -> None:
    """ValueError for a setting that the class `name` cannot hold."""
    parts = {"family": "bert", "norm_order": "post", "input_norm": True, "attention_scale": None}
    parts |= {"kv_heads": config.num_heads, "head_width": config.d_model / config.num_heads}
    require_settings(config, name, **parts | CLASSIC_PARTS | more)
