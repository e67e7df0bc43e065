"""Builds a tokenizer from a config, or loads that of a run."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minillm.storage import require_version
from minillm.tokenizers.base import CHAT_TEMPLATE_FILE, FILE_NAME, SPECIAL_TOKENS, VERSION, Tokenizer, hash_of
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.config import TokenizerConfig
from minillm.tokenizers.imported import ImportedTokenizer
from minillm.tokenizers.no_text import NoTokenizer
from minillm.tokenizers.stock import stock_tokenizer


def build_tokenizer(config: TokenizerConfig, documents: Iterable[str]) -> Tokenizer:
    """The tokenizer for `config`; only char and bpe read the `documents`.

    OSError for a published encoding whose table can neither be found on this machine nor downloaded.
    """
    match config.kind:
        case "byte":
            return ByteTokenizer()
        case "char":
            return CharTokenizer.train(documents)
        case "bpe":
            return BPETokenizer.train(documents, config.vocab_size, max_bytes=config.train_bytes)
        case "imported":
            raise ValueError(
                "tokenizer.kind imported is only for imported weights: use --init-from with a run that "
                "minillm import made, or choose bpe, byte or char"
            )
        case _:
            return stock_tokenizer(config.kind)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote into `folder`; ValueError for a damaged or foreign file."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; every run folder has this file")
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        body, expected = stored["tokenizer"], stored["hash"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged or was not written by minillm; copy it again from its run") from None
    require_version(stored, VERSION, path)
    if hash_of(body) != expected:
        raise ValueError(f"{path} is damaged: its content does not match its hash; copy it again from its run")
    try:
        tokenizer = from_dict(body)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has no tokenizer that this version of minillm supports ({error})") from error
    if tokenizer.hash != expected:
        raise ValueError(f"{path} was written by a version of minillm with other special tokens")
    template = path.with_name(CHAT_TEMPLATE_FILE)
    if template.is_file():
        tokenizer.chat_template = read_template(template)
    return tokenizer


def read_template(path: Path) -> str:
    """The text of a Jinja file, with its line breaks unchanged; ValueError if it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}); copy it again from its model") from None


def with_special_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> Tokenizer:
    """A tokenizer with the same ids and, after them, the special tokens of `names` that it lacks."""
    new = [name for name in names if name not in tokenizer.specials]
    if not new:
        return tokenizer
    body: dict[str, Any] = {**tokenizer.to_dict()}
    if tokenizer.imported:
        ids = {name: tokenizer.vocab_size + i for i, name in enumerate(new)}
        off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        added = [{"id": i, "content": name, **off, "special": True} for name, i in ids.items()]
        model = body["model"]
        body |= {"specials": body["specials"] | ids}
        body["model"] = {**model, "added_tokens": [*model["added_tokens"], *added]}
    else:
        body["special_tokens"] = [*tokenizer.special_tokens, *new]
    extended = from_dict(body)
    extended.chat_template = tokenizer.chat_template
    return extended


def from_dict(body: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `to_dict()` is `body`."""
    names = tuple(dict(body).get("special_tokens", SPECIAL_TOKENS))
    match body["kind"]:
        case "byte":
            return ByteTokenizer(names)
        case "none":
            return NoTokenizer()
        case "char":
            return CharTokenizer(body["characters"], names)
        case "imported":
            keys = ("specials", "roles", "prefix", *({"more_eos_ids", "unknown"} & body.keys()))
            return ImportedTokenizer(body["model"], **{key: body[key] for key in keys})
        case kind:
            published = {name: i for name, i in body["specials"].items() if name not in names}
            tokens = [base64.b64decode(token, validate=True) for token in body["tokens"]]
            own: dict[str, Any] = {"pattern": body["pattern"], "special_tokens": names}
            return BPETokenizer(tokens, kind=kind, published_specials=published, **own)
