"""Llama's parts (RMSNorm, rotary, SwiGLU, grouped heads, untied head) against transformers' LlamaForCausalLM."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from minillm.exchange.weight_map import Rule, WeightMap, weights_from_hf, weights_to_hf
from minillm.models.build import build_model
from minillm.models.presets import preset

ATTENTION, FEEDFORWARD = "decoder.blocks.{i}.attn", "decoder.blocks.{i}.ffn"
LAYER = "model.layers.{i}"
RULES = WeightMap(
    (
        Rule("model.embed_tokens.weight", "embed.tokens.weight"),
        Rule(f"{LAYER}.input_layernorm.weight", f"{ATTENTION}.norm.weight"),
        Rule(f"{LAYER}.self_attn.q_proj.weight", f"{ATTENTION}.sublayer.q.weight"),
        Rule(f"{LAYER}.self_attn.k_proj.weight", f"{ATTENTION}.sublayer.k.weight"),
        Rule(f"{LAYER}.self_attn.v_proj.weight", f"{ATTENTION}.sublayer.v.weight"),
        Rule(f"{LAYER}.self_attn.o_proj.weight", f"{ATTENTION}.sublayer.out.weight"),
        Rule(f"{LAYER}.post_attention_layernorm.weight", f"{FEEDFORWARD}.norm.weight"),
        Rule(f"{LAYER}.mlp.gate_proj.weight", f"{FEEDFORWARD}.sublayer.gate.weight"),
        Rule(f"{LAYER}.mlp.up_proj.weight", f"{FEEDFORWARD}.sublayer.up.weight"),
        Rule(f"{LAYER}.mlp.down_proj.weight", f"{FEEDFORWARD}.sublayer.down.weight"),
        Rule("model.norm.weight", "decoder.final_norm.weight"),
        Rule("lm_head.weight", "heads.lm.proj.weight"),
    )
)


def grad(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


def test_logits_and_gradients_equal_transformers_with_grouped_heads_and_another_theta():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=36,
        intermediate_size=50,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=False,
    )
    theirs = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1) * 0.5)
    shape = {"vocab_size": 61, "d_model": 36, "d_ff": 50, "num_layers": 2, "num_heads": 6, "num_kv_heads": 2}
    ours = build_model(preset("llama-small", **shape, rope_theta=500.0, tie_embeddings=False))
    ours.load_state_dict(weights_from_hf(theirs.state_dict(), RULES, 2))

    tokens = torch.randint(61, (2, 19))
    reference = theirs(tokens, labels=tokens)
    logits = ours(tokens).logits["lm"]
    scale = reference.logits.abs().max()
    assert ((logits - reference.logits).abs().max() / scale).item() < 1e-5
    reference.loss.backward()
    F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    expected = weights_from_hf({name: grad(p) for name, p in theirs.named_parameters()}, RULES, 2)
    for name, parameter in ours.named_parameters():
        difference = (grad(parameter) - expected[name]).abs().max() / expected[name].abs().max()
        assert difference.item() < 1e-5, name
    back = weights_to_hf(ours.state_dict(), RULES, 2)
    assert back.keys() == theirs.state_dict().keys()
