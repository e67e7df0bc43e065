"""GGUF's names of weights, tokens and cuts; `gguf_out.py` writes them and `gguf_in.py` reads them.

Each row is one of Hugging Face's names and GGUF's; the tables of `gpt2.py` and `llama.py` do the rest. llama.cpp
turns neighbouring components by one rotary angle in a `llama` model, where Hugging Face turns the two halves of a head;
their rows are reordered. The `gguf` package, an extra, reads and writes.
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
"""llama.cpp's names of the ways to cut text that both know."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens."""
ROLE_KEYS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id"}
"""Keys of the ids that have a role."""
NEVER = "À Á"
"""Of two bytes that no UTF-8 has: llama.cpp wants a merge, and a tokenizer of bytes has none."""
ROPE_FACTORS = "rope_freqs.weight"
"""What each rotary frequency is divided by; how llama3 scaling is written down."""


def library() -> Any:
    try:
        import gguf
    except ImportError:
        raise OSError('the gguf package is not installed; install it with: pip install "minillm[gguf]"') from None
    return gguf


def weight_names(arch: str, num_layers: int) -> dict[str, str]:
    """GGUF's name of each weight, and Hugging Face's."""
    whole, block, layer = (
        (_GPT2, _GPT2_BLOCK, "transformer.h") if arch == "gpt2" else (_LLAMA, _LLAMA_BLOCK, "model.layers")
    )
    modules = {ours: theirs for theirs, ours in whole.items()}
    modules |= {f"blk.{i}.{ours}": f"{layer}.{i}.{theirs}" for i in range(num_layers) for theirs, ours in block.items()}
    return {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in modules.items() for part in ("weight", "bias")}


def interleave(name: str, weight: Tensor, config: Mapping[str, Any], *, back: bool = False) -> Tensor:
    """Rows of queries and keys: the two halves of each head, one component of each in turn."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(name.split(".")[-2])
    if heads is None:
        return weight
    shape = (heads, -1, 2) if back else (heads, 2, -1)
    return weight.unflatten(0, shape).transpose(1, 2).flatten(0, 2).contiguous()
