"""GGUF, the file of llama.cpp: models of Llama's and GPT-2's shape out, Llama's in, quantised ones as plain numbers.

The weights have names of their own there. Each row below is one of Hugging Face's names and GGUF's, so that the tables
of `gpt2.py` and `llama.py` do the rest. llama.cpp turns neighbouring components by one rotary angle in a `llama` model,
where Hugging Face turns the two halves of a head; their rows are reordered. The `gguf` package reads and writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.convert.families import Imported, from_foreign
from minillm.convert.llama import import_config
from minillm.convert.tokenizer import ROLES, byte_level_model, from_model, prefix_of
from minillm.nn.config import ModelConfig
from minillm.nn.position import rotary_frequencies, rotary_scale
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.merges import GPT2, LLAMA3, QWEN2, SINGLE_DIGITS, cut_pattern

_LLAMA_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GPT2_BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_LLAMA = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_GPT2 = {"transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm"}
_GPT2 |= {"lm_head": "output"}

CUTS = {GPT2: "gpt-2", SINGLE_DIGITS: "smollm", LLAMA3: "llama-bpe", QWEN2: "qwen2"}
"""llama.cpp's names of the ways to cut text that both know."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens."""
ROLE_KEYS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id",
}  # fmt: skip
NEVER = "À Á"
"""Of two bytes that no UTF-8 has: llama.cpp wants a merge, and a tokenizer of bytes has none."""
ROPE_FACTORS = "rope_freqs.weight"
"""What each rotary frequency is divided by; how llama3 scaling is written down."""


def read_gguf(path: Path) -> tuple[Imported, Tokenizer]:
    """The model and the tokenizer of a GGUF file.

    Raises:
        OSError: no such file, or the gguf package is not installed.
        ValueError: a damaged file, or a model or tokenizer of a kind that is not known.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    library = _library()
    try:
        reader = library.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {t.name: library.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    except (ValueError, IndexError, KeyError, NotImplementedError) as error:
        raise ValueError(f"{path} is no GGUF file that the gguf package can read ({error})") from None
    arch = fields.get("general.architecture")
    if arch not in ("llama", "qwen2", "qwen3"):
        raise ValueError(f"{path} holds a model of architecture {arch!r}; llama, qwen2 and qwen3 can be imported")
    weights = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in tensors.items()}
    try:
        return _model_of(arch, fields, weights), _tokenizer_of(fields, path)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}, which a {arch} model is made of") from None


def write_gguf(
    path: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Mapping[str, Any], name: str
) -> str | None:
    """Write a GGUF file in fp32.

    Args:
        path: the file.
        config: Hugging Face's, of a model of Llama's or GPT-2's shape, with the ids of its special tokens.
        weights: under Hugging Face's names, tied copies left out.
        tokenizer: the content of a tokenizer.json.
        name: of the model.

    Returns:
        A warning where llama.cpp will cut text otherwise than the tokenizer does; None where it cuts alike.

    Raises:
        OSError: it cannot be written, or the gguf package is not installed.
        ValueError: llama.cpp has no such activation or tokenizer.
    """
    arch = config["model_type"]
    _require_activation(config)
    writer = _library().GGUFWriter(path, arch)
    writer.add_name(name)
    _write_shape(writer, arch, config)
    warning = _write_tokenizer(writer, config, tokenizer)
    for theirs, weight in _tensors(arch, config, weights).items():
        writer.add_tensor(theirs, weight.to(torch.float32).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return warning


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise OSError('the gguf package is not installed; install it with: pip install "minillm[gguf]"') from None
    return gguf


def _require_activation(config: Mapping[str, Any]) -> None:
    """llama.cpp decides the activation by the architecture."""
    key, only = ("activation_function", "gelu_new") if config["model_type"] == "gpt2" else ("hidden_act", "silu")
    if config[key] != only:
        raise ValueError(f"{key} is {config[key]!r}; llama.cpp computes a {config['model_type']} model with {only!r}")


def _write_shape(writer: Any, arch: str, config: Mapping[str, Any]) -> None:
    """The numbers that the model is built from."""
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
    """A byte-level BPE as llama.cpp keeps it."""
    model, decoder = tokenizer["model"], tokenizer["decoder"] or {}
    if model["type"] != "BPE" or decoder.get("type") != "ByteLevel":
        raise ValueError("its tokenizer is no byte-level BPE, the only kind that is written to GGUF")
    rows = config["vocab_size"]
    names, kinds = [f"[PAD{i}]" for i in range(rows)], [UNUSED] * rows
    for token, i in model["vocab"].items():
        names[i], kinds[i] = token, NORMAL
    for token in tokenizer["added_tokens"]:
        names[token["id"]], kinds[token["id"]] = token["content"], CONTROL if token["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    pattern = cut_pattern(tokenizer["pre_tokenizer"]) if merges else GPT2  # single bytes need no cut
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
        "llama.cpp does not know how this tokenizer cuts text and will cut as Llama 3 does: "
        "some text, numbers above all, gets other ids there"
    )


def _names(arch: str, num_layers: int) -> dict[str, str]:
    """GGUF's name of each weight, and Hugging Face's."""
    whole, block, layer = (
        (_GPT2, _GPT2_BLOCK, "transformer.h") if arch == "gpt2" else (_LLAMA, _LLAMA_BLOCK, "model.layers")
    )
    modules = {ours: theirs for theirs, ours in whole.items()}
    modules |= {f"blk.{i}.{ours}": f"{layer}.{i}.{theirs}" for i in range(num_layers) for theirs, ours in block.items()}
    return {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in modules.items() for part in ("weight", "bias")}


def _tensors(arch: str, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights as GGUF has them."""
    names = _names(arch, config["n_layer"] if arch == "gpt2" else config["num_hidden_layers"])
    found = {ours: weights[theirs] for ours, theirs in names.items() if theirs in weights}
    assert len(found) == len(weights), "a weight without a name in GGUF"
    if arch == "gpt2":  # (in, out) there, (out, in) here
        matrices = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
        return {name: w.t() if name.endswith(matrices) else w for name, w in found.items()}
    if arch == "llama":
        found = {name: _interleave(name, weight, config) for name, weight in found.items()}
    shape = import_config(config)
    scale = rotary_scale(shape)
    if shape.rope_scaling == "llama3" and scale is not None:
        plain = rotary_frequencies(shape.head_width, shape.rope_theta)
        found[ROPE_FACTORS] = plain / scale(plain)
    return found


