"""A run to a folder that stock transformers loads with no custom code, or to a GGUF file for llama.cpp."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from minillm.exchange.architectures import to_foreign
from minillm.exchange.crosscheck import compare
from minillm.exchange.files import write_model
from minillm.exchange.model_card import model_card
from minillm.exchange.tokenizer_out import require_own_cut, role_ids, tokenizer_json, tokenizer_settings
from minillm.run.loaded import LoadedRun
from minillm.training.checkpoint import move_into_place, temporary_for


def export_model(loaded: LoadedRun, out: Path | str, *, say: Callable[[str], None] = print) -> Path:
    """Write config.json, model.safetensors, the tokenizer's files and a model card; or one GGUF file.

    Where transformers is installed, its logits and ids are compared with ours before the folder gets its name.

    Args:
        loaded: the run.
        out: a folder that is not there yet, or a file whose name ends in .gguf.
        say: gets the comparison's result, or what llama.cpp does otherwise.

    Raises:
        ValueError: a shape that no stock class holds, or a folder that is taken.
        OSError: it cannot be written.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another folder to export to")
    shape, tokenizer = loaded.config.model, loaded.tokenizer
    config, weights = to_foreign(shape, loaded.model.cpu().state_dict())
    ids = special_ids(loaded)
    model = tokenizer_json(tokenizer, shape.family)
    if out.suffix.lower() == ".gguf":
        return _export_gguf(loaded, out, config | ids, weights, model, say)
    require_own_cut(model, config["model_type"])
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(out)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write_model(temporary, config | ids, weights)
        _write(temporary / "tokenizer.json", model)
        _write(temporary / "tokenizer_config.json", tokenizer_settings(tokenizer, shape.max_seq_len))
        if loaded.model.writes != "nothing":
            _write(temporary / "generation_config.json", ids | suppressed(loaded))
        (temporary / "README.md").write_text(model_card(loaded, config["architectures"][0]), encoding="utf-8")
        say(compare(loaded, temporary, config["architectures"][0]))
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _export_gguf(
    loaded: LoadedRun,
    out: Path,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    tokenizer: dict[str, Any],
    say: Callable[[str], None],
) -> Path:
    """One file for llama.cpp, which reads models of GPT-2's and Llama's shape."""
    from minillm.exchange.gguf_out import write_gguf  # needs a package that is an extra

    if loaded.config.model.family != "gpt":
        raise ValueError(f"{loaded.folder} is a {loaded.config.model.family} model; only a GPT is written to GGUF")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(out)
    try:
        warning = write_gguf(temporary, config, weights, tokenizer, loaded.folder.name)
        move_into_place(out)
    finally:
        temporary.unlink(missing_ok=True)
    if warning:
        say(f"warning: {warning}")
    return out


def special_ids(loaded: LoadedRun) -> dict[str, int]:
    """The ids that the library's models and generation know by role."""
    ids = role_ids(loaded.tokenizer)
    wanted = {f"{role}_token_id": ids[role] for role in ("bos", "eos", "pad") if role in ids}
    return wanted | ({"decoder_start_token_id": loaded.tokenizer.pad_id} if loaded.model.writes == "answer" else {})


def suppressed(loaded: LoadedRun) -> dict[str, list[int]]:
    """Ids that generation here never writes: special tokens but EOS, padding of the table; a T5 writes sentinels."""
    tokenizer, rows = loaded.tokenizer, loaded.config.model.vocab_size or 0
    written = {tokenizer.eos_id, *(tokenizer.extra_ids if loaded.model.writes == "answer" else ())}
    never = (set(tokenizer.special_ids) | set(range(tokenizer.vocab_size, rows))) - written
    return {"suppress_tokens": sorted(never)} if never else {}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
