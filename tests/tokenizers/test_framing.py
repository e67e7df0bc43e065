"""Special tokens around texts, against the tokenizers library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from minillm.exchange.tokenizer_in import from_model
from minillm.tokenizers.byte import ByteTokenizer

WORDS = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c", "d"])}
PROCESSORS = {
    "bert": processors.BertProcessing(("</s>", 2), ("<s>", 0)),
    "roberta": processors.RobertaProcessing(("</s>", 2), ("<s>", 0)),
    "one end": processors.TemplateProcessing("$A </s>", "$A:0 $B:1 </s>:1", [("</s>", 2)]),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_an_imported_tokenizer_frames_and_cuts_texts_as_its_library_does(name: str):
    made = tokenizers.Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    made.post_processor = PROCESSORS[name]  # type: ignore[assignment]
    made.add_special_tokens(["<s>", "<pad>", "</s>"])
    ours = from_model(json.loads(made.to_str()), {}, where=Path("here"))
    draws = np.random.default_rng(0)
    for pair in (False, True):
        framing = ours.framing(pair=pair)
        for room in (6, 9, 40):
            made.enable_truncation(room)
            for _ in range(40):
                texts = [" ".join(draws.choice(["a", "b", "c", "d"], draws.integers(1, 12))) for _ in range(1 + pair)]
                expected = made.encode(texts[0], texts[1] if pair else None)
                found = framing.around([ours.encode(text) for text in texts], room)
                assert found == (expected.ids, expected.type_ids), (texts, room)


def test_an_own_tokenizer_frames_texts_as_bert_does():
    ours = ByteTokenizer()
    cls, sep = ours.cls_id, ours.sep_id
    texts = [ours.encode("ab"), ours.encode("c")]
    assert ours.framing(pair=False).around(texts[:1], 9) == ([cls, 97, 98, sep], [0] * 4)
    assert ours.framing(pair=True).around(texts, 9) == ([cls, 97, 98, sep, 99, sep], [0, 0, 0, 0, 1, 1])
