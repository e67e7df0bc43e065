"""Filling gaps: what is asked, what is answered, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from minillm.generation.fill import fill_gaps
from minillm.nn.output import Output

PIECES = [b"The", b" cat", b" dog", b" sat", b".", b" a", b"", b"", b"", b"", b"\xc3"]
EOS, MASK, CLS, SEP = 6, 7, 8, 9


STAND_IN: Any = object  # passes for any type
MODULE: Any = torch.nn.Module


class Words(STAND_IN):
    """A tokenizer of eleven tokens; ids 6 to 9 are special."""

    vocab_size, eos_id, mask_id, cls_id, sep_id, pad_id = 11, EOS, MASK, CLS, SEP, EOS
    eos_ids = (EOS,)
    extra_ids, prefix_ids, first_blank = (), (), False
    num_bytes = np.array([len(piece) for piece in PIECES])

    def encode(self, text: str) -> np.ndarray:
        ids, rest = [], text.encode()
        while rest:
            found = next(i for i, piece in enumerate(PIECES) if piece and rest.startswith(piece))
            ids.append(found)
            rest = rest[len(PIECES[found]) :]
        return np.array(ids, np.uint32)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return b"".join(PIECES[i] for i in ids)

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode()


class Oracle(MODULE):
    """Prefers the token that its place in the sequence says; special tokens and padding would be likelier still."""

    def __init__(self, favourites: dict[int, list[int]], max_seq_len: int = 16) -> None:
        super().__init__()
        self.config: Any = SimpleNamespace(max_seq_len=max_seq_len, vocab_size=14)
        self.favourites, self.weight = favourites, torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens: torch.Tensor, *, predict_at: torch.Tensor) -> Output:
        assert not self.training
        self.seen = tokens.tolist()[0]
        logits = torch.zeros(1, predict_at.size(1), 14)
        logits[..., EOS : SEP + 1] = logits[..., 11:] = 50.0
        for gap, at in enumerate(predict_at[0].tolist()):
            for rank, token in enumerate(self.favourites[at]):
                logits[0, gap, token] = 9.0 - rank
        return Output(logits, {"lm": logits})


def test_each_gap_gets_its_likeliest_tokens_in_order():
    model = Oracle({2: [1, 2], 4: [4, 3]}).train()
    found = fill_gaps(model, Words(), "The [MASK] sat<|mask|>", top_k=2)
    assert model.seen == [CLS, 0, MASK, 3, MASK, SEP], "the blank before a gap is the filling token's"
    assert found.text == "The cat sat."
    assert [[candidate.text for candidate in gap] for gap in found.candidates] == [[" cat", " dog"], [".", " sat"]]
    assert model.training, "its mode comes back"


def test_probabilities_are_those_among_tokens_of_text():
    (gap,) = fill_gaps(Oracle({1: [1, 2]}), Words(), "[MASK]", top_k=100).candidates
    assert len(gap) == 7 and sum(candidate.probability for candidate in gap) == pytest.approx(1)
    assert gap[0].probability / gap[1].probability == pytest.approx(np.e, rel=1e-5)
    assert {candidate.text for candidate in gap} == {"The", " cat", " dog", " sat", ".", " a", "\ufffd"}


@pytest.mark.parametrize(
    ("text", "top_k", "words"),
    [
        ("The cat", 5, r"no gap to fill; write \[MASK\]"),
        ("", 5, "no gap to fill"),
        ("The cat sat. cat sat.[MASK]", 5, "8 tokens and this model reads 6; shorten it"),
        ("[MASK]", 0, "top_k is 0"),
    ],
)
def test_what_cannot_be_filled_is_one_line(text: str, top_k: int, words: str):
    with pytest.raises(ValueError, match=words):
        fill_gaps(Oracle({}, max_seq_len=8), Words(), text, top_k=top_k)
