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
from minillm.run.folder import CONFIG, find_checkpoint
from minillm.storage import read_manifest
from minillm.training.checkpoint import MODEL, Checkpoint, checkpoints, weights


def weights_hash(checkpoint: Checkpoint) -> str:
    """A hash of the weights that a checkpoint stands for, including those of its base."""
    own = read_manifest(checkpoint.path)["files"][MODEL][1]
    base = load_config(checkpoint.path.parent / CONFIG).adapter.base_hash
    return own if base is None else hashlib.sha256(f"{own} {base}".encode()).hexdigest()


def name_base(config: RunConfig, parent: Checkpoint | None) -> RunConfig:
    """The config with the parent as the base of the adapter, if there is an adapter."""
    if not config.adapter.on or parent is None:
        return config
    base = replace(config.adapter, base=str(parent.path.resolve()), base_hash=weights_hash(parent))
    return replace(config, adapter=base)


def find_base(adapter: AdapterConfig, folder: Path) -> Checkpoint:
    """The checkpoint that the adapter of the run in `folder` changes: where the config says, or beside the run.

    FileNotFoundError if it is in neither place; ValueError if it has other weights.
    """
    remedy = f"restore it, or set adapter.base in {folder / CONFIG} to where it is"
    if adapter.base is None or adapter.base_hash is None:
        raise ValueError(f"{folder / CONFIG} has an adapter, but adapter.base or adapter.base_hash is missing")
    named, other = Path(adapter.base), None
    for place in (named, folder.parent / named.parent.name / named.name):
        try:
            found = find_checkpoint(place)
        except FileNotFoundError:
            continue
        if weights_hash(found) == adapter.base_hash:
            return found
        other = other or place
    if other is not None:
        raise ValueError(
            f"the adapter {folder} belongs to other weights than those of {other}: their fingerprint must be "
            f"{adapter.base_hash[:12]}; {remedy}"
        )
    raise FileNotFoundError(f"the adapter {folder} changes the weights of {named}, which does not exist; {remedy}")


def adapted_model(config: RunConfig, given: Mapping[str, Tensor]) -> Any:
    """The model of `config` on the meta device; an adapter is added, and what `given` has for it is frozen."""
    with torch.device("meta"):
        model = build_model(config.model)
        if config.adapter.on:
            add_adapter(model, config.adapter, pretrained=set(given))
    return model


def load_whole(checkpoint: Checkpoint) -> tuple[RunConfig, Any]:
    """The run's config, and its model on the CPU, in which an adapter is merged."""
    folder = checkpoint.path.parent
    config = load_config(folder / CONFIG)
    given = whole_weights(find_base(config.adapter, folder)) if config.adapter.on else {}
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
