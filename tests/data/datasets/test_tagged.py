"""Words with tags: how they are read, split, spelled and kept in ids."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minillm.data.config import DataConfig
from minillm.data.datasets.tagged import TaggedTokens, prepare_tagged, read_inputs, read_tagged
from minillm.data.sources.token_classes import tag_lines
from minillm.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()


def write(path: Path, *records: object) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def spelled(tokens: TaggedTokens) -> list[list[str]]:
    return [[TOKENIZER.decode(word) for word in row.ids] for row in tokens.rows]


def test_words_after_a_space_keep_it_and_conll_and_records_agree(tmp_path: Path):
    record = {"words": ["EU", "rejects", "call"], "tags": ["B-ORG", "O", "O"]}
    source = write(tmp_path / "a.jsonl", record)
    tokens = read_tagged(source, DataConfig(), TOKENIZER)
    assert spelled(tokens) == [["EU", " rejects", " call"]] and tokens.rows[0].tags == ("B-ORG", "O", "O")
    conll = tmp_path / "a.conll"
    conll.write_text("EU B-ORG\nrejects O\ncall O\n", encoding="utf-8")
    assert spelled(read_tagged(str(conll), DataConfig(), TOKENIZER)) == spelled(tokens)
    renamed = write(tmp_path / "b.jsonl", {"tokens": record["words"], "ner": record["tags"]})
    fields = DataConfig(words_field="tokens", tags_field="ner")
    assert spelled(read_tagged(renamed, fields, TOKENIZER)) == spelled(tokens)


def test_a_sentence_is_in_one_split_and_documents_stay_together(tmp_path: Path):
    path = tmp_path / "train.conll"
    body = "".join(f"-DOCSTART- O\n\nword{n} O\n\nother{n} B-A\n\n" for n in range(20))
    path.write_text(body, encoding="utf-8")
    corpus = prepare_tagged(DataConfig(source=str(path), validation_fraction=0.2), TOKENIZER)
    numbers = [
        {"".join(filter(str.isdigit, words[0])) for words in spelled(part)}
        for part in (corpus.train, corpus.validation)
    ]
    assert numbers[0] & numbers[1] == set() and len(corpus.validation) == 8


def test_iob1_is_converted_and_the_scheme_is_checked(tmp_path: Path):
    source = write(tmp_path / "a.jsonl", {"words": ["a", "b"], "tags": ["I-A", "I-A"]})
    with pytest.raises(ValueError, match=r"a\.jsonl line 1: the tag 'I-A' of 'a' cannot follow 'O' in BIO; .* iob1"):
        read_tagged(source, DataConfig(), TOKENIZER)
    assert read_tagged(source, DataConfig(tag_scheme="iob1"), TOKENIZER).rows[0].tags == ("B-A", "I-A")
    assert read_tagged(source, DataConfig(tag_scheme="none"), TOKENIZER).rows[0].tags == ("I-A", "I-A")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"words": ["a", "b"], "tags": ["O"]}, "line 1 has 2 words, but 1 tags: each word needs one tag"),
        ({"words": "a b", "tags": ["O"]}, "field 'words' of .* line 1 is not a list of texts"),
        ({"words": ["a"], "tags": [None]}, "field 'tags' of .* line 1 is not a list of texts"),
        ({"words": ["a"]}, r"has no field 'tags'; .* \(data\.tags_field\)"),
        ({"words": [], "tags": []}, "has no sentences with words and tags"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, record: object, message: str):
    source = write(tmp_path / "a.jsonl", record)
    with pytest.raises(ValueError, match=message):
        read_tagged(source, DataConfig(), TOKENIZER)


def test_inputs_are_texts_or_words_with_spans(tmp_path: Path):
    (one,) = read_inputs(["Don't  stop."], None, DataConfig())
    assert one.words == ["Don", "'", "t", "stop", "."] and one.spans[3] == (7, 11)
    source = write(tmp_path / "a.jsonl", {"words": ["a", "bc"]}, {"words": "de f"})
    listed, text = read_inputs((), source, DataConfig())
    assert listed.text == "a bc" and listed.spans == ((0, 1), (2, 4)) and text.words == ["de", "f"]


def test_a_longer_text_does_not_change_the_ids_of_its_words():
    example = read_inputs(["a\u00a0b e\u0301 c"], None, DataConfig())[0]
    rows = TaggedTokens([example], TOKENIZER).rows[0]
    assert [TOKENIZER.decode(ids) for ids in rows.ids] == ["a", " b", " e", "\u0301", " c"]


def test_lines_of_python_are_tagged_by_the_tokens_that_their_words_are_in():
    source = 'def f(x):\n    return g("a b", 3.5) == x  # say\n\nT = """not\nthis"""\n'
    lines = {line.text: line for line in tag_lines([source], 9, seed=0)}
    line = lines['return g("a b", 3.5) == x  # say']
    words = [line.text[start:stop] for start, stop in line.spans]
    tags = dict(zip(words, line.tags, strict=False))
    assert tags["return"] == "B-keyword" and tags["g"] == "B-name" and tags["say"] == "O"
    assert [tag for tag in line.tags if "string" in tag] == ["B-string", *["I-string"] * 3]
    assert [tag for tag in line.tags if "number" in tag] == ["B-number", "I-number", "I-number"]
    assert line.tags[words.index("=")] == "B-operator" and not any("not" in text for text in lines)
    assert np.all([len(line.spans) == len(line.tags) for line in lines.values()]) and "def f(x):" in lines
