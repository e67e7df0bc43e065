"""Named model shapes. Does not import torch."""

import difflib

from minillm.nn.config import ModelConfig

Values = dict[str, object]

_GPT2: Values = {"vocab_size": 50257, "max_seq_len": 1024, "ff_dropout": 0.0}
_LLAMA: Values = {"norm": "rmsnorm", "activation": "silu", "gated": True, "position": "rotary", "bias": False}
_QWEN3: Values = {"qk_norm": True, "residual_init": "zero", "tie_embeddings": False}
# LayerNorm, because on a CPU its forward and backward passes are one kernel each; RMSNorm has several.
_MODERN: Values = {**_QWEN3, "norm_bias": False, "activation": "relu2", "position": "rotary", "bias": False}
_BERT: Values = dict(family="bert", max_seq_len=512, norm_order="post", norm_eps=1e-12, input_norm=True)
_BERT |= dict(activation="gelu", dropout=0.1, ff_dropout=0.0, num_token_types=2, heads=("lm", "pair"))
_BERT |= {"residual_init": "plain"}
_BERT_MINI: Values = {**_BERT, "max_seq_len": 128, "dropout": 0.0, "heads": ("lm",)}
_MODERNBERT: Values = dict(family="bert", norm_bias=False, input_norm=True, first_norm=False, activation="gelu")
_MODERNBERT |= dict(gated=True, position="rotary", bias=False, head_bias=False)
_MODERNBERT_BIG: Values = {**_MODERNBERT, "vocab_size": 50368, "max_seq_len": 8192, "window": 65}
_MODERNBERT_BIG |= {"layer_pattern": ("full", "local", "local"), "rope_theta": 160000.0, "local_rope_theta": 10000.0}
_T5: Values = dict(family="t5", vocab_size=32128, max_seq_len=512, norm="rmsnorm", norm_eps=1e-6, activation="relu")
_T5 |= dict(position="t5", bias=False, dropout=0.1, final_dropout=True, attention_scale=1.0)
_T5 |= {"init": "fan_in", "residual_init": "plain"}
_T5_BIG: Values = {"num_layers": 24, "d_model": 1024, "head_scale": 1024**-0.5}
# Pre-trained without dropout; fine-tuning sets it to 0.1.
_T5_V1_1: Values = {**_T5, "activation": "gelu_tanh", "gated": True, "tie_embeddings": False, "dropout": 0.0}
_T5_MINI: Values = {key: value for key, value in _T5_V1_1.items() if key != "vocab_size"}

_TRANSFORMER: Values = dict(family="t5", norm_order="post", activation="relu", position="sinusoidal", dropout=0.1)
_TRANSFORMER |= dict(attention_dropout=0.0, ff_dropout=0.0, init="fan_in", residual_init="plain")

_DIGITS: Values = {"input_shape": (1, 28, 28), "heads": ("class:10",)}
_MLP: Values = {"family": "mlp", "activation": "relu", "init": "fan_in"}
_VIT: Values = dict(family="vit", norm_eps=1e-12, activation="gelu", num_heads=12, patch_size=16)
_VIT |= {"residual_init": "plain"}

