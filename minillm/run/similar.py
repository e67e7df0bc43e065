"""Ranks texts by the similarity of their vectors, and writes vectors to a file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from minillm.generation.embed import Text, similarity
from minillm.run.inference import LoadedRun, embed
from minillm.storage import move_into_place, temporary_for


def rank(
    loaded: LoadedRun, query: str, texts: Sequence[Text], vectors: Tensor, *, prompt: str | None = None
) -> list[tuple[Text, float]]:
    """`texts`, whose vectors are `vectors` (N, D), and their similarity to `query`, the most similar first."""
    (scores,) = similarity(embed(loaded, [query], prompt=prompt), vectors, loaded.config.embed.similarity)
    values: list[float] = scores.tolist()
    return sorted(zip(texts, values, strict=True), key=lambda found: found[1], reverse=True)


def write_vectors(path: Path, vectors: Tensor) -> None:
    """Write `vectors` (N, D) as a .npy file, which replaces an older one when it is complete; OSError if it cannot."""
    if path.suffix != ".npy":
        raise ValueError(f"{path} does not end in .npy, the format of the vectors")
    with temporary_for(path).open("wb") as file:
        np.save(file, vectors.numpy())
    move_into_place(path)
