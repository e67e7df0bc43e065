"""Writes our models for other libraries: a folder that transformers loads, or a GGUF file for llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from minillm.exchange.architectures import Family, family_of, model_to_hf
from minillm.exchange.crosscheck import compare
from minillm.exchange.folder_in import CONFIG, SAFETENSORS
from minillm.exchange.model_card import model_card
from minillm.exchange.tokenizer_out import require_own_pattern, role_ids, tokenizer_json, tokenizer_settings
from minillm.nn.config import ModelConfig
from minillm.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Export:
    """A model to be exported."""

    name: str
    config: ModelConfig
    model: nn.Module
    tokenizer: Tokenizer
    facts: Mapping[str, str]
    """More rows for the table of the model card."""

    @property
    def family(self) -> Family:
        """Its row in the table of families."""
        return family_of(self.config)

    def to_hf(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """config.json and weights; raises as `model_to_hf`."""
        settings, weights = model_to_hf(self.config, self.model.cpu().state_dict())
        return settings | special_ids(self.tokenizer, self.family), weights


def write_folder(folder: Path, export: Export) -> str:
    """Write config.json, model.safetensors, the tokenizer's files and a model card, and check them with transformers.

    Args:
        folder: exists and is empty.
        export: the model.

    Returns:
        The result of the check, as a sentence.

    Raises:
        ValueError: no stock class can hold the model, or transformers computes something else from the folder.
        OSError: a file cannot be written.
    """
    settings, weights = export.to_hf()
    architecture, family = settings["architectures"][0], export.family
    tokenizer = tokenizer_json(export.tokenizer, family.family)
    require_own_pattern(tokenizer, settings["model_type"])
    write_model(folder, settings, weights)
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer_config.json", tokenizer_settings(export.tokenizer, export.config.max_seq_len))
    if family.writes != "nothing":
        ids = special_ids(export.tokenizer, family)
        _write(folder / "generation_config.json", ids | suppressed(export.tokenizer, export.config))
    auto_class = family.auto_class if "lm" in export.config.heads else "AutoModel"
    parameters = sum(weight.numel() for weight in export.model.parameters())
    facts = {
        "architecture": f"{architecture}, {parameters / 1e6:.2f} M parameters",
        "tokenizer": f"{export.tokenizer.kind}, {export.tokenizer.vocab_size} ids",
        "context": f"{export.config.max_seq_len} tokens",
        **export.facts,
    }
    card = model_card(export.name, auto_class, facts, special=next(iter(export.tokenizer.specials), "<s>"))
    (folder / "README.md").write_text(card, encoding="utf-8")
    return compare(export.model, export.tokenizer, folder, architecture, family.outputs)


def write_gguf_file(path: Path, export: Export) -> str | None:
    """Write one file for llama.cpp, which reads decoders of GPT-2's and Llama's shapes.

    Returns:
        A warning, or None; as `write_gguf`.

    Raises:
        ValueError: llama.cpp cannot run the model.
        OSError: the file cannot be written, or the gguf package is not installed.
    """
    from minillm.exchange.gguf_out import write_gguf  # its package is an extra

    if export.family.writes != "continuation":
        raise ValueError(f"{export.name} is a {export.config.family} model; only a gpt can be exported to GGUF")
    settings, weights = export.to_hf()
    tokenizer = tokenizer_json(export.tokenizer, export.family.family)
    return write_gguf(path, settings, weights, tokenizer, export.name)


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / SAFETENSORS, {"format": "pt"})


def special_ids(tokenizer: Tokenizer, family: Family) -> dict[str, int]:
    """The special ids that models of transformers and their generation use, by role."""
    roles = role_ids(tokenizer)
    ids = {f"{role}_token_id": roles[role] for role in ("bos", "eos", "pad") if role in roles}
    return ids | ({"decoder_start_token_id": tokenizer.pad_id} if family.writes == "answer" else {})


def suppressed(tokenizer: Tokenizer, config: ModelConfig) -> dict[str, list[int]]:
    """Ids that generation here never writes: special tokens except EOS, and padding rows. T5 writes its sentinels."""
    written = {tokenizer.eos_id, *(tokenizer.extra_ids if family_of(config).writes == "answer" else ())}
    padding = range(tokenizer.vocab_size, config.vocab_size or 0)
    never = {*tokenizer.special_ids, *padding} - written
    return {"suppress_tokens": sorted(never)} if never else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
