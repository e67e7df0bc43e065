"""Conversations, tokenized with the chat template of the model, and packed into rows."""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minillm.data import sources
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, Source, TokenizerBuilder, prepare_examples
from minillm.data.sources.conversations import Dialogue, Message, Reader
from minillm.data.split import split_examples, text_hash
from minillm.tokenizers.chat_template import CHAT_TEMPLATE, CHAT_TOKENS, ChatTemplate
from minillm.tokenizers.load import with_special_tokens

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer


class ChatIds(NamedTuple):
    """One tokenized conversation."""

    ids: np.ndarray
    """(N,) int64."""
    is_target: np.ndarray
    """(N,) bool, True for the tokens of the assistant, including the end of each turn."""
    turns: tuple[tuple[int, int], ...]
    """[start, stop) of each assistant turn."""
    question: str
    """The first message of the user."""

    def cut(self, length: int) -> ChatIds:
        """The first `length` tokens."""
        return self._replace(ids=self.ids[:length], is_target=self.is_target[:length])

    @property
    def num_targets(self) -> int:
        """Tokens with a loss; the first token of a row is never predicted."""
        return int(self.is_target[1:].sum())


class ChatTokens:
    """The conversations of one split, in memory."""

    def __init__(self, dialogues: Iterable[Dialogue], tokenizer: Tokenizer, notes: tuple[str, ...] = ()) -> None:
        """ValueError, naming the conversation, if the template rejects one."""
        template, self.notes = ChatTemplate(tokenizer), notes
        self.conversations: list[ChatIds] = []
        for dialogue in dialogues:
            try:
                found = template.encode(as_dicts(dialogue.messages))
            except ValueError as error:
                raise ValueError(f"{dialogue.where}: {error}") from None
            self.conversations.append(ChatIds(*found, dialogue.group))
        self.num_tokens = sum(len(conversation.ids) for conversation in self.conversations)


class ChatRows:
    """Rows of at most `length` inputs, each with one conversation or, if `packed`, with several; `loader.Examples`.

    A conversation of N tokens has N - 1 inputs and is truncated to fit into a row. Conversations without a target left
    are not in any row. Packing puts each conversation, the longest first, into the fullest row that has room for it.
    """

    def __init__(self, tokens: ChatTokens, length: int, *, packed: bool) -> None:
        cut = [conversation.cut(length + 1) for conversation in tokens.conversations]
        self.conversations = [conversation for conversation in cut if conversation.num_targets]
        if not self.conversations:
            raise ValueError(f"no answer starts within the first {length} tokens: raise data.seq_len")
        sizes = [len(conversation.ids) - 1 for conversation in self.conversations]
        self.members = pack(sizes, length) if packed else [[i] for i in range(len(sizes))]
        self.ends = np.cumsum([sum(sizes[i] for i in members) for members in self.members])

    @property
    def seq_len(self) -> int:
        """Average number of inputs in a row."""
        return max(1, int(self.ends[-1]) // len(self.members))

    @property
    def num_offsets(self) -> int:
        return 1

    def __len__(self) -> int:
        return len(self.members)

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        """[start, stop) of the row's inputs among those of all rows."""
        return int(self.ends[window - 1]) if window else 0, int(self.ends[window])

    def row(self, window: int, offset: int = 0) -> list[ChatIds]:
        return [self.conversations[i] for i in self.members[window]]


def pack(sizes: list[int], room: int) -> list[list[int]]:
    """Indices of the items in each bin of `room`: the largest item first, into the fullest bin that can hold it.

    This is best-fit decreasing, which uses at most 11/9 of the fewest bins possible, plus a constant (Johnson 1973).
    """
    bins: list[list[int]] = []
    left: list[tuple[int, int]] = []  # (room, bin), sorted
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        at = bisect_left(left, (sizes[i], -1))
        free, chosen = left.pop(at) if at < len(left) else (room, len(bins))
        if chosen == len(bins):
            bins.append([])
        bins[chosen].append(i)
        insort(left, (free - sizes[i], chosen))
    return bins


def prepare_chat(config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder, *, progress: bool = False) -> Corpus:
    """Like `corpus.prepare`, for conversations, which are held in memory.

    A tokenizer without a chat template gets that of models trained here, and the special tokens that it needs.
    """

    def build(train: Iterable[str], validation: Iterable[str]) -> Tokenizer:
        return with_template(tokenizer(train, validation) if callable(tokenizer) else tokenizer)

    return prepare_examples(
        config,
        build,
        read=lambda source: read_dialogues(source, config),
        split=lambda dialogues: split_examples(dialogues, config.validation_fraction, lambda _: ""),
        tokenize=ChatTokens,
    )


def read_chat(source: str, config: DataConfig, tokenizer: Tokenizer, *, progress: bool = False) -> ChatTokens:
    """All conversations of `source`, not split, to evaluate a trained model on."""
    read = read_dialogues(source, config)
    return ChatTokens(read.content, tokenizer, read.notes)


def with_template(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with its own chat template or, if it has none, with ours and its special tokens."""
    if tokenizer.chat_template is not None:
        return tokenizer
    extended = with_special_tokens(tokenizer, CHAT_TOKENS)
    extended.chat_template = CHAT_TEMPLATE
    return extended


def as_dicts(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Messages in the form that chat templates take."""
    return [message._asdict() for message in messages]


def read_dialogues(source: str, config: DataConfig) -> Source:
    """The conversations of a source in the order of their hashes."""
    reader = Reader(source)
    dialogues = list(islice(reader, config.max_documents))
    if not dialogues:
        raise ValueError(f"{source} has no conversations: add some")
    notes = (*sources.left_out(source), *(f"{source}: {note}" for note in reader.notes()))
    dialogues.sort(key=lambda dialogue: (text_hash(dialogue.asked + dialogue.answered), dialogue))
    fingerprint = hashlib.sha256(sources.fingerprint(source, "conversations").encode()).hexdigest()
    return Source(dialogues, fingerprint, notes)
