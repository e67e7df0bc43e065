"""Models of transformers' of every family, small, odd and random; as folders on disk too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

LLAMA: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
}
GPT2: dict[str, Any] = {"vocab_size": 61, "n_positions": 40, "n_embd": 30, "n_layer": 2, "n_head": 5}
BERT: dict[str, Any] = {
    "vocab_size": 61,
    "max_position_embeddings": 40,
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 77,
}
DISTILBERT: dict[str, Any] = {"vocab_size": 61, "max_position_embeddings": 40, "dim": 30, "n_layers": 2, "n_heads": 5}
DISTILBERT |= {"hidden_dim": 77}
MODERNBERT: dict[str, Any] = {**BERT, "num_hidden_layers": 4, "hidden_size": 40, "local_attention": 8}
T5: dict[str, Any] = {"vocab_size": 61, "d_model": 30, "d_kv": 7, "d_ff": 44, "num_layers": 2, "num_heads": 5}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2-untied": (
        "GPT2LMHeadModel",
        {**GPT2, "n_inner": 77, "activation_function": "gelu", "tie_word_embeddings": False},
    ),
    "gpt2-untied-tanh": ("GPT2LMHeadModel", {**GPT2, "n_inner": 96, "tie_word_embeddings": False}),
    "gpt2-unscaled": ("GPT2LMHeadModel", {**GPT2, "scale_attn_weights": False, "activation_function": "relu"}),
    "gpt2-bare": ("GPT2Model", GPT2),
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama-tied": ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True, "head_dim": 10, "rms_norm_eps": 1e-5}),
    "llama-biased": ("LlamaForCausalLM", {**LLAMA, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama-llama3": ("LlamaForCausalLM", {**LLAMA, "rope_parameters": LLAMA3_ROPE}),
    "llama-3.1": (
        "LlamaForCausalLM",
        {
            **LLAMA,
            "rope_parameters": {**LLAMA3_ROPE, "rope_theta": 500000.0, "original_max_position_embeddings": 8192},
        },
    ),
    "llama-linear": (
        "LlamaForCausalLM",
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
    ),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": None, "head_dim": 8}),
    "mistral-window": ("MistralForCausalLM", {**LLAMA, "sliding_window": 5}),
    "qwen2": ("Qwen2ForCausalLM", LLAMA),
    "qwen2-window": (
        "Qwen2ForCausalLM",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3-window": (
        "Qwen3ForCausalLM",
        {**LLAMA, "head_dim": 8, "use_sliding_window": True, "sliding_window": 5}
        | {"layer_types": ["sliding_attention", "full_attention"]},
    ),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 8}),
    "qwen3-biased": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 8, "attention_bias": True}),
    "bert": ("BertForPreTraining", {**BERT, "type_vocab_size": 3}),
    "bert-masked": ("BertForMaskedLM", {**BERT, "hidden_act": "gelu_new"}),
    "bert-bare": ("BertModel", BERT),
    "roberta": ("RobertaForMaskedLM", {**BERT, "type_vocab_size": 1}),
    "roberta-pooler": ("RobertaModel", {**BERT, "type_vocab_size": 1, "hidden_act": "relu"}),
    "xlm-roberta": ("XLMRobertaForMaskedLM", {**BERT, "type_vocab_size": 1}),
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT),
    "distilbert-bare": ("DistilBertModel", {**DISTILBERT, "activation": "relu"}),
    "modernbert": ("ModernBertForMaskedLM", MODERNBERT),
    "modernbert-biased": (
        "ModernBertForMaskedLM",
        {**MODERNBERT, "attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}
        | {"tie_word_embeddings": False, "hidden_activation": "silu", "classifier_activation": "silu"}
        | {"layer_types": ["full_attention", "sliding_attention"] * 2},
    ),
    "modernbert-bare": ("ModernBertModel", {**MODERNBERT, "layer_types": ["full_attention"] * 4}),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5-v1.1": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5-silu": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-silu", "tie_word_embeddings": False}),
}


@pytest.fixture(scope="session")
def foreign() -> Callable[[str], Any]:
    """The model of a name in SHAPES, every weight random: norms and biases too, so that a swapped one shows."""
    made: dict[str, Any] = {}

    def make(name: str) -> Any:
        if name not in made:
            architecture, shape = SHAPES[name]
            library: Any = transformers
            torch.manual_seed(0)
            none = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
            model_class = getattr(library, architecture)
            model = model_class(model_class.config_class(**shape, **none)).eval()
            untied = shape.get("tie_word_embeddings") is False and "T5" in architecture
            if untied:  # a published file unties it on loading; a new model shares one table
                model.lm_head.weight = torch.nn.Parameter(torch.empty(61, 30))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1) * 0.5)
            made[name] = model
        return made[name]

    return make


@pytest.fixture
def saved(foreign: Callable[[str], Any], tmp_path: Path) -> Callable[[str], Path]:
    """Its folder, as transformers saves it."""

    def save(name: str, **options: Any) -> Path:
        folder = tmp_path / name
        foreign(name).save_pretrained(folder, **options)
        return folder

    return save
