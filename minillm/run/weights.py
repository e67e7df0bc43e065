"""The weights of a run: its own, or with an adapter those of its base, which another run holds.

The checkpoints of a run with an adapter hold the adapter and new heads alone. Its [adapter] section names the base: a
checkpoint, and the fingerprint of its weights. The base can be a run with an adapter too.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillm.adapters.config import AdapterConfig
from minillm.adapters.lora import add_adapter, merge_adapter
from minillm.config import RunConfig, load_config
from minillm.models.build import build_model
from minillm.models.profile import Profile, profile
from minillm.registry import objective_spec
from minillm.run.folder import CONFIG, find_checkpoint
from minillm.storage import read_manifest
from minillm.training.checkpoint import MODEL, Checkpoint, checkpoints, weights


def weights_hash(checkpoint: Checkpoint) -> str:
    """A hash of the weights that a checkpoint stands for, including those of its base."""
    own = read_manifest(checkpoint.path)["files"][MODEL][1]
    base = load_config(checkpoint.path.parent / CONFIG).adapter.base_hash
    return own if base is None else hashlib.sha256(f"{own} {base}".encode()).hexdigest()


def name_parent(config: RunConfig, parent: Checkpoint | None) -> RunConfig:
    """The config with the parent as the base of its adapter and as its reference model, if it has these."""
    if parent is None:
        return config
    where, hashed = str(parent.path.resolve()), weights_hash(parent)
    if config.adapter.on:
        config = replace(config, adapter=replace(config.adapter, base=where, base_hash=hashed))
    if objective_spec(config.objective.name).reference:
        config = replace(config, objective=replace(config.objective, reference=where, reference_hash=hashed))
    return config


def keep_parent(config: RunConfig, saved: RunConfig) -> RunConfig:
    """The config of a resumed run with the base and the reference model of the saved one, unless they have moved."""
    if config.adapter.on and saved.adapter.on:
        base = config.adapter.base or saved.adapter.base
        config = replace(config, adapter=replace(config.adapter, base=base, base_hash=saved.adapter.base_hash))
    section, was = config.objective, saved.objective
    if objective_spec(section.name).reference and section.name == was.name:
        section = replace(section, reference=section.reference or was.reference, reference_hash=was.reference_hash)
    return replace(config, objective=section)


def find_base(config: RunConfig, folder: Path) -> Checkpoint:
    """The checkpoint that the adapter of the run in `folder` changes; errors as in `_find`."""
    return _find(config.adapter.base, config.adapter.base_hash, folder, "adapter.base")


def find_reference(config: RunConfig, folder: Path) -> Checkpoint:
    """The checkpoint of the reference model of the run in `folder`; errors as in `_find`."""
    return _find(config.objective.reference, config.objective.reference_hash, folder, "objective.reference")


def _find(path: str | None, expected: str | None, folder: Path, key: str) -> Checkpoint:
    """The checkpoint at `path`, or of that name beside the run.

    FileNotFoundError if it is in neither place; ValueError if its weights are not those with the hash `expected`.
    """
    remedy = f"restore it, or set {key} in {folder / CONFIG} to where it is"
    if path is None or expected is None:
        raise ValueError(f"{folder / CONFIG} lacks {key} or {key}_hash; start a new run with --init-from")
    named, other = Path(path), None
    for place in (named, folder.parent / named.parent.name / named.name):
        try:
            found = find_checkpoint(place)
        except FileNotFoundError:
            continue
        if weights_hash(found) == expected:
            return found
        other = other or place
    if other is not None:
        raise ValueError(
            f"{folder} does not fit the weights of {other}: their hash must be {expected[:12]}, {key}_hash; {remedy}"
        )
    raise FileNotFoundError(f"{folder} needs the weights of {named}, which does not exist; {remedy}")


def adapted_model(config: RunConfig, given: Mapping[str, Tensor]) -> Any:
    """The model of `config` on the meta device; with an adapter, weights that `given` has in the same shape are frozen.

    Tables that have grown by special tokens have another shape.
    """
    with torch.device("meta"):
        model = build_model(config.model)
        if config.adapter.on:
            shapes = {name: tensor.shape for name, tensor in weights(model).items()}
            add_adapter(model, config.adapter, pretrained={n for n, x in given.items() if shapes.get(n) == x.shape})
    return model


def load_whole(checkpoint: Checkpoint) -> tuple[RunConfig, Any]:
    """The run's config, and its model on the CPU, in which an adapter is merged."""
    folder = checkpoint.path.parent
    config = load_config(folder / CONFIG)
    given = whole_weights(find_base(config, folder)) if config.adapter.on else {}
    model = adapted_model(config, given)
    model.to_empty(device="cpu")
    model.tie_weights()
    if config.adapter.on:
        own = weights(model, frozen=True)
        for name in own.keys() - weights(model).keys():
            own[name].copy_(given[name])
    checkpoint.load_model(model)
    if config.adapter.on:
        merge_adapter(model)
    return replace(config, model=model.config), model


def whole_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The weights that a checkpoint stands for, by name, with an adapter merged."""
    config = load_config(checkpoint.path.parent / CONFIG)
    return weights(load_whole(checkpoint)[1]) if config.adapter.on else checkpoint.model_weights()


def whole_config(folder: Path) -> RunConfig:
    """The config of a run as if its adapter were merged."""
    config = load_config(folder / CONFIG)
    if not config.adapter.on:
        return config
    with torch.device("meta"):
        model = build_model(config.model)
        # heads that the base lacks are not adapted; which these are does not matter for the shape
        add_adapter(model, config.adapter, pretrained=set(weights(model)))
        merge_adapter(model)
    return replace(config, model=model.config, adapter=AdapterConfig())


def profile_run(folder: Path) -> Profile:
    """The cost of a run's model. The base of an adapter is not read: what the run's checkpoints lack is frozen."""
    config = load_config(folder / CONFIG)
    if not config.adapter.on:
        return profile(config.model)
    saved = checkpoints(folder)
    own = saved[-1].model_weights().keys() if saved else set()

    def adapt(model: nn.Module) -> None:
        add_adapter(model, config.adapter, pretrained=weights(model).keys() - own)

    return profile(config.model, adapt)
