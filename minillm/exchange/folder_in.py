"""Reads published models from a folder in Hugging Face's layout, the hub, or a GGUF file. No code is ever unpickled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from minillm.data.sources.hub import fetch_model
from minillm.exchange.architectures import Imported, model_from_hf
from minillm.exchange.generation_settings import (
    read_gguf_settings,
    read_settings,
    unused_gguf_settings,
    unused_settings,
)
from minillm.exchange.model_card import license_in
from minillm.exchange.sentence_transformers import read_embedding
from minillm.exchange.task_heads import objective_of, unused_dropout
from minillm.exchange.tokenizer_in import read_tokenizer
from minillm.exchange.tokenizer_models import load_json
from minillm.generation.config import EmbedConfig
from minillm.tokenizers.base import Tokenizer

SAFETENSORS, BIN, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"
UNREAD = {".onnx": "ONNX", ".h5": "TensorFlow", ".msgpack": "Flax", ".tflite": "TensorFlow Lite"}
UNREAD |= {
    ".mlmodel": "Core ML",
    ".mlpackage": "Core ML",
    ".pth": "PyTorch's .pth",
    ".pt": "PyTorch's .pt",
    ".ot": "Rust's",
}
"""Suffix of a file of weights that cannot be read -> its format."""


class Published(NamedTuple):
    """What a source holds."""

    model: Imported
    tokenizer: Tokenizer
    embed: EmbedConfig
    """Settings of sentence embeddings, which only a folder can have."""
    sample: dict[str, Any]
    """Settings of text generation that the source names."""
    license: str | None
    objective: dict[str, Any]
    """Settings of the objective of a model with a head for a task, such as its labels; empty for other models."""
    notes: tuple[str, ...] = ()
    """Lines about what the source has and the run does not."""


def read_published(source: str) -> Published:
    """The model, its tokenizer and settings.

    The source is a folder in Hugging Face's layout, a GGUF file, or a model's name on the hub.

    Raises:
        OSError: the source does not exist, or the hub does not answer.
        ValueError: something in it is damaged or not supported.
    """
    path, embed, objective, notes = Path(source), EmbedConfig(), {}, []
    if path.suffix.lower() == ".gguf":
        from minillm.exchange.gguf_in import content_of, open_gguf  # its package is an extra

        fields, tensors = open_gguf(path)
        model, tokenizer = content_of(fields, tensors, path)
        sample, license = read_gguf_settings(fields, path), fields.get("general.license")
        notes.append(unused_gguf_settings(fields, path))
    else:
        if path.is_file():
            what = f"in {UNREAD[path.suffix]} format" if path.suffix in UNREAD else "a file"
            raise ValueError(f"{path} is {what}; expected a folder in the format of transformers, or a .gguf file")
        folder = path if source and path.is_dir() else fetch_model(source)
        try:
            folder, embed = read_embedding(folder)
            config, weights = read_config(folder), read_weights(folder)
            objective = objective_of(config)
            model, tokenizer = model_from_hf(config, weights), read_tokenizer(folder)
            sample, license = read_settings(folder), license_in(folder)
            never = {*tokenizer.special_ids, *range(tokenizer.vocab_size, model.config.vocab_size or 0)}
            notes += [unused_settings(folder, never), unused_dropout(config)]
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    ids, rows = tokenizer.vocab_size, model.config.vocab_size or 0
    if rows < ids:
        raise ValueError(f"{source}: the tokenizer has {ids} ids, but the weights have only {rows}; they do not match")
    license = license if isinstance(license, str) else None
    return Published(model, tokenizer, embed, sample, license, objective, tuple(note for note in notes if note))


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json; FileNotFoundError or ValueError if it is missing or damaged."""
    path = folder / CONFIG
    if not path.is_file():
        expected = f"{folder} has no {CONFIG}; expected a folder in the format of transformers"
        raise FileNotFoundError(_other_format(folder) or expected)
    return load_json(path)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder by name, from model.safetensors, its shards, or pytorch_model.bin.

    Raises:
        FileNotFoundError: none of these exists, or a shard is missing.
        ValueError: a file is damaged, or a .bin has more than tensors.
    """
    for name in (SAFETENSORS, BIN):
        if (folder / name).is_file():
            return _read(folder / name)
        if (folder / f"{name}.index.json").is_file():
            shards = map(_read, _shards(folder / f"{name}.index.json"))
            return {key: weight for shard in shards for key, weight in shard.items()}
    expected = f"{folder} has no weights: neither {SAFETENSORS} nor {BIN}, nor shards of them"
    raise FileNotFoundError(_other_format(folder) or expected)


def _other_format(folder: Path) -> str | None:
    """A message that names the format of the folder's weights, if it has any; None if it has no weights."""
    files = sorted(path for part in ("*", "*/*") for path in folder.glob(part) if path.suffix in (*UNREAD, ".gguf"))
    if not files:
        return None
    file = files[0]
    if file.suffix == ".gguf":
        return f"{folder} has no {SAFETENSORS}, but a GGUF file; import that file: {file}"
    kind = UNREAD[file.suffix]
    return (
        f"the weights in {folder} are in {kind} format ({file.name}), which cannot be read; get {SAFETENSORS} instead"
    )


def _shards(index: Path) -> Iterator[Path]:
    """The files that an index names, without duplicates."""
    names = load_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index} has no weight_map; download it again")
    for name in dict.fromkeys(names.values()):
        if Path(name).name != name:
            raise ValueError(f"{index} names {name}, which is not a file in the same folder; download it again")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index.parent / name} is missing, although {index.name} names it; download it")
        yield index.parent / name


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from None
    except Exception:  # pickle, zip and torch raise many types, some with long messages
        raise ValueError(f"{path} is damaged or has more than weights; get it again, or as .safetensors") from None
    if not isinstance(found, dict) or not all(isinstance(weight, Tensor) for weight in found.values()):
        raise ValueError(f"{path} has more than weights by name")
    return found
