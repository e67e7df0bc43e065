"""Reads a Llama, Qwen or GPT-2 and its tokenizer from a GGUF file; quantized weights are dequantized."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.exchange import gguf_out
from minillm.exchange.architectures import Imported, model_from_hf
from minillm.exchange.gguf_tokenizer import read_gguf_tokenizer
from minillm.nn.config import ModelConfig
from minillm.nn.position import rotary_frequencies, rotary_scale
from minillm.tokenizers.imported import ImportedTokenizer


def read_gguf(path: Path) -> tuple[Imported, ImportedTokenizer]:
    """The model and the tokenizer of a GGUF file; ValueError if it is damaged or not supported.

    OSError if the file does not exist or the gguf package is not installed.
    """
    return content_of(*open_gguf(path), path)


def open_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields of a GGUF file, and its tensors in fp32; errors as in `read_gguf`."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    package = gguf_out.library()
    try:
        reader = package.GGUFReader(path)
        fields = {name: _decimal(field.contents()) for name, field in reader.fields.items()}
        tensors = {t.name: package.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    except (ValueError, IndexError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{path} is not a GGUF file that the gguf package can read ({error})") from None
    return fields, {name: torch.from_numpy(np.array(array, np.float32)) for name, array in tensors.items()}


def content_of(fields: Mapping[str, Any], weights: dict[str, Tensor], path: Path) -> tuple[Imported, ImportedTokenizer]:
    """The model and the tokenizer of an open file; errors as in `read_gguf`."""
    arch = fields.get("general.architecture")
    if arch not in ("llama", "qwen2", "qwen3", "gpt2"):
        raise ValueError(f"{path} has a model of architecture {arch!r}; supported are llama, qwen2, qwen3 and gpt2")
    try:
        read = _gpt2_of if arch == "gpt2" else _model_of
        return read(arch, fields, weights), read_gguf_tokenizer(fields, path)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}, which a {arch} model needs") from None
    except Exception as error:  # any value in the file may be inconsistent with the weights
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as a {arch} model: {reason}") from None


def _decimal(value: Any) -> Any:
    """A number in fp32 as the shortest decimal that is rounded to it: 1e-5, which it was, not 9.99999974e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) and np.float32(value) == value else value


def _gpt2_of(arch: str, fields: Mapping[str, Any], weights: dict[str, Tensor]) -> Imported:
    keys = {"head_count": "attention.head_count", "layer_norm_eps": "attention.layer_norm_epsilon"}
    config = {hf: fields[f"{arch}.{keys.get(name, name)}"] for name, hf in gguf_out.GPT2_SHAPE.items()}
    table, head = weights["token_embd.weight"], weights.get("output.weight")
    config |= {"model_type": arch, "vocab_size": table.size(0)}
    config["tie_word_embeddings"] = head is None or torch.equal(head, table)
    weights = {name: w.t() if name.endswith(gguf_out.GPT2_MATRICES) else w for name, w in weights.items()}
    return model_from_hf(config, _renamed(weights, arch, config["n_layer"]))


def _renamed(weights: Mapping[str, Tensor], arch: str, num_layers: int) -> dict[str, Tensor]:
    """The weights by Hugging Face's names; ValueError for one that has none."""
    names = gguf_out.weight_names(arch, num_layers)
    if unknown := sorted(weights.keys() - names.keys()):
        raise ValueError(f"{len(unknown)} tensors cannot be imported, such as {', '.join(unknown[:3])}")
    return {names[name]: weight for name, weight in weights.items()}


def _model_of(arch: str, fields: Mapping[str, Any], weights: dict[str, Tensor]) -> Imported:
    def field(name: str, default: Any = None) -> Any:
        return fields.get(f"{arch}.{name}", default) if default is not None else fields[f"{arch}.{name}"]

    heads, width = field("attention.head_count"), field("embedding_length")
    config: dict[str, Any] = {
        "model_type": arch,
        "vocab_size": weights["token_embd.weight"].size(0),
        "max_position_embeddings": field("context_length"),
        "hidden_size": width,
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("attention.head_count_kv", heads),
        "head_dim": field("attention.key_length", width // heads),
        "intermediate_size": field("feed_forward_length"),
        "rms_norm_eps": field("attention.layer_norm_rms_epsilon"),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_output.bias" in weights,
        "mlp_bias": "blk.0.ffn_up.bias" in weights,
        "tie_word_embeddings": "output.weight" not in weights,
        "rope_parameters": _rotary(arch, fields, weights.pop(gguf_out.ROPE_FACTORS, None)),
    }
    if field("rope.dimension_count", config["head_dim"]) != config["head_dim"]:
        raise ValueError(f"{arch}.rope.dimension_count is not the head dimension; partial rotation is not supported")
    if arch == "llama":
        weights = {name: gguf_out.interleave(name, weight, config, back=True) for name, weight in weights.items()}
    return model_from_hf(config, _renamed(weights, arch, config["num_hidden_layers"]))


def _rotary(arch: str, fields: Mapping[str, Any], factors: Tensor | None) -> dict[str, Any]:
    """Hugging Face's rotary settings; ValueError for an unsupported scaling."""
    rotary: dict[str, Any] = {"rope_type": "default", "rope_theta": fields.get(f"{arch}.rope.freq_base", 10000.0)}
    kind = fields.get(f"{arch}.rope.scaling.type", "none")
    if kind == "linear":
        rotary |= {"rope_type": "linear", "factor": fields[f"{arch}.rope.scaling.factor"]}
    elif kind != "none":
        raise ValueError(f"rotary scaling {kind!r} is not supported; supported are linear and llama3")
    if factors is None:
        return rotary
    # other programs' files have only the resulting factors, so check them against Llama 3's published settings
    published = {"factor": factors.max().item(), "original_max_position_embeddings": 8192}
    published |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rotary |= {"rope_type": "llama3"}
    rotary |= {key: fields.get(f"minillm.rope.{ours}", published[key]) for key, ours in gguf_out.SCALING.items()}
    rotary["original_max_position_embeddings"] = int(rotary["original_max_position_embeddings"])
    settings = {f"rope_{ours.replace('length', 'len')}": rotary[key] for key, ours in gguf_out.SCALING.items()}
    shape = ModelConfig(position="rotary", rope_scaling="llama3", **settings)
    plain, scale = rotary_frequencies(2 * len(factors), rotary["rope_theta"]), rotary_scale(shape)
    if scale is None or not torch.allclose(plain / scale(plain), factors, rtol=1e-4):
        raise ValueError(f"{gguf_out.ROPE_FACTORS} has a scaling other than Llama 3's; it cannot be imported")
    return rotary
