"""GGUF's names of weights, tokens and pre-tokenizers, for `gguf_in.py` and `gguf_out.py`.

The tables map Hugging Face's names to GGUF's; `gpt2_weights.py` and `llama_weights.py` map those to ours. In a `llama`
model llama.cpp rotates pairs of neighboring components, where Hugging Face pairs the two halves of a head, so the rows
of queries and keys are reordered. Files are read and written by the `gguf` package, an extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from minillm.tokenizers.merges import GPT2, LLAMA3, QWEN2, SINGLE_DIGITS

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
"""Pre-tokenization pattern -> llama.cpp's name of it, for the patterns that both support."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types."""
ROLE_KEYS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}
"""Role -> key of its id."""
NEVER = "À Á"
"""A merge of two bytes that never occur in UTF-8: llama.cpp needs at least one, and a byte tokenizer has none."""
ROPE_FACTORS = "rope_freqs.weight"
"""Divisors of the rotary frequencies, which is how GGUF stores llama3 scaling."""


def library() -> Any:
    """The gguf package; OSError if it is not installed."""
    try:
        import gguf
    except ImportError:
        raise OSError('the gguf package is not installed; install it with: pip install "minillm[gguf]"') from None
    return gguf


def weight_names(arch: str, num_layers: int) -> dict[str, str]:
    """GGUF's name of each weight -> Hugging Face's."""
    whole, block, layer = (
        (_GPT2, _GPT2_BLOCK, "transformer.h") if arch == "gpt2" else (_LLAMA, _LLAMA_BLOCK, "model.layers")
    )
    modules = {name: hf for hf, name in whole.items()}
    modules |= {f"blk.{i}.{name}": f"{layer}.{i}.{hf}" for i in range(num_layers) for hf, name in block.items()}
    return {f"{name}.{part}": f"{hf}.{part}" for name, hf in modules.items() for part in ("weight", "bias")}


def interleave(name: str, weight: Tensor, config: Mapping[str, Any], *, back: bool = False) -> Tensor:
    """Queries' and keys' rows with the two halves of each head interleaved; `back`: the inverse. Others unchanged."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return weight
    shape = (heads, -1, 2) if back else (heads, 2, -1)
    return weight.unflatten(0, shape).transpose(1, 2).flatten(0, 2).contiguous()
