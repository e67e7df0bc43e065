"""Special tokens around a text, or around both texts of a pair, as an encoder reads them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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


PLAIN = tuple(Framing((), (), (), (0, 0)[: 1 + pair]) for pair in (False, True))
"""No special tokens, around a text and around a pair."""


def _fitting(lengths: list[int], room: int) -> list[int]:
    """The lengths, of which the longest is reduced first until their sum is at most `room`."""
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    first, second = lengths
    if first + second <= room:
        return lengths
    short = min(first, second, room // 2)
    return [short, room - short] if first <= second else [room - short, short]
