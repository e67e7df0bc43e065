"""LoRA adapters in the format of PEFT: adapter_config.json and adapter_model.safetensors.

Their modules have the names of the weights in transformers. GPT-2 has queries, keys and values in one matrix: an
adapter of it becomes three of ours that share A. Three of ours become one of three times the rank, with a
block-diagonal B.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minillm.adapters.config import AdapterConfig
from minillm.exchange.architectures import family_of
from minillm.exchange.tokenizer_in import load_json
from minillm.nn.config import ModelConfig

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_CHANGES = ("use_dora", "lora_bias", "layer_replication", "trainable_token_indices", "target_parameters", "use_bdlora")
"""Settings that change the arithmetic in a way that minillm does not have."""
_TASKS = {"gpt": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


class Adapter(NamedTuple):
    """An adapter as the checkpoint of a run holds it."""

    config: AdapterConfig
    weights: dict[str, Tensor]
    """Parameters by our names: lora_a and lora_b of each layer, and others that were trained in full."""


class _Module(NamedTuple):
    """A linear layer of theirs, and ours that its matrix consists of."""

    hf: str
    ours: tuple[str, ...]
    transposed: bool


def write_adapter(folder: Path, model: ModelConfig, adapter: Adapter, base: str) -> None:
    """Write the adapter of a model into the empty `folder`; `base` is the folder of the base in transformers' format.

    ValueError if no class of transformers can hold the model, or if a weight has no name there.
    """
    modules, names = _modules(model), _other_names(model)
    tensors: dict[str, Tensor] = {}
    ranks, left = {}, set(adapter.weights)
    for module in modules:
        if pair := _joined(module, adapter.weights):
            tensors[f"{module.hf}.lora_A.weight"], tensors[f"{module.hf}.lora_B.weight"] = pair
            ranks[module.hf] = len(pair[0])
            left -= {f"{name}.{part}" for name in module.ours for part in ("lora_a", "lora_b")}
    whole = {names[name]: adapter.weights[name] for name in sorted(left) if name in names}
    if lost := sorted(left - names.keys()):
        raise ValueError(f"{lost[0]} has no name in transformers, so the adapter cannot be written for PEFT; merge it")
    adapted = [module for module in modules if module.hf in ranks]
    config, wide = adapter.config, {name: rank for name, rank in ranks.items() if rank != adapter.config.rank}
    settings: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": _TASKS.get(model.family),
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "use_rslora": config.rank_stabilized,
        "lora_dropout": config.dropout,
        "target_modules": _suffixes([module.hf for module in adapted], [module.hf for module in modules]),
        "fan_in_fan_out": any(module.transposed for module in adapted),
        "rank_pattern": wide,
        # so that alpha / rank, or its root, stays the same
        "alpha_pattern": {name: config.scale * (r**0.5 if config.rank_stabilized else r) for name, r in wide.items()},
        "modules_to_save": sorted({name.split(".")[-2] for name in whole}) or None,
        "bias": "none",
        "inference_mode": True,
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    files = {_PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in (tensors | whole).items()}
    save_file(files, folder / WEIGHTS, {"format": "pt"})


def read_adapter(folder: Path, model: ModelConfig) -> Adapter:
    """The adapter in `folder`, for a base of this shape.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, the adapter is not LoRA or has a part that is not supported, or it is for a model
            with other layers.
    """
    for name in (SETTINGS, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; expected an adapter in the format of PEFT")
    settings = load_json(folder / SETTINGS)
    _require_supported(settings, folder)
    try:
        tensors = {_bare(name): tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged ({error}); download it again") from None
    found, names = {}, {hf: ours for ours, hf in _other_names(model).items()}
    for module in _modules(model):
        a, b = (tensors.pop(f"{module.hf}.lora_{part}.weight", None) for part in "AB")
        if a is not None and b is not None:
            found |= _split(module, a, _scale(settings, module.hf) * b)
    whole = {names[name]: tensors.pop(name) for name in sorted(tensors) if name in names}
    if tensors or not found:
        some = next(iter(tensors), "none of its layers")
        raise ValueError(f"{folder}: the adapter does not fit the base, which lacks {some}")
    return _uniform(settings, found, whole)


def _modules(model: ModelConfig) -> list[_Module]:
    """Every matrix of the model in transformers, whether it can be adapted or not."""
    return [
        _Module(row.hf.removesuffix(".weight"), tuple(n.removesuffix(".weight") for n in ours), row.op != "copy")
        for row, ours in _rows(model)
        if row.hf.endswith(".weight")
    ]


def _other_names(model: ModelConfig) -> dict[str, str]:
    """Our name -> theirs, for weights that are the same there."""
    return {ours[0]: row.hf for row, ours in _rows(model) if row.op == "copy" and row.tied_to is None}


def _rows(model: ModelConfig) -> Iterator[tuple[Any, tuple[str, ...]]]:
    family = family_of(model)
    family.config_to_hf(model)  # raises for a model that no class can hold
    return family.rules(model).expand(model.num_layers)


def _joined(module: _Module, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """A and B of their layer, from those of ours; None if none of ours is adapted."""
    pairs = [(weights.get(f"{name}.lora_a"), weights.get(f"{name}.lora_b")) for name in module.ours]
    own = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not own:
        return None
    empty = own[0][1].new_zeros(own[0][1].size(0), 0)  # the layers of one matrix are of the same size
    return torch.cat([a for a, _ in own]), torch.block_diag(*(empty if b is None else b for _, b in pairs))


def _split(module: _Module, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Ours from A and B of their layer. Its B already has the scale in it."""
    parts = zip(module.ours, b.chunk(len(module.ours)), strict=True)
    return {f"{name}.{key}": tensor for name, part in parts for key, tensor in (("lora_a", a), ("lora_b", part))}


