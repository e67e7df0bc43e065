"""A conversation with a model: each message is answered by a stream of text.

The model reads the whole conversation again for each answer. If it no longer fits into the context, the oldest turns
are left out, each question together with its answer; the system message always stays.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Any

from minillm.generation.config import SampleConfig
from minillm.generation.generate import FinishReason
from minillm.generation.text import stream_text
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.chat_template import ChatTemplate


class Assistant:
    """A conversation.

    Attributes:
        messages: what was said, {"role", "content"} each, the system message first if there is one.
        left_out: number of messages that were too old to fit into the context when the last answer was written.
        finish_reason: why the last answer ended; None if it was interrupted, or if there is none yet.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer, config: SampleConfig, *, system: str | None = None) -> None:
        """ValueError if the tokenizer has no chat template, or if the model does not continue a text.

        `config` says how tokens are chosen; each answer uses another seed, and its `prompt` is not used.
        """
        if model.writes != "continuation":
            family = model.config.family
            raise ValueError(f"a {family} model cannot hold a conversation; only a gpt with a vocabulary head can")
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.template = ChatTemplate(tokenizer)
        self.system = system
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        self.left_out = 0
        self.finish_reason: FinishReason | None = None

    def reply(self, text: str) -> Generator[str]:
        """Pieces of the answer to a message, as they are generated.

        Both become part of the conversation when the answer is complete. Closing the iterator ends the answer, which
        is kept as far as it was written. ValueError if the message is empty or does not fit into the context.
        """
        if not text.strip():
            raise ValueError("the message is empty; write something")
        asked = {"role": "user", "content": text}
        ids, self.left_out = self._window(asked)
        context = self.model.config.max_seq_len
        config = replace(
            self.config,
            num_samples=1,
            max_new_tokens=min(self.config.max_new_tokens, context - len(ids)),
            seed=self.config.seed + len(self.messages),
        )
        return self._pieces(asked, ids, config)

    def _pieces(self, asked: dict[str, str], ids: list[int], config: SampleConfig) -> Generator[str]:
        pieces: list[str] = []
        self.finish_reason = None
        options: dict[str, Any] = {"eos_id": self.template.stop_id}
        try:
            with closing(stream_text(self.model, self.tokenizer, [ids], config, **options)) as events:
                for event in events:
                    self.finish_reason = event.finish_reason
                    if event.text:
                        pieces.append(event.text)
                        yield event.text
        finally:
            self.messages += [asked, {"role": "assistant", "content": "".join(pieces)}]

    def _window(self, asked: dict[str, str]) -> tuple[list[int], int]:
        """The ids of the newest turns that leave room for the answer, and the number of older messages."""
        context = self.model.config.max_seq_len
        room = context - min(self.config.max_new_tokens, context // 2)
        first = len(self.messages) and int(self.messages[0]["role"] == "system")
        for start in range(first, len(self.messages) + 1, 2):
            ids = self.template.prompt_ids([*self.messages[:first], *self.messages[start:], asked])
            if len(ids) <= room:
                return ids, start - first
        if len(ids) >= context:
            raise ValueError(
                f"the message has {len(ids)} tokens, with what the chat template adds, and this model reads {context}; "
                "shorten it"
            )
        return ids, len(self.messages) - first
