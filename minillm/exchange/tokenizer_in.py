"""Reads published tokenizers from a folder in Hugging Face's layout."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from minillm.tokenizers.base import CHAT_TEMPLATE_FILE, NUM_EXTRA_IDS, SPECIAL_TOKENS
from minillm.tokenizers.imported import ImportedTokenizer, runner, settled
from minillm.tokenizers.load import read_template
from minillm.tokenizers.merges import GPT2, SINGLE_DIGITS

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
        found = _optional_json(folder / name).get("chat_template")
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
        return from_model(load_json(folder / "tokenizer.json"), named_roles(folder), where=folder / "tokenizer.json")
    remedy = (
        "create a tokenizer.json next to it with "
        f"transformers.AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )
    kind = _optional_json(folder / "config.json").get("model_type", "gpt2")
    byte_level = _roberta_model if kind == "roberta" else _gpt2_model
    for name, read in (("vocab.json", byte_level), ("vocab.txt", _bert_model)):
        if (folder / name).is_file() and (name == "vocab.txt" or (folder / "merges.txt").is_file()):
            if (folder / "added_tokens.json").is_file() or (name == "vocab.json" and kind not in ("gpt2", "roberta")):
                raise ValueError(f"{folder / name} does not say how this model pre-tokenizes text; {remedy}")
            try:
                model = read(folder)
            except Exception as error:  # the library raises nothing more specific
                reason = str(error).partition("\n")[0]
                raise ValueError(f"{folder / name} is damaged or not supported ({reason}); download it again") from None
            return from_model(model, named_roles(folder), where=folder / name)
    found = next((name for name in ("spiece.model", "tokenizer.model") if (folder / name).is_file()), None)
    if found:
        raise ValueError(f"{folder / found} is in SentencePiece's format, which cannot be read; {remedy}")
    raise FileNotFoundError(f"{folder} has no tokenizer.json, vocab.json with merges.txt, or vocab.txt")


def from_model(
    model: dict[str, Any], named: Mapping[str, str | int], *, where: Path, prefix: list[int] | None = None
) -> ImportedTokenizer:
    """The tokenizer from `model`, the content of a tokenizer.json.

    Args:
        named: Hugging Face's name of a role, such as "eos" -> the text or id of its token.
        where: the file, for messages.
        prefix: ids before every text; None: those that the post-processor adds.
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
    roles = {ROLES[role]: vocabulary[name] for role, name in by_role.items()}
    sentinels = {f"<|extra_id_{i}|>": f"<extra_id_{i}>" for i in range(NUM_EXTRA_IDS)}
    roles |= {ours: vocabulary[theirs] for ours, theirs in sentinels.items() if theirs in special}
    exported = {name: vocabulary[name] for name in SPECIAL_TOKENS if name in special}  # by minillm
    specials = {name: vocabulary[name] for name in sorted(special)}
    return ImportedTokenizer(model, specials=specials, roles=exported | roles, prefix=prefix)


def named_roles(folder: Path) -> dict[str, str | int]:
    """Role -> token, as text or id, from a folder's files; tokenizer_config.json has precedence."""
    ids = _optional_json(folder / "config.json")
    found: dict[str, str | int] = dict(ROBERTA if ids.get("model_type") in ROBERTA_TYPES else {})
    found |= {role: ids[f"{role}_token_id"] for role in ROLES if isinstance(ids.get(f"{role}_token_id"), int)}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        content = _optional_json(folder / name)
        for role in ROLES:
            token = content.get(f"{role}_token")  # text, or an object with the text
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found[role] = token
    return found


def _optional_json(path: Path) -> dict[str, Any]:
    return load_json(path) if path.is_file() else {}


def load_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError if it has none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; download it again")
    return content


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


def _gpt2_model(folder: Path) -> dict[str, Any]:
    """GPT-2's two files as the content of a tokenizer.json."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    vocabulary = load_json(folder / "vocab.json")
    return byte_level_model(vocabulary, pairs, special=[name for name in ("<|endoftext|>",) if name in vocabulary])


def _roberta_model(folder: Path) -> dict[str, Any]:
    """GPT-2's two files with RoBERTa's special tokens, <s> A </s></s> B </s>."""
    model = _gpt2_model(folder)
    made = tokenizers.Tokenizer.from_str(json.dumps(model))
    made.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "<pad>", "</s>", "<unk>")])
    made.add_special_tokens([AddedToken("<mask>", special=True, lstrip=True)])
    first, last = ((name, made.token_to_id(name)) for name in ("<s>", "</s>"))
    made.post_processor = processors.RobertaProcessing(last, first, trim_offsets=True, add_prefix_space=False)  # type: ignore[assignment]
    return json.loads(made.to_str())


def byte_level_model(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, ...]],
    special: Sequence[str] = (),
    added: Sequence[str] = (),
    pattern: str = GPT2,
) -> dict[str, Any]:
    """The content of a tokenizer.json for a byte-level BPE with one of the pre-tokenization patterns of `merges.py`."""
    made = tokenizers.Tokenizer(models.BPE(dict(vocabulary), list(merges)))  # type: ignore[arg-type]
    made.pre_tokenizer = pre_tokenizer_of(pattern)
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    made.add_tokens([AddedToken(name, special=False, normalized=False) for name in added])
    return json.loads(made.to_str())


def pre_tokenizer_of(pattern: str) -> Any:
    """The library's pre-tokenizer for a pattern of `merges.py`, in its published form."""
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern in (GPT2, SINGLE_DIGITS))
    if pattern == GPT2:
        return whole
    digits = pattern == SINGLE_DIGITS
    first = pre_tokenizers.Digits(True) if digits else pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([first, whole])  # type: ignore[list-item]


def _bert_model(folder: Path) -> dict[str, Any]:
    """BERT's vocabulary, one token per line, as the content of a tokenizer.json; lower case by default."""
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = {token: i for i, token in enumerate(lines) if token}
    settings = _optional_json(folder / "tokenizer_config.json")
    made = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(  # type: ignore[assignment]
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    made.decoder = decoders.WordPiece()  # type: ignore[assignment]
    pair = [(name, vocabulary[name]) for name in ("[SEP]", "[CLS]")]
    made.post_processor = processors.BertProcessing(*pair)  # type: ignore[assignment]
    special = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if name in vocabulary]
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return json.loads(made.to_str())
