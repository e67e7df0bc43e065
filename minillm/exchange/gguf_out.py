"""Writes a model of the Llama or GPT-2 architecture as a GGUF file for llama.cpp, with the optional `gguf` package.

The tables map Hugging Face's names to GGUF's. In a `llama` model, llama.cpp rotates pairs of adjacent components, but
Hugging Face pairs the two halves of a head, so the rows of queries and keys are reordered.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from minillm.exchange.gguf_tokenizer import CHAT_TEMPLATE, write_tokenizer
from minillm.exchange.llama_weights import config_from_hf
from minillm.nn.position import rotary_frequencies, rotary_scale

_LLAMA_BLOCK = {f"self_attn.{p}_proj": f"attn_{p}" for p in "qkv"}
_LLAMA_BLOCK |= {f"self_attn.{p}_norm": f"attn_{p}_norm" for p in "qk"}
_LLAMA_BLOCK |= {f"mlp.{p}_proj": f"ffn_{p}" for p in ("gate", "up", "down")} | {"self_attn.o_proj": "attn_output"}
_LLAMA_BLOCK |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_GPT2_BLOCK = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
_GPT2_BLOCK |= {"ln_1": "attn_norm", "ln_2": "ffn_norm"}
_LLAMA = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_GPT2 = {"transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm"}
_GPT2 |= {"lm_head": "output"}
GPT2_SHAPE = dict(context_length="n_positions", embedding_length="n_embd", block_count="n_layer", head_count="n_head")
GPT2_SHAPE |= dict(feed_forward_length="n_inner", layer_norm_eps="layer_norm_epsilon")
_LLAMA_SHAPE = dict(context_length="max_position_embeddings", embedding_length="hidden_size", vocab_size="vocab_size")
_LLAMA_SHAPE |= dict(block_count="num_hidden_layers", feed_forward_length="intermediate_size")
_LLAMA_SHAPE |= dict(head_count="num_attention_heads", head_count_kv="num_key_value_heads")
_LLAMA_SHAPE |= dict.fromkeys(("key_length", "value_length", "rope_dimension_count"), "head_dim")
_LLAMA_SHAPE |= {"layer_norm_rms_eps": "rms_norm_eps"}
"""The GGUF writer's name of a hyperparameter -> key of config.json."""

