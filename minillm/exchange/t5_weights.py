"""T5 v1.0 and v1.1 (Raffel et al. 2020) under the names of Hugging Face's T5ForConditionalGeneration."""

from collections.abc import Collection, Mapping
from typing import Any

from minillm.exchange.hf_config import HFConfig, activation_from_hf, activation_to_hf, require_settings
from minillm.exchange.weight_map import Rule, WeightMap
from minillm.models.presets import preset
from minillm.nn.config import ModelConfig

_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"


def _stack_rows(stack: str, *, gated: bool) -> tuple[Rule, ...]:
    """Rows of the encoder or the decoder. Their names contain the number of the sublayer in its block."""
    names: dict[str, str] = {}
    attentions = [("SelfAttention", "attn"), ("EncDecAttention", "cross")][: 2 if stack == "decoder" else 1]
    for number, (hf, ours) in enumerate(attentions):
        names[f"layer.{number}.layer_norm"] = f"{ours}.norm"
        projections = {"q": "q", "k": "k", "v": "v", "o": "out"}
        names |= {f"layer.{number}.{hf}.{p}": f"{ours}.sublayer.{q}" for p, q in projections.items()}
    number = len(attentions)
    names[f"layer.{number}.layer_norm"] = "ffn.norm"
    projections = {"wi_0": "gate", "wi_1": "up", "wo": "down"} if gated else {"wi": "up", "wo": "down"}
    names |= {f"layer.{number}.DenseReluDense.{p}": f"ffn.sublayer.{q}" for p, q in projections.items()}
    return (
        Rule(f"{stack}.embed_tokens.weight", "embed.tokens.weight", tied_to="shared.weight"),
        Rule(f"{stack}.{_BIAS}", f"{stack}.position.table.weight"),
        *(Rule(f"{stack}.block.{{i}}.{p}.weight", f"{stack}.blocks.{{i}}.{q}.weight") for p, q in names.items()),
        Rule(f"{stack}.final_layer_norm.weight", f"{stack}.final_norm.weight"),
    )


def t5_map(config: ModelConfig) -> WeightMap:
    return WeightMap(
        rows=(
            Rule("shared.weight", "embed.tokens.weight"),
            *_stack_rows("encoder", gated=config.gated),
            *_stack_rows("decoder", gated=config.gated),
            Rule("lm_head.weight", "heads.lm.proj.weight", tied_to="shared.weight" if config.tie_embeddings else None),
        ),
        # Early files have a bias table for cross-attention that transformers never reads.
        ignored=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
    )


_CONFIG = HFConfig(
    names=dict(vocab_size="vocab_size", n_positions="max_seq_len", d_model="d_model", num_layers="num_layers")
    | dict(num_heads="num_heads", d_kv="head_dim", d_ff="d_ff", relative_attention_num_buckets="relative_buckets")
    | dict(relative_attention_max_distance="relative_max_distance", layer_norm_epsilon="norm_eps")
    | dict(dropout_rate="dropout"),
    # The files of the first release have neither the activation nor the distance.
    defaults=dict(feed_forward_proj="relu", relative_attention_num_buckets=32, relative_attention_max_distance=128)
    | dict(layer_norm_epsilon=1e-6, dropout_rate=0.1, n_positions=512, pad_token_id=0),
    kinds=dict.fromkeys(("num_decoder_layers", "decoder_start_token_id"), int)
    | dict.fromkeys(("tie_word_embeddings", "scale_decoder_outputs"), bool)
    | {"feed_forward_proj": str},
)


def config_from_hf(config: Mapping[str, Any], names: Collection[str] | None = None) -> ModelConfig:
    """Our config from a T5Config's dictionary; ValueError for an unsupported feature.

    T5's positions are unlimited; `max_seq_len` is its `n_positions`. The `names` of the weights say whether the file
    has an untied head; None: it has one if the config does not scale the head, as in v1.1.
    """
    settings = _CONFIG.read(config)
    if settings.get("decoder_start_token_id", settings["pad_token_id"]) != settings["pad_token_id"]:
        raise ValueError(
            f"decoder_start_token_id is {settings['decoder_start_token_id']}; only the padding token, "
            f"{settings['pad_token_id']}, is supported"
        )
    form = settings["feed_forward_proj"]
    gated, name = form.startswith("gated-"), form.removeprefix("gated-")
    # only for "gated-gelu", transformers uses the tanh approximation
    activation = "gelu_tanh" if form == "gated-gelu" else activation_from_hf(name, "feed_forward_proj")
    depth, decoder_depth = settings["num_layers"], settings.get("num_decoder_layers")
    if decoder_depth not in (None, depth):
        raise ValueError(f"num_decoder_layers {decoder_depth} is not num_layers {depth}; the depths must be equal")
    # v1.1's head is neither tied nor scaled. transformers 4 writes only tie_word_embeddings.
    scaled = settings.get("scale_decoder_outputs", settings.get("tie_word_embeddings", True))
    tied = scaled or (names is not None and "lm_head.weight" not in names)
    return preset(
        "t5-small" if scaled else "t5-v1.1-small",
        activation=activation,
        gated=gated,
        tie_embeddings=tied,
        head_scale=settings["d_model"] ** -0.5 if scaled else None,
        **_CONFIG.to_ours(settings),
    )


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The dictionary of a T5Config; ValueError if T5ForConditionalGeneration cannot hold the model."""
    parts = {"family": "t5", "norm": "rmsnorm", "norm_order": "pre", "input_norm": False, "position": "t5"}
    parts |= {"qk_norm": False, "bias": False, "biased_projections": "none", "kv_heads": config.num_heads}
    parts |= {"attention_scale": 1.0, "embed_scale": None, "logit_softcap": None, "first_norm": True, "window": None}
    require_settings(config, "T5ForConditionalGeneration", **parts)
    if config.head_scale not in (None, config.d_model**-0.5) or (config.head_scale and not config.tie_embeddings):
        raise ValueError(
            f"model.head_scale is {config.head_scale}; T5ForConditionalGeneration scales only a tied head, "
            "by 1 / sqrt(model.d_model)"
        )
    form = activation_to_hf(config.activation)
    if config.gated and config.activation == "gelu":
        raise ValueError("model.activation is 'gelu' with model.gated; T5ForConditionalGeneration needs 'gelu_tanh'")
    if config.gated:
        form = "gated-gelu" if config.activation == "gelu_tanh" else f"gated-{form}"
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "num_decoder_layers": config.num_layers,
        "feed_forward_proj": form,
        "is_encoder_decoder": True,
        "tie_word_embeddings": config.tie_embeddings,
        "scale_decoder_outputs": config.head_scale is not None,
        "initializer_factor": 1.0,
        **_CONFIG.to_hf(config),
    }
