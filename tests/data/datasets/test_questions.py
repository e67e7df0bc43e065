"""Questions: SQuAD's files as published, records in three forms, answers in their place, and made questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minillm.data.config import DataConfig
from minillm.data.datasets.questions import Answer, prepare_questions, read_inputs, read_questions
from minillm.data.sources.made_questions import make
from minillm.data.sources.squad import exact_match, token_f1
from minillm.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()
CONTEXT = "Caf\u00e9 Ze\u0301ro\r\nopened in Paris in 1901. It closed in 1950."


def squad(**changes: Any) -> dict[str, Any]:
    start = CONTEXT.index("Paris")
    question = {"id": "q1", "question": "Where did it open?", "answers": [{"text": "Paris", "answer_start": start}]}
    impossible = {"id": "q2", "question": "Who owned it?", "answers": [], "is_impossible": True}
    paragraph = {"context": CONTEXT, "qas": [question | changes, impossible]}
    return {"version": "v2.0", "data": [{"title": "Zero", "paragraphs": [paragraph]}]}


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def lines(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def test_a_file_of_squad_is_read_as_published_with_and_without_answers(tmp_path: Path):
    tokens = read_questions(write(tmp_path / "train-v2.0.json", squad()), DataConfig(), TOKENIZER)
    by_question = {row.source.question: row for row in tokens.rows}
    answered = by_question["Where did it open?"]
    assert answered.source.answers == (Answer("Paris", CONTEXT.index("Paris")),)
    assert by_question["Who owned it?"].source.answers == () and by_question["Who owned it?"].target is None
    assert answered.target is not None
    first, last = answered.target
    assert TOKENIZER.decode(answered.context[first : last + 1]) == "Paris"
    assert CONTEXT[answered.spans[first, 0] : answered.spans[last, 1]] == "Paris", "after CRLF and combining marks"


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["1901", "in 1901"], "answer_start": [CONTEXT.index("1901"), CONTEXT.index("in 1901")]},
        [{"text": "1901", "answer_start": CONTEXT.index("1901")}],
        "1901",
    ],
)
def test_records_hold_answers_in_three_forms(tmp_path: Path, answers: Any):
    source = lines(tmp_path / "a.jsonl", {"question": "When?", "context": CONTEXT, "answers": answers})
    (row,) = read_questions(source, DataConfig(), TOKENIZER).rows
    assert row.source.answers[0] == Answer("1901", CONTEXT.index("1901"))


@pytest.mark.parametrize("answers", [None, "", [], {"text": [], "answer_start": []}])
def test_no_answer_is_an_answer(tmp_path: Path, answers: Any):
    source = lines(tmp_path / "a.jsonl", {"question": "When?", "context": CONTEXT, "answers": answers})
    (row,) = read_questions(source, DataConfig(), TOKENIZER).rows
    assert row.source.answers == () and row.target is None


def test_answers_out_of_place_are_counted_and_the_first_is_named(tmp_path: Path):
    shifted = {"text": "Paris", "answer_start": 3}
    good = {"question": "When?", "context": CONTEXT, "answers": "1901"}
    bad = {"question": "Where?", "context": CONTEXT, "answers": [shifted]}
    tokens = read_questions(lines(tmp_path / "a.jsonl", good, bad), DataConfig(), TOKENIZER)
    assert len(tokens.rows) == 1
    assert tokens.notes == (
        f"{tmp_path / 'a.jsonl'}: 1 of 2 questions passed over: answer not in its place",
        f"{tmp_path / 'a.jsonl'} line 2: the answer 'Paris' is not at character 3 of its context, where "
        f"{CONTEXT[3:8]!r} is",
    )
    with pytest.raises(
        ValueError, match=r"has no questions with a context; .*line 1: the answer 'Paris' is not at character 3"
    ):
        read_questions(lines(tmp_path / "b.jsonl", bad), DataConfig(), TOKENIZER)
    with pytest.raises(ValueError, match="the answer 'Rome' is not in its context"):
        read_questions(lines(tmp_path / "c.jsonl", bad | {"answers": "Rome"}), DataConfig(), TOKENIZER)


PARAGRAPH = {"context": "a", "qas": [{"id": 1, "question": "b"}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": [{"paragraphs": [PARAGRAPH]}]}, "paragraph 1 question 1 has no 'answers'"),
        ({"data": [{"title": "a"}]}, "article 1 has no 'paragraphs'; expected an array of records or the layout of SQ"),
        ({"version": "1", "rows": []}, "has no 'data'"),
        ({"data": {"a": 1}}, "'data' is not a list"),
    ],
)
def test_other_json_is_an_error_with_its_place(tmp_path: Path, content: Any, message: str):
    with pytest.raises(ValueError, match=message):
        read_questions(write(tmp_path / "a.json", content), DataConfig(), TOKENIZER)


def test_mistakes_in_records_are_named(tmp_path: Path):
    record = {"question": "When?", "context": CONTEXT, "answers": [{"text": "1901"}]}
    with pytest.raises(ValueError, match=r"field 'answers' of .* line 1 holds no answers; write"):
        read_questions(lines(tmp_path / "a.jsonl", record), DataConfig(), TOKENIZER)
    with pytest.raises(ValueError, match=r"has no field 'answers'; .* \(data\.answers_field\)"):
        read_questions(lines(tmp_path / "b.jsonl", {"question": "a", "context": "b"}), DataConfig(), TOKENIZER)
    with pytest.raises(ValueError, match="give each question followed by its context; there are 3 texts"):
        read_inputs(["a", "b", "c"], None, DataConfig())


def test_the_questions_of_a_context_are_in_one_split(tmp_path: Path):
    records = [
        {"question": f"What is {n}?", "context": f"Number {n % 9} is even.", "answers": "even"} for n in range(36)
    ]
    corpus = prepare_questions(DataConfig(source=lines(tmp_path / "a.jsonl", *records)), TOKENIZER)
    contexts = [{row.source.context for row in part.rows} for part in (corpus.train, corpus.validation)]
    assert contexts[0] & contexts[1] == set() and len(corpus.validation.rows) == 4


def test_scores_are_those_of_squad():
    assert (
        exact_match("the Eiffel  Tower!", ["Eiffel tower", "x"]) == 1.0 and exact_match("tower", ["Eiffel tower"]) == 0
    )
    assert token_f1("Eiffel tower in Paris", ["the Eiffel Tower"]) == pytest.approx(2 * 2 / (4 + 2))
    assert token_f1("", [""]) == 1.0 and token_f1("a", [""]) == 1.0 and token_f1("b", [""]) == 0.0


def test_made_questions_have_their_answer_in_its_place_or_not_at_all():
    topics = {"b": 'The "del" statement removes a name from the local namespace of a block.\n\nOther text.' * 2}
    topics["a"] = 'A call of "open" returns a file object that can be read by a program.\n\n' + "Nothing here. " * 60
    made = [one for seed in range(20) for one in make(topics, seed)]
    assert {one.answer for one in made} == {"open", ""}, "a term that occurs twice is no answer"
    for one in made:
        assert one.context[one.start : one.start + len(one.answer)] == one.answer and "what" in one.question
        assert one.answer or "open" not in one.context
