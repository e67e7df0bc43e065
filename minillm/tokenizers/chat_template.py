"""Chat templates: from a conversation to token ids, and which of them the assistant wrote.

A template is a Jinja text in the form that transformers defined: it receives `messages`, `add_generation_prompt` and
the names of the special tokens. Published models bring their own; `CHAT_TEMPLATE` is for models that are trained here.
Templates run in Jinja's sandbox.

A rendered conversation is cut where an assistant turn begins and where it ends, and the parts are tokenized apart, so
that the ids before an answer are the same in training and in generation. The end of a turn is its first special token;
it counts as part of the answer. A special token's name in the content of a message is ordinary text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.imported import ImportedTokenizer

ROLES = ("system", "user", "assistant")
CHAT_TOKENS = tuple(f"<|{role}|>" for role in ROLES)
"""Special tokens that `CHAT_TEMPLATE` needs besides BOS and EOS."""
CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>' + message['content'] }}
    {%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}
"""
"""The template of models trained here: each turn follows the token of its role, and EOS ends an answer."""
_BREAK, _OPEN, _CLOSE = "\ufdd0", "\ufdd1", "\ufdd2"
"""Noncharacters, which no text may contain: inside the name of a special token in a message, and around assistant text
that the template marks with {% generation %}."""
_NAMED = ("bos", "eos", "pad", "mask", "cls", "sep")

Messages = Sequence[Mapping[str, str]]
"""[{"role": "user", "content": "Hello"}, ...]."""


class Conversation(NamedTuple):
    """A tokenized conversation."""

    ids: np.ndarray
    """(N,) int64."""
    is_target: np.ndarray
    """(N,) bool, True for the assistant's tokens and the token that ends each of its turns."""
    turns: tuple[tuple[int, int], ...]
    """[start, stop) of each assistant turn."""


