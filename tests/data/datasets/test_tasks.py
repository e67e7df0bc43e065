"""Text-to-text data: where examples come from, how they are split and tokenized, and how tasks are mixed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minillm.data.config import DataConfig
from minillm.data.datasets.tasks import Mixture, TaskRows, TaskTokens, prepare_tasks, read_task_tokens
from minillm.data.loader import Loader
from minillm.data.sources import builtin_tasks
from minillm.data.sources.builtin_tasks import Example, add, reverse, summaries, token_classes, words
from minillm.data.sources.records import task_of
from minillm.data.split import split_examples
from minillm.tokenizers.byte import ByteTokenizer

TOKENIZER = ByteTokenizer()
RECORDS = [{"input": f"count: {n}", "target": f"{n + 1}"} for n in range(40)]
RECORDS += [{"input": f"shout: {n} b", "target": f"{n} B"} for n in range(10)]


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    return DataConfig(source=str(path), cache=str(tmp_path / "cache"), validation_fraction=0.2)


def spelled(tokens: TaskTokens) -> list[tuple[str, str]]:
    """The examples again."""
    rows = TaskRows(tokens)
    found = []
    for i in range(len(rows)):
        ids = rows.row(i)
        at = ids.tolist().index(TOKENIZER.sep_id)
        assert ids[-1] == TOKENIZER.eos_id
        found.append((TOKENIZER.decode(ids[:at]), TOKENIZER.decode(ids[at + 1 :])))
    return found


def test_every_example_is_in_one_of_the_two_splits(config: DataConfig):
    corpus = prepare_tasks(config, TOKENIZER)
    parts = [spelled(part) for part in (corpus.train, corpus.validation) if isinstance(part, TaskTokens)]
    assert sorted(parts[0] + parts[1]) == sorted((record["input"], record["target"]) for record in RECORDS)
    assert 0 < len(parts[1]) < 20 and corpus.info.train.documents == len(parts[0])
    assert prepare_tasks(config, TOKENIZER).info == corpus.info


@pytest.mark.parametrize("name", ["tasks.csv", "tasks.tsv", "tasks.parquet", "tasks.jsonl", "tasks.json"])
def test_all_forms_with_fields_give_the_same_examples(config: DataConfig, tmp_path: Path, name: str):
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    table = pa.table({"a": [r["input"] for r in RECORDS], "b": [r["target"] for r in RECORDS]})
    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    pyarrow.csv.write_csv(table, tmp_path / "t.tsv", pyarrow.csv.WriteOptions(delimiter="\t"))
    (tmp_path / "t.json").write_text(json.dumps(table.to_pylist()), encoding="utf-8")
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")
    path = tmp_path / name.replace("tasks", "t")
    fields = DataConfig(cache=config.cache, input_field="a", target_field="b")
    assert spelled(read_task_tokens(str(path), fields, TOKENIZER)) == spelled(
        read_task_tokens(config.source, config, TOKENIZER)
    )


def test_mistakes_name_the_file_and_the_remedy(config: DataConfig, tmp_path: Path):
    (tmp_path / "plain.txt").write_text("no fields", encoding="utf-8")
    with pytest.raises(ValueError, match=r"plain.txt has no fields: give examples as .*\.jsonl"):
        read_task_tokens(str(tmp_path / "plain.txt"), config, TOKENIZER)
    with pytest.raises(
        ValueError, match=r"line 1 has no field 'question'; its fields are: input, target. .* \(data.input_field\)"
    ):
        read_task_tokens(config.source, DataConfig(cache=config.cache, input_field="question"), TOKENIZER)
    with pytest.raises(ValueError, match="builtin:python-docs has no text-to-text examples: give builtin:python-tas"):
        read_task_tokens("builtin:python-docs", config, TOKENIZER)
    (tmp_path / "number.jsonl").write_text('{"input": "a", "target": 1}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"field 'target' of .*line 1 is int, not text"):
        read_task_tokens(str(tmp_path / "number.jsonl"), config, TOKENIZER)
    for row in ("a: 1", "a: 1,2,3"):
        (tmp_path / "uneven.csv").write_text(f"input,target\nb: 1,2\n{row}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"uneven.csv line 3 has . fields, but the header has 2"):
            read_task_tokens(str(tmp_path / "uneven.csv"), config, TOKENIZER)
    (tmp_path / "twice.csv").write_text("input,target,target\na: 1,2,3\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"twice.csv has two columns of the same name .* input, target, target: rename one"
    ):
        read_task_tokens(str(tmp_path / "twice.csv"), config, TOKENIZER)
    (tmp_path / "half.jsonl").write_text('{"input": "a: \\ud83d", "target": "1"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"field 'input' of .*half.jsonl line 1 is not valid Unicode"):
        read_task_tokens(str(tmp_path / "half.jsonl"), config, TOKENIZER)


def test_examples_with_an_empty_side_are_counted_and_said_again_from_the_cache(config: DataConfig, tmp_path: Path):
    path = tmp_path / "gaps.csv"
    path.write_text("input,target\n" + "a: 1,\n" * 45 + "".join(f"a: {n},x\n" for n in range(50)), encoding="utf-8")
    config = DataConfig(source=str(path), cache=config.cache)
    note = f"{path}: 45 of 95 examples passed over: empty target"
    assert prepare_tasks(config, TOKENIZER).notes == prepare_tasks(config, TOKENIZER).notes == (note,)
    assert read_task_tokens(str(path), config, TOKENIZER).notes == (note,)
    path.write_text("input,target\n,x\na: 1,\na: 2,\na: 3,y\n", encoding="utf-8")
    note = f"{path}: 3 of 4 examples passed over: 1 empty input, 2 empty target"
    assert read_task_tokens(str(path), config, TOKENIZER).notes == (note,)


def test_validation_examples_that_are_trained_on_are_counted(config: DataConfig, tmp_path: Path):
    held_out = [*RECORDS[:4], {"input": "count: 1", "target": "another"}, {"input": "count: 99", "target": "100"}]
    (tmp_path / "held.json").write_text(json.dumps(held_out), encoding="utf-8")
    corpus = prepare_tasks(replace(config, validation=str(tmp_path / "held.json")), TOKENIZER)
    assert corpus.notes == ("4 of 6 validation examples (67%) are in the training text too",)


def test_a_group_is_never_split():
    examples = [Example(f"t: {n}", "x", f"group {n % 7}") for n in range(70)]
    train, validation = split_examples(examples, 0.3)
    assert train and validation and not {e.group for e in train} & {e.group for e in validation}
    alone = [Example("a: 1", "x", "1"), Example("b: 2", "y", "2")]
    assert [len(part) for part in split_examples(alone, 0.5)] == [1, 1]
    one_each = split_examples([Example("a", "b", "1"), Example("c", "d", "2")], 0.001)
    assert [len(part) for part in one_each] == [1, 1]
    with pytest.raises(ValueError, match="fewer than two different examples"):
        split_examples(examples[:1] * 3, 0.3)


def test_each_task_gives_its_share_to_validation():
    """Also one whose examples stand in few groups of very different sizes, and one that is rare."""
    sizes = {"often": [1] * 400, "grouped": [30, 1, 1, 7, 2, 40, 3, 5, 1, 10], "rare": [1] * 3}
    examples = [
        Example(f"{task}: {i} {j}", "x", f"{task} {i}")
        for task, groups in sizes.items()
        for i, size in enumerate(groups)
        for j in range(size)
    ]
    train, validation = split_examples(examples, 0.1)
    held = Counter(task_of(example.input) for example in validation)
    assert held["often"] == 40 and 10 <= held["grouped"] < 10 + 40 and held["rare"] == 1
    assert {task_of(example.input) for example in train} == sizes.keys()
    assert split_examples(examples[::-1], 0.1)[1] == validation[::-1]


def test_tasks_of_one_example_are_taken_together():
    """As where what looks like a task's prefix is a word to be explained."""
    examples = [Example(f"word{'abcdefghij'[n % 10]} {n}: explain", "x", str(n)) for n in range(2000)]
    assert len({task_of(example.input) for example in examples}) == 2000
    assert len(split_examples(examples, 0.1)[1]) == 200