def _scale(settings: Mapping[str, Any], module: str) -> float:
    """Their factor on B A for a module; patterns match the end of its name."""

    def chosen(key: str, pattern: str) -> float:
        found = (value for name, value in settings.get(pattern, {}).items() if re.match(rf"(.*\.)?({name})$", module))
        return next(found, settings[key])

    rank = chosen("r", "rank_pattern")
    return chosen("lora_alpha", "alpha_pattern") / (rank**0.5 if settings.get("use_rslora") else rank)


def _uniform(settings: Mapping[str, Any], found: dict[str, Tensor], whole: dict[str, Tensor]) -> Adapter:
    """The adapter with one rank, zeros fill the others, and one scale."""
    rank = max(len(tensor) for name, tensor in found.items() if name.endswith("lora_a"))
    layers = tuple(name.removesuffix(".lora_a") for name in found if name.endswith(".lora_a"))
    config = AdapterConfig(
        name="lora",
        rank=rank,
        alpha=float(settings["lora_alpha"]),
        rank_stabilized=bool(settings.get("use_rslora")),
        dropout=float(settings.get("lora_dropout") or 0.0),
        train=tuple(whole),
    )
    weights = dict(whole)
    for name in layers:
        a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"] / config.scale
        weights[f"{name}.lora_a"] = torch.cat((a, a.new_zeros(rank - len(a), a.size(1))))
        weights[f"{name}.lora_b"] = torch.cat((b, b.new_zeros(len(b), rank - b.size(1))), 1)
    return Adapter(replace(config, targets=layers), weights)


def _suffixes(chosen: list[str], every: list[str]) -> list[str]:
    """The shortest ends of names that select the chosen modules and no other."""
    found = []
    for name in chosen:
        parts = name.split(".")
        ends = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        fits = (e for e in ends if all(one in chosen for one in every if one == e or one.endswith(f".{e}")))
        found.append(next(fits))
    return list(dict.fromkeys(found))


def _bare(name: str) -> str:
    """A tensor's name without what PEFT puts around the module's name."""
    name = name.removeprefix(_PREFIX).replace(".modules_to_save.default.", ".")
    return re.sub(r"\.lora_([AB])\.default\.weight$", r".lora_\1.weight", name)


def _require_supported(settings: Mapping[str, Any], folder: Path) -> None:
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{folder} is an adapter of type {settings.get('peft_type')!r}; only LORA can be imported")
    for name in ("r", "lora_alpha"):
        if not isinstance(settings.get(name), int | float):
            raise ValueError(f"{folder / SETTINGS} lacks {name}; download it again")
    odd = [name for name in _CHANGES if settings.get(name)]
    odd += ["bias"] if settings.get("bias", "none") != "none" else []
    if odd:
        raise ValueError(f"{folder / SETTINGS}: {odd[0]} is {settings[odd[0]]!r}, which minillm does not have")
