"""Labeled texts: how they are read, split, counted and kept in ids."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minillm.data.config import DataConfig
from minillm.data.datasets.labeled import LabeledTokens, prepare_labeled, read_inputs, read_labeled
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer

TOKENIZER = ByteTokenizer()
RECORDS = [{"text": f"number {n}", "label": "even" if n % 2 == 0 else "odd"} for n in range(40)]


def write(path: Path, records: Iterable[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    path = write(tmp_path / "labels.jsonl", RECORDS)
    return DataConfig(source=str(path), cache=str(tmp_path / "cache"), validation_fraction=0.25)


def spelled(tokens: LabeledTokens) -> list[tuple[str, str, Any]]:
    """The examples again, in the order of the texts."""
    rows = [tokens.row(i) for i in range(len(tokens))]
    return sorted((TOKENIZER.decode(row.first), TOKENIZER.decode(row.second), row.label) for row in rows)


def test_every_example_is_in_one_split_and_each_split_has_its_share(config: DataConfig):
    corpus = prepare_labeled(config, TOKENIZER)
    train, validation = spelled(corpus.train), spelled(corpus.validation)
    assert sorted(train + validation) == sorted((r["text"], "", r["label"]) for r in RECORDS)
    assert len(validation) == 10 and corpus.info.validation.documents == 10 and corpus.info.train.documents == 30
    assert corpus.info.train.tokens == corpus.train.num_tokens == corpus.info.train.bytes
    assert corpus.notes == ()


def test_the_split_depends_on_the_texts_and_not_on_their_order(config: DataConfig, tmp_path: Path):
    other = replace(config, source=str(write(tmp_path / "turned.jsonl", reversed(RECORDS))))
    a, b = (prepare_labeled(one, TOKENIZER) for one in (config, other))
    assert spelled(a.validation) == spelled(b.validation)
    assert [TOKENIZER.decode(row.first) for row in a.train.rows] == [
        TOKENIZER.decode(row.first) for row in b.train.rows
    ]
    assert a.info.fingerprint != b.info.fingerprint, "the content of another file"


def test_the_same_text_is_never_in_both_splits(config: DataConfig, tmp_path: Path):
    records = [record | {"pair": f"seen {k}"} for record in RECORDS for k in range(3)]
    twice = replace(config, source=str(write(tmp_path / "twice.jsonl", records)), pair_field="pair")
    corpus = prepare_labeled(twice, TOKENIZER)
    texts = [{text for text, _, _ in spelled(part)} for part in (corpus.train, corpus.validation)]
    assert texts[0] & texts[1] == set() and len(texts[1]) == 10 and len(corpus.validation) == 30


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.json", "labels.jsonl"])
def test_all_forms_with_fields_give_the_same_examples(config: DataConfig, tmp_path: Path, name: str):
    path = tmp_path / name.replace("labels", "other")
    rows = [{"body": r["text"], "kind": r["label"]} for r in RECORDS]
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, ["body", "kind"], delimiter="," if path.suffix == ".csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        write(path, rows)
    fields = replace(config, field="body", label_field="kind")
    assert spelled(read_labeled(str(path), fields, TOKENIZER)) == spelled(
        read_labeled(config.source, config, TOKENIZER)
    )


def test_what_has_no_text_or_no_label_is_counted_aloud(config: DataConfig, tmp_path: Path):
    empty = [{"text": "a", "label": ""}, {"text": "b", "label": None}, {"text": "", "label": "odd"}]
    path = write(tmp_path / "gaps.jsonl", [*RECORDS, *empty])
    corpus = prepare_labeled(replace(config, source=str(path)), TOKENIZER)
    (note,) = corpus.notes
    assert note == f"{path}: 3 of 43 examples passed over: 2 empty label, 1 empty text"
    assert len(corpus.train) + len(corpus.validation) == 40
    only = read_labeled(str(write(tmp_path / "label.jsonl", [*RECORDS, *empty[:2]])), config, TOKENIZER)
    assert only.notes == (f"{tmp_path / 'label.jsonl'}: 2 of 42 examples passed over: empty label",)


def test_a_label_may_be_a_number_or_a_list_and_a_separator_divides_text(config: DataConfig, tmp_path: Path):
    values = [1, 0.5, True, ["b", "a", "b"], [], "a, b"]
    path = write(tmp_path / "values.jsonl", [{"text": f"{n}", "label": v} for n, v in enumerate(values)])
    labels = {text: label for text, _, label in spelled(read_labeled(str(path), config, TOKENIZER))}
    expected = ["1", "0.5", "true", ("b", "a"), (), "a, b"]
    assert labels == {str(n): value for n, value in enumerate(expected)}
    divided = spelled(read_labeled(str(path), replace(config, label_separator=","), TOKENIZER))
    assert divided[-1][2] == ("a", "b") and divided[0][2] == ("1",)


def test_inputs_are_read_without_labels(config: DataConfig, tmp_path: Path):
    path = write(tmp_path / "new.jsonl", [{"text": "a"}, {"text": "", "label": "x"}])
    assert [one.text for one in read_inputs((), str(path), config)] == ["a", ""]
    assert [one.text for one in read_inputs(["b", "c"], None, config)] == ["b", "c"]
    pairs = replace(config, pair_field="pair")
    (pair,) = read_inputs(["b", "c"], None, pairs)
    assert (pair.text, pair.pair) == ("b", "c")
    with pytest.raises(ValueError, match="give two texts for each; there are 3"):
        read_inputs(["a", "b", "c"], None, pairs)


def test_a_number_of_examples_can_be_set(config: DataConfig):
    assert len(read_labeled(config.source, replace(config, max_documents=7), TOKENIZER)) == 7


def test_a_validation_file_of_its_own_is_read_whole(config: DataConfig, tmp_path: Path):
    other = write(tmp_path / "validation.jsonl", [{"text": f"held out {n}", "label": "odd"} for n in range(5)])
    corpus = prepare_labeled(replace(config, validation=str(other)), TOKENIZER)
    assert (len(corpus.train), len(corpus.validation)) == (40, 5)
    assert corpus.info.validation_source == str(other)


def test_what_a_validation_file_shares_with_the_training_file_is_said(config: DataConfig, tmp_path: Path):
    held_out = [*RECORDS[:3], *({"text": f"held out {n}", "label": "odd"} for n in range(9))]
    other = write(tmp_path / "validation.jsonl", held_out)
    corpus = prepare_labeled(replace(config, validation=str(other)), TOKENIZER)
    assert corpus.notes == ("3 of 12 validation examples (25%) are in the training text too",)


def test_a_tokenizer_is_made_of_the_texts(config: DataConfig):
    seen: list[list[str]] = []

    def build(train: Iterable[str], validation: Iterable[str]) -> CharTokenizer:
        seen.extend((list(train), list(validation)))
        return CharTokenizer.train([*seen[0], *seen[1]])

    corpus = prepare_labeled(config, build)
    assert {text for text in seen[1] if text} == {corpus.tokenizer.decode(row.first) for row in corpus.validation.rows}


def test_mistakes_name_the_file_and_the_remedy(config: DataConfig, tmp_path: Path):
    with pytest.raises(ValueError, match=r"line 1 has no field 'kind'; .* text, label\. .* \(data\.label_field\)"):
        read_labeled(config.source, replace(config, label_field="kind"), TOKENIZER)
    one = write(tmp_path / "one.jsonl", RECORDS[:1] * 3)
    with pytest.raises(ValueError, match="fewer than two different examples to split"):
        prepare_labeled(replace(config, source=str(one)), TOKENIZER)
    nested = write(tmp_path / "nested.jsonl", [{"text": "a", "label": {"name": "b"}}])
    with pytest.raises(ValueError, match=r"field 'label' of .*nested\.jsonl line 1 is dict: a label is text, a number"):
        read_labeled(str(nested), config, TOKENIZER)
    with pytest.raises(
        ValueError, match=r"data\.validation .*labels\.jsonl is the training text itself: give another text"
    ):
        prepare_labeled(replace(config, validation=config.source), TOKENIZER)
    nothing = write(tmp_path / "nothing.jsonl", [{"text": "", "label": "x"}])
    with pytest.raises(ValueError, match=r"nothing\.jsonl has no examples with a text and a label: add"):
        read_labeled(str(nothing), config, TOKENIZER)
