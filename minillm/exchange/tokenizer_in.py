"""Reads published tokenizers from a folder in Hugging Face's layout."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from minillm.exchange.tokenizer_models import bert_model, gpt2_model, load_json, optional_json, roberta_model
from minillm.tokenizers.base import CHAT_TEMPLATE_FILE, NUM_EXTRA_IDS, SPECIAL_TOKENS
from minillm.tokenizers.imported import ImportedTokenizer, runner, settled
from minillm.tokenizers.load import read_template

ROLES = {name: f"<|{name}|>" for name in ("bos", "eos", "pad", "mask", "cls", "sep")}
"""Hugging Face's name of each role, without `_token` or `_token_id` -> ours."""
CUSTOMARY = {"[CLS]": "cls", "[SEP]": "sep", "[MASK]": "mask", "[PAD]": "pad", "<pad>": "pad", "</s>": "eos"}
"""Default roles of tokens with these names."""
ROBERTA_TYPES = ("roberta", "xlm-roberta", "camembert")
ROBERTA = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
"""Roles in a RoBERTa, whose published folder does not tell them."""
UNKNOWN = ("<unk>", "[UNK]")
"""Default names of the token for text outside the vocabulary."""


def read_tokenizer(folder: Path) -> ImportedTokenizer:
    """The tokenizer in tokenizer.json; or in vocab.json and merges.txt, as for GPT-2; or in vocab.txt, as for BERT.

    Roles of special tokens are read from tokenizer_config.json, special_tokens_map.json and config.json, and the chat
    template from where `chat_template_in` finds it.

    Raises:
        OSError: the folder has none of these.
        ValueError: a file is damaged, or the kind of tokenizer is not supported.
    """
    tokenizer = _read_ids(folder)
    tokenizer.chat_template = chat_template_in(folder)
    return tokenizer


def chat_template_in(folder: Path) -> str | None:
    """The chat template in chat_template.jinja, tokenizer_config.json or chat_template.json, in this order.

    Of several named templates it is the one called default. ValueError if a file has something else than a template.
    """
    if (folder / CHAT_TEMPLATE_FILE).is_file():
        return read_template(folder / CHAT_TEMPLATE_FILE)
    for name in ("tokenizer_config.json", "chat_template.json"):
        found = optional_json(folder / name).get("chat_template")
        if isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
            found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
        if found is not None and not isinstance(found, str):
            raise ValueError(f"{folder / name} has a chat_template that is not text; download it again")
        if found is not None:
            return found
    return None


