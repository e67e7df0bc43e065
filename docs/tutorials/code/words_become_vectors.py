"""Chapter 7: tokens, embeddings, positions, and why attention needs positions."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from minillm.nn.attention import plain_attention
from minillm.nn.embedding import SinusoidalPosition
from minillm.nn.position import RotaryPosition, apply_rotary

from figures import run, save

TEXT = "The cat sat on the mat"
WIDTH = 32


def word_ids(text: str) -> tuple[dict[str, int], list[int]]:
    """A vocabulary of the words of a text, in order of appearance, and the text as ids."""
    words = text.lower().split()
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    return vocabulary, [vocabulary[word] for word in words]


def sinusoidal_table(length: int) -> Tensor:
    """(length, D) the sine and cosine waves of Vaswani et al. 2017, section 3.5."""
    return SinusoidalPosition(WIDTH)(torch.arange(length))


def attend(x: Tensor) -> Tensor:
    """Self-attention of x (T, D) with fixed random matrices, one head, no positions -> (T, D)."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (x @ torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for _ in range(3))
    return plain_attention(q[None, None], k[None, None], v[None, None], scale=WIDTH**-0.5)[0, 0]


def rotary_score(distance: int, start: int) -> float:
    """The score of a query at `start` + `distance` and a key at `start`, both turned by rotary angles."""
    generator = torch.Generator().manual_seed(2)
    heads = torch.randn(1, 1, 2, WIDTH, generator=generator)
    angles = RotaryPosition(WIDTH).angles(torch.tensor([start + distance, start]), torch.float32)
    query, key = apply_rotary(heads, angles)[0, 0]
    return float(query @ key)


def lesson(folder: Path) -> dict[str, Any]:
    vocabulary, ids = word_ids(TEXT)
    print("vocabulary:", vocabulary)
    print("ids:", ids)
    table = torch.randn(len(vocabulary), WIDTH, generator=torch.Generator().manual_seed(0))
    x = table[ids]  # (6, 32)
    print(f"{len(ids)} tokens become a matrix of {x.size(0)} rows and {x.size(1)} columns")
    one_hot = torch.nn.functional.one_hot(torch.tensor(ids), len(vocabulary)).float()
    print("looking up equals a product with one-hot rows:", torch.equal(one_hot @ table, x))

    abc = table[:3]
    there, back = attend(abc), attend(abc.flip(0)).flip(0)
    without = float((there - back).abs().max())
    waves = sinusoidal_table(3)
    there, back = attend(abc + waves), attend(abc.flip(0) + waves).flip(0)
    with_positions = float((there - back).abs().max())
    print(f"[A, B, C] and [C, B, A] give each word the same vector: {without < 1e-6}")
    print(f"with positions added: {with_positions < 1e-6}")

    scores = {distance: [rotary_score(distance, start) for start in (0, 10, 500)] for distance in (0, 1, 5)}
    for distance, found in scores.items():
        print(f"rotary, distance {distance}: scores at three places", " ".join(f"{score:.2f}" for score in found))
    draw(folder)
    results = {"ids": ids, "without": without, "with": with_positions, "rotary": scores}
    return results | {"waves": sinusoidal_table(64).numpy()}


def draw(folder: Path) -> None:
    waves = sinusoidal_table(64).numpy()
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    picture = axes[0].imshow(waves.T, aspect="auto", cmap="RdBu")
    axes[0].set(title="Sinusoidal positions", xlabel="position", ylabel="dimension")
    figure.colorbar(picture, ax=axes[0])
    for dimension in (0, 4, 8, 12):
        axes[1].plot(waves[:, dimension], label=f"dimension {dimension}")
    axes[1].set(title="Four of its waves", xlabel="position")
    axes[1].legend(fontsize=8)
    similarity = waves @ waves[32] / (WIDTH / 2)
    axes[2].plot(similarity)
    axes[2].set(title="Similarity to position 32", xlabel="position")
    save(figure, folder, "words_become_vectors")


if __name__ == "__main__":
    run(lesson)
