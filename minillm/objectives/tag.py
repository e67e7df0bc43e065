"""Predicts a tag for every word from its first sub-word (Devlin et al. 2019, section 5.3).

Tags of the other sub-words are not targets, so that a word counts once however it is tokenized. Words beyond the length
limit have no loss; in evaluation they count as not found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.tagged import Tagged, TaggedIds, TaggedTokens
from minillm.data.sources.conll import count_entities, entities, scheme_of
from minillm.nn.output import Output
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, Predictor, RowRNG, Setup, TokenLossConfig
from minillm.objectives.layout import IGNORE_INDEX, by_length, pad
from minillm.objectives.scores import f1, macro_f1
from minillm.objectives.text_layout import TextLayout

if TYPE_CHECKING:
    from minillm.data.datasets.corpus import Corpus

PREDICT_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class TagConfig(TokenLossConfig):
    """Predict a tag for every word, such as entities or parts of speech (Devlin et al. 2019, section 5.3)."""

    name: str = "tag"
    labels: tuple[str, ...] = ()
    """Names of the tags; by default those in the training data."""


@dataclass(frozen=True, kw_only=True)
class Tag(CrossEntropyObjective):
    """Predict tags of single words, such as parts of speech."""

    layout: TextLayout
    labels: tuple[str, ...]

    primary: ClassVar[str] = "accuracy"

    @property
    def heads(self) -> tuple[str, ...]:
        return (f"tag:{len(self.labels)}",)

    @property
    def targets(self) -> dict[str, str]:
        return {"tag": "tag"}

    @property
    def room(self) -> int:
        """Maximum tokens of the words in a row."""
        return max(1, self.layout.max_len - len(self.layout.before) - len(self.layout.after))

    def examples(self, tokens: TaggedTokens, data: DataConfig, length: int, *, training: bool) -> TaggedTokens:
        """The examples unchanged; ValueError for a tag that the run does not have."""
        for row in tokens.rows:
            for tag in row.tags:
                if tag not in self.labels:
                    known = ", ".join(self.labels)
                    raise ValueError(
                        f"{row.where} has the tag {tag!r}, which the training data lacks; the tags are {known}"
                    )
        return tokens

    def inputs(self, rows: Sequence[TaggedIds]) -> dict[str, Tensor]:
        """tokens, and key_valid if any row is padded, both (B, T)."""
        texts = [np.concatenate([np.empty(0, np.int64), *row.ids])[: self.room] for row in rows]
        whole = [np.concatenate([self.layout.before, text, self.layout.after]).astype(np.int64) for text in texts]
        tokens, valid = pad(whole, self.pad_id, round_below=self.layout.max_len)
        return {"tokens": tokens} if valid.all() else {"tokens": tokens, "key_valid": valid}

    def first_tokens(self, row: TaggedIds) -> np.ndarray:
        """(W,) index of the first token of each word in its row; -1 if it has none, or lies beyond the limit."""
        lengths = np.array([len(word) for word in row.ids], np.int64)
        first = lengths.cumsum() - lengths
        return np.where((lengths > 0) & (first < self.room), first + len(self.layout.before), -1)

    def collate(self, examples: Sequence[TaggedIds], rng: RowRNG) -> Batch:
        """The inputs, and the tags (B, T) at the first token of each word."""
        inputs = self.inputs(examples)
        labels = inputs["tokens"].new_full(inputs["tokens"].shape, IGNORE_INDEX)
        for row, example in zip(labels, examples, strict=True):
            first = self.first_tokens(example)
            index = np.array([self.labels.index(tag) for tag in example.tags], np.int64)
            row.numpy()[first[first >= 0]] = index[first >= 0]
        real = inputs["key_valid"].sum() if "key_valid" in inputs else inputs["tokens"].numel()
        count = int((labels != IGNORE_INDEX).sum())
        return Batch(inputs, {"tag": labels}, {"tag": count}, int(real), examples)

    def predicted(self, logits: Tensor, rows: Sequence[TaggedIds]) -> Iterator[np.ndarray]:
        """For each row the class (W,) of each of its words; -1 for a word without a prediction."""
        classes = logits.argmax(-1).cpu().numpy()  # (B, T)
        for own, row in zip(classes, rows, strict=True):
            first = self.first_tokens(row)
            yield np.where(first >= 0, own[first], -1)

    def measure(self, output: Output, batch: Batch) -> np.ndarray | None:
        """(words, 2) target and prediction; a word without a prediction counts as wrong."""
        number, rows = len(self.labels), []
        for row, found in zip(batch.examples, self.predicted(output.logits["tag"], batch.examples), strict=True):
            rows.append(np.stack([[self.labels.index(tag) for tag in row.tags], np.where(found < 0, number, found)], 1))
        return np.concatenate(rows)

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        wanted, found = measured.T
        return {"accuracy": float((wanted == found).mean()), "macro_f1": macro_f1(wanted, found, len(self.labels))}

    def baseline(self, rows: Sequence[TaggedIds], guesses: Sequence[Sequence[str]]) -> dict[str, float]:
        """The figures of guessed tags."""
        wanted, guessed = ([tag for own in some for tag in own] for some in ([row.tags for row in rows], guesses))
        right = [a == b for a, b in zip(wanted, guessed, strict=True)]
        return {"most_frequent_tag_accuracy": float(np.mean(right))}

    def result(self, example: Tagged, tags: Sequence[str], shares: Sequence[float]) -> dict[str, Any]:
        """What `minillm predict` shows for an example."""
        return {"text": example.text, "tags": [f"{word}/{tag}" for word, tag in zip(example.words, tags, strict=True)]}

    def prompt(self, example: Any, decode: Decode) -> str:
        return ""

    def describe_cuts(self, tokens: TaggedTokens) -> list[str]:
        """Numbers of the words beyond the limit, and of words without a token."""
        words = sum(len(row.ids) for row in tokens.rows)
        empty = sum(not len(word) for row in tokens.rows for word in row.ids)
        lost = sum(int((self.first_tokens(row) < 0).sum()) for row in tokens.rows) - empty
        notes = {f"are beyond the limit of {self.layout.max_len} tokens": lost, "have no token": empty}
        return [
            f"{number:,} of {words:,} words {why}: they get no prediction" for why, number in notes.items() if number
        ]


class TagEntities(Tag):
    """Predict tags that mark entities; the figures count whole entities, as conlleval does."""

    primary: ClassVar[str] = "f1"

    def measure(self, output: Output, batch: Batch) -> np.ndarray:
        """(B, 3) entities that are correct, predicted and wanted; a word without a prediction is in no entity."""
        found = self.predicted(output.logits["tag"], batch.examples)
        names = [["O" if c < 0 else self.labels[c] for c in own] for own in found]
        return count_entities([row.tags for row in batch.examples], names)

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        correct, predicted, wanted = measured.sum(0).tolist()
        return {
            "precision": correct / predicted if predicted else 0.0,
            "recall": correct / wanted if wanted else 0.0,
            "f1": f1(correct, predicted, wanted),
        }

    def baseline(self, rows: Sequence[TaggedIds], guesses: Sequence[Sequence[str]]) -> dict[str, float]:
        counted = count_entities([row.tags for row in rows], guesses)
        return {"most_frequent_tag_f1": self.figures(counted)["f1"]}

    def result(self, example: Tagged, tags: Sequence[str], shares: Sequence[float]) -> dict[str, Any]:
        found = []
        for first, stop, label in entities(tags):
            start, end = example.spans[first][0], example.spans[stop - 1][1]
            share = float(np.prod(shares[first:stop]) ** (1 / (stop - first)))
            found.append({"text": example.text[start:end], "label": label, "start": start, "end": end, "score": share})
        return {"text": example.text, "entities": found}


def build(config: TagConfig, setup: Setup) -> Tag:
    """The objective for BERT, which reads `[CLS] words [SEP]`."""
    return _build(config, setup, TextLayout.of_encoder(setup.tokenizer, setup.seq_len))


def build_causal(config: TagConfig, setup: Setup) -> Tag:
    """The objective for GPT, which tags a word without having read those after it."""
    return _build(config, setup, TextLayout.of_decoder(setup.tokenizer, setup.seq_len))


def _build(config: TagConfig, setup: Setup, layout: TextLayout) -> Tag:
    kind = Tag if scheme_of(config.labels) == "none" else TagEntities
    loss = (config.label_smoothing, config.z_loss)
    return kind(setup.tokenizer.pad_id, *loss, layout=layout, labels=config.labels)


def name_tags(config: TagConfig, corpus: Corpus) -> TagConfig:
    """Fill in the tags from the data; ValueError if there are fewer than two."""
    if config.labels:
        return config
    rows = [*corpus.train.rows, *(corpus.validation.rows if corpus.info.validation_source is None else ())]
    tags = sorted({tag for row in rows for tag in row.tags})
    if len(tags) < 2:
        raise ValueError(f"{corpus.info.source} has only one tag, {tags[0]!r}: at least two are needed")
    return replace(config, labels=tuple(tags))


def predict(predictor: Predictor, examples: Sequence[Tagged]) -> list[dict[str, Any]]:
    """For each text its entities with their characters, or its words with their tags. Long texts are read in parts."""
    objective: Tag = predictor.objective
    rows = TaggedTokens(examples, predictor.tokenizer).rows
    none = "O" if "O" in objective.labels else ""
    tags, shares = [[none] * len(row.ids) for row in rows], [[1.0] * len(row.ids) for row in rows]
    parts = [(i, start, part) for i, row in enumerate(rows) for start, part in _parts(row, objective.room)]
    for batch in by_length([sum(map(len, part.ids)) for *_, part in parts], PREDICT_BATCH):
        chosen = [parts[k] for k in batch]
        logits = predictor.forward(objective.inputs([part for *_, part in chosen])).logits["tag"].softmax(-1)
        for (i, start, part), own in zip(chosen, logits.numpy(), strict=True):
            for word, token in enumerate(objective.first_tokens(part)):
                if token >= 0:
                    tags[i][start + word] = objective.labels[own[token].argmax()]
                    shares[i][start + word] = float(own[token].max())
    return [objective.result(*one) for one in zip(examples, tags, shares, strict=True)]


def _parts(row: TaggedIds, room: int) -> Iterator[tuple[int, TaggedIds]]:
    """Parts of at most `room` tokens, each with the number of its first word; a longer word is a part by itself."""
    start, size = 0, 0
    for i, word in enumerate(row.ids):
        if size and size + len(word) > room:
            yield start, TaggedIds(row.ids[start:i], row.tags[start:i], row.where)
            start, size = i, 0
        size += len(word)
    yield start, TaggedIds(row.ids[start:], row.tags[start:], row.where)


def most_frequent_tags(measured: Any) -> dict[str, float]:
    """Figures of giving each word its most frequent tag in the training data; takes a Measurement."""
    seen: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for row in measured.train.rows:
        overall.update(row.tags)
        for word, tag in zip(row.ids, row.tags, strict=True):
            seen[word.tobytes()][tag] += 1
    best = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
    fallback = overall.most_common(1)[0][0]
    guesses = [[best.get(word.tobytes(), fallback) for word in row.ids] for row in measured.tokens.rows]
    return measured.objective.baseline(measured.tokens.rows, guesses)
