"""Which foreign model is which of ours: one row for each family that can be read and written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minillm.exchange import bert_weights as bert
from minillm.exchange import gpt2_weights as gpt2
from minillm.exchange import llama_weights as llama
from minillm.exchange import t5_weights as t5
from minillm.exchange.weight_map import WeightMap, export_weights, import_weights
from minillm.nn.config import ModelConfig


class Family(NamedTuple):
    """What is known of one family."""

    model_types: tuple[str, ...]
    """As `model_type` in config.json."""
    prefix: str
    """What the names of all weights but the heads' begin with; files of bare models leave it out."""
    read_config: Callable[[Mapping[str, Any], Collection[str]], ModelConfig]
    """From a foreign config and the names of the weights."""
    write_config: Callable[[ModelConfig], dict[str, Any]]
    rules: Callable[[ModelConfig], WeightMap]


FAMILIES = {
    "gpt2": Family(
        ("gpt2",), "transformer.", lambda foreign, _: gpt2.import_config(foreign), gpt2.export_config, gpt2.gpt2_map
    ),
    "llama": Family(
        ("llama", "mistral", "qwen2", "qwen3"),
        "model.",
        lambda foreign, _: llama.import_config(foreign),
        llama.export_config,
        llama.llama_map,
    ),
    "bert": Family(
        ("bert",),
        "bert.",
        lambda foreign, names: bert.import_config(foreign, heads=bert.heads_of(names)),
        bert.export_config,
        bert.bert_map,
    ),
    "t5": Family(
        ("t5", "mt5"),
        "",
        lambda foreign, names: t5.import_config(foreign, head="lm_head.weight" in names),
        t5.export_config,
        t5.t5_map,
    ),
}
_HEADS = ("lm_head.", "cls.")


class Imported(NamedTuple):
    """A model as it was read."""

    config: ModelConfig
    weights: dict[str, Tensor]
    """Under our names, in fp32."""


def from_foreign(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Imported:
    """Our model of a foreign one.

    Args:
        config: the content of its config.json.
        weights: by foreign name, in any floating dtype.

    Raises:
        ValueError: a family, a setting or a weight that has no place here; the message names it.
    """
    kind = config.get("model_type")
    family = next((family for family in FAMILIES.values() if kind in family.model_types), None)
    if family is None:
        known = ", ".join(name for family in FAMILIES.values() for name in family.model_types)
        raise ValueError(f"model_type {kind!r} cannot be imported; these can: {known}")
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise ValueError(f"{name!r} holds numbers that are not finite: the file is damaged, or its model is")
    named = _full_names(weights, family.prefix)
    try:
        ours = family.read_config(config, named.keys())
    except KeyError as error:
        raise ValueError(f"config.json lacks {error}, which a {kind} model is made of") from None
    except ValueError as error:
        raise ValueError(f"config.json: {error}") from None
    rules = family.rules(ours)
    if ours.tie_embeddings:
        _require_tied(named, rules)
    found = import_weights(named, rules, ours.num_layers)
    if odd := next((name for name, weight in found.items() if not weight.is_floating_point()), None):
        raise ValueError(f"the weights are not floating-point numbers ({odd} is {found[odd].dtype}): quantised ones")
    return Imported(ours, {name: weight.to(torch.float32) for name, weight in found.items()})


def to_foreign(config: ModelConfig, weights: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The foreign config and weights of our model, tied copies left out, as its files have them.

    Args:
        config: its shape.
        weights: by our name, tied ones under both.

    Raises:
        ValueError: no stock class holds a model of this shape; the message says why.
    """
    decoder = "gpt2" if config.position == "learned" else "llama"
    family = FAMILIES[decoder if config.family == "gpt" else config.family]
    foreign = family.write_config(config)
    rules = family.rules(config)
    kept = rules.file_keys(config.num_layers)
    prefix = family.prefix if foreign["architectures"] == ["BertModel"] else ""
    renamed = export_weights(weights, rules, config.num_layers)
    return foreign, {name.removeprefix(prefix): weight for name, weight in renamed.items() if name in kept}


def _full_names(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under the names that a model with its heads gives them, and BERT's first names replaced."""
    bare = not any(name.startswith(prefix) for name in weights)
    named = {prefix + name if bare and not name.startswith(_HEADS) else name: w for name, w in weights.items()}
    return bert.modern_names(named)


def _require_tied(weights: Mapping[str, Tensor], rules: WeightMap) -> None:
    """ValueError where the config shares a weight of which the file has two."""
    copies = [(row.foreign, row.tied_to) for row in rules.rows if row.foreign in weights and row.tied_to in weights]
    for copy, original in copies:
        if not torch.equal(weights[copy], weights[str(original)]):
            raise ValueError(
                f"config.json ties {copy} to {original}, but the file's two differ; "
                "set tie_word_embeddings to false there"
            )
