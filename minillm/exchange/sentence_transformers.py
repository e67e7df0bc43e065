"""Reads and writes the files of sentence-transformers: pooling, normalization, maximum length and prompts.

modules.json lists the steps from a text to its vector; each has a folder with a config.json of its own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minillm.exchange.tokenizer_models import load_json
from minillm.generation.config import EmbedConfig

MODULES, PROMPTS, LENGTH = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
_POOLING, _NORMALIZE = "1_Pooling", "2_Normalize"
_MODES = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "last": "lasttoken"}
_MODES |= {"mean_sqrt_len": "mean_sqrt_len_tokens", "weighted_mean": "weightedmean_tokens"}
"""Our name of a kind of pooling -> the ending of their key."""
_NEW = {"lasttoken": "last", "mean_sqrt_len_tokens": "mean_sqrt_len", "weightedmean": "weighted_mean"}
"""Their name in files of version 6 -> ours, if it is another one."""


def read_embedding(folder: Path) -> tuple[Path, EmbedConfig]:
    """The folder of the transformer, and the settings of a sentence-transformers folder; the defaults for another one.

    ValueError names a module or setting that is not supported.
    """
    if not (folder / MODULES).is_file():
        return folder, EmbedConfig()
    try:
        modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        steps = [(str(module["type"]).rpartition(".")[2], folder / _plain(module["path"])) for module in modules]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MODULES} is damaged ({error}); download it again") from None
    kinds = [kind for kind, _ in steps]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ValueError(f"its {MODULES} lists {', '.join(kinds)}; only Transformer, Pooling and Normalize can be read")
    inner, about = steps[0][1], _optional(folder / PROMPTS)
    pooled, prompts = load_json(steps[1][1] / "config.json"), about.get("prompts") or {}
    named = {name: text for name, text in prompts.items() if text} if isinstance(prompts, dict) else {}
    if named and not pooled.get("include_prompt", True):
        raise ValueError("its pooling leaves the prompt out (include_prompt is false), which is not supported")
    default = about.get("default_prompt_name")
    return inner, EmbedConfig(
        pooling=_pooling(pooled),  # type: ignore[arg-type]
        normalize="Normalize" in kinds,
        max_tokens=_length(inner),
        similarity=about.get("similarity_fn_name") or "cosine",
        prompts=tuple(f"{name}={text}" for name, text in named.items()),
        prompt=default if default in named else None,
    )


def write_embedding(folder: Path, config: EmbedConfig, width: int, max_len: int) -> None:
    """Write the files of `config` for a model of `width` and at most `max_len` tokens; none if it has no pooling."""
    if config.pooling is None:
        return
    kinds = {"": "Transformer", _POOLING: "Pooling"} | ({_NORMALIZE: "Normalize"} if config.normalize else {})
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    modes = {f"pooling_mode_{theirs}": ours == config.pooling for ours, theirs in _MODES.items()}
    texts = dict(prompt.split("=", 1) for prompt in config.prompts)
    contents: dict[str, Any] = {
        MODULES: modules,
        LENGTH: {"max_seq_length": min(config.max_tokens or max_len, max_len), "do_lower_case": False},
        f"{_POOLING}/config.json": {"word_embedding_dimension": width, **modes, "include_prompt": True},
        PROMPTS: {"prompts": texts, "default_prompt_name": config.prompt, "similarity_fn_name": config.similarity},
    }
    contents |= {f"{_NORMALIZE}/config.json": {}} if config.normalize else {}
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(path: str) -> str:
    """The path of a module's folder; ValueError if it leads out of the model's."""
    if path and Path(path).name != path:
        raise ValueError(f"{path!r} is not a folder next to it")
    return path


def _pooling(config: Mapping[str, Any]) -> str:
    """Our name of the pooling; ValueError if several are concatenated, or for another one."""
    if (mode := config.get("pooling_mode")) is not None:
        modes = [mode] if isinstance(mode, str) else list(mode)
        found = [_NEW.get(name, name) for name in modes]
    else:
        found = [ours for ours, theirs in _MODES.items() if config.get(f"pooling_mode_{theirs}")] or ["mean"]
    if len(found) > 1 or found[0] not in _MODES:
        raise ValueError(f"its pooling is {' with '.join(found)}; only one of {', '.join(_MODES)} can be imported")
    return found[0]


def _length(folder: Path) -> int | None:
    """The maximum number of tokens; ValueError if the texts must become lower case first."""
    names = [LENGTH, *sorted(path.name for path in folder.glob("sentence_*_config.json"))]
    about = next((load_json(folder / name) for name in names if (folder / name).is_file()), {})
    normalizer = _optional(folder / "tokenizer.json").get("normalizer") or {}
    if about.get("do_lower_case") and not normalizer.get("lowercase"):
        raise ValueError("do_lower_case is true in its sentence_bert_config.json, but its tokenizer keeps the case")
    length = about.get("max_seq_length") or _optional(folder / "tokenizer_config.json").get("model_max_length")
    return length if isinstance(length, int) and length < 1_000_000 else None


def _optional(path: Path) -> dict[str, Any]:
    return load_json(path) if path.is_file() else {}
