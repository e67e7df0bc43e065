"""Runs with an adapter, to and from the format of PEFT."""

import shutil
from dataclasses import replace
from pathlib import Path

from minillm.config import load_config
from minillm.exchange.peft_format import Adapter, read_adapter, write_adapter
from minillm.run import report
from minillm.run.folder import (
    CONFIG,
    claim,
    find_checkpoint,
    find_run,
    load_own_tokenizer,
    read_about,
    require_free,
    write_start,
)
from minillm.run.warm_start import finetune_config
from minillm.run.weights import adapted_model, find_base, name_parent, whole_weights
from minillm.storage import temporary_for
from minillm.training.checkpoint import load_weights, save_checkpoint, weights
from minillm.training.state import CheckpointState, TrainState


def export_adapter(run: Path | str, out: Path | str) -> Path:
    """Write the adapter of a run, without its base, to the new folder `out`.

    ValueError if the run has no adapter, PEFT cannot hold it, or `out` exists; OSError if it cannot be written.
    """
    run, out = Path(run), Path(out)
    folder, checkpoint = find_run(run), find_checkpoint(run)
    config = load_config(folder / CONFIG)
    if not config.adapter.on:
        raise ValueError(f"{folder} has no adapter; export the whole model, without --adapter-only")
    if out.exists():
        raise ValueError(f"{out} exists; choose another name to export to")
    base = find_base(config, folder).path.parent
    origin = read_about(base).get("imported_from", str(base))
    temporary = temporary_for(out)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write_adapter(temporary, config.model, Adapter(config.adapter, checkpoint.model_weights()), origin)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def import_adapter(source: Path | str, out: Path | str, base: Path | str) -> Path:
    """Make the run `out` of the adapter in the folder `source`, which changes the weights of the run `base`.

    Raises:
        OSError: a file or the base does not exist, or `out` cannot be written.
        ValueError: the adapter is damaged, not supported or not for this base, or `out` exists.
    """
    source, out, parent = Path(source), Path(out), find_checkpoint(Path(base))
    require_free(out)
    config = finetune_config(base)
    adapter = read_adapter(source, config.model)
    config = name_parent(replace(config, adapter=adapter.config), parent)
    model = adapted_model(config, whole_weights(parent))
    model.to_empty(device="cpu")
    load_weights(model, adapter.weights, where=source)
    tokenizer = load_own_tokenizer(parent.path.parent, parent)
    state = CheckpointState(TrainState(), scaler={}, tokenizer=tokenizer.hash, data=None, imported=True)
    with claim(out, resume=False):
        save_checkpoint(out, 0, model=weights(model), optimizer={}, state=state)
        about = {"imported_from": str(source), **report.about_program(model, tokenizer)}
        write_start(out, config, tokenizer, about, resume=False)
    return out
