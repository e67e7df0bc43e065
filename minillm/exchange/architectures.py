"""The model families that can be imported and exported, one row each."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from minillm.exchange import bert_weights as bert
from minillm.exchange import gpt2_weights as gpt2
from minillm.exchange import llama_weights as llama
from minillm.exchange import modernbert_weights as modernbert
from minillm.exchange import roberta_weights as roberta
from minillm.exchange import t5_weights as t5
from minillm.exchange.crosscheck import Outputs, decoder_outputs, encoder_decoder_outputs, encoder_outputs
from minillm.exchange.task_heads import CLASSES
from minillm.exchange.task_heads import NAMES as TASK_NAMES
from minillm.exchange.weight_map import WeightMap, weights_from_hf, weights_to_hf
from minillm.nn.config import ModelConfig


class Family(NamedTuple):
    """Everything that differs between families. The defaults are those of a decoder."""

    model_types: tuple[str, ...]
    """Values of `model_type` in config.json."""
    prefix: str
    """Prefix of all parameter names except the heads'. Files of models without heads leave it out."""
    config_from_hf: Callable[[Mapping[str, Any], Collection[str]], ModelConfig]
    """Arguments: their config and the names of the weights."""
    config_to_hf: Callable[[ModelConfig], dict[str, Any]]
    rules: Callable[[ModelConfig], WeightMap]
    family: Literal["gpt", "bert", "t5"] = "gpt"
    """`ModelConfig.family`."""
    fits: Callable[[ModelConfig], bool] = lambda config: True
    """Whether a model of this family belongs to the row, if no earlier one does."""
    auto_class: str = "AutoModelForCausalLM"
    """The class of transformers that loads a model with a vocabulary head."""
    pipeline: str = "text-generation"
    """The hub's name for the task of a model with a vocabulary head."""
    outputs: Outputs = decoder_outputs
    """Computes pairs of our outputs and theirs, for the cross-check."""
    objective: str = "clm"
    """The objective of the published models."""
    prompt: str = "The capital of France is"
    """A sample prompt for the published models."""
    head_names: tuple[str, ...] = ("lm_head.", "cls.", *TASK_NAMES)
    """Beginnings of the heads' parameter names."""
    shifted_positions: str | None = None
    """Their table of positions, if the position of a text's first token is the padding id + 1."""


def _heads(config: ModelConfig) -> set[str]:
    return {spec.name for spec in config.head_specs}


_ENCODER: dict[str, Any] = dict(
    family="bert", auto_class="AutoModelForMaskedLM", pipeline="fill-mask", outputs=encoder_outputs
)
_ENCODER |= dict(objective="mlm", prompt="The capital of France is [MASK].")

FAMILIES = {
    "gpt2": Family(
        ("gpt2",),
        "transformer.",
        gpt2.config_from_hf,
        gpt2.config_to_hf,
        gpt2.gpt2_map,
        fits=lambda config: config.position == "learned",
    ),
    "llama": Family(
        ("llama", "mistral", "qwen2", "qwen3"), "model.", llama.config_from_hf, llama.config_to_hf, llama.llama_map
    ),
    "modernbert": Family(
        ("modernbert",),
        "model.",
        modernbert.config_from_hf,
        modernbert.config_to_hf,
        modernbert.modernbert_map,
        fits=lambda config: config.position == "rotary",
        head_names=("head.", "decoder."),
        **_ENCODER,
    ),
    "roberta": Family(
        ("roberta", "xlm-roberta", "camembert"),
        "roberta.",
        roberta.roberta_config_from_hf,
        roberta.roberta_config_to_hf,
        roberta.roberta_map,
        fits=lambda config: config.num_token_types == 1 and _heads(config) <= {"lm", "pooler", *CLASSES},
        shifted_positions=roberta.POSITIONS,
        **_ENCODER,
    ),
    "distilbert": Family(
        ("distilbert",),
        "distilbert.",
        roberta.distilbert_config_from_hf,
        roberta.distilbert_config_to_hf,
        roberta.distilbert_map,
        fits=lambda config: config.num_token_types == 0 and _heads(config) <= {"lm", *CLASSES},
        head_names=("vocab_", *TASK_NAMES),
        **_ENCODER,
    ),
    "bert": Family(("bert",), "bert.", bert.config_from_hf, bert.config_to_hf, bert.bert_map, **_ENCODER),
    "t5": Family(
        ("t5", "mt5"),
        "",
        t5.config_from_hf,
        t5.config_to_hf,
        t5.t5_map,
        family="t5",
        auto_class="AutoModelForSeq2SeqLM",
        pipeline="text2text-generation",
        outputs=encoder_decoder_outputs,
        objective="span",
        prompt="The capital of <|extra_id_0|> is Paris.",
    ),
}
_WITHOUT_HEADS = ("BertModel", "ModernBertModel", "RobertaModel", "DistilBertModel")
"""Classes whose parameter names lack the prefix."""


