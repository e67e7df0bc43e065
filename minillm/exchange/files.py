"""A folder in Hugging Face's layout: config.json and weights, in one file or several; no code is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minillm.exchange.tokenizer_in import read_json

SAFETENSORS, BIN, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json; FileNotFoundError, ValueError where it is not there or damaged."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG}; is it a model's folder as transformers saves it?")
    return read_json(path)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder by name, from model.safetensors, its shards, or else pytorch_model.bin.

    Raises:
        FileNotFoundError: none of them is there, or a shard is missing.
        ValueError: a damaged file, or a .bin that holds more than tensors.
    """
    for name in (SAFETENSORS, BIN):
        if (folder / name).is_file():
            return _read(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return {
                key: weight for shard in _shards(folder / f"{name}.index.json") for key, weight in _read(shard).items()
            }
    raise FileNotFoundError(f"{folder} holds no weights: neither {SAFETENSORS} nor {BIN}, whole or in shards")


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / SAFETENSORS, {"format": "pt"})


def _shards(index: Path) -> Iterator[Path]:
    """The files that an index names, each once."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index} has no weight_map; fetch it again")
    for name in dict.fromkeys(names.values()):
        if Path(name).name != name:
            raise ValueError(f"{index} names {name}, which is no file beside it; fetch it again")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index.parent / name} is missing, and {index.name} names it; fetch it too")
        yield index.parent / name


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of one file."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from None
    except Exception:  # pickle, zip and torch each raise their own, some of it a page long
        raise ValueError(
            f"{path} is damaged, or holds more than weights, which is not read; fetch it again, or as safetensors"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(weight, Tensor) for weight in found.values()):
        raise ValueError(f"{path} holds more than weights by name")
    return found
