"""Four shapes of conversations are recognized; whatever is no conversation is one line that names the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minillm.data.sources.conversations import Reader

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [("user", "Hi"), ("assistant", "Yes")]


def write(folder: Path, *records: Any, name: str = "talk.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("record", "shape", "expected"),
    [
        ({"messages": [USER, BOT]}, "messages", TALK),
        ({"messages": [SYSTEM, USER, BOT], "prompt": "Hi", "id": 3}, "messages", [("system", "Be brief."), *TALK]),
        (
            {
                "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}],
                "system": "Be brief.",
            },
            "conversations (from, value)",
            [("system", "Be brief."), *TALK],
        ),
        ({"conversations": [USER, BOT]}, "conversations (from, value)", TALK),
        ({"prompt": "Hi", "completion": "Yes"}, "prompt and completion", TALK),
        ({"prompt": [SYSTEM, USER], "completion": [BOT]}, "prompt and completion", [("system", "Be brief."), *TALK]),
        ({"instruction": "Hi", "output": "Yes"}, "instruction, input and output", TALK),
        ({"instruction": "Hi", "input": "", "output": "Yes"}, "instruction, input and output", TALK),
        (
            {"instruction": "Add.", "input": "1 1", "output": "2"},
            "instruction, input and output",
            [("user", "Add.\n\n1 1"), ("assistant", "2")],
        ),
    ],
)
def test_each_shape_is_recognized_and_said(tmp_path, record, shape, expected):
    reader = Reader(write(tmp_path, record, record))
    assert [[tuple(message) for message in found.messages] for found in reader] == [expected, expected]
    assert reader.notes() == [f"2 conversations, each with {shape}"]


def test_tables_have_the_shapes_with_two_texts(tmp_path):
    path = tmp_path / "talk.csv"
    path.write_text('system,prompt,completion\nBe brief.,"Hi, you",Yes\n', encoding="utf-8")
    (found,) = Reader(str(path))
    assert [message.content for message in found.messages] == ["Be brief.", "Hi, you", "Yes"]


def test_a_parquet_file_is_read_whole(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table({"messages": [[USER, BOT]], "id": [1]}), tmp_path / "talk.parquet")
    (found,) = Reader(str(tmp_path / "talk.parquet"))
    assert [tuple(message) for message in found.messages] == TALK


def test_what_is_not_used_is_counted(tmp_path):
    named = {**BOT, "weight": 0, "name": None}
    reader = Reader(write(tmp_path, {"messages": [USER, BOT, USER]}, {"messages": [USER, named]}))
    assert [len(found.messages) for found in reader] == [2, 2]
    assert reader.notes()[1:] == [
        "1 conversations end with a message of the user, which is left out",
        "keys of messages that are not used: 1 weight",
    ]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([], "has no messages"),
        ("Hi", "has no messages"),
        (["Hi"], "message 1 of .*line 1 is not a JSON object"),
        ([USER, {"role": "assistant"}], "message 2 of .*line 1 has no 'content'; its keys are: role"),
        ([{"from": "human", "text": "Hi"}], "message 1 of .*line 1 has no 'value'"),
        ([USER, {**BOT, "content": None}], "message 2 of .*line 1 is an empty assistant turn"),
        ([USER, {**BOT, "content": " \n"}], "message 2 of .*line 1 is an empty assistant turn"),
        ([{**USER, "content": ""}, BOT], "message 1 of .*line 1 is an empty user turn"),
        ([USER, {**BOT, "content": ["parts"]}], "field 'content' of message 2 of .*line 1 is list, not text"),
        ([USER, USER, BOT], "message 2 of .*line 1 is the second in a row by the user"),
        ([USER, BOT, BOT], "message 3 of .*line 1 is the second in a row by the assistant"),
        ([BOT, USER, BOT], "message 1 of .*line 1 answers nothing"),
        ([SYSTEM, BOT], "message 2 of .*line 1 answers nothing"),
        ([USER, SYSTEM, BOT], "message 2 of .*line 1 is a system message, which must come first"),
        ([USER, {**BOT, "role": "tool"}], "message 2 of .*line 1 has the role 'tool'"),
        ([USER], "line 1 has no assistant turn"),
    ],
)
def test_a_bad_conversation_is_named(tmp_path, messages, problem):
    with pytest.raises(ValueError, match=problem):
        list(Reader(write(tmp_path, {"messages": messages})))


def test_a_source_of_something_else_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"line 1 has no conversation: its fields are text; expected messages, conver"):
        list(Reader(write(tmp_path, {"text": "Hi"})))
    with pytest.raises(ValueError, match=r"line 2 has no field 'messages' \(its fields are: prompt, completion\), but"):
        list(Reader(write(tmp_path, {"messages": [USER, BOT]}, {"prompt": "Hi", "completion": "Yes"})))
    with pytest.raises(ValueError, match=r"line 2 has no field 'output' \(its fields are: instruction\), but"):
        list(Reader(write(tmp_path, {"instruction": "Hi", "output": "Yes"}, {"instruction": "Hi"})))
    (tmp_path / "talk.txt").write_text("Hi", encoding="utf-8")
    with pytest.raises(ValueError, match=r"talk\.txt has no fields"):
        list(Reader(str(tmp_path / "talk.txt")))
    with pytest.raises(ValueError, match="has no conversations"):
        list(Reader("builtin:python-docs"))
