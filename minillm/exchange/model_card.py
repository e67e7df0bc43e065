"""A model card, written from what a run knows of itself."""

from __future__ import annotations

import math
from typing import Any

from minillm.run.folder import read_about
from minillm.run.loaded import LoadedRun
from minillm.training.state import TrainState

LOADERS = {"gpt": "AutoModelForCausalLM", "bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}


def model_card(loaded: LoadedRun, architecture: str) -> str:
    """Markdown with the hub's header: data, tokenizer, steps, losses, versions. The licence is left to fill in."""
    about = read_about(loaded.folder)
    config, state = loaded.config, loaded.checkpoint.state.train
    loader = LOADERS[config.model.family] if "lm" in config.model.heads else "AutoModel"
    rows = {
        "architecture": f"{architecture}, {about['parameters'] / 1e6:.2f} M parameters",
        "tokenizer": f"{loaded.tokenizer.kind}, {loaded.tokenizer.vocab_size} ids",
        "context": f"{config.model.max_seq_len} tokens",
        **_training(loaded, about, state),
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: transformers
license: other
---

# {loaded.folder.name}

Licence: not stated yet. Whoever publishes this model fills it in, here and in the header.

| | |
|---|---|
{table}

```python
from transformers import AutoTokenizer, {loader}

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = {loader}.from_pretrained("PATH")
```

The name of a special token in a text, such as `{next(iter(loaded.tokenizer.specials), "<s>")}`, becomes that token with
AutoTokenizer; in minillm, which wrote these files, it stays text.
"""


def _training(loaded: LoadedRun, about: dict[str, Any], state: TrainState) -> dict[str, str]:
    """What the model was trained on, and how well it came out."""
    if "imported_from" in about:
        return {"weights": f"imported from {about['imported_from']}, not trained further"}
    text, config = about["text"], loaded.config
    train, validation = text["train"], text["validation"]
    rows = {"weights": f"started from {about['init_from']}"} if "init_from" in about else {}
    rows |= {
        "data": f"`{text['source']}`: {train['documents']:,} documents, {train['bytes']:,} bytes, "
        f"{train['tokens']:,} tokens; {validation['bytes']:,} bytes to validate on",
        "objective": config.objective.name,
        "training": f"{loaded.checkpoint.step:,} steps of {config.train.global_batch} examples with "
        f"{config.optim.name}, {about['compute']}",
    }
    if state.best_step == loaded.checkpoint.step:
        trained = f", training {state.train_loss:.4f}" if math.isfinite(state.train_loss) else ""
        rows["loss"] = f"validation {state.best_loss:.4f}{trained} nats a token"
    return rows
