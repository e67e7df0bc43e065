"""Prompts: how they are read, split and kept in ids, with the fields of their records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minillm.data.config import DataConfig
from minillm.data.datasets.chat import with_template
from minillm.data.datasets.prompts import prepare_prompt_data, read_prompt_data
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.chat_template import ChatTemplate

TOKENIZER = ByteTokenizer()
RECORDS = [{"prompt": f"{n}+1=", "answer": str(n + 1), "level": n % 3} for n in range(20)]


def write(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def test_records_keep_all_fields_and_are_split(tmp_path: Path):
    config = DataConfig(source=write(tmp_path / "a.jsonl", RECORDS), validation_fraction=0.25)
    corpus = prepare_prompt_data(config, TOKENIZER)
    rows = [*corpus.train.rows, *corpus.validation.rows]
    assert (len(corpus.train), len(corpus.validation)) == (15, 5)
    assert sorted((row.fields for row in rows), key=lambda x: int(x["answer"])) == RECORDS
    assert all(TOKENIZER.decode(row.ids) == row.text == row.fields["prompt"] for row in rows)
    assert any(row.where.endswith("a.jsonl line 3") for row in rows)
    assert (
        corpus.info.fingerprint
        != prepare_prompt_data(DataConfig(source=write(tmp_path / "b.jsonl", RECORDS[1:])), TOKENIZER).info.fingerprint
    )


def test_a_table_keeps_all_its_columns(tmp_path: Path):
    path = tmp_path / "a.csv"
    path.write_text("answer,question,kind\n2,1+1=,easy\n3,2+1=,hard\n", encoding="utf-8")
    rows = read_prompt_data(str(path), DataConfig(prompt_field="question"), TOKENIZER).rows
    assert sorted(row.fields["kind"] for row in rows) == ["easy", "hard"]
    assert {row.text for row in rows} == {"1+1=", "2+1="}
    with pytest.raises(ValueError, match=r"a\.csv line 2 has no field 'prompt'; its fields are: answer, question"):
        read_prompt_data(str(path), DataConfig(), TOKENIZER)


def test_a_conversation_is_rendered_by_the_chat_template(tmp_path: Path):
    messages = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1?"}]
    source = write(tmp_path / "a.jsonl", [{"prompt": messages, "answer": "2"}])
    tokenizer = with_template(ByteTokenizer())
    (row,) = read_prompt_data(source, DataConfig(), tokenizer).rows
    assert row.ids.tolist() == ChatTemplate(tokenizer).prompt_ids(messages) and row.text == "1+1?"
    with pytest.raises(ValueError, match="has no chat template"):
        read_prompt_data(source, DataConfig(), TOKENIZER)
    source = write(tmp_path / "b.jsonl", [{"prompt": [{"role": "user", "text": "1+1?"}]}])
    with pytest.raises(ValueError, match=r"field 'prompt' of .*b\.jsonl line 1 must be a text or a list of messages"):
        read_prompt_data(source, DataConfig(), tokenizer)


def test_empty_prompts_are_counted_and_sources_without_any_raise(tmp_path: Path):
    source = write(tmp_path / "a.jsonl", [{"prompt": ""}, *RECORDS[:2]])
    assert read_prompt_data(source, DataConfig(), TOKENIZER).notes == (
        f"{source}: 1 of 3 prompts passed over: empty prompt",
    )
    with pytest.raises(ValueError, match="has no prompts: add records with the field 'prompt'"):
        read_prompt_data(write(tmp_path / "b.jsonl", [{"prompt": ""}]), DataConfig(), TOKENIZER)
    with pytest.raises(ValueError, match=r"builtin:python-docs has no prompts: give records"):
        read_prompt_data("builtin:python-docs", DataConfig(), TOKENIZER)
