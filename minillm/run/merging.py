"""Makes a plain run from a run with an adapter."""

from dataclasses import replace
from pathlib import Path

from minillm.adapters.config import AdapterConfig
from minillm.config import load_config
from minillm.run.folder import CONFIG, claim, find_checkpoint, find_run, load_own_tokenizer, read_about, write_start
from minillm.run.weights import load_whole
from minillm.training.checkpoint import save_checkpoint, weights


def merge_run(run: Path | str, out: Path | str) -> Path:
    """Write the best checkpoint of a run, or a given one, to the new run folder `out`, with the adapter merged.

    ValueError if the run has no adapter, its base has other weights, or `out` exists; OSError if the base is missing
    or `out` cannot be written.
    """
    run, out = Path(run), Path(out)
    folder, checkpoint = find_run(run), find_checkpoint(run)
    if not load_config(folder / CONFIG).adapter.on:
        raise ValueError(f"{folder} has no adapter to merge; use it as it is")
    config, model = load_whole(checkpoint)
    tokenizer = load_own_tokenizer(folder, checkpoint)
    state = replace(checkpoint.state, scaler={}, imported=True)  # there is no optimizer state to resume with
    with claim(out, resume=False):
        save_checkpoint(out, checkpoint.step, model=weights(model), optimizer={}, state=state)
        about = read_about(folder) | {"merged_from": str(checkpoint.path)}
        write_start(out, replace(config, adapter=AdapterConfig()), tokenizer, about, resume=False)
    return out
