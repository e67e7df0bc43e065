"""Reading text: tokenization of a run's BPE beside the tokenizers library, and batches of the loader."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minillm.benchmark.turns import Ready, Side
from minillm.data.loader import Loader, Windows
from minillm.objectives.clm import CausalLM
from minillm.run import load_run

HERE = "minillm.benchmark.reading_sides"


def sides(run: Path, exported: Path) -> list[Side]:
    """Both tokenizers, each with one thread, on the documentation in Python's standard library."""
    options = {"run": str(run)}
    return [
        Side("minillm", "", f"{HERE}:minillm", options),
        Side("tokenizers", "", f"{HERE}:tokenizers", {"file": str(exported / "tokenizer.json")}),
    ]


def loader_sides(run: Path) -> list[Side]:
    """Batches of 32 windows, made without being prefetched."""
    return [Side("minillm", "", f"{HERE}:loader", {"run": str(run)})]


def _text() -> list[str]:
    """A megabyte of prose in documents."""
    from pydoc_data.topics import topics

    documents = list(topics.values())
    return documents * 2


def minillm(run: str) -> Ready:
    """The run's tokenizer."""
    tokenizer = load_run(run, device="cpu").tokenizer
    return _ready(lambda document: tokenizer.encode(document).tolist())


def tokenizers(file: str) -> Ready:
    """The tokenizers library, with the exported file."""
    import tokenizers as package

    tokenizer: Any = package.Tokenizer.from_file(file)
    return _ready(lambda document: tokenizer.encode(document, add_special_tokens=False).ids)


def _ready(encode: Callable[[str], list[int]]) -> Ready:
    documents = _text()
    return Ready(
        lambda: sum(len(encode(document)) for document in documents),
        lambda: [float(token) for token in encode(documents[0])[:64]],
    )


def loader(run: str) -> Ready:
    """The loader and the collation of next-token prediction."""
    from minillm.data.datasets.corpus import Tokens

    tokenizer = load_run(run, device="cpu").tokenizer
    ids = np.concatenate([tokenizer.encode(document) for document in _text()]).astype(np.uint16)
    objective = CausalLM(tokenizer.pad_id)
    source = Loader(
        Windows(Tokens(ids, tokenizer.eos_id), 256),
        objective.collate,
        seed=1,
        global_batch=32,
        micro_batch=32,
        rank=0,
        world_size=1,
    )

    def turn() -> int:
        return sum(batch.num_tokens for step in range(20) for batch in source.batches(step))

    return Ready(turn, lambda: [])
