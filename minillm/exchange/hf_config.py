"""Translates between Hugging Face's config.json and our model settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from minillm.nn.config import ModelConfig

_ACTIVATIONS = {name: name for name in ("relu", "relu2", "gelu", "silu", "sigmoid", "tanh")}
_ACTIVATIONS |= {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "swish": "silu"}
"""Hugging Face's name of an activation -> ours; for duplicates, exports use the first."""
_WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_KINDS = {
    f.name: next((kind for kind in _WORDS if str(f.type).startswith(kind.__name__)), str) for f in fields(ModelConfig)
}
"""Type of each of our settings; str for a Literal."""
_DERIVED = {"num_kv_heads": "kv_heads", "head_dim": "head_width", "d_ff": "ff_width"}
_DERIVED |= {"attention_dropout": "attention_drop", "ff_dropout": "ff_drop"}
"""Setting that may be None -> property with the resolved value."""


@dataclass(frozen=True)
class HFConfig:
    """The config.json of one family."""

    names: Mapping[str, str] = field(default_factory=dict)
    """Their key -> ours, for equal values."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values of missing keys, as in the Hugging Face class."""
    kinds: Mapping[str, type] = field(default_factory=dict)
    """Types of other keys."""

    def read(self, config: Mapping[str, Any], *off: str) -> dict[str, Any]:
        """The content of a file; missing and null values are replaced by the defaults.

        ValueError if a value has the wrong type (an integer is accepted for a float) or a feature in `off` is enabled.
        """
        settings = {**self.defaults, **{key: value for key, value in config.items() if value is not None}}
        for key, kind in {**{hf: _KINDS[ours] for hf, ours in self.names.items()}, **self.kinds}.items():
            value = settings.get(key)
            valid = isinstance(value, (int, float) if kind is float else kind)
            if value is not None and not (valid and (kind is bool or not isinstance(value, bool))):
                raise ValueError(f"{key} is {value!r}; expected {_WORDS[kind]}")
        for key in off:
            if settings.get(key):
                kind = settings.get("model_type")
                raise ValueError(f"{key} is {settings[key]!r} in this {kind} config; it must be off")
        return settings

    def to_ours(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of our config; KeyError for a key that is missing and has no default."""
        return {
            ours: activation_from_hf(settings[hf], hf) if ours == "activation" else settings[hf]
            for hf, ours in self.names.items()
        }

    def to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The inverse of `to_ours`."""
        values = {hf: getattr(config, _DERIVED.get(ours, ours)) for hf, ours in self.names.items()}
        return values | {hf: activation_to_hf(values[hf]) for hf, ours in self.names.items() if ours == "activation"}


def activation_from_hf(name: str, key: str) -> Any:
    """Our name of an activation; ValueError naming their `key` if it is not supported."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"{key} {name!r} is not one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def activation_to_hf(name: str) -> str:
    return next(hf for hf, ours in _ACTIVATIONS.items() if ours == name)


def layer_kinds_from_hf(types: object) -> tuple[str, ...]:
    """full or local for each of their layer types; empty for None. ValueError for another type."""
    ours = {"full_attention": "full", "sliding_attention": "local"}
    if types is not None and (not isinstance(types, list) or not set(types) <= set(ours)):
        raise ValueError(f"layer_types is {types!r}; supported are {' and '.join(ours)}")
    return tuple(ours[kind] for kind in types or ())


def shortest_pattern(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The shortest `layer_pattern` that repeats to `kinds`."""
    sizes = range(1, len(kinds) + 1)
    return next(kinds[:n] for n in sizes if all(kind == kinds[i % n] for i, kind in enumerate(kinds)))


_PLAIN: dict[str, Any] = {"embed_scale": None, "head_scale": None, "logit_softcap": None}
GPT_PARTS: dict[str, Any] = {**_PLAIN, "family": "gpt", "norm_order": "pre", "input_norm": False, "num_token_types": 0}
"""Settings that GPT-2 and Llama share, for `require_settings`."""
CLASSIC_PARTS: dict[str, Any] = {**_PLAIN, "norm": "layernorm", "norm_bias": True, "gated": False}
CLASSIC_PARTS |= {"position": "learned", "qk_norm": False, "bias": True, "biased_projections": "all"}
CLASSIC_PARTS |= {"first_norm": True, "head_bias": True, "window": None}
"""Settings that GPT-2 and BERT share."""


def require_settings(config: ModelConfig, architecture: str, **required: object) -> None:
    """ValueError listing the settings that differ from those that the Hugging Face class requires."""
    wrong = [
        f"model.{key} is {getattr(config, key)!r} (must be {value!r})"
        for key, value in required.items()
        if getattr(config, key) != value
    ]
    if wrong:
        raise ValueError(f"{architecture} cannot hold this model: {', '.join(wrong)}")