PRESETS: dict[str, Values] = {
    # Radford et al. 2019, table 2; parameters 124 M, 355 M, 774 M, 1558 M.
    "gpt2": {**_GPT2, "num_layers": 12, "d_model": 768, "num_heads": 12},
    "gpt2-medium": {**_GPT2, "num_layers": 24, "d_model": 1024, "num_heads": 16},
    "gpt2-large": {**_GPT2, "num_layers": 36, "d_model": 1280, "num_heads": 20},
    "gpt2-xl": {**_GPT2, "num_layers": 48, "d_model": 1600, "num_heads": 25},
    # Llama's design (Touvron et al. 2023) with grouped key and value heads, sized for one small GPU.
    "llama-small": dict(_LLAMA, max_seq_len=1024, num_layers=8, d_model=512, num_heads=8, num_kv_heads=4, d_ff=1408),
    # Ben Allal et al. 2025; 134.5 M parameters.
    "smollm2-135m": dict(
        {**_LLAMA, "max_seq_len": 8192, "num_layers": 30, "d_model": 576, "num_heads": 9, "num_kv_heads": 3},
        **{"d_ff": 1536, "vocab_size": 49152, "rope_theta": 100000.0},
    ),
    # For CPUs: rotary positions, normalized queries and keys, squared ReLU, blocks initialized as the identity.
    "gpt-nano": dict(_MODERN, max_seq_len=128, num_layers=4, d_model=192, num_heads=4, ngram_order=3, ngram_rows=4096),
    # Qwen3's design (Yang et al. 2025) for CPUs; supports export to transformers and GGUF. With the same training time
    # on two cores, two layers reach a lower loss than three or four, because they read more text.
    "qwen3-nano": dict(
        {**_LLAMA, **_QWEN3}, max_seq_len=128, num_layers=2, d_model=192, num_heads=4, num_kv_heads=2, d_ff=512
    ),
    "gpt-mini": {**_MODERN, "max_seq_len": 512, "num_layers": 6, "d_model": 384, "num_heads": 6},
    # Devlin et al. 2019, section 3; 110.1 M and 336.2 M parameters with both heads.
    "bert-base": {**_BERT, "vocab_size": 30522, "num_layers": 12, "d_model": 768, "num_heads": 12},
    "bert-large": {**_BERT, "vocab_size": 30522, "num_layers": 24, "d_model": 1024, "num_heads": 16},
    # Shapes of Turc et al. 2019, for CPUs: short sequences, no dropout, no next-sentence head.
    "bert-mini": {**_BERT_MINI, "num_layers": 4, "d_model": 256, "num_heads": 4},
    "bert-tiny": {**_BERT_MINI, "num_layers": 2, "d_model": 128, "num_heads": 2},
    # Warner et al. 2024, table 4; parameters 149 M and 395 M. Local layers reach 64 tokens on both sides.
    "modernbert-base": dict(_MODERNBERT_BIG, num_layers=22, d_model=768, num_heads=12, d_ff=1152),
    "modernbert-large": dict(_MODERNBERT_BIG, num_layers=28, d_model=1024, num_heads=16, d_ff=2624),
    # Their design for CPUs: all layers are full, because a short text has little to skip.
    "modernbert-mini": dict(
        {**_MODERNBERT, "max_seq_len": 128, "num_layers": 4, "d_model": 192, "num_heads": 4, "d_ff": 512},
        **{"residual_init": "zero", "tie_embeddings": False},
    ),
    # Raffel et al. 2020, section 3.7; parameters 60.5 M, 222.9 M, 737.7 M, 2851.6 M, 11307.3 M.
    "t5-small": {**_T5, "num_layers": 6, "d_model": 512, "num_heads": 8, "head_scale": 512**-0.5},
    "t5-base": {**_T5, "num_layers": 12, "d_model": 768, "num_heads": 12, "head_scale": 768**-0.5},
    "t5-large": {**_T5, **_T5_BIG, "num_heads": 16, "head_dim": 64, "d_ff": 4096},
    "t5-3b": {**_T5, **_T5_BIG, "num_heads": 32, "head_dim": 128, "d_ff": 16384},
    "t5-11b": {**_T5, **_T5_BIG, "num_heads": 128, "head_dim": 128, "d_ff": 65536},
    # T5 v1.1, with the gated feed-forward of Shazeer 2020; parameters 77.0 M, 247.6 M, 783.2 M, 2849.8 M, 11135.3 M.
    "t5-v1.1-small": {**_T5_V1_1, "num_layers": 8, "d_model": 512, "num_heads": 6, "head_dim": 64, "d_ff": 1024},
    "t5-v1.1-base": {**_T5_V1_1, "num_layers": 12, "d_model": 768, "num_heads": 12, "d_ff": 2048},
    "t5-v1.1-large": {**_T5_V1_1, "num_layers": 24, "d_model": 1024, "num_heads": 16, "d_ff": 2816},
    "t5-v1.1-xl": {**_T5_V1_1, "num_layers": 24, "d_model": 2048, "num_heads": 32, "d_ff": 5120},
    "t5-v1.1-xxl": {**_T5_V1_1, "num_layers": 24, "d_model": 4096, "num_heads": 64, "d_ff": 10240},
    # T5 v1.1 for CPUs.
    "t5-mini": {**_T5_MINI, "num_layers": 4, "d_model": 256, "num_heads": 4, "d_ff": 704},
    # Dosovitskiy et al. 2020, table 1: "ViT-Base/16" for ImageNet at 224 x 224; 86,567,656 parameters.
    "vit-base": {**_VIT, "input_shape": (3, 224, 224), "num_layers": 12, "d_model": 768, "heads": ("class:1000",)},
    # For digits of 28 x 28 pixels on CPUs: 16 patches.
    "vit-digits": dict(
        {**_VIT, **_DIGITS, "patch_size": 7, "num_layers": 4, "d_model": 64, "num_heads": 4, "norm_eps": 1e-5},
        residual_init="zero",
    ),
    # The layers of many textbooks: 784-128-64-10.
    "mlp-digits": {**_MLP, **_DIGITS, "hidden_sizes": (128, 64)},
    # Linear regression, and logistic regression as softmax over two or more classes; the data gives the input's shape.
    "linear": {**_MLP, "heads": ("value",)},
    # Vaswani et al. 2017, table 3, "base", with their English-German vocabulary; parameters 63.1 M.
    "transformer-base": dict(
        _TRANSFORMER, vocab_size=37000, max_seq_len=512, num_layers=6, d_model=512, num_heads=8, embed_scale=512**0.5
    ),
}
"""Name -> arguments of ModelConfig. Presets without vocab_size use the size of the tokenizer's vocabulary."""


def preset(name: str, **overrides: object) -> ModelConfig:
    """The config of a preset, changed by `overrides`; ValueError with the closest name if it does not exist."""
    if name not in PRESETS:
        near, *others = difflib.get_close_matches(name, PRESETS, n=9, cutoff=0)
        raise ValueError(
            f"model.preset {name!r} does not exist; did you mean {near!r}? Others of the {len(PRESETS)} are: "
            f"{', '.join(others)}"
        )
    return ModelConfig(**{"preset": name, **PRESETS[name], **overrides})  # type: ignore[arg-type]
