"""The shape of a model, as data. Imports no torch, so that help and a config's errors answer at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class HeadSpec(NamedTuple):
    """An output head: its name, and its number of classes where that is not fixed by the name."""

    name: str
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> HeadSpec:
        """`lm`, `pair`, `pooler` or `class:N`; ValueError for anything else."""
        name, _, size = text.partition(":")
        if text in ("lm", "pair", "pooler"):
            return cls(name)
        if name == "class" and size.isdecimal() and int(size) >= 2:
            return cls(name, int(size))
        raise ValueError(f"model.heads has {text!r}; a head is lm, pair, pooler or class:N with N of at least 2")

    def __str__(self) -> str:
        return f"{self.name}:{self.size}" if self.size else self.name


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides a model's parameters and arithmetic. `None` means: derived, as the field says."""

    preset: str = "gpt-nano"
    """Named shape from `models/presets.py` that the other keys of this section refine."""
    family: Literal["gpt", "bert", "t5"] = "gpt"
    """How the stacks are wired: decoder-only, encoder-only or encoder-decoder."""
    vocab_size: int | None = None
    """Rows of the embedding table; None: the tokenizer's size. Larger than the tokenizer's means padded."""
    max_seq_len: int = 256
    """Longest sequence in tokens that one forward pass may see."""
    d_model: int = 256
    """Width of the residual stream."""
    num_layers: int = 4
    """Blocks in each stack."""
    num_heads: int = 4
    """Query heads of each attention."""
    num_kv_heads: int | None = None
    """Key and value heads (grouped-query attention, Ainslie et al. 2023); None: as many as query heads."""
    head_dim: int | None = None
    """Width of one head; None: d_model / num_heads."""
    d_ff: int | None = None
    """Hidden width of the feed-forward layer; None: 4 * d_model."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019)."""
    norm_order: Literal["pre", "post"] = "pre"
    """Norm before each sublayer (GPT-2) or after each residual sum (Vaswani et al. 2017)."""
    norm_eps: float = 1e-5
    """Added to the variance before the square root."""
    norm_bias: bool = True
    """Whether LayerNorm has a bias; RMSNorm never has one."""
    input_norm: bool = False
    """Normalise the summed embeddings, as BERT does."""
    activation: Literal["relu", "relu2", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"] = "gelu_tanh"
    """Non-linearity of the feed-forward layer; relu2 is the squared ReLU (So et al. 2021)."""
    gated: bool = False
    """Multiply the activation by a second projection (GLU variants, Shazeer 2020); silu and gated is SwiGLU."""
    position: Literal["learned", "sinusoidal", "rotary", "t5", "alibi", "none"] = "learned"
    """Where order comes from; the first two are added to the embeddings, the others act inside attention."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths (Su et al. 2021)."""
    rope_scaling: Literal["none", "linear", "llama3"] = "none"
    """How rotary wavelengths are stretched for longer contexts: all alike (Chen et al. 2023), or the long ones, as
    Llama 3.1 does (Grattafiori et al. 2024)."""
    rope_factor: float = 1.0
    """By how much `rope_scaling` stretches them."""
    rope_original_len: int = 8192
    """Context, in tokens, that llama3 scaling was trained at before."""
    rope_low_freq_factor: float = 1.0
    """llama3 stretches in full wavelengths above rope_original_len over this."""
    rope_high_freq_factor: float = 4.0
    """llama3 leaves wavelengths below rope_original_len over this as they are."""
    relative_buckets: int = 32
    """Number of T5's relative-position buckets."""
    relative_max_distance: int = 128
    """Distance in tokens from which on T5's buckets no longer grow."""
    qk_norm: bool = False
    """Normalise queries and keys per head (Henry et al. 2020)."""
    bias: bool = True
    """Whether the linear layers of attention and feed-forward have biases."""
    attention_bias: Literal["none", "qkv", "all"] | None = None
    """Which projections of attention have biases; None: as `bias`. Qwen2 has them on queries, keys and values."""
    dropout: float = 0.0
    """Probability of dropout on embeddings and sublayer outputs."""
    attention_dropout: float | None = None
    """Probability of dropout on attention weights; None: as `dropout`."""
    ff_dropout: float | None = None
    """Probability of dropout on the feed-forward's hidden layer; None: as `dropout`. GPT-2 has none there."""
    final_dropout: bool = False
    """Dropout, of probability `dropout`, after a stack's last norm too; T5 has it."""
    attention_scale: float | None = None
    """Factor on the attention scores; None: head_dim ** -0.5. T5 uses 1."""
    tie_embeddings: bool = True
    """Share the token table with the vocabulary head (Press and Wolf 2017)."""
    embed_scale: float | None = None
    """Factor on the token vectors; None: 1. Vaswani et al. 2017, section 3.4, have d_model ** 0.5."""
    head_scale: float | None = None
    """Factor on the hidden states before the vocabulary head; None: 1. T5 v1.0 has d_model ** -0.5."""
    logit_softcap: float | None = None
    """Bound logits by c * tanh(logits / c) (Gemma 2); None: no bound."""
    ngram_order: int = 1
    """Longest n-gram whose hashed embedding is added to a token's (Pagnoni et al. 2024); 1: none."""
    ngram_rows: int = 2048
    """Rows of each n-gram table."""
    num_token_types: int = 0
    """Rows of the segment embedding table (BERT has 2); 0: no segment embeddings."""
    heads: tuple[str, ...] = ("lm",)
    """Output heads, set by the objective: lm (vocabulary), pair (next sentence, Devlin et al. 2019, section 3.1),
    pooler (some encoders are published with it alone), class:N (N classes). All but lm are BERT's."""
    init: Literal["normal", "fan_in"] = "normal"
    """normal: weights start at `init_std` (Radford et al. 2018); fan_in: at one over the root of their inputs (T5)."""
    init_std: float = 0.02
    """Standard deviation of initial weights where `init` is normal."""
    residual_init: Literal["scaled", "zero", "plain"] = "scaled"
    """Projections into the residual stream start divided by sqrt(2 num_layers) (GPT-2), at zero, or as others."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and the remedy where the numbers contradict each other."""
        for key in (
            "max_seq_len",
            "ngram_order",
            "ngram_rows",
            "d_model",
            "num_layers",
            "num_heads",
            "vocab_size",
            "num_kv_heads",
            "head_dim",
            "d_ff",
            "rope_original_len",
        ):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"model.{key} is {value}; it must be at least 1")
        for key in (
            "rope_theta",
            "rope_factor",
            "rope_low_freq_factor",
            "norm_eps",
            "attention_scale",
            "logit_softcap",
        ):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"model.{key} is {value}; it must be above 0")
        for key in ("init_std", "num_token_types"):
            if getattr(self, key) < 0:
                raise ValueError(f"model.{key} is {getattr(self, key)}; it must be at least 0")
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
            raise ValueError(f"rotary positions apply_rotary pairs: model.head_dim {self.head_width} must be even")
        if self.rope_high_freq_factor <= self.rope_low_freq_factor:
            raise ValueError(
                f"model.rope_high_freq_factor is {self.rope_high_freq_factor}; it must be above "
                f"model.rope_low_freq_factor, {self.rope_low_freq_factor}"
            )
        for key in ("dropout", "attention_dropout", "ff_dropout"):
            value = getattr(self, key)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"model.{key} is {value}; it must be at least 0 and below 1")
        self._check_buckets()
        self._check_family()

    def _check_buckets(self) -> None:
        """An encoder halves T5's buckets for the two directions, and half of each half is one distance a bucket."""
        buckets, farthest = self.relative_buckets, self.relative_max_distance
        if self.position == "t5" and (buckets < 4 or buckets % 4):
            raise ValueError(f"model.relative_buckets is {buckets}; it must be a multiple of 4")
        if self.position == "t5" and farthest <= buckets // 2:
            raise ValueError(
                f"model.relative_max_distance is {farthest}; it must be above {buckets // 2}, half the buckets"
            )

    def _check_family(self) -> None:
        """Refuse what the family has no use for, instead of ignoring it."""
        if self.family != "bert" and self.heads != ("lm",):
            raise ValueError(f"model.heads is {list(self.heads)}; a {self.family} model has ['lm'] only")
        if len({spec.name for spec in self.head_specs}) < len(self.heads):
            raise ValueError(f"model.heads is {list(self.heads)}; it names a head twice")
        if self.num_token_types and self.family == "t5":
            raise ValueError(
                f"model.num_token_types is {self.num_token_types}, but a t5 model reads no segment ids: set it to 0"
            )

    def require_length(self, length: int) -> None:
        """Raise ValueError where a sequence of `length` tokens is more than the model may see."""
        if length > self.max_seq_len:
            raise ValueError(f"{length} tokens are more than model.max_seq_len {self.max_seq_len}")

    @property
    def head_specs(self) -> tuple[HeadSpec, ...]:
        """`heads` parsed; ValueError for one of another name or form."""
        return tuple(map(HeadSpec.parse, self.heads))

    @property
    def biased_projections(self) -> str:
        """Which projections of attention have biases: none, qkv or all, derived where the key is None."""
        return self.attention_bias or ("all" if self.bias else "none")

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads G, derived where the key is None."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        """Width K of one head, derived where the key is None."""
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def ff_width(self) -> int:
        """Hidden width F of the feed-forward layer, derived where the key is None."""
        return 4 * self.d_model if self.d_ff is None else self.d_ff

    @property
    def attention_drop(self) -> float:
        """Dropout probability on attention weights, derived where the key is None."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def ff_drop(self) -> float:
        """Dropout probability on the feed-forward's hidden layer, derived where the key is None."""
        return self.dropout if self.ff_dropout is None else self.ff_dropout
