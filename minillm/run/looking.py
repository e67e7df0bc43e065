"""Looks into a run: its attention, and a page about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minillm.inspection import attention_maps
from minillm.inspection.attention_maps import AttentionPart, attention_of
from minillm.inspection.head_scores import HeadScore, score_heads
from minillm.inspection.recorder import stacks_of
from minillm.run.inference import LoadedRun, Run, load_run

STRONG = 0.3
"""Mean weight from which a head is named after what it does."""


@dataclass(frozen=True)
class RunAttention:
    """The attention of a run over a text."""

    parts: list[AttentionPart]
    scores: list[HeadScore]
    """For a decoder, what its heads do on repeated random tokens; else empty."""
    about: dict[str, Any]
    """The run and the text."""

    def describe(self) -> str:
        """For each head, where each token attends most; then the heads with the highest scores."""
        lines = []
        for part in self.parts:
            for i, layer in enumerate(part.layers):
                for j, head in enumerate(part.heads):
                    lines.append(f"{part.name}, layer {layer}, head {head}")
                    best = part.weights[i, j].argmax(-1)
                    lines += [
                        f"  {query!r:<16} -> {part.keys[key]!r:<16} {part.weights[i, j, row, key]:.2f}"
                        for row, (query, key) in enumerate(zip(part.queries, best, strict=True))
                    ]
        return "\n".join([*lines, *describe_heads(self.scores)])


def attention(
    run: Run, text: str, *, target: str | None = None, layer: int | None = None, head: int | None = None
) -> RunAttention:
    """The attention weights of a run that reads `text`, as `attention_of`; for a decoder also the scores of its heads.

    ValueError as in `attention_of`, or if there is no such layer or head.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run)
    parts = attention_of(loaded.model, loaded.tokenizer, text, target=target)
    parts = [part.select(layer, head) for part in parts]
    about = {"run": str(loaded.folder), "step": loaded.checkpoint.step, "text": text}
    return RunAttention(parts, head_scores(loaded), about)


def head_scores(loaded: LoadedRun) -> list[HeadScore]:
    """As `score_heads`, on tokens of text; empty if the model is not a decoder, or reads too few tokens."""
    stacks = list(stacks_of(loaded.model).values())
    if len(stacks) != 1 or not stacks[0].causal or loaded.config.model.max_seq_len < 8:
        return []
    ordinary = torch.tensor([i for i in range(loaded.tokenizer.vocab_size) if i not in loaded.tokenizer.special_ids])
    return score_heads(loaded.model, ordinary, first_id=loaded.tokenizer.start_id)


def describe_heads(scores: Sequence[HeadScore]) -> list[str]:
    """One line for each measure, with its best head."""
    lines = []
    for measure, what in (("previous", "the previous token"), ("induction", "the token after an earlier copy")):
        if scores:
            best = max(scores, key=lambda score: getattr(score, measure))
            value = getattr(best, measure)
            verdict = "" if value >= STRONG else ", too little to count as such a head"
            lines.append(f"most on {what}: layer {best.layer}, head {best.head}, weight {value:.2f}{verdict}")
    return lines


def write_attention(found: RunAttention, path: Path) -> None:
    """Write a .html page, a .png picture or .json data."""
    match path.suffix.lower():
        case ".html":
            attention_maps.write_page(found.parts, path, found.about, found.scores)
        case ".png":
            attention_maps.write_picture(found.parts, path, found.about)
        case _:
            scores = [score._asdict() for score in found.scores]
            attention_maps.write_json(found.parts, path, {**found.about, "heads": scores})
