"""Translates between generation_config.json, GGUF's `general.sampling.*` and our [sample] settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minillm.exchange.tokenizer_models import optional_json
from minillm.generation.config import SampleConfig

DRAWING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
"""Settings that transformers reads only with do_sample, and their values if the file has none."""
ALWAYS = ("repetition_penalty", "max_new_tokens")
GGUF = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
GGUF |= {"penalty_repeat": "repetition_penalty"}
"""Name after `general.sampling.` -> ours."""
_NUMBERS = {"top_k": int, "max_new_tokens": int}
_DEFAULTS = SampleConfig()


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings of [sample] in generation_config.json; ValueError for one that is not a number in range."""
    path = folder / "generation_config.json"
    content = {key: value for key, value in optional_json(path).items() if value is not None}
    found = {key: content[key] for key in ALWAYS if key in content}
    if content.get("do_sample"):
        found |= DRAWING | {key: content[key] for key in DRAWING if key in content}
    elif "do_sample" in content:
        found["temperature"] = 0.0
    return _checked(found, path)


def write_settings(sample: SampleConfig) -> dict[str, Any]:
    """The entries of generation_config.json for settings that are not the defaults here."""
    changed = {key: getattr(sample, key) for key in ALWAYS if getattr(sample, key) != getattr(_DEFAULTS, key)}
    if all(getattr(sample, key) == getattr(_DEFAULTS, key) for key in DRAWING):
        return changed
    if sample.temperature == 0:
        return changed | {"do_sample": False}
    return changed | {"do_sample": True} | {key: getattr(sample, key) for key in DRAWING}


def read_gguf_settings(fields: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings of [sample] in the fields of a GGUF file; errors as in `read_settings`."""
    keys = {f"general.sampling.{key}": ours for key, ours in GGUF.items()}
    return _checked({ours: fields[key] for key, ours in keys.items() if key in fields}, path)


def write_gguf_settings(sample: SampleConfig) -> dict[str, float]:
    """The values of `general.sampling.*` for settings that are not the defaults here."""
    if all(getattr(sample, ours) == getattr(_DEFAULTS, ours) for ours in GGUF.values()):
        return {}
    return {key: getattr(sample, ours) for key, ours in GGUF.items()}


def _checked(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings as numbers that SampleConfig accepts."""
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{path}: {key} is {value!r}; expected a number")
    numbers: dict[str, Any] = {key: _NUMBERS.get(key, float)(value) for key, value in found.items()}
    try:
        SampleConfig(**numbers)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return numbers
