"""Supervised fine-tuning on conversations: predict the assistant's turns (Ouyang et al. 2022, section 3.5).

The loss is on the tokens of the assistant alone, including the token that ends each of its turns. Which tokens these
are is known from their positions, never from their ids. Conversations packed into one row do not attend to each other
and each begins at position 0, so the loss equals that of separate rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from minillm.data.config import DataConfig
from minillm.data.datasets.chat import ChatIds, ChatRows, ChatTokens
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, RowRNG, Setup, TokenLossConfig
from minillm.objectives.layout import IGNORE_INDEX, pad
from minillm.tokenizers.chat_template import ChatTemplate


@dataclass(frozen=True, kw_only=True)
class ChatConfig(TokenLossConfig):
    """Predict the assistant's turns of conversations (Ouyang et al. 2022)."""

    name: str = "chat"
    rows: Literal["packed", "single"] = "packed"
    """packed: rows hold as many conversations as fit, which do not attend to each other; single: one in each row."""


@dataclass(frozen=True)
class Chat(CrossEntropyObjective):
    """Rows of conversations for a decoder."""

    template: ChatTemplate | None = None
    max_len: int = 0
    """Maximum inputs in a row; the end of a longer conversation is truncated."""
    packed: bool = True

    def examples(self, tokens: ChatTokens, data: DataConfig, length: int, *, training: bool) -> ChatRows:
        return ChatRows(tokens, length, packed=self.packed)

    def collate(self, examples: Sequence[list[ChatIds]], rng: RowRNG) -> Batch:
        """tokens (B, T), document_ids (B, T) if a row has several conversations, predict_at (B, P); labels (B, P).

        Padding is at the end, where no real token attends to it; it is a document of its own.
        """
        rows = [np.concatenate([c.ids[:-1] for c in row]) for row in examples]
        targets = [np.concatenate([c.ids[1:] for c in row]) for row in examples]
        places = [np.flatnonzero(np.concatenate([c.is_target[1:] for c in row])) for row in examples]
        tokens, valid = pad(rows, self.pad_id, round_below=self.max_len)
        inputs = {"tokens": tokens, "predict_at": pad(places, 0)[0]}
        if any(len(row) > 1 for row in examples):
            documents = [np.repeat(np.arange(len(row)), [len(c.ids) - 1 for c in row]) for row in examples]
            inputs["document_ids"] = pad(documents, max(map(len, examples)), round_below=self.max_len)[0]
        labels, _ = pad([target[at] for target, at in zip(targets, places, strict=True)], IGNORE_INDEX)
        return Batch(inputs, {"lm": labels}, {"lm": sum(map(len, places))}, int(valid.sum()))

    def prompt(self, example: list[ChatIds], decode: Decode) -> str:
        """The first question of a conversation."""
        return example[0].question

    def encode_prompt(self, prompt: str) -> list[int]:
        """The prompt as the user's message."""
        assert self.template is not None, "build sets it"
        return self.template.prompt_ids([{"role": "user", "content": prompt}])

    @property
    def stop_id(self) -> int | None:
        return None if self.template is None else self.template.stop_id

    def describe_cuts(self, tokens: ChatTokens) -> list[str]:
        """The number of truncated conversations, turns that lose their end, and conversations left out."""
        length = self.max_len + 1
        long = [c for c in tokens.conversations if len(c.ids) > length]
        if not long:
            return []
        cut = sum(start < length < stop for c in long for start, stop in c.turns)
        lost = sum(start >= length for c in long for start, _ in c.turns)
        empty = sum(not c.cut(length).num_targets for c in long)
        turns = f"{cut:,} assistant turns lose their end and {lost:,} are left out"
        note = f"{len(long):,} of {len(tokens.conversations):,} conversations are longer than {self.max_len} tokens"
        none = f"; {empty:,} have no answer left and are not used" if empty else ""
        return [f"{note} and are truncated: {turns}{none}; raise data.seq_len to keep them"]


def build(config: ChatConfig, setup: Setup) -> Chat:
    """The objective for GPT."""
    loss = setup.tokenizer.pad_id, config.label_smoothing, config.z_loss
    return Chat(*loss, ChatTemplate(setup.tokenizer), setup.seq_len, config.rows == "packed")
