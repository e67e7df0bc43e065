"""The attention of a trained model over a text, as data, a picture and a page."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minillm.generation.config import SampleConfig
from minillm.generation.fill import MASK
from minillm.generation.text import complete, source_ids
from minillm.inspection.head_scores import HeadScore
from minillm.inspection.page import fill_template
from minillm.inspection.recorder import record_attention, stacks_of
from minillm.storage import move_into_place, temporary_for, write_text, writing
from minillm.tokenizers.base import Tokenizer

PAGE_WEIGHTS = 6_000_000
"""Maximum number of weights in a page."""
ANSWER_TOKENS = 40
"""Maximum tokens of the answer that an encoder-decoder writes if none is given."""


@dataclass(frozen=True)
class AttentionPart:
    """The layers that relate the same queries and keys."""

    name: str
    """Such as "decoder" or "cross-attention"."""
    queries: list[str]
    """The tokens that attend."""
    keys: list[str]
    """The tokens that are attended to."""
    layers: list[int]
    """Numbers of the layers, from 0."""
    heads: list[int]
    """Numbers of the heads, from 0."""
    weights: np.ndarray
    """(layers, heads, queries, keys) fp32."""

    def select(self, layer: int | None, head: int | None) -> AttentionPart:
        """Only one layer, or one head of each layer; ValueError if it does not exist."""
        rows, columns = (_index(*pair) for pair in ((self.layers, layer, "layer"), (self.heads, head, "head")))
        weights = self.weights[rows][:, columns]
        layers, heads = ([n[i] for i in c] for n, c in ((self.layers, rows), (self.heads, columns)))
        return AttentionPart(self.name, self.queries, self.keys, layers, heads, weights)


def _index(known: list[int], wanted: int | None, what: str) -> list[int]:
    if wanted is None:
        return list(range(len(known)))
    if wanted not in known:
        raise ValueError(f"--{what} {wanted} does not exist: the model has {what}s {known[0]} to {known[-1]}")
    return [known.index(wanted)]


def attention_of(model: Any, tokenizer: Tokenizer, text: str, *, target: str | None = None) -> list[AttentionPart]:
    """The attention weights of a model that reads `text`.

    A decoder reads the text after the token that begins a document. An encoder reads [CLS] text [SEP], in which [MASK]
    is a gap. In an encoder-decoder the encoder reads the text and the decoder reads `target`; None: its own answer.

    ValueError if the model reads no text, the text has no or too many tokens, or `target` has no effect.
    """
    stacks = stacks_of(model)
    crossed, causal = any(s.cross for s in stacks.values()), all(s.causal for s in stacks.values())
    if not stacks or not tokenizer.vocab_size:
        raise ValueError("this model has no attention over text")
    if target is not None and not crossed:
        raise ValueError("--target has no effect: only an encoder-decoder has a text besides the one it reads")
    if crossed:
        sources = source_ids(tokenizer, text)
        if target is None:
            settings = SampleConfig(temperature=0.0, max_new_tokens=ANSWER_TOKENS)
            (answer,) = complete(model, tokenizer, [text], settings)
            answers = answer.ids
        else:
            answers = source_ids(tokenizer, target)[:-1]
        rows = {"encoder": sources, "decoder": [tokenizer.pad_id, *answers]}
    elif causal:
        before = tokenizer.prefix_ids if tokenizer.imported else (tokenizer.start_id,)
        rows = {next(iter(stacks)): [*before, *tokenizer.encode(text).tolist()]}
    else:
        rows = {next(iter(stacks)): _with_gaps(tokenizer, text)}
    for ids in rows.values():
        model.config.require_length(len(ids))
    device = next(model.parameters()).device
    maps = record_attention(model, *[torch.tensor([ids], device=device) for ids in rows.values()])
    words = {name: [_shown(tokenizer, i) for i in ids] for name, ids in rows.items()}
    parts = []
    for stack, cross in dict.fromkeys((found.stack, found.cross) for found in maps):
        own = [found for found in maps if (found.stack, found.cross) == (stack, cross)]
        weights = np.stack([found.weights[0].numpy() for found in own])
        keys = words["encoder"] if cross else words[stack]
        name = "cross-attention" if cross else stack
        layers = [found.layer for found in own]
        parts.append(AttentionPart(name, words[stack], keys, layers, list(range(weights.shape[1])), weights))
    return parts


def _with_gaps(tokenizer: Tokenizer, text: str) -> list[int]:
    ids = [tokenizer.cls_id]
    for number, part in enumerate(MASK.split(text)):
        ids += [tokenizer.mask_id] if number else []
        ids += tokenizer.encode(part).tolist()
    return [*ids, tokenizer.sep_id]


def _shown(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; special tokens by name."""
    return tokenizer.decode([token], keep_special=True)


def write_json(parts: Sequence[AttentionPart], path: Path, about: dict[str, Any]) -> None:
    """All weights as JSON: {"parts": [{"name", "queries", "keys", "layers", "heads", "weights"}], ...about}."""
    write_text(
        path, json.dumps({**about, "parts": [{**vars(part), "weights": part.weights.tolist()} for part in parts]})
    )


def write_picture(parts: Sequence[AttentionPart], path: Path, about: dict[str, Any]) -> None:
    """Heat maps of all heads as a PNG file: a row for each layer; a single head has its tokens at the axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [(part, i) for part in parts for i in range(len(part.layers))]
    columns = max(len(part.heads) for part in parts)
    alone = len(rows) == columns == 1
    side = min(14.0, 3 + 0.28 * max(len(part.keys) for part in parts))
    size = (side, side) if alone else (1.6 * columns + 0.6, 1.7 * len(rows) + 0.6)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(str(about.get("run", "")), fontsize=9)
    for i, (part, layer) in enumerate(rows):
        for head in range(len(part.heads)):
            axes = figure.add_subplot(len(rows), columns, i * columns + head + 1)
            axes.imshow(part.weights[layer, head], cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            axes.set_title(f"{part.name} {part.layers[layer]}.{part.heads[head]}", fontsize=7)
            axes.set_xticks([]), axes.set_yticks([])
            if alone:
                axes.set_xticks(range(len(part.keys)), [_tick(word) for word in part.keys], rotation=90, fontsize=8)
                axes.set_yticks(range(len(part.queries)), [_tick(word) for word in part.queries], fontsize=8)
                axes.set_xlabel("attended to"), axes.set_ylabel("attends")
    with writing(path):
        figure.savefig(temporary_for(path), format="png")
        move_into_place(path)


def _tick(word: str) -> str:
    """A token as an axis label with visible blanks; matplotlib would read $ as mathematics."""
    return word.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥").replace("$", r"\$")


def write_page(
    parts: Sequence[AttentionPart], path: Path, about: dict[str, Any], scores: Sequence[HeadScore] = ()
) -> None:
    """One self-contained HTML page; ValueError if it would be too large."""
    number = sum(part.weights.size for part in parts)
    if number > PAGE_WEIGHTS:
        raise ValueError(
            f"the page would hold {number:,} weights, more than {PAGE_WEIGHTS:,}: shorten the text, or choose --layer"
        )
    packed = [
        {**vars(part), "weights": base64.b64encode((part.weights * 65535).round().astype("<u2").tobytes()).decode()}
        for part in parts
    ]
    data = {**about, "parts": packed, "scores": [score._asdict() for score in scores]}
    write_text(path, fill_template("attention.html", data))
