from minillm.data.config import DataConfig
from minillm.data.describe import describe
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
