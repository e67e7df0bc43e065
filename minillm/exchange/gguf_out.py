"""Writes a model of the Llama or GPT-2 architecture as a GGUF file for llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.exchange.gguf_names import (
    CONTROL,
    CUTS,
    NEVER,
    NORMAL,
    ROLE_KEYS,
    ROPE_FACTORS,
    UNUSED,
    USER_DEFINED,
    interleave,
    library,
    weight_names,
)
from minillm.exchange.llama_weights import config_from_hf
from minillm.exchange.tokenizer_in import prefix_of
from minillm.nn.position import rotary_frequencies, rotary_scale
from minillm.tokenizers.merges import GPT2, LLAMA3, cut_pattern


def write_gguf(
    path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Mapping[str, Any], name: str
) -> str | None:
    """Write a GGUF file in fp32.

    Args:
        path: the file.
        config: the content of Hugging Face's config.json, with the ids of the special tokens.
        weights: under Hugging Face's names, without the copies of tied ones.
        tokenizer: the content of a tokenizer.json.
        name: of the model.

    Returns:
        A warning if llama.cpp will pre-tokenize text differently; otherwise None.

    Raises:
        OSError: it cannot be written, or the gguf package is not installed.
        ValueError: llama.cpp lacks the activation or the kind of tokenizer.
    """
    arch = config["model_type"]
    _require_arithmetic(config)
    writer = library().GGUFWriter(path, arch)
    writer.add_name(name)
    _write_shape(writer, arch, config)
    warning = _write_tokenizer(writer, config, tokenizer)
    for tensor, weight in _tensors(arch, config, weights).items():
        writer.add_tensor(tensor, weight.to(torch.float32).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return warning


def _require_arithmetic(config: Mapping[str, Any]) -> None:
    """ValueError for what llama.cpp cannot compute: its architectures have fixed activations, scales and biases."""
    key, only = ("activation_function", "gelu_new") if config["model_type"] == "gpt2" else ("hidden_act", "silu")
    if config[key] != only:
        raise ValueError(
            f"{key} is {config[key]!r}; llama.cpp supports only {only!r} in a {config['model_type']} model"
        )
    if not config.get("scale_attn_weights", True):
        raise ValueError("model.attention_scale is 1; llama.cpp scales the scores of a gpt2 model by head_dim ** -0.5")
    if config["model_type"] == "qwen3" and config["attention_bias"]:
        raise ValueError("model.attention_bias is 'all'; llama.cpp's qwen3 models have no biases")


def _write_shape(writer: Any, arch: str, config: Mapping[str, Any]) -> None:
    """The hyperparameters."""
    if arch == "gpt2":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_feed_forward_length(config["n_inner"])
        writer.add_head_count(config["n_head"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    rotary = config["rope_parameters"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(rotary["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if rotary["rope_type"] == "linear":
        writer.add_string(f"{arch}.rope.scaling.type", "linear")
        writer.add_rope_scaling_factor(rotary["factor"])


def _write_tokenizer(writer: Any, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str | None:
    """A byte-level BPE in llama.cpp's form; returns a warning as `write_gguf`."""
    model, decoder = tokenizer["model"], tokenizer["decoder"] or {}
    if model["type"] != "BPE" or decoder.get("type") != "ByteLevel":
        raise ValueError("its tokenizer is not a byte-level BPE, the only kind that can be written to GGUF")
    rows = config["vocab_size"]
    names, kinds = [f"[PAD{i}]" for i in range(rows)], [UNUSED] * rows
    for token, i in model["vocab"].items():
        names[i], kinds[i] = token, NORMAL
    for token in tokenizer["added_tokens"]:
        names[token["id"]], kinds[token["id"]] = token["content"], CONTROL if token["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    pattern = cut_pattern(tokenizer["pre_tokenizer"]) if merges else GPT2  # single bytes need no pre-tokenization
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(CUTS.get(pattern or "", CUTS[LLAMA3]))
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges or [NEVER])
    for role, key in ROLE_KEYS.items():
        if f"{role}_token_id" in config:
            writer.add_uint32(f"tokenizer.ggml.{key}", config[f"{role}_token_id"])
    writer.add_add_bos_token(bool(prefix_of(tokenizer)))
    if pattern in CUTS:
        return None
    return (
        "llama.cpp lacks this tokenizer's pre-tokenization pattern and will use Llama 3's: "
        "some text, mostly numbers, gets different ids there"
    )


def _tensors(arch: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under GGUF's names and in its layout."""
    names = weight_names(arch, config["n_layer"] if arch == "gpt2" else config["num_hidden_layers"])
    tensors = {name: weights[hf] for name, hf in names.items() if hf in weights}
    assert len(tensors) == len(weights), "a weight without a name in GGUF"
    if arch == "gpt2":  # (in, out) there, (out, in) here
        matrices = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
        return {name: w.t() if name.endswith(matrices) else w for name, w in tensors.items()}
    if arch == "llama":
        tensors = {name: interleave(name, weight, config) for name, weight in tensors.items()}
    shape = config_from_hf(config)
    scale = rotary_scale(shape)
    if shape.rope_scaling == "llama3" and scale is not None:
        plain = rotary_frequencies(shape.head_width, shape.rope_theta)
        tensors[ROPE_FACTORS] = plain / scale(plain)
    return tensors
