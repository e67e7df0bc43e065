"""What pretraining is worth: a BERT and the same model untrained, both taught the class of a token they do not see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillm.data.sources import read_documents
from minillm.data.sources.token_classes import CLASSES, Gap, gaps
from minillm.models.build import build_model
from minillm.run.loaded import LoadedRun
from minillm.tokenizers.base import Tokenizer

SOURCE = "builtin:python-stdlib"
LENGTH, BATCH, TEST_SHARE = 64, 32, 0.2
"""Tokens of an example, examples of a step, and share of the files that are never trained on."""


class Comparison(NamedTuple):
    """Accuracies on files that no label was taken from, one for each seed."""

    pretrained: list[float]
    untrained: list[float]
    majority: float
    """Of always answering the most frequent class."""

    def describe(self) -> str:
        """Means with their spread over the seeds, the sample's standard deviation."""

        def shown(values: list[float]) -> str:
            spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
            return f"{mean(values):.4f}{spread}"

        return (
            f"accuracy on files that no label came from: pretrained {shown(self.pretrained)}, "
            f"untrained {shown(self.untrained)}, most frequent class {self.majority:.4f} ({len(self.pretrained)} seeds)"
        )


class Classifier(nn.Module):
    """An encoder with a linear layer on its state at one place."""

    def __init__(self, encoder: nn.Module, d_model: int) -> None:
        super().__init__()
        self.encoder, self.proj = encoder, nn.Linear(d_model, len(CLASSES))

    def forward(self, tokens: Tensor, at: Tensor, key_valid: Tensor) -> Tensor:
        """tokens (B, T), at (B), key_valid (B, T) -> (B, classes)."""
        hidden = self.encoder(tokens, key_valid=key_valid, predict_at=at[:, None]).hidden
        return self.proj(hidden[torch.arange(len(at)), at])


def compare(
    loaded: LoadedRun,
    *,
    steps: int = 200,
    seeds: Sequence[int] = (0, 1, 2),
    files: int = 400,
    per_file: int = 20,
    lr: float = 5e-4,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Train both models on the same examples in the same order, for each seed.

    Args:
        loaded: a run of a BERT.
        steps: of training, for either model.
        seeds: of the examples' order, the classifier's and the untrained model's weights.
        files, per_file: source files, and gaps in each.
        lr: peak learning rate of AdamW, falling to 0.
        say: gets a line for each seed.
    """
    if loaded.config.model.family != "bert":
        raise ValueError(f"{loaded.folder} is a {loaded.config.model.family} model; this compares BERTs")
    sources = list(islice(read_documents(SOURCE), files))
    num_test = max(1, int(TEST_SHARE * len(sources)))
    length = min(LENGTH, loaded.config.model.max_seq_len)
    train, test = (
        _encode(list(gaps(part, per_file, seed=0)), loaded.tokenizer, length)
        for part in (sources[num_test:], sources[:num_test])
    )
    found = Comparison([], [], float(torch.bincount(test["labels"]).max() / len(test["labels"])))
    for seed in seeds:
        for name, scores in (("pretrained", found.pretrained), ("untrained", found.untrained)):
            scores.append(_score(_classifier(loaded, seed, name), train, test, steps=steps, lr=lr, seed=seed))
        say(f"seed {seed}: pretrained {found.pretrained[-1]:.4f}, untrained {found.untrained[-1]:.4f}")
    return found


def _classifier(loaded: LoadedRun, seed: int, name: str) -> Classifier:
    """A fresh copy of the model, with the run's weights or new ones, and a classifier that depends on the seed."""
    encoder: Any = build_model(loaded.config.model)
    encoder.init_weights(torch.Generator().manual_seed(seed))
    if name == "pretrained":
        encoder.load_state_dict(loaded.model.state_dict())
    torch.manual_seed(seed)
    return Classifier(encoder, loaded.config.model.d_model)


def _encode(examples: list[Gap], tokenizer: Tokenizer, length: int) -> dict[str, Tensor]:
    """[CLS] before [MASK] after [SEP], cut to `length` around the gap and padded at the end."""
    room = (length - 3) // 2
    tokens = np.full((len(examples), length), tokenizer.pad_id, np.int64)
    at, lengths = np.zeros((2, len(examples)), np.int64)
    for i, gap in enumerate(examples):
        before, after = tokenizer.encode(gap.before)[-room:], tokenizer.encode(gap.after)[:room]
        row = [tokenizer.cls_id, *before, tokenizer.mask_id, *after, tokenizer.sep_id]
        tokens[i, : len(row)], at[i], lengths[i] = row, len(before) + 1, len(row)
    labels = torch.tensor([gap.label for gap in examples])
    key_valid = torch.from_numpy(np.arange(length) < lengths[:, None])
    return {"tokens": torch.from_numpy(tokens), "at": torch.from_numpy(at), "key_valid": key_valid, "labels": labels}


def _score(
    model: Classifier, train: dict[str, Tensor], test: dict[str, Tensor], *, steps: int, lr: float, seed: int
) -> float:
    """Accuracy on `test` after training on `train`."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    model.train()
    for step in range(steps):
        rows = torch.randint(len(train["labels"]), (BATCH,), generator=order)
        loss = F.cross_entropy(_logits(model, train, rows), train["labels"][rows])
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / 20, 1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        blocks = torch.arange(len(test["labels"])).split(8 * BATCH)
        answers = torch.cat([_logits(model, test, rows).argmax(-1) for rows in blocks])
    return float((answers == test["labels"]).double().mean())


def _logits(model: Classifier, data: dict[str, Tensor], rows: Tensor) -> Tensor:
    return model(data["tokens"][rows], data["at"][rows], data["key_valid"][rows])
