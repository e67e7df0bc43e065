"""The shape of a model. Does not import torch, so that help and config errors are immediate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from minillm.nn.families import HeadSpec, check_family
from minillm.settings import Bounds, Only, check, setting

_ROTARY: Only = {"position": ("rotary",)}
_LLAMA3: Only = {**_ROTARY, "rope_scaling": ("llama3",)}
_BUCKETS: Only = {"position": ("t5",)}
_FEATURES: Only = {"family": ("vit", "mlp")}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that determines the parameters and arithmetic of a model."""

    preset: str = setting("qwen3-nano")
    """Named shape from `models/presets.py`, which the other keys of this section modify."""
    family: Literal["gpt", "bert", "t5", "vit", "mlp"] = setting("gpt")
    """gpt: decoder-only, bert: encoder-only, t5: encoder-decoder, vit: encoder of images, mlp: dense layers."""

    # Size
    vocab_size: int | None = setting(None, at_least=1)
    """Rows of the embedding table; None: the size of the tokenizer's vocabulary."""
    max_seq_len: int = setting(256, at_least=1)
    """Maximum number of tokens in one forward pass."""
    num_layers: int = setting(4, at_least=1, at_most=10_000)
    """Blocks in each stack."""
    d_model: int = setting(256, at_least=1)
    """Width of the residual stream."""

    # Images and numbers instead of tokens
    input_shape: tuple[int, ...] = setting((), only=_FEATURES)
    """Channels, height and width of an image, or the number of columns of a table; empty: that of the data."""
    patch_size: int = setting(16, at_least=1, only={"family": ("vit",)})
    """Side of the square patches that an image is cut into, in pixels (Dosovitskiy et al. 2020)."""
    hidden_sizes: tuple[int, ...] = setting((), only={"family": ("mlp",)})
    """Width of each hidden layer; empty: the output is a linear function of the input."""

    # Attention heads
    num_heads: int = setting(4, at_least=1)
    """Query heads of each attention layer."""
    num_kv_heads: int | None = setting(None, at_least=1)
    """Key and value heads (grouped-query attention, Ainslie et al. 2023); None: as many as query heads."""
    head_dim: int | None = setting(None, at_least=1)
    """Width of one head; None: d_model / num_heads."""
    qk_norm: bool = setting(False)
    """Normalize queries and keys in each head (Henry et al. 2020)."""
    attention_scale: float | None = setting(None, above=0)
    """Factor on the attention scores; None: head_dim ** -0.5. T5 uses 1."""

    # Which tokens a layer attends to
    layer_pattern: tuple[str, ...] = setting(("full",))
    """Attention of the layers, repeated over a stack: full, or local (Beltagy et al. 2020), limited by `window`."""
    window: int | None = setting(None, at_least=1)
    """In local layers, a token attends to tokens at a distance below this number (Jiang et al. 2023: 4096 tokens)."""

    # Norm
    norm: Literal["layernorm", "rmsnorm"] = setting("layernorm")
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019)."""
    norm_order: Literal["pre", "post"] = setting("pre")
    """Norm before each sublayer (GPT-2) or after each residual sum (Vaswani et al. 2017)."""
    norm_eps: float = setting(1e-5, above=0)
    """Added to the variance before the square root."""
    norm_bias: bool = setting(True, only={"norm": ("layernorm",)})
    """Whether LayerNorm has a bias; RMSNorm never has one."""
    input_norm: bool = setting(False)
    """Normalize the sum of the embeddings, as BERT does."""
    first_norm: bool = setting(True, only={"norm_order": ("pre",)})
    """Norm before the first attention layer. ModernBERT (Warner et al. 2024) has none, because it has `input_norm`."""

    # Feed-forward layer
    d_ff: int | None = setting(None, at_least=1)
    """Hidden width of the feed-forward layer; None: 4 * d_model."""
    activation: Literal["relu", "relu2", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"] = setting("gelu_tanh")
    """Nonlinearity of the feed-forward layer; relu2 is the squared ReLU (So et al. 2021)."""
    gated: bool = setting(False)
    """Multiply the activation by a second projection (GLU variants, Shazeer 2020); silu with gated is SwiGLU."""

    # Positions
    position: Literal["learned", "sinusoidal", "rotary", "t5", "alibi", "none"] = setting("learned")
    """Position encoding; learned and sinusoidal are added to the embeddings, the others act inside attention."""
    rope_theta: float = setting(10000.0, above=0, only=_ROTARY)
    """Base of the rotary wavelengths (Su et al. 2021)."""
    local_rope_theta: float | None = setting(None, above=0, only=_ROTARY)
    """Base of the wavelengths in local layers, which `rope_scaling` leaves alone; None: they are as in full layers."""
    rope_scaling: Literal["none", "linear", "llama3"] = setting("none", only=_ROTARY)
    """How rotary wavelengths are stretched for longer contexts: linear stretches all of them (Chen et al. 2023),
    llama3 the long ones (Grattafiori et al. 2024)."""
    rope_factor: float = setting(1.0, above=0, only={**_ROTARY, "rope_scaling": ("linear", "llama3")})
    """Factor by which `rope_scaling` stretches them."""
    rope_original_len: int = setting(8192, at_least=1, only=_LLAMA3)
    """Context in tokens before llama3 scaling."""
    rope_low_freq_factor: float = setting(1.0, above=0, only=_LLAMA3)
    """llama3 fully stretches wavelengths above rope_original_len divided by this number."""
    rope_high_freq_factor: float = setting(4.0, above=0, only=_LLAMA3)
    """llama3 does not stretch wavelengths below rope_original_len divided by this number."""
    relative_buckets: int = setting(32, only=_BUCKETS)
    """Number of T5's relative-position buckets."""
    relative_max_distance: int = setting(128, only=_BUCKETS)
    """Distance in tokens beyond which all positions share T5's last bucket."""

    # Biases
    bias: bool = setting(True)
    """Whether the linear layers of attention and feed-forward have biases."""
    attention_bias: Literal["none", "qkv", "all"] | None = setting(None)
    """Which attention projections have biases; None: as `bias`. Qwen2 has them on queries, keys and values."""

    # Dropout
    dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout probability on embeddings and sublayer outputs."""
    attention_dropout: float | None = setting(None, at_least=0, below=1)
    """Dropout probability on attention weights; None: as `dropout`."""
    ff_dropout: float | None = setting(None, at_least=0, below=1)
    """Dropout probability on the feed-forward layer's hidden units; None: as `dropout`. GPT-2 uses 0."""
    final_dropout: bool = setting(False)
    """Also apply `dropout` after the final norm of a stack, as T5 does."""

    # Embeddings and output heads
    num_token_types: int = setting(0, at_least=0)
    """Rows of the token-type (segment) embedding table; BERT has 2. 0: no table."""
    embed_scale: float | None = setting(None)
    """Factor on the token embeddings; None: 1. Vaswani et al. 2017, section 3.4, use d_model ** 0.5."""
    heads: tuple[str, ...] = setting(("lm",))
    """Output heads, set by the objective: lm (vocabulary), pair (next sentence, Devlin et al. 2019, section 3.1),
    pooler (some published encoders have only this one), class:N (N numbers for a sequence), tag:N (N for each token),
    span (start and end of an answer), value (one number for each token). Families have some of these."""
    head_bias: bool = setting(True, only={"family": ("bert",)})
    """Whether the dense layer of BERT's vocabulary head has a bias; false in ModernBERT."""
    tie_embeddings: bool = setting(True)
    """Share the token embeddings with the vocabulary head (Press and Wolf 2017)."""
    head_scale: float | None = setting(None)
    """Factor on the hidden states before the vocabulary head; None: 1. T5 v1.0 uses d_model ** -0.5."""
    logit_softcap: float | None = setting(None, above=0)
    """Bound logits by c * tanh(logits / c) (Gemma 2); None: no bound."""

    # N-gram embeddings
    ngram_order: int = setting(1, at_least=1, at_most=100)
    """Longest n-gram whose hashed embedding is added to a token's (Pagnoni et al. 2024); 1: none."""
    ngram_rows: int = setting(2048, at_least=1, only={"ngram_order": Bounds(at_least=2)})
    """Rows of each n-gram table."""

    # Initialization
    init: Literal["normal", "fan_in"] = setting("normal")
    """normal: weights have standard deviation `init_std` (Radford et al. 2018); fan_in: (inputs)^-1/2 (T5)."""
    init_std: float = setting(0.02, at_least=0, only={"init": ("normal",)})
    """Standard deviation of the initial weights with `init` normal."""
    residual_init: Literal["scaled", "zero", "plain"] = setting("scaled")
    """Initial projections into the residual stream: divided by sqrt(2 num_layers) (GPT-2), zero, or unchanged."""

    def __post_init__(self) -> None:
        check("model", self)
        if self.head_dim is None and self.d_model % self.num_heads:
            raise ValueError(
                f"model.d_model {self.d_model} is not divisible by model.num_heads {self.num_heads}; "
                "change one of them or set model.head_dim"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"model.num_heads {self.num_heads} is not divisible by model.num_kv_heads {self.num_kv_heads}"
            )
        if self.position == "rotary" and self.head_width % 2:
            raise ValueError(f"model.head_dim is {self.head_width}; rotary positions need an even number")
        if self.rope_high_freq_factor <= self.rope_low_freq_factor:
            raise ValueError(
                f"model.rope_high_freq_factor is {self.rope_high_freq_factor}; it must be above "
                f"model.rope_low_freq_factor, {self.rope_low_freq_factor}"
            )
        self._check_buckets()
        self._check_pattern()
        check_family(self.family, self.heads, self.num_token_types)

    def _check_buckets(self) -> None:
        """T5 uses half of the buckets for each direction; half of those hold a single distance each."""
        buckets, farthest = self.relative_buckets, self.relative_max_distance
        if self.position == "t5" and (buckets < 4 or buckets % 4):
            raise ValueError(f"model.relative_buckets is {buckets}; it must be a multiple of 4")
        if self.position == "t5" and farthest <= buckets // 2:
            raise ValueError(
                f"model.relative_max_distance is {farthest}; it must be above {buckets // 2}, half the buckets"
            )

    def _check_pattern(self) -> None:
        """ValueError unless the layers and the settings for local ones fit together."""
        if not self.layer_pattern or not set(self.layer_pattern) <= {"full", "local"}:
            raise ValueError(f"model.layer_pattern is {list(self.layer_pattern)}; it must list full and local layers")
        if "local" not in self.layer_pattern and (self.window, self.local_rope_theta) != (None, None):
            key = "window" if self.window else "local_rope_theta"
            raise ValueError(f"model.{key} has no effect without local layers; add one to model.layer_pattern")
        if "local" in self.layer_pattern and self.window is None:
            raise ValueError(
                "model.layer_pattern has local layers; set model.window to the number of tokens that they reach"
            )

    def require_length(self, length: int) -> None:
        """Raise ValueError if `length` tokens exceed `max_seq_len`."""
        if length > self.max_seq_len:
            raise ValueError(f"{length} tokens are more than model.max_seq_len {self.max_seq_len}")

    @property
    def head_specs(self) -> tuple[HeadSpec, ...]:
        """The parsed `heads`; ValueError if one is unknown."""
        return tuple(map(HeadSpec.parse, self.heads))

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """The pattern over all layers of a stack: full or local."""
        return tuple(self.layer_pattern[i % len(self.layer_pattern)] for i in range(self.num_layers))

    @property
    def biased_projections(self) -> str:
        """Attention projections that have biases: none, qkv or all."""
        return self.attention_bias or ("all" if self.bias else "none")

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads G."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Width K of one head."""
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def ff_width(self) -> int:
        """Hidden width F of the feed-forward layer."""
        return 4 * self.d_model if self.d_ff is None else self.d_ff

    @property
    def attention_drop(self) -> float:
        """Dropout probability on attention weights."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def ff_drop(self) -> float:
        """Dropout probability on the hidden units of the feed-forward layer."""
        return self.dropout if self.ff_dropout is None else self.ff_dropout
