"""Conversations in the four shapes that people's files have, checked message by message.

    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}     OpenAI
    {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]}         ShareGPT
    {"prompt": "Hello", "completion": "Hi"}                     texts, or lists of messages
    {"instruction": "Translate.", "input": "Hello", "output": "Salut"}    Alpaca; `input` may be missing or empty

Each may have a field `system`, the text of the system message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from minillm.data import sources
from minillm.data.sources.records import Record, counted

SHAPES: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "conversations (from, value)": ("conversations",),
    "prompt and completion": ("prompt", "completion"),
    "instruction, input and output": ("instruction", "output"),
}
"""Name of a shape -> the fields that it has; the first shape that fits the first record is that of the source."""
ROLE_NAMES = {
    **{"system": "system", "user": "user", "assistant": "assistant"},
    **{"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"},
}
"""A role's name in files -> ours."""
_KEYS = {"role", "content", "from", "value"}


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """system, user or assistant."""
    content: str


class Dialogue(NamedTuple):
    """A conversation. The first two fields are all texts of the user and of the assistant, as for other examples."""

    asked: str
    """With the system message."""
    answered: str
    messages: tuple[Message, ...]
    where: str
    """Names the conversation in an error message."""
    group: str
    """The first question; the split keeps conversations with the same one together."""


class Reader:
    """Reads the conversations of a source and remembers what was ignored in it."""

    def __init__(self, source: str):
        self.source, self.shape, self.number = source, "", 0
        self.unanswered = 0
        self.ignored: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Dialogue]:
        """ValueError for a record that is not a conversation with an answer."""
        if self.source.startswith(sources.BUILTIN):
            raise ValueError(f"{self.source} has no conversations: give a file of them, such as my.jsonl")
        for record in sources.read_records(self.source, {}):
            self.number += 1
            yield self._dialogue(record)

    def notes(self) -> list[str]:
        """The shape, and what is not used, one line each."""
        lines = [f"{self.number:,} conversations, each with {self.shape}"] if self.number else []
        if self.unanswered:
            lines.append(f"{self.unanswered:,} conversations end with a message of the user, which is left out")
        if self.ignored:
            lines.append(f"keys of messages that are not used: {counted(self.ignored)}")
        return lines

    def _dialogue(self, record: Record) -> Dialogue:
        self.shape = self.shape or _shape_of(record)
        for field in SHAPES[self.shape]:
            if field not in record.fields:
                known = ", ".join(record.fields)
                raise ValueError(
                    f"{record.where} has no field {field!r} (its fields are: {known}), but the first conversation is "
                    f"given by {self.shape}; write all of them in the same format"
                )
        messages = list(self._messages(record))
        system = record.fields.get("system")
        if isinstance(system, str) and system and messages[0].role != "system":
            messages.insert(0, Message("system", system))
        _require_turns(messages, record.where)
        if messages[-1].role == "user":
            self.unanswered += 1
            messages.pop()
        asked = "\n".join(message.content for message in messages if message.role != "assistant")
        answered = "\n".join(message.content for message in messages if message.role == "assistant")
        question = next(message.content for message in messages if message.role == "user")
        return Dialogue(asked, answered, tuple(messages), record.where, question)

    def _messages(self, record: Record) -> Iterator[Message]:
        fields = record.fields
        if len(SHAPES[self.shape]) == 1:
            yield from self._listed(fields[SHAPES[self.shape][0]], record.where)
        elif isinstance(fields.get("prompt"), list) and "prompt" in SHAPES[self.shape]:
            yield from self._listed(fields["prompt"], record.where)
            yield from self._listed(fields["completion"], record.where)
        else:
            asked, answered = SHAPES[self.shape]
            texts = [record.text(asked)]
            if asked == "instruction" and fields.get("input") is not None:
                texts.append(record.text("input"))
            yield Message("user", "\n\n".join(filter(None, texts)))
            yield Message("assistant", record.text(answered))

    def _listed(self, listed: Any, where: str) -> Iterator[Message]:
        """The messages in a list of objects."""
        if not isinstance(listed, list) or not listed:
            raise ValueError(f"{where} has no messages: a conversation is a list of objects with a role and a content")
        for number, fields in enumerate(listed, start=1):
            yield self._message(fields, f"message {number} of {where}")

    def _message(self, fields: Any, where: str) -> Message:
        if not isinstance(fields, Mapping):
            raise ValueError(f'{where} is not a JSON object: write {{"role": "user", "content": "..."}}')
        keys = ("from", "value") if "from" in fields and "role" not in fields else ("role", "content")
        for key in keys:
            if key not in fields:
                raise ValueError(f"{where} has no {key!r}; its keys are: {', '.join(fields)}")
        record = Record(fields, where)
        role = ROLE_NAMES.get(record.text(keys[0]).lower())
        if role is None:
            raise ValueError(
                f"{where} has the role {fields[keys[0]]!r}; the roles are system, user and assistant: leave it out"
            )
        self.ignored.update(key for key, value in fields.items() if key not in _KEYS and value is not None)
        return Message(role, record.text(keys[1]))


def _shape_of(record: Record) -> str:
    for shape, fields in SHAPES.items():
        if all(field in record.fields for field in fields):
            return shape
    raise ValueError(
        f"{record.where} has no conversation: its fields are {', '.join(record.fields) or 'none'}; expected messages, "
        "conversations, prompt and completion, or instruction and output"
    )


def _require_turns(messages: list[Message], where: str) -> None:
    """ValueError unless user and assistant take turns after an optional system message, and none is empty."""
    previous = ""
    for number, message in enumerate(messages, start=1):
        named = f"message {number} of {where}"
        if not message.content.strip():
            raise ValueError(f"{named} is an empty {message.role} turn: write it, or leave the conversation out")
        if message.role == previous:
            raise ValueError(f"{named} is the second in a row by the {message.role}: join them, or add what is missing")
        if message.role == "system" and number > 1:
            raise ValueError(f"{named} is a system message, which must come first: move it, or leave it out")
        if message.role == "assistant" and previous != "user":
            raise ValueError(f"{named} answers nothing: a conversation begins with the user, or with system and user")
        previous = message.role
    if not any(message.role == "assistant" for message in messages):
        raise ValueError(f"{where} has no assistant turn, so there is nothing to learn: add an answer, or leave it out")