def _read_ids(folder: Path) -> ImportedTokenizer:
    """As `read_tokenizer`, without the chat template."""
    if (folder / "tokenizer.json").is_file():
        where = folder / "tokenizer.json"
        return from_model(load_json(where), named_roles(folder), where=where, eos_ids=eos_ids_in(folder))
    remedy = (
        "create a tokenizer.json next to it with "
        f"transformers.AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )
    kind = optional_json(folder / "config.json").get("model_type", "gpt2")
    byte_level = roberta_model if kind == "roberta" else gpt2_model
    for name, read in (("vocab.json", byte_level), ("vocab.txt", bert_model)):
        if (folder / name).is_file() and (name == "vocab.txt" or (folder / "merges.txt").is_file()):
            if (folder / "added_tokens.json").is_file() or (name == "vocab.json" and kind not in ("gpt2", "roberta")):
                raise ValueError(f"{folder / name} does not say how this model pre-tokenizes text; {remedy}")
            try:
                model = read(folder)
            except Exception as error:  # the library raises nothing more specific
                reason = str(error).partition("\n")[0]
                raise ValueError(f"{folder / name} is damaged or not supported ({reason}); download it again") from None
            return from_model(model, named_roles(folder), where=folder / name, eos_ids=eos_ids_in(folder))
    found = next((name for name in ("spiece.model", "tokenizer.model") if (folder / name).is_file()), None)
    if found:
        raise ValueError(f"{folder / found} is in SentencePiece's format, which cannot be read; {remedy}")
    raise FileNotFoundError(f"{folder} has no tokenizer.json, vocab.json with merges.txt, or vocab.txt")


def from_model(
    model: dict[str, Any],
    named: Mapping[str, str | int],
    *,
    where: Path,
    prefix: list[int] | None = None,
    eos_ids: Sequence[int] = (),
) -> ImportedTokenizer:
    """The tokenizer from `model`, the content of a tokenizer.json.

    Args:
        named: Hugging Face's name of a role, such as "eos" or "unk" -> the text or id of its token.
        where: the file, for messages.
        prefix: ids before every text; None: those that the post-processor adds.
        eos_ids: the ids that end a generated text, as far as the vocabulary has them.
    """
    try:
        made = runner(model)
        model, vocabulary = settled(made, model), made.get_vocab(with_added_tokens=True)
        prefix = prefix_of(model) if prefix is None else prefix
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
    names = {i: name for name, i in vocabulary.items()}
    given = {
        role: names[token] if isinstance(token, int) else token
        for role, token in named.items()
        if token in (names if isinstance(token, int) else vocabulary)
    }
    by_role = {role: name for name, role in CUSTOMARY.items() if name in vocabulary} | given
    special = {token["content"] for token in model["added_tokens"] if token["special"]}
    unknown = (model["model"].get("unk_token"),) if model["model"].get("unk_token") else UNKNOWN
    special |= {name for name in unknown if name in vocabulary} | set(by_role.values())
    roles = {ROLES[role]: vocabulary[name] for role, name in by_role.items() if role in ROLES}
    sentinels = {f"<|extra_id_{i}|>": f"<extra_id_{i}>" for i in range(NUM_EXTRA_IDS)}
    roles |= {ours: vocabulary[theirs] for ours, theirs in sentinels.items() if theirs in special}
    exported = {name: vocabulary[name] for name in SPECIAL_TOKENS if name in special}  # by minillm
    specials = {name: vocabulary[name] for name in sorted(special)}
    more = [i for i in dict.fromkeys(eos_ids) if i in names and i != roles.get(ROLES["eos"])]
    unknown = by_role.get("unk") if unknown_of(model, vocabulary) is None else None
    options: dict[str, Any] = {"prefix": prefix, "more_eos_ids": more, "unknown": unknown}
    return ImportedTokenizer(model, specials=specials, roles=exported | roles, **options)


def unknown_of(model: Mapping[str, Any], vocabulary: Collection[str]) -> str | None:
    """The token for text outside the vocabulary that a tokenizer.json names, or one with a customary name."""
    inner = model["model"]
    if inner["type"] == "Unigram":
        return None if inner["unk_id"] is None else inner["vocab"][inner["unk_id"]][0]
    names = (inner["unk_token"],) if inner.get("unk_token") else UNKNOWN
    return next((name for name in names if name in vocabulary), None)


def named_roles(folder: Path) -> dict[str, str | int]:
    """Role -> token, as text or id, from a folder's files; tokenizer_config.json has precedence."""
    config = optional_json(folder / "config.json")
    found: dict[str, str | int] = dict(ROBERTA if config.get("model_type") in ROBERTA_TYPES else {})
    for role in ROLES:
        ids = id_list(config.get(f"{role}_token_id"))
        found |= {role: ids[0]} if ids else {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        content = optional_json(folder / name)
        for role in (*ROLES, "unk"):
            token = content.get(f"{role}_token")  # text, or an object with the text
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found[role] = token
    return found


def eos_ids_in(folder: Path) -> list[int]:
    """The ids that end a generated text, from generation_config.json and config.json."""
    files = (optional_json(folder / name) for name in ("generation_config.json", "config.json"))
    return [i for content in files for i in id_list(content.get("eos_token_id"))]


def id_list(value: Any) -> list[int]:
    """The id or ids in a value of a config; empty if it has none."""
    ids = value if isinstance(value, list) else [value]
    return [i for i in ids if isinstance(i, int) and not isinstance(i, bool)]


def prefix_of(model: Mapping[str, Any]) -> list[int]:
    """Ids that the post-processor puts before a text, such as Llama's BOS."""
    if model.get("post_processor") is None:
        return []
    try:
        full = tokenizers.Tokenizer.from_str(json.dumps({**model, "truncation": None, "padding": None}))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"its post_processor cannot be read: {error}") from None
    encoded = full.encode("a", add_special_tokens=True)
    first = encoded.special_tokens_mask.index(0) if 0 in encoded.special_tokens_mask else 0
    return encoded.ids[:first]
