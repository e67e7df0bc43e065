from minillm.data.config import DataConfig
from minillm.data.describe import describe, describe_tasks
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer


def test_a_source_is_described_by_its_size_its_tokens_and_its_start(jsonl_of, tmp_path):
    config = DataConfig(source=str(jsonl_of(["één", "twee " * 100])), cache=str(tmp_path))
    plain = describe(config)
    assert (plain.documents, plain.bytes, plain.characters) == (2, 505, 503)
    assert (plain.tokens, plain.bytes_per_token) == (None, None)
    assert plain.sample == "één"
    assert describe(config, ByteTokenizer()).bytes_per_token == 1.0
    built = describe(config, lambda train, validation: CharTokenizer.train(train))
    assert (built.tokens, built.bytes_per_token) == (503, 505 / 503)


def test_one_short_text_can_be_described_though_it_cannot_be_split(tmp_path):
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    assert describe(DataConfig(source=str(tmp_path / "a.txt"), cache=str(tmp_path))).bytes == 1


def test_text_to_text_examples_are_described_by_task(tmp_path):
    rows = "q\ta\nadd: 1 + 2\t3\nadd: 2 + 2\t4\nname\té\nadd: 3\t\n"
    (tmp_path / "a.tsv").write_text(rows, encoding="utf-8")
    config = DataConfig(source=str(tmp_path / "a.tsv"), cache=str(tmp_path), input_field="q", target_field="a")
    found = describe_tasks(config, ByteTokenizer())
    assert (found.documents, found.bytes, found.characters, found.tokens) == (3, 28, 27, 28)
    assert found.tasks == {"add": 2, "": 1}
    assert found.sample in ("add: 1 + 2 -> 3", "add: 2 + 2 -> 4", "name -> é")
    assert found.notes == (f"{config.source}: 1 of 4 examples passed over: empty target",)
