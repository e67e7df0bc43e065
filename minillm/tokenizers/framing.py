"""Special tokens around a text, or around both texts of a pair, as an encoder reads them."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray

from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.imported import ImportedTokenizer

Special = tuple[int, int]
"""Id and token type."""


class Framing(NamedTuple):
    """Special tokens before, between and after texts, and the token types of the texts."""

    before: tuple[Special, ...]
    between: tuple[Special, ...]
    after: tuple[Special, ...]
    types: tuple[int, ...]

    @property
    def num_special(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, texts: list[NDArray[np.uint32]], max_len: int) -> tuple[list[int], list[int]]:
        """Ids and token types of one text or two, whose ends are cut so that there are at most `max_len` tokens."""
        lengths = _fitting([len(text) for text in texts], max(0, max_len - self.num_special))
        ids, types = [i for i, _ in self.before], [kind for _, kind in self.before]
        ends = [self.between] * (len(texts) - 1) + [self.after]
        for text, length, kind, end in zip(texts, lengths, self.types, ends, strict=True):
            ids += [*text[:length].tolist(), *(i for i, _ in end)]
            types += [*[kind] * length, *(other for _, other in end)]
        return ids, types


def framing(tokenizer: Tokenizer, *, pair: bool) -> Framing:
    """The framing of a text or a pair: that of an imported post-processor, else [CLS] A [SEP] or [CLS] A [SEP] B [SEP]
    (Devlin et al. 2019), without the tokens that the tokenizer lacks."""
    texts = ("a", "b")[: 1 + pair]
    if isinstance(tokenizer, ImportedTokenizer) and tokenizer.model.get("post_processor") is not None:
        whole = {**tokenizer.model, "truncation": None, "padding": None}
        encoded = tokenizers.Tokenizer.from_str(json.dumps(whole)).encode(*texts)
        special = list(zip(encoded.ids, encoded.type_ids, strict=True))
        places = [[i for i, of in enumerate(encoded.sequence_ids) if of == number] for number in range(len(texts))]
        between = special[places[0][-1] + 1 : places[-1][0]] if pair else []
        types = tuple(encoded.type_ids[place[0]] for place in places)
        return Framing(tuple(special[: places[0][0]]), tuple(between), tuple(special[places[-1][-1] + 1 :]), types)
    before = [(tokenizer.roles[name], 0) for name in ("<|cls|>",) if name in tokenizer.roles]
    ends = [((tokenizer.roles["<|sep|>"], kind),) if "<|sep|>" in tokenizer.roles else () for kind in (0, 1)]
    return Framing(tuple(before), ends[0] if pair else (), ends[pair], (0, 1)[: 1 + pair])


def _fitting(lengths: list[int], room: int) -> list[int]:
    """The lengths, of which the longest is reduced first until their sum is at most `room`."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first, second = lengths
    if first + second <= room:
        return lengths
    short = min(first, second, room // 2)
    return [short, room - short] if first <= second else [room - short, short]
