"""Exports tokenizers as tokenizer.json and tokenizer_config.json, for transformers' AutoTokenizer."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from minillm.exchange.tokenizer_in import ROLES, unknown_of
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.bpe import BPETokenizer, byte_alphabet
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.imported import ImportedTokenizer
from minillm.tokenizers.merges import QWEN2, cut_pattern, last_merge

Family = Literal["gpt", "bert", "t5", "vit", "mlp"]

_CHARACTER_OF = {value: character for character, value in byte_alphabet().items()}


def tokenizer_json(tokenizer: Tokenizer, family: Family) -> dict[str, Any]:
    """The content of a tokenizer.json with the same ids, and the family's special tokens around a text.

    Unlike here, the library converts the name of a special token in a text to that token.
    """
    if isinstance(tokenizer, ImportedTokenizer):
        return tokenizer.model
    body: dict[str, Any] = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None}
    if isinstance(tokenizer, CharTokenizer):
        vocabulary = {character: i for i, character in enumerate(tokenizer.characters)}
        # "<unk>" is not in the vocabulary, so that an unknown character is an error, as in minillm
        model = {"type": "WordLevel", "vocab": vocabulary | tokenizer.specials, "unk_token": "<unk>"}
        body |= {"pre_tokenizer": _split(r"[\s\S]"), "decoder": {"type": "Fuse"}}
    else:
        model = _bpe(tokenizer)
        body |= {"pre_tokenizer": _pre_tokenizer(tokenizer), "decoder": _byte_level(use_regex=True)}
    added = [
        {"id": i, "content": name, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for name, i in sorted(tokenizer.specials.items(), key=lambda item: item[1])
    ]
    return {**body, "added_tokens": added, "post_processor": _post_processor(tokenizer, family), "model": model}


def tokenizer_settings(
    tokenizer: Tokenizer, max_seq_len: int, inputs: Sequence[str] = ("input_ids", "attention_mask")
) -> dict[str, Any]:
    """The content of tokenizer_config.json: the role of each special token, and the chat template.

    `inputs` are the arguments of the model that a call of the tokenizer returns. Without them, transformers 4 adds
    segments for every model, and transformers 5 for none.
    """
    names = {i: name for name, i in tokenizer.specials.items()}
    roles = {f"{role}_token": names[i] for role, i in role_ids(tokenizer).items()}
    roles |= {"unk_token": unknown_token(tokenizer) or roles.get("eos_token")}  # CTranslate2 needs one
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_seq_len}
    settings |= {"clean_up_tokenization_spaces": False, "model_input_names": list(inputs)}
    settings |= {role: name for role, name in roles.items() if name is not None}
    return settings | ({} if tokenizer.chat_template is None else {"chat_template": tokenizer.chat_template})


def unknown_token(tokenizer: Tokenizer) -> str | None:
    """The token for text outside the vocabulary; None if the tokenizer has none, like all of our own."""
    if not isinstance(tokenizer, ImportedTokenizer):
        return None
    return tokenizer.unknown or unknown_of(tokenizer.model, tokenizer.specials)


def role_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Hugging Face's name of each role -> id. BOS is the token before a document in training."""
    ids = {hf: tokenizer.roles[ours] for hf, ours in ROLES.items() if ours in tokenizer.roles}
    return ids | ({"bos": tokenizer.start_id} if "bos" in ids else {})


def require_own_pattern(model: Mapping[str, Any], model_type: str) -> None:
    """ValueError if AutoTokenizer would ignore the tokenizer's pattern, as it does for every Qwen2."""
    if model_type == "qwen2" and (cut_pattern(model["pre_tokenizer"]), model["normalizer"]) != (QWEN2, {"type": "NFC"}):
        raise ValueError(
            "model.attention_bias is 'qkv', which makes this a Qwen2, and for every Qwen2 transformers pre-tokenizes "
            "text with Qwen's pattern instead of this tokenizer's; set --model.attention_bias to all or none"
        )


def _bpe(tokenizer: Tokenizer) -> dict[str, Any]:
    """The BPE model: tokens in GPT-2's printable alphabet, and merges reconstructed from the tokens' ranks."""
    if not isinstance(tokenizer, BPETokenizer | ByteTokenizer):
        raise ValueError(f"a {tokenizer.kind} tokenizer cannot be exported")
    ordinary = [i for i in range(tokenizer.vocab_size) if tokenizer.num_bytes[i]]
    names = {i: "".join(_CHARACTER_OF[value] for value in tokenizer.decode_bytes([i])) for i in ordinary}
    ranks = {name: i for i, name in names.items()}
    pairs = [last_merge(name, ranks) for name in names.values() if len(name) > 1]
    return {
        "type": "BPE",
        "vocab": ranks | tokenizer.specials,
        "merges": [list(pair) for pair in pairs if pair is not None],
        **dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")),
        **dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False),
    }


def _pre_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    if not isinstance(tokenizer, BPETokenizer):
        return _byte_level(use_regex=False)
    pattern = PATTERNS.get(tokenizer.kind, tokenizer.pattern)
    return {"type": "Sequence", "pretokenizers": [_split(pattern), _byte_level(use_regex=False)]}


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k_base": (
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s+\z|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k_base": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
        rf"{_CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
"""The published patterns without possessive quantifiers, which the library does not support."""


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _post_processor(tokenizer: Tokenizer, family: Family) -> dict[str, Any] | None:
    """Special tokens around a text: [CLS] A [SEP] B [SEP] for BERT, EOS at the end for T5, none for GPT."""
    roles = {"bert": ("<|cls|>", "<|sep|>"), "t5": (None, "<|eos|>"), "gpt": (None, None)}
    first, last = roles[family]
    if last is None:
        return None
    begin = [{"SpecialToken": {"id": first, "type_id": 0}}] if first else []
    parts = [
        [{"Sequence": {"id": name, "type_id": kind}}, {"SpecialToken": {"id": last, "type_id": kind}}]
        for name, kind in (("A", 0), ("B", 1))
    ]
    used = {name: {"id": name, "ids": [tokenizer.specials[name]], "tokens": [name]} for name in (first, last) if name}
    single, pair = [*begin, *parts[0]], [*begin, *parts[0], *parts[1]]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": used}