def test_the_task_is_what_stands_before_the_first_colon():
    assert [
        task_of(text) for text in ("add: 1 + 2", "a b: c: d", "no prefix", "line\nbreak: x", ": x", "at 5:30", "5: 30")
    ] == [
        "add",
        "a b",
        "",
        "",
        "",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("mixing", "shares"), [("proportional", (40, 10)), ("equal", (25, 25)), ("temperature", (33, 17))]
)
def test_tasks_are_mixed_by_the_rule(config: DataConfig, mixing: str, shares: tuple[int, int]):
    tokens = read_task_tokens(config.source, config, TOKENIZER)
    rows = Mixture(tokens, mixing, 2.0)  # type: ignore[arg-type]
    for offset in (0, 3, 49):
        documents = [rows.document(i, offset) for i in range(len(rows))]
        assert tuple(Counter(tokens.task_of[documents].tolist())[task] for task in (0, 1)) == shares
        assert len(set(documents)) == min(shares[0], 40) + min(shares[1], 10)
        assert max(Counter(documents).values()) == -(-shares[1] // 10)


def test_the_loader_deals_out_the_same_examples_to_one_rank_and_to_two(config: DataConfig):
    rows = Mixture(read_task_tokens(config.source, config, TOKENIZER), "equal")

    def dealt(rank: int, world_size: int, micro_batch: int) -> list[bytes]:
        def collate(examples, rng):
            return [TOKENIZER.decode_bytes(row) for row in examples]

        settings = {"seed": 1, "global_batch": 8, "micro_batch": micro_batch, "rank": rank, "world_size": world_size}
        return [text for batch in Loader(rows, collate, **settings).batches(9) for text in batch]

    whole = dealt(0, 1, 8)
    assert whole == dealt(0, 1, 3) == dealt(0, 2, 4) + dealt(1, 2, 3)
    assert list(map(len, whole)) == sorted(map(len, whole)), "those of like length lie side by side"


def test_reverse_and_add_are_right_and_never_ask_twice():
    for examples in (list(reverse()), list(add())):
        assert len({example.input for example in examples}) == len(examples) == 40_000
        for text, target, _ in examples[:500]:
            task, question = text.split(": ")
            a, _, b = question.partition(" + ")
            assert target == (question[::-1] if task == "reverse" else str(int(a) + int(b))[::-1])


def test_the_class_of_each_token_of_a_line():
    assert " ".join(token_classes("return x + 'a' if y else 3")) == (
        "keyword name op string keyword name keyword number"
    )
    assert token_classes("x = (") == []


def test_functions_lose_their_docstring_which_becomes_the_target():
    docstring = '"""Say what\n        it is.\n\n        More.\n        """'
    source = f"class A:\n    def f(self, x):\n        {docstring}\n        return x\n"
    assert [(e.input, e.target) for e in summaries(source, group="g")] == [
        ("summarize python: def f(self, x):\n    return x", "Say what it is.")
    ]
    assert not list(summaries('def f():\n    """Only a docstring, no body."""\n', group="g"))
    assert np.all([not list(summaries(text, group="g")) for text in ("def f(:", "x = 1")])


def test_a_name_is_put_into_words():
    source = "class A:\n    async def getHTTPResponse_v2(self,\n        x): pass\n    def _(self): pass\n"
    assert [(e.input, e.target) for e in words(source, group="g")] == [
        ("words python: async def getHTTPResponse_v2(self,", "get http response v 2")
    ]


def test_the_librarys_split_does_not_depend_on_where_python_is_installed(monkeypatch, tmp_path: Path):
    groups = []
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
        source = 'def one(name):\n    """Return the name of the one."""\n    return name.one\n'
        (tmp_path / name / "module.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(builtin_tasks, "library_files", lambda name=name: [tmp_path / name / "module.py"])
        groups.append([example.group for example in builtin_tasks._from_library()])
    assert groups[0] == groups[1] != []