GPT2_MATRICES = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
"""Endings of the matrices that GGUF stores transposed."""
ROPE_FACTORS = "rope_freqs.weight"
"""Divisors of the rotary frequencies, which is how GGUF stores llama3 scaling."""
SCALING = {"factor": "factor", "original_max_position_embeddings": "original_length"}
SCALING |= {"low_freq_factor": "low_freq_factor", "high_freq_factor": "high_freq_factor"}
"""Key of llama3 scaling -> its name after `minillm.rope.`, which tells what the divisors come from."""
Dtype = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
VOCABULARY = ("token_embd.weight", "output.weight")
"""Matrices that keep 8 bits in 4-bit and 5-bit files, because they are the most sensitive to rounding."""
KEPT = "position_embd.weight"
"""A matrix that llama.cpp reads in fp32 only."""


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    tokenizer: Mapping[str, Any],
    name: str,
    chat_template: str | None = None,
    *,
    dtype: Dtype = "f32",
    license: str | None = None,
    sampling: Mapping[str, float] | None = None,
) -> str | None:
    """Write a GGUF file; returns a warning if llama.cpp will pre-tokenize text differently, else None.

    Args:
        config: the content of config.json, with the ids of the special tokens.
        weights: by Hugging Face's names, without the copies of tied ones.
        tokenizer: the content of a tokenizer.json.
        chat_template: its Jinja template of conversations, if it has one.
        dtype: of the matrices. Vectors stay in fp32, and so do, in quantized files, matrices whose row length is not a
            multiple of 32. With 4 and 5 bits, the embedding table and the head are q8_0.
        license: identifier of the license.
        sampling: values of keys `general.sampling.*`.

    Raises:
        OSError: the file cannot be written, or the gguf package is not installed.
        ValueError: llama.cpp does not support the activation or the kind of tokenizer.
    """
    _require_arithmetic(config)
    arch = "llama" if config["model_type"] == "mistral" else config["model_type"]
    package, tensors = library(), _tensors(arch, config, weights)
    writer = package.GGUFWriter(path, arch)
    writer.add_name(name)
    writer.add_file_type(package.LlamaFileType["ALL_F32" if dtype == "f32" else f"MOSTLY_{dtype.upper()}"])
    writer.add_quantization_version(package.GGML_QUANT_VERSION)
    num_weights = sum(weight.numel() for weight in tensors.values())
    writer.add_size_label(package.size_label(num_weights, num_weights, 0, 0))
    if license is not None:
        writer.add_license(license)
    for key, value in (sampling or {}).items():
        (writer.add_int32 if isinstance(value, int) else writer.add_float32)(f"general.sampling.{key}", value)
    _write_shape(writer, arch, config)
    warning = write_tokenizer(writer, config, tokenizer)
    if chat_template is not None:
        writer.add_string(CHAT_TEMPLATE, chat_template)
    for tensor, weight in tensors.items():
        kind = _kind_of(package, tensor, weight, dtype)
        values = package.quants.quantize(weight.to(torch.float32).contiguous().numpy(), kind)
        writer.add_tensor(tensor, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return warning


def _kind_of(package: Any, tensor: str, weight: Tensor, dtype: Dtype) -> Any:
    """The GGML type of a tensor."""
    kinds = package.GGMLQuantizationType
    kind = kinds.Q8_0 if tensor in VOCABULARY and dtype.startswith(("q5", "q4")) else kinds[dtype.upper()]
    is_short = weight.size(-1) % package.GGML_QUANT_SIZES[kind][0] != 0
    return kinds.F32 if weight.ndim < 2 or tensor == KEPT or is_short else kind


def _require_arithmetic(config: Mapping[str, Any]) -> None:
    """ValueError for an activation, scale or bias that llama.cpp's architecture does not have."""
    kind = config["model_type"]
    key, only = ("activation_function", "gelu_new") if kind == "gpt2" else ("hidden_act", "silu")
    if config[key] != only:
        raise ValueError(f"{key} is {config[key]!r}; llama.cpp supports only {only!r} in a {kind} model")
    if not config.get("scale_attn_weights", True):
        raise ValueError("model.attention_scale is 1; llama.cpp scales the scores of a gpt2 model by head_dim ** -0.5")
    window, length = config.get("sliding_window"), config.get("max_position_embeddings", 0)
    if window is not None and window < length:
        raise ValueError(
            f"model.window is {window} and model.max_seq_len {length}, but llama.cpp attends to all tokens in a {kind} "
            "model; export a folder instead"
        )
    if kind != "llama" and (config.get("rope_parameters") or {}).get("rope_type") == "llama3":
        raise ValueError(
            f"model.rope_scaling is 'llama3'; llama.cpp reads it only in a llama model, and this is a {kind}"
        )
    if kind == "qwen3" and config["attention_bias"]:
        raise ValueError("model.attention_bias is 'all'; llama.cpp's qwen3 models have no biases")


def _write_shape(writer: Any, arch: str, config: Mapping[str, Any]) -> None:
    for name, key in (GPT2_SHAPE if arch == "gpt2" else _LLAMA_SHAPE).items():
        getattr(writer, f"add_{name}")(config[key])
    if arch == "gpt2":
        return
    rotary = config["rope_parameters"]
    writer.add_rope_freq_base(rotary["rope_theta"])
    if rotary["rope_type"] == "linear":
        writer.add_string(f"{arch}.rope.scaling.type", "linear")
        writer.add_rope_scaling_factor(rotary["factor"])
    elif rotary["rope_type"] == "llama3":
        for key, ours in SCALING.items():
            writer.add_float64(f"minillm.rope.{ours}", float(rotary[key]))


def _tensors(arch: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by GGUF's names and in its layout."""
    names = weight_names(arch, config["n_layer"] if arch == "gpt2" else config["num_hidden_layers"])
    tensors = {name: weights[hf] for name, hf in names.items() if hf in weights}
    assert len(tensors) == len(weights), "a weight without a name in GGUF"
    if arch == "gpt2":  # (in, out) there, (out, in) here
        return {name: weight.t() if name.endswith(GPT2_MATRICES) else weight for name, weight in tensors.items()}
    if arch == "llama":
        tensors = {name: interleave(name, weight, config) for name, weight in tensors.items()}
    shape = config_from_hf(config)
    scale = rotary_scale(shape)
    if shape.rope_scaling == "llama3" and scale is not None:
        plain = rotary_frequencies(shape.head_width, shape.rope_theta)
        tensors[ROPE_FACTORS] = plain / scale(plain)
    return tensors


def library() -> Any:
    """The gguf package; OSError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise OSError('the gguf package is not installed; install it with: pip install "minillm[gguf]"') from None
    return gguf


def weight_names(arch: str, num_layers: int) -> dict[str, str]:
    """GGUF's name -> Hugging Face's."""
    whole, block, layer = _LLAMA, _LLAMA_BLOCK, "model.layers"
    if arch == "gpt2":
        whole, block, layer = _GPT2, _GPT2_BLOCK, "transformer.h"
    modules = {name: hf for hf, name in whole.items()}
    modules |= {f"blk.{i}.{name}": f"{layer}.{i}.{hf}" for i in range(num_layers) for hf, name in block.items()}
    return {f"{name}.{part}": f"{hf}.{part}" for name, hf in modules.items() for part in ("weight", "bias")}


def interleave(name: str, weight: Tensor, config: Mapping[str, Any], *, back: bool = False) -> Tensor:
    """Interleave the two halves of each head in the rows of queries or keys; `back`: the inverse."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return weight
    shape = (heads, -1, 2) if back else (heads, 2, -1)
    return weight.unflatten(0, shape).transpose(1, 2).flatten(0, 2).contiguous()
