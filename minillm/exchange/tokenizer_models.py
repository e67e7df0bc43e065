"""Builds the content of a tokenizer.json for tokenizers that are published in other forms."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from minillm.tokenizers.merges import GPT2, SINGLE_DIGITS


def gpt2_model(folder: Path) -> dict[str, Any]:
    """GPT-2's two files as the content of a tokenizer.json."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    vocabulary = load_json(folder / "vocab.json")
    return byte_level_model(vocabulary, pairs, special=[name for name in ("<|endoftext|>",) if name in vocabulary])


def roberta_model(folder: Path) -> dict[str, Any]:
    """GPT-2's two files with RoBERTa's special tokens, <s> A </s></s> B </s>."""
    model = gpt2_model(folder)
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
    *,
    ignore_merges: bool = False,
) -> dict[str, Any]:
    """The content of a tokenizer.json for a byte-level BPE with one of the pre-tokenization patterns of `merges.py`.

    With `ignore_merges`, a piece of text that is a token is never split, as in Llama 3.
    """
    bpe = models.BPE(dict(vocabulary), list(merges), ignore_merges=ignore_merges)  # type: ignore[arg-type]
    made = tokenizers.Tokenizer(bpe)
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


def bert_model(folder: Path) -> dict[str, Any]:
    """BERT's vocabulary, one token per line, as the content of a tokenizer.json; lower case by default."""
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = {token: i for i, token in enumerate(lines) if token}
    settings = optional_json(folder / "tokenizer_config.json")
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


def optional_json(path: Path) -> dict[str, Any]:
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