class ChatTemplate:
    """The chat template of a tokenizer; ValueError if it has none, or if the template is not valid Jinja."""

    def __init__(self, tokenizer: Tokenizer):
        if tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer {tokenizer.name} has no chat template: fine-tune the model on conversations first, "
                "with minillm train finetune-chat --init-from RUN --data FILE"
            )
        self.tokenizer = tokenizer
        try:
            self._template = _environment().from_string(tokenizer.chat_template)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template of {tokenizer.name} is not valid Jinja: {error}") from None
        names = sorted(tokenizer.specials, key=len, reverse=True)
        strips = _stripped(tokenizer)
        self._special = re.compile("|".join(_pattern(name, strips) for name in names) or r"(?!)")
        self._names = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """The text of a conversation; with `add_generation_prompt`, up to the point where the assistant answers."""
        return re.sub(f"[{_BREAK}{_OPEN}{_CLOSE}]", "", self._render(messages, add_generation_prompt))

    def prompt_ids(self, messages: Messages) -> list[int]:
        """The ids of a conversation, up to the point where the assistant answers."""
        return self._tokenize(re.sub(f"[{_OPEN}{_CLOSE}]", "", self._render(messages, True))).tolist()

    def encode(self, messages: Messages) -> Conversation:
        """Tokenize a conversation and mark the assistant's turns.

        If the template has {% generation %} blocks, these are the assistant's text. Otherwise it begins where the text
        of the conversation so far, with a generation prompt, ends. ValueError if the template shows no assistant text,
        does not end it with a special token, or changes earlier turns.
        """
        text = self._render(messages, False)
        spans = _marked(text) if _OPEN in text else list(self._found(messages, text))
        text = re.sub(f"[{_OPEN}{_CLOSE}]", "", text)
        if not spans:
            raise ValueError("the chat template marks no assistant text; use another template")
        parts, mask, turns, last, length = [], [], [], 0, 0
        for start, stop in (*self._ended(text, spans), (len(text), len(text))):
            for part, is_target in ((text[last:start], False), (text[start:stop], True)):
                ids = self._tokenize(part)
                if is_target and len(ids):
                    turns.append((length, length + len(ids)))
                length += len(ids)
                parts.append(ids)
                mask.append(np.full(len(ids), is_target))
            last = stop
        return Conversation(np.concatenate(parts), np.concatenate(mask), tuple(turns))

    @cached_property
    def stop_id(self) -> int:
        """The id that ends an assistant turn."""
        texts = (self.tokenizer.decode([i]) for i in range(self.tokenizer.vocab_size))
        word = next(text for text in texts if text.isalnum())  # a vocabulary of characters may lack letters
        probe = self.encode([{"role": "user", "content": word}, {"role": "assistant", "content": word}])
        return int(probe.ids[probe.turns[-1][1] - 1])

    def _render(self, messages: Messages, add_generation_prompt: bool) -> str:
        """The text with noncharacters in it."""
        escaped = [dict(message, content=self._escape(message["content"])) for message in messages]
        known: dict[str, Any] = {"messages": escaped, "add_generation_prompt": add_generation_prompt}
        known |= {"tools": None, "documents": None, **special_names(self.tokenizer)}
        try:
            return self._template.render(**known)
        except Exception as error:  # a template may raise anything
            raise ValueError(f"the chat template rejects the conversation: {error}") from None

    def _escape(self, text: str) -> str:
        if re.search(f"[{_BREAK}{_OPEN}{_CLOSE}]", text):
            raise ValueError("a message contains one of the noncharacters U+FDD0 to U+FDD2; remove it")
        return self._names.sub(lambda match: match[0][0] + _BREAK + match[0][1:], text)

    def _found(self, messages: Messages, text: str) -> Iterator[tuple[int, int]]:
        """[start, stop) in `text` of the assistant's content and whatever the template puts before it."""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:i], True)
            if not text.startswith(before):
                raise ValueError(
                    "the chat template changes earlier turns as the conversation goes on, so its assistant turns "
                    "cannot be found; mark them with {% generation %} in the template"
                )
            content = self._escape(message["content"]).strip()
            at = text.find(content, len(before))
            if at < 0:
                raise ValueError(f"the chat template marks no assistant text: message {i + 1} is not in its output")
            yield len(before), at + len(content)

    def _ended(self, text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The spans with the special token that ends each of them, but without what follows it."""
        limits = [start for start, _ in spans[1:]] + [len(text)]
        for (start, stop), limit in zip(spans, limits, strict=True):
            inside = [
                match for match in self._special.finditer(text, start, stop) if not text[match.end() : stop].strip()
            ]
            end = inside[-1] if inside else self._special.search(text, stop, limit)
            if end is None:
                raise ValueError(
                    "the chat template ends no assistant turn with a special token, so the model could not learn to "
                    "stop; add eos_token to the template"
                )
            yield start, end.end()

    def _tokenize(self, text: str) -> np.ndarray:
        """(N,) int64 ids; names of special tokens become their ids."""
        parts, last = [], 0
        for match in self._special.finditer(text):
            name = self._names.findall(match[0])[0]
            parts += [self._encode(text[last : match.start()]), [self.tokenizer.specials[name]]]
            last = match.end()
        return np.concatenate([*parts, self._encode(text[last:])]).astype(np.int64)

    def _encode(self, text: str) -> np.ndarray:
        plain = text.replace(_BREAK, "")
        return self.tokenizer.encode(plain) if plain else np.empty(0, np.uint32)


def stop_id_of(tokenizer: Tokenizer) -> int | None:
    """The id that ends an answer; None if the tokenizer has no chat template, or one that does not tell."""
    try:
        return ChatTemplate(tokenizer).stop_id
    except ValueError:
        return None


def special_names(tokenizer: Tokenizer) -> dict[str, str]:
    """`bos_token` and so on -> the name of the token. BOS is the token before a document in training."""
    names = {i: name for name, i in tokenizer.specials.items()}
    ids = {role: tokenizer.roles[f"<|{role}|>"] for role in _NAMED if f"<|{role}|>" in tokenizer.roles}
    ids |= {"bos": tokenizer.start_id} if "bos" in ids else {}
    return {f"{role}_token": names[i] for role, i in ids.items()}


def _marked(text: str) -> list[tuple[int, int]]:
    """[start, stop) of each marked part of a text, in the text without marks."""
    spans, start = [], 0
    for removed, match in enumerate(re.finditer(f"[{_OPEN}{_CLOSE}]", text)):
        at = match.start() - removed
        if match[0] == _OPEN:
            start = at
        elif at > start:
            spans.append((start, at))
    return spans


def _stripped(tokenizer: Tokenizer) -> dict[str, tuple[bool, bool]]:
    """Special tokens of a published tokenizer that swallow the white space before and after them."""
    added = tokenizer.model["added_tokens"] if isinstance(tokenizer, ImportedTokenizer) else []
    return {token["content"]: (token.get("lstrip", False), token.get("rstrip", False)) for token in added}


def _pattern(name: str, strips: Mapping[str, tuple[bool, bool]]) -> str:
    left, right = strips.get(name, (False, False))
    return (r"\s*" if left else "") + re.escape(name) + (r"\s*" if right else "")


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: puts marks around the assistant's text."""

    tags = {"generation"}  # noqa: RUF012 (as in Jinja)

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja with the settings and the helpers that templates for transformers rely on."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, **options: Any) -> str:
        return json.dumps(value, **{"ensure_ascii": False, **options})

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made
