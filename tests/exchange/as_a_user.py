"""Calls a model folder as users of transformers do; runs in any version of it, without minillm and without pytest.

    python as_a_user.py FOLDER OUT.npz

writes the logits of `model(**tokenizer(...))` for a text, a pair of texts and a padded batch, and the ids of
`model.generate(**tokenizer(...))`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

NUM_NEW = 8


def texts(family: str) -> tuple[str, str]:
    """Two texts of different lengths."""
    return ("7 and <|extra_id_0|> make 14", "12 <|extra_id_0|>") if family == "t5" else ("7 and 7 make 14", "12 and 12")


def outputs(folder: Path) -> dict[str, np.ndarray]:
    """Name of the call -> logits of its real tokens, one row after the other; and generated ids."""
    import torch
    import transformers

    library: Any = transformers
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model = getattr(library, architecture).from_pretrained(folder).eval()
    both = texts(model.config.model_type)
    calls: dict[str, Any] = {"text": both[0], "right": [*both], "left": [*both], "pair": both}
    found: dict[str, np.ndarray] = {}
    for name, call in calls.items():
        side = "left" if name == "left" else "right"
        tokenizer = library.AutoTokenizer.from_pretrained(folder, padding_side=side)
        given = tokenizer(*call) if name == "pair" else tokenizer(call, padding=isinstance(call, list))
        inputs = {key: torch.tensor(rows if isinstance(call, list) else [rows]) for key, rows in given.items()}
        answer = {"decoder_input_ids": inputs["input_ids"]} if model.config.is_encoder_decoder else {}
        with torch.no_grad():
            logits = model(**inputs, **answer).logits
            found[name] = logits[inputs["attention_mask"].bool()].numpy()
            found[f"{name}-ids"] = inputs["input_ids"].numpy()
            if model.can_generate() and name in ("text", "left") and "MaskedLM" not in architecture:
                ids = model.generate(**inputs, max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False)
                found[f"{name}-generated"] = ids[:, -NUM_NEW:].numpy()
    return found


if __name__ == "__main__":
    np.savez(sys.argv[2], **outputs(Path(sys.argv[1])))  # type: ignore[arg-type]
