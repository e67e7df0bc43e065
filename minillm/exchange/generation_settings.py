"""Translates between generation_config.json, GGUF's `general.sampling.*` and our [sample] settings."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from minillm.exchange.tokenizer_models import optional_json
from minillm.generation.config import SampleConfig
from minillm.settings import shown

DRAWING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0}
"""Settings that transformers reads only with do_sample, and their values if the file has none."""
ALWAYS = ("repetition_penalty", "max_new_tokens")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""Entries that the import of the tokenizer reads."""
COMPUTATION = ("_", "transformers_version", "use_cache", "cache_", "output_", "return_", "low_memory", "compile_")
COMPUTATION += ("disable_compile", "prefill_", "is_assistant", "assistant_", "num_assistant_", "prompt_lookup_")
COMPUTATION += ("max_matching_", "max_cache_")
"""Prefixes of entries that do not affect the text."""
NEUTRAL: dict[str, Any] = dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), 1)
NEUTRAL |= dict.fromkeys(("length_penalty", "typical_p", "encoder_repetition_penalty"), 1.0)
NEUTRAL |= dict.fromkeys(("min_length", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), 0)
NEUTRAL |= dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "diversity_penalty"), 0.0)
NEUTRAL |= {"max_length": 20, "top_h": None}
"""Entries that older versions of transformers always write, and the value that has no effect."""
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


def unused_settings(folder: Path, never: Set[int] = frozenset()) -> str | None:
    """A line that names the entries of generation_config.json that have no counterpart here; None if there are none.

    `never` are ids that are never generated.
    """
    path = folder / "generation_config.json"
    content = {key: value for key, value in optional_json(path).items() if value not in (None, False, [], {})}
    read = {*ALWAYS, *IDS, "do_sample", *(DRAWING if content.get("do_sample") else ())}
    ids = content.get("suppress_tokens")
    if isinstance(ids, list) and all(isinstance(token, int) and token in never for token in ids):
        read.add("suppress_tokens")
    neutral = DRAWING | NEUTRAL
    named = [key for key in content if key not in read and not key.startswith(COMPUTATION)]
    return _unused(path, {key: content[key] for key in named if content[key] != neutral.get(key)})


def unused_gguf_settings(fields: Mapping[str, Any], path: Path) -> str | None:
    """As `unused_settings`, for the fields of a GGUF file."""
    begin = "general.sampling."
    names = [key.removeprefix(begin) for key in fields if key.startswith(begin)]
    return _unused(path, {key: fields[begin + key] for key in names if key not in GGUF})


def _unused(path: Path, entries: Mapping[str, Any]) -> str | None:
    if not entries:
        return None
    named = ", ".join(f"{key} = {shown(value)}" for key, value in entries.items())
    return f"{path}: not used, because minillm has no such setting: {named}"


def unwritten_settings(sample: SampleConfig, *, gguf: bool) -> str | None:
    """A line that names the settings that an export cannot store; None if all of them have their defaults."""
    names = ["num_samples", "stop", *(["max_new_tokens"] if gguf else [])]
    changed = [f"sample.{name}" for name in names if getattr(sample, name) != getattr(_DEFAULTS, name)]
    where = "a GGUF file" if gguf else "generation_config.json"
    return f"not exported, because {where} has no such setting: {', '.join(changed)}" if changed else None


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