def _interleave(name: str, weight: Tensor, config: Mapping[str, Any], *, back: bool = False) -> Tensor:
    """Rows of queries and keys: the two halves of each head, one component of each in turn."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return weight
    shape = (heads, -1, 2) if back else (heads, 2, -1)
    return weight.unflatten(0, shape).transpose(1, 2).flatten(0, 2).contiguous()


def _model_of(arch: str, fields: Mapping[str, Any], weights: dict[str, Tensor]) -> Imported:
    """The model, by way of Hugging Face's names."""

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
        "rope_parameters": _rotary(arch, fields, weights.pop(ROPE_FACTORS, None)),
    }
    if field("rope.dimension_count", config["head_dim"]) != config["head_dim"]:
        raise ValueError(f"{arch}.rope.dimension_count is not the width of a head; only whole heads can be turned here")
    names = _names(arch, config["num_hidden_layers"])
    if unknown := sorted(weights.keys() - names.keys()):
        raise ValueError(f"{len(unknown)} tensors have no place here, among them {', '.join(unknown[:3])}")
    if arch == "llama":
        weights = {name: _interleave(name, weight, config, back=True) for name, weight in weights.items()}
    return from_foreign(config, {names[name]: weight for name, weight in weights.items()})


def _rotary(arch: str, fields: Mapping[str, Any], factors: Tensor | None) -> dict[str, Any]:
    """Hugging Face's rotary settings; ValueError for a scaling that is not known."""
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": fields.get(f"{arch}.rope.freq_base", 10000.0)}
    kind = fields.get(f"{arch}.rope.scaling.type", "none")
    if kind == "linear":
        found |= {"rope_type": "linear", "factor": fields[f"{arch}.rope.scaling.factor"]}
    elif kind != "none":
        raise ValueError(f"rotary scaling {kind!r} is not supported; only linear and llama3's can be imported")
    if factors is None:
        return found
    # the file keeps the result only: Llama 3's published settings are tried
    llama3 = {"rope_type": "llama3", "factor": factors.max().item(), "original_max_position_embeddings": 8192}
    found |= llama3 | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    shape = ModelConfig(
        position="rotary", rope_scaling="llama3", rope_factor=found["factor"], head_dim=2 * len(factors)
    )
    plain, scale = rotary_frequencies(2 * len(factors), found["rope_theta"]), rotary_scale(shape)
    if scale is None or not torch.allclose(plain / scale(plain), factors, rtol=1e-4):
        raise ValueError(f"{ROPE_FACTORS} holds another scaling than Llama 3's; it cannot be imported")
    return found


def _tokenizer_of(fields: Mapping[str, Any], path: Path) -> Tokenizer:
    """The tokenizer, by way of a tokenizer.json."""
    kind, cut = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "default")
    pattern = next((pattern for pattern, name in CUTS.items() if name == cut), None)
    if kind != "gpt2" or pattern is None:
        known = ", ".join(CUTS.values())
        raise ValueError(
            f"{path}: a tokenizer of model {kind!r} that cuts as {cut!r} is not known; gpt2 with {known} is"
        )
    names, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    by_kind = {wanted: [name for name, own in zip(names, kinds, strict=True) if own == wanted] for wanted in range(7)}
    unused = set(by_kind[UNUSED])
    vocabulary = {name: i for i, name in enumerate(names) if name not in unused}
    pairs = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    merges = [pair for pair in pairs if "".join(pair) in vocabulary]
    model = byte_level_model(vocabulary, merges, by_kind[CONTROL], by_kind[USER_DEFINED], pattern)
    roles = {
        role: fields[f"tokenizer.ggml.{key}"] for role, key in ROLE_KEYS.items() if f"tokenizer.ggml.{key}" in fields
    }
    begins = [roles["bos"]] if fields.get("tokenizer.ggml.add_bos_token") and "bos" in roles else []
    return from_model(model, {role: i for role, i in roles.items() if role in ROLES}, where=path, prefix=begins)
