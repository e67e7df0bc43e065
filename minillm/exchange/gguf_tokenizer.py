"""Tokenizers in GGUF files: byte-level BPE with the pre-tokenization patterns that llama.cpp knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from minillm.exchange.tokenizer_in import ROLES, from_model, prefix_of
from minillm.exchange.tokenizer_models import byte_level_model
from minillm.tokenizers.bpe import PATTERN
from minillm.tokenizers.imported import ImportedTokenizer
from minillm.tokenizers.merges import GPT2, LLAMA3, QWEN2, QWEN35, SINGLE_DIGITS, cut_pattern


class Cut(NamedTuple):
    """How llama.cpp pre-tokenizes text."""

    pattern: str
    names: tuple[str, ...]
    """Values of `tokenizer.ggml.pre`; exports use the first."""
    ignore_merges: bool = False
    """Whether a piece of text that is a token is never split."""


CUTS = (
    Cut(GPT2, ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat", "exaone4", "mellum")),
    Cut(SINGLE_DIGITS, ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")),
    Cut(LLAMA3, ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), True),
    Cut(LLAMA3, ("smaug-bpe", "dbrx")),
    Cut(QWEN2, ("qwen2", "deepseek-r1-qwen", "megrez", "stablelm2")),
    Cut(QWEN35, ("qwen35",)),
    Cut(PATTERN, ("qwen35",)),
)
"""The pre-tokenizations that can be read and written."""
LLAMA_BPE = CUTS[2]
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types."""
_KEY = "tokenizer.ggml"
ROLE_KEYS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}
"""Role -> key of its id."""
MORE_EOS = ("eot_token_id", "eom_token_id")
"""Keys of further ids that end a generated text."""
CHAT_TEMPLATE = "tokenizer.chat_template"
UNKNOWN_CUT = (
    "llama.cpp does not support this tokenizer's pre-tokenization pattern and will use Llama 3's: "
    "some text, mostly numbers, gets different ids there"
)
NEVER = "À Á"
"""A merge of two bytes that never occur in UTF-8; llama.cpp needs at least one merge, a byte tokenizer has none."""


def write_tokenizer(writer: Any, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str | None:
    """Write a byte-level BPE, the content of a tokenizer.json; returns the warning of `write_gguf`.

    `config` has the size of the vocabulary and the ids of roles. ValueError for another kind of tokenizer.
    """
    model, decoder = tokenizer["model"], tokenizer["decoder"] or {}
    if model["type"] != "BPE" or decoder.get("type") != "ByteLevel":
        raise ValueError("its tokenizer is not a byte-level BPE, the only kind that can be written to GGUF")
    rows = config["vocab_size"]
    names, kinds = [f"[PAD{i}]" for i in range(rows)], [UNUSED] * rows
    for token, i in model["vocab"].items():
        names[i], kinds[i] = token, NORMAL
    for token in tokenizer["added_tokens"]:
        names[token["id"]], kinds[token["id"]] = token["content"], CONTROL if token["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    cut = _cut_of(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre((cut or LLAMA_BPE).names[0])
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges or [NEVER])
    eos = config.get("eos_token_id")
    eos, *more = eos if isinstance(eos, list) else [eos]
    ids = {key: config.get(f"{role}_token_id") for role, key in ROLE_KEYS.items()} | {"eos_token_id": eos}
    ids |= dict(zip(MORE_EOS, more, strict=False))
    for key, i in ids.items():
        if i is not None:
            writer.add_uint32(f"{_KEY}.{key}", i)
    writer.add_add_bos_token(bool(prefix_of(tokenizer)))
    if len(more) > len(MORE_EOS):
        return f"GGUF has room for {1 + len(MORE_EOS)} ids that end a text; llama.cpp does not stop at {more[2:]}"
    return None if cut else UNKNOWN_CUT


def _cut_of(tokenizer: Mapping[str, Any]) -> Cut | None:
    """The row of CUTS that gives the same ids; None if there is none."""
    model = tokenizer["model"]
    if not model["merges"]:
        return CUTS[0]  # single bytes need no pre-tokenization
    pattern, whole = cut_pattern(tokenizer["pre_tokenizer"]), bool(model.get("ignore_merges"))
    if tokenizer["normalizer"] not in (None, {"type": "NFC"}):  # NFC leaves composed text unchanged
        return None
    return next((cut for cut in CUTS if (cut.pattern, cut.ignore_merges) == (pattern, whole)), None)


def read_gguf_tokenizer(fields: Mapping[str, Any], path: Path) -> ImportedTokenizer:
    """The tokenizer in the fields of a GGUF file; `path` is for messages.

    ValueError for a pre-tokenization that is not in CUTS or an id outside the vocabulary, KeyError for a missing field.
    """
    kind, pre = fields[f"{_KEY}.model"], fields.get(f"{_KEY}.pre", "default")
    cut = next((cut for cut in CUTS if pre in cut.names), None)
    if kind != "gpt2" or cut is None:
        known = ", ".join(dict.fromkeys(name for cut in CUTS for name in cut.names))
        found = f"tokenizer {kind!r} with pre-tokenizer {pre!r}"
        raise ValueError(f"{path}: {found} is not supported; supported is 'gpt2' with one of {known}")
    names, kinds = fields[f"{_KEY}.tokens"], fields[f"{_KEY}.token_type"]
    by_kind = {wanted: [name for name, of in zip(names, kinds, strict=True) if of == wanted] for wanted in range(7)}
    unused = set(by_kind[UNUSED])
    vocabulary = {name: i for i, name in enumerate(names) if name not in unused}
    pairs = [tuple(merge.split(" ")) for merge in fields[f"{_KEY}.merges"]]
    merges = [pair for pair in pairs if "".join(pair) in vocabulary]
    added = by_kind[CONTROL], by_kind[USER_DEFINED]
    model = byte_level_model(vocabulary, merges, *added, cut.pattern, ignore_merges=cut.ignore_merges)
    keys = {role: f"{_KEY}.{key}" for role, key in ROLE_KEYS.items()}
    roles = {role: fields[key] for role, key in keys.items() if key in fields}
    for role, i in roles.items():
        if not isinstance(i, int) or not 0 <= i < len(names):
            raise ValueError(f"{keys[role]} is {i!r}, not an id of its {len(names)} tokens")
    # without this key, llama.cpp adds BOS only with Llama 3's pre-tokenizer
    begins = fields.get(f"{_KEY}.add_bos_token", cut == LLAMA_BPE)
    prefix = [roles["bos"]] if begins and "bos" in roles else []
    more = [fields[f"{_KEY}.{key}"] for key in MORE_EOS if f"{_KEY}.{key}" in fields]
    named = {role: i for role, i in roles.items() if role in (*ROLES, "unk")}
    tokenizer = from_model(model, named, where=path, prefix=prefix, eos_ids=more)
    tokenizer.chat_template = fields.get(CHAT_TEMPLATE)
    return tokenizer
