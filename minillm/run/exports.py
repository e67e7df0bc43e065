"""Exports a run as a folder for transformers or a GGUF file for llama.cpp."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from minillm.exchange.folder_out import Export, write_folder, write_gguf_file
from minillm.exchange.generation_settings import unwritten_settings
from minillm.exchange.gguf_out import Dtype
from minillm.exchange.model_card import About
from minillm.generation.config import SampleConfig
from minillm.run.folder import read_about
from minillm.run.inference import LoadedRun
from minillm.storage import move_into_place, temporary_for


def export_model(
    loaded: LoadedRun,
    out: Path | str,
    *,
    dtype: Dtype | None = None,
    license: str | None = None,
    language: str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Export to the new folder `out` (config.json, model.safetensors, tokenizer, model card) or the new file out.gguf.

    If transformers is installed, its outputs and token ids are compared with ours before the folder is renamed to
    `out`. `say` receives the result of the comparison, or a warning about llama.cpp, and a line about settings of
    [sample] that the format lacks. ValueError if the format cannot represent the model or `out` exists; OSError if it
    cannot be written.

    Args:
        dtype: of the matrices in a GGUF file; None: f32. A folder always has fp32.
        license, language: for the model card, such as "mit" and "en"; None: those that the run knows.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another name to export to")
    is_gguf, config = out.suffix.lower() == ".gguf", loaded.config
    if dtype is not None and not is_gguf:
        raise ValueError(f"--dtype is for .gguf files, and {out} is a folder, whose weights are in fp32; leave it out")
    about = about_model(loaded, license, language)
    parts = (loaded.model, loaded.tokenizer, about, config.embed, _generation(loaded), vars(config.objective))
    export = Export(loaded.folder.name, config.model, *parts)
    if export.model.writes != "nothing" and (note := unwritten_settings(export.sample, gguf=is_gguf)):
        say(note)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(out)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if is_gguf:
            warning = write_gguf_file(temporary, export, dtype=dtype or "f32")
            move_into_place(out)
            if warning:
                say(f"warning: {warning}")
        else:
            temporary.mkdir()
            say(write_folder(temporary, export))
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
    return out


def _generation(loaded: LoadedRun) -> SampleConfig:
    """The generation settings to export.

    The maximum length is exported only if it was imported with the model: in generation_config.json it overrides the
    `max_length` of callers such as lm-evaluation-harness, so it would shorten their texts silently.
    """
    is_published = "imported_from" in read_about(loaded.folder)
    sample = loaded.config.sample
    return sample if is_published else replace(sample, max_new_tokens=SampleConfig.max_new_tokens)


def about_model(loaded: LoadedRun, license: str | None, language: str | None) -> About:
    """What the run knows for its model card."""
    about, state = read_about(loaded.folder), loaded.checkpoint.state.train
    source: str | None = about.get("text", {}).get("source")
    is_best = source is not None and state.best_step == loaded.checkpoint.step and math.isfinite(state.best_loss)
    return About(
        facts_of(loaded),
        license=license or about.get("license"),
        language=language or ("en" if str(source).startswith("builtin:") else None),
        datasets=(source.removeprefix("hf:"),) if source is not None and source.startswith("hf:") else (),
        source=source,
        metrics={"loss": round(state.best_loss, 4)} if is_best else {},
    )


def facts_of(loaded: LoadedRun) -> dict[str, str]:
    """Facts for the model card: data, training, loss and software versions."""
    about, config = read_about(loaded.folder), loaded.config
    versions = {"versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)}
    if "imported_from" in about:
        return {"weights": f"imported from {about['imported_from']}, not trained further", **versions}
    text, state, step = about["text"], loaded.checkpoint.state.train, loaded.checkpoint.step
    train, validation = text["train"], text["validation"]
    facts = {"weights": f"started from {about['init_from']}"} if "init_from" in about else {}
    facts |= {
        "data": f"`{text['source']}`: {train['documents']:,} documents, {train['bytes']:,} bytes, "
        f"{train['tokens']:,} tokens; {validation['bytes']:,} bytes for validation",
        "objective": config.objective.name,
        "training": f"{step:,} steps of {config.train.global_batch} examples with "
        f"{config.optim.name}, {about['compute']}",
    }
    if state.best_step == step:
        loss = f", training {state.train_loss:.4f}" if math.isfinite(state.train_loss) else ""
        facts["loss"] = f"validation {state.best_loss:.4f}{loss} nats per token"
    return facts | versions
