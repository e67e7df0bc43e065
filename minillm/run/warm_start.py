"""Runs that start from the weights of another run, the parent, which was trained here or imported."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.adapters.lora import adapter_names
from minillm.config import FINETUNE_CONFIG, RunConfig, load_config, override
from minillm.config_files import flatten
from minillm.run.folder import find_run
from minillm.run.weights import whole_config
from minillm.training.checkpoint import load_weights, weights

POOLER = re.compile(r"^heads\.\w+\.(?=pooler\.)")
HEADS = "heads."
"""Weights whose names begin with this may exist in only one of the two runs."""
VOCABULARY = ("embed.tokens.weight", "heads.lm.proj.weight", "heads.lm.proj.bias")
"""Weights with a row for each token, which may have more rows than in the parent."""


def finetune_config(
    parent: Path | str, overrides: Mapping[str, object] | None = None, *, config: Path | str | None = None
) -> RunConfig:
    """The config of a run that starts from the weights of `parent`, as in `minillm train --init-from`.

    `overrides` are as in `load_config` and take precedence over inherited values. `config` is as in `load_config`;
    None: configs/finetune.toml with the parent's objective.
    """
    keys = flatten(overrides or {})
    # without a config, the overrides modify the parent's objective, so they are applied to that in `inherit`
    own = load_config(config, keys) if config else load_config(FINETUNE_CONFIG)
    return inherit(own, whole_config(find_run(Path(parent))), keys, own_objective=config is not None)


def inherit(config: RunConfig, parent: RunConfig, overrides: Mapping[str, object], *, own_objective: bool) -> RunConfig:
    """The config of a run that starts from the weights of another.

    Model and tokenizer are the parent's; so is data.seq_len if not set, and the objective unless `own_objective` or the
    overrides change it. The rest comes from `config`. `overrides` take precedence over everything. ValueError if they
    change the tokenizer or the preset, which the weights determine.
    """
    for key in overrides:
        if key in ("model.preset", "model.tie_embeddings") or key.startswith("tokenizer."):
            raise ValueError(f"{key} is determined by the weights of --init-from; leave it out")
    data = config.data if config.data.seq_len else replace(config.data, seq_len=parent.data.seq_len)
    own_objective |= overrides.get("objective.name", parent.objective.name) != parent.objective.name
    objective = config.objective if own_objective else parent.objective
    sample = config.sample if own_objective else replace(config.sample, prompt=parent.sample.prompt)
    inherited = replace(
        config, model=parent.model, tokenizer=parent.tokenizer, data=data, objective=objective, sample=sample
    )
    inherited = replace(inherited, embed=parent.embed)
    return override(inherited, {"eval.at_start": True, **overrides})


def with_rows_of(own: Tensor, given: Tensor) -> Tensor:
    """The rows of `given`; any further rows of `own` follow, with the average of the given ones added to them."""
    if own.shape[1:] != given.shape[1:] or len(own) <= len(given):
        return given
    return torch.cat((given, own[len(given) :] + given.mean(0)))


def adopt_weights(model: Any, given: Mapping[str, Tensor], *, where: Path, say: Callable[[str], None]) -> None:
    """Copy the weights `given` of another run into `model`; heads that they lack keep their initial weights.

    Special tokens that the parent lacks get the average embedding, plus their initial one so that they differ.
    ValueError if another weight than a head's is missing or left over, or if a shape differs.
    """
    own, given, added = weights(model, frozen=True), dict(given), adapter_names(model)
    for name in own:  # all pooled heads can share a pooler, whatever its head in the parent is called
        donor = next((other for other in given if POOLER.sub("", other) == POOLER.sub("", name) != name), name)
        if name not in given and donor in given:
            given[name] = given.pop(donor)
    new = sorted(name for name in own if name not in given and name not in added)
    left = sorted(name for name in given if name not in own)
    if wrong := [name for name in (*new, *left) if not name.startswith(HEADS)]:
        raise ValueError(f"{where} does not fit the model: {len(wrong)} names differ, such as {wrong[0]}")
    grown = {name: with_rows_of(own[name], given[name]) for name in VOCABULARY if name in own and name in given}
    more = max((len(grown[name]) - len(given[name]) for name in grown), default=0)
    load_weights(model, {name: (given | grown).get(name, own[name]) for name in own}, where=where, frozen=True)
    say(f"starting from the weights of {where.parent}")
    if more:
        say(f"  {more} special tokens added to the vocabulary")
    for names, what in ((new, "not in the checkpoint, newly initialized"), (left, "not needed for this objective")):
        if names:
            say(f"  {what}: {', '.join(names)}")
