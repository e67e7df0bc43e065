"""Writes our models for other libraries: a folder that transformers loads, or a GGUF file for llama.cpp."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from minillm.exchange.architectures import family_of, inputs_of, model_to_hf
from minillm.exchange.crosscheck import compare
from minillm.exchange.folder_in import CONFIG, SAFETENSORS
from minillm.exchange.generation_settings import write_gguf_settings, write_settings
from minillm.exchange.gguf_out import Dtype, write_gguf
from minillm.exchange.model_card import About, model_card
from minillm.exchange.sentence_transformers import write_embedding
from minillm.exchange.task_heads import auto_class_of, label_settings, pipeline_of, task_head
from minillm.exchange.tokenizer_out import require_own_pattern, role_ids, tokenizer_json, tokenizer_settings
from minillm.generation.config import EmbedConfig, SampleConfig
from minillm.nn.config import ModelConfig
from minillm.tokenizers.base import CHAT_TEMPLATE_FILE, Tokenizer
from minillm.tokenizers.chat_template import stop_id_of

EMBEDDING_PIPELINES = {True: "sentence-similarity", False: "feature-extraction"}
"""Whether a model without a vocabulary head has settings of sentence embeddings -> its task on the hub."""


@dataclass(frozen=True)
class Export:
    """A model to export."""

    name: str
    config: ModelConfig
    model: Any
    tokenizer: Tokenizer
    about: About = field(default_factory=About)
    """For the model card."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    """Settings of sentence embeddings."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """Settings of text generation."""
    objective: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the objective, whose labels become those of config.json."""

    def to_hf(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The content of config.json, and the weights; raises like `model_to_hf`."""
        settings, weights = model_to_hf(self.config, self.model.cpu().state_dict(), self.tokenizer.pad_id)
        return settings | self.special_ids() | self.task_settings(), weights

    def task_settings(self) -> dict[str, Any]:
        """The labels of a model with a head for a task, and the padding id, by which theirs finds the last token."""
        if task_head(self.config.heads) is None:
            return {}
        return label_settings(self.objective) | {"pad_token_id": self.tokenizer.pad_id}

    @property
    def eos_ids(self) -> list[int]:
        """The ids that end a text, EOS first, and the one that ends an answer in its chat template."""
        stop = stop_id_of(self.tokenizer)
        return [*dict.fromkeys((*self.tokenizer.eos_ids, *(() if stop is None else (stop,))))]

    def special_ids(self) -> dict[str, int | list[int]]:
        """The special ids in config.json and generation_config.json, by key."""
        roles = role_ids(self.tokenizer)
        ids: dict[str, int | list[int]] = {
            f"{role}_token_id": roles[role] for role in ("bos", "eos", "pad") if role in roles
        }
        if "eos_token_id" in ids and len(self.eos_ids) > 1:
            ids["eos_token_id"] = self.eos_ids
        return ids | ({"decoder_start_token_id": self.tokenizer.pad_id} if self.model.writes == "answer" else {})


def write_folder(folder: Path, export: Export) -> str:
    """Write config.json, model.safetensors, the tokenizer's files and a model card into the empty `folder`.

    Returns the result of the check with transformers. ValueError if no transformers class can hold the model, or if
    transformers computes something else from the folder.
    """
    settings, weights = export.to_hf()
    architecture, family, tokenizer = settings["architectures"][0], family_of(export.config), export.tokenizer
    described = tokenizer_json(tokenizer, family.family)
    require_own_pattern(described, settings["model_type"])
    write_model(folder, settings, weights)
    _write(folder / "tokenizer.json", described)
    inputs = inputs_of(export.config)
    _write(folder / "tokenizer_config.json", tokenizer_settings(tokenizer, export.config.max_seq_len, inputs))
    if tokenizer.chat_template is not None:
        (folder / CHAT_TEMPLATE_FILE).write_bytes(tokenizer.chat_template.encode())
    if export.model.writes != "nothing":
        generation = export.special_ids() | suppressed(export) | write_settings(export.sample)
        _write(folder / "generation_config.json", generation)
    write_embedding(folder, export.embed, export.config.d_model, export.config.max_seq_len)
    parameters = sum(weight.numel() for weight in export.model.parameters())
    facts = {
        "architecture": f"{architecture}, {parameters / 1e6:.2f} M parameters",
        "tokenizer": f"{tokenizer.kind}, {tokenizer.vocab_size} ids",
        "context": f"{export.config.max_seq_len} tokens",
    }
    heads = export.config.heads
    embeds = export.embed.pooling is not None
    card = model_card(
        export.name,
        export.about,
        facts=facts,
        pipeline=pipeline_of(heads) or (family.pipeline if "lm" in heads else EMBEDDING_PIPELINES[embeds]),
        library="sentence-transformers" if embeds else "transformers",
        auto_class=auto_class_of(heads) or (family.auto_class if "lm" in heads else "AutoModel"),
        special=next(iter(tokenizer.specials), "<s>"),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return compare(export.model, tokenizer, folder, architecture, family.outputs, inputs)


def write_gguf_file(path: Path, export: Export, *, dtype: Dtype = "f32") -> str | None:
    """Write a GGUF file, for GPT-2 and Llama architectures; otherwise like `write_gguf`."""
    if export.model.writes != "continuation":
        raise ValueError(f"{export.name} is a {export.config.family} model; only a gpt can be exported to GGUF")
    settings, weights = export.to_hf()
    tokenizer = tokenizer_json(export.tokenizer, export.config.family)
    options: dict[str, Any] = {"license": export.about.license, "sampling": write_gguf_settings(export.sample)}
    template = export.tokenizer.chat_template
    return write_gguf(path, settings, weights, tokenizer, export.name, template, dtype=dtype, **options)


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / SAFETENSORS, {"format": "pt"})


def suppressed(export: Export) -> dict[str, list[int]]:
    """Ids that minillm never generates: special tokens except those that end a text and T5's sentinels, and padding
    rows.
    """
    tokenizer = export.tokenizer
    written = {*export.eos_ids, *(tokenizer.extra_ids if export.model.writes == "answer" else ())}
    padding = range(tokenizer.vocab_size, export.config.vocab_size or 0)
    never = {*tokenizer.special_ids, *padding} - written
    return {"suppress_tokens": sorted(never)} if never else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
