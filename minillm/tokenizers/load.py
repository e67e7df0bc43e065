"""A tokenizer from a config, or from the folder of a run."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minillm.storage import require_version
from minillm.tokenizers.base import FILE_NAME, SPECIAL_TOKENS, VERSION, Tokenizer, hash_of
from minillm.tokenizers.bpe import BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.config import TokenizerConfig
from minillm.tokenizers.imported import ImportedTokenizer
from minillm.tokenizers.stock import stock_tokenizer


def build_tokenizer(config: TokenizerConfig, documents: Iterable[str]) -> Tokenizer:
    """The tokenizer that `config` asks for; `documents` are read only by the kinds that learn from them, char and bpe.

    OSError for a published encoding whose table is neither on this machine nor reachable.
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
                "tokenizer.kind imported comes with imported weights: start with --init-from a run that "
                "minillm import made, or choose bpe, byte or char"
            )
        case _:
            return stock_tokenizer(config.kind)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote into `folder`; ValueError for a file that is damaged or another's."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a run folder holds its tokenizer under this name")
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
        raise ValueError(f"{path} holds no tokenizer that this version of minillm knows ({error})") from error
    if tokenizer.hash != expected:
        raise ValueError(f"{path} was written by another version of minillm: its special tokens are not this one's")
    return tokenizer


def from_dict(body: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `to_dict()` is `body`."""
    names = tuple(body["special_tokens"] if "special_tokens" in body else SPECIAL_TOKENS)
    match body["kind"]:
        case "byte":
            return ByteTokenizer(names)
        case "char":
            return CharTokenizer(body["characters"], names)
        case "imported":
            return ImportedTokenizer(body["model"], **{key: body[key] for key in ("specials", "roles", "prefix")})
        case kind:
            published = {name: i for name, i in body["specials"].items() if name not in names}
            tokens = [base64.b64decode(token, validate=True) for token in body["tokens"]]
            own: dict[str, Any] = {"pattern": body["pattern"], "special_tokens": names}
            return BPETokenizer(tokens, kind=kind, published_specials=published, **own)
