"""Texts that tokenizers get wrong: marks, odd spaces, digits of many scripts, controls, names of special tokens."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence

_PIECES = (
    *" \n\t\r\u00a0\u3000\u200b\u200d\u2028\x00\x1c\x85\ufeff",
    *("  ", "\n\n", "\r\n", " \n ", "'s", "'S", "'ll", "'VE", "\u2019s", "1", "12", "1234567", "3.14", "½", "٣", "१२"),
    *(
        "a",
        "Z",
        "the",
        " the",
        "HTTPServer",
        "naïve",
        "nai\u0308ve",
        "e\u0301",
        "\u0301",
        "हिन्दी",
        "ไทย",
        "世界",
        "日本",
    ),
    *(
        "한국",
        "\u1112\u1161\u11ab",
        "ﬁ",
        "ß",
        "İ",
        "ǅ",
        "😀",
        "👩\u200d👩\u200d👧",
        "\U00040000",
        "\ue000",
        "_",
        "-",
        "...",
        "!",
    ),
    *("(", "x=1;", "/", "\\", "<|endoftext|>", "<s>", "[MASK]", "[CLS]", "<unk>", "##ing", "▁", "Ġ", "Ċ", "<0x0A>"),
)


def hostile_texts(count: int, names: Sequence[str] = ()) -> list[str]:
    """`count` texts, the same for every call; `names` of tokens are mixed in."""
    draws = random.Random(0)
    pieces = (*_PIECES, *names)
    texts = []
    for i in range(count):
        if i % 4 == 0:  # any characters, except surrogates
            codes = (
                draws.randrange(0x110000) if i % 8 else draws.randrange(0x3000) for _ in range(draws.randrange(20))
            )
            texts.append("".join(chr(code) for code in codes if unicodedata.category(chr(code)) != "Cs"))
        else:
            texts.append("".join(draws.choices(pieces, k=draws.randrange(1, 16))))
    return texts