def family_of(config: ModelConfig) -> Family:
    rows = (row for row in FAMILIES.values() if row.family == config.family)
    found = next((row for row in rows if row.fits(config)), None)
    if found is None:
        raise ValueError(
            f"a {config.family} model cannot be exported: only gpt, bert and t5 models have a format to export to"
        )
    return found


def inputs_of(config: ModelConfig) -> tuple[str, ...]:
    """Arguments of the Hugging Face model that its tokenizer must return: segments only if the model has two."""
    return ("input_ids", *(["token_type_ids"] if config.num_token_types > 1 else []), "attention_mask")


class Imported(NamedTuple):
    """A model as read from files."""

    config: ModelConfig
    weights: dict[str, Tensor]
    """Under our names, in fp32; tied ones under both names, sharing memory."""


def model_from_hf(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Imported:
    """Our model from the content of its config.json and its weights by their names, in any floating-point dtype.

    ValueError names the family, setting or weight that is not supported.
    """
    kind = config.get("model_type")
    family = next((family for family in FAMILIES.values() if kind in family.model_types), None)
    if family is None:
        known = ", ".join(name for family in FAMILIES.values() for name in family.model_types)
        raise ValueError(f"model_type {kind!r} cannot be imported; supported are {known}")
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise ValueError(f"{name!r} has numbers that are not finite: the file is damaged")
    in_fp32 = {name: w.to(torch.float32) if w.is_floating_point() else w for name, w in weights.items()}
    named = _full_names(in_fp32, family)
    if (table := family.shifted_positions) and table in named:
        named[table] = named[table][_first_position(config.get("pad_token_id")) :]
    try:
        ours = family.config_from_hf(config, named.keys())
    except KeyError as error:
        raise ValueError(f"config.json lacks {error}, which a {kind} model needs") from None
    except ValueError as error:
        raise ValueError(f"config.json: {error}") from None
    rules = family.rules(ours)
    if ours.tie_embeddings:
        _require_tied(named, rules)
    found = weights_from_hf(named, rules, ours.num_layers)
    if odd := next((name for name, weight in found.items() if not weight.is_floating_point()), None):
        raise ValueError(f"{odd} is {found[odd].dtype}: only floating-point weights can be imported")
    return Imported(ours, found)


def model_to_hf(
    config: ModelConfig, weights: Mapping[str, Tensor], pad_id: int = 1
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of config.json, and the weights by their names, without the copies of tied ones.

    `weights` are by our names, tied ones under both. `pad_id` is the tokenizer's. ValueError if no transformers class
    can hold the model.
    """
    if config.ngram_order > 1:
        raise ValueError(
            f"model.ngram_order is {config.ngram_order}: no transformers class has n-gram embeddings; "
            "to export a model, train it with --model.ngram_order 1"
        )
    family = family_of(config)
    settings, rules = family.config_to_hf(config), family.rules(config)
    kept = rules.file_keys(config.num_layers)
    prefix = family.prefix if settings["architectures"][0] in _WITHOUT_HEADS else ""
    renamed = weights_to_hf(weights, rules, config.num_layers)
    if table := family.shifted_positions:
        first = renamed[table].new_zeros(_first_position(pad_id), config.d_model)
        renamed[table] = torch.cat((first, renamed[table]))
        settings |= {"pad_token_id": pad_id, "max_position_embeddings": len(renamed[table])}
    return settings, {name.removeprefix(prefix): weight for name, weight in renamed.items() if name in kept}


def _first_position(pad_id: int | None) -> int:
    """The position of a text's first token in a RoBERTa, whose own padding id is 1."""
    return (1 if pad_id is None else pad_id) + 1


def _full_names(weights: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """The weights under their current names in a model with heads."""
    prefix, heads = family.prefix, family.head_names
    bare = not any(name.startswith(prefix) for name in weights)
    named = {prefix + name if bare and not name.startswith(heads) else name: w for name, w in weights.items()}
    return bert.modern_names(named)


def _require_tied(weights: Mapping[str, Tensor], rules: WeightMap) -> None:
    """ValueError if the config ties two weights that differ in the file."""
    copies = [(row.hf, row.tied_to) for row in rules.rows if row.hf in weights and row.tied_to in weights]
    for copy, original in copies:
        if not torch.equal(weights[copy], weights[str(original)]):
            raise ValueError(
                f"config.json ties {copy} to {original}, but the two differ in the file; "
                "set tie_word_embeddings to false in config.json"
            )
