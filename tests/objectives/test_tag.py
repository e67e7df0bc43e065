"""Tags of words: targets at the first sub-word, words beyond the limit, figures, and a run from weights to entities."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from minillm import load_run, predict
from minillm.cli import main
from minillm.data.config import DataConfig
from minillm.data.datasets.tagged import TaggedIds, TaggedTokens
from minillm.nn.output import Output
from minillm.objectives.base import IGNORE_INDEX
from minillm.objectives.tag import Tag, TagConfig, TagEntities, most_frequent_tags, name_tags
from minillm.objectives.text_layout import TextLayout

CLS, SEP, PAD = 91, 92, 90
LABELS = ("B-A", "I-A", "O")
LAYOUT = TextLayout(before=(CLS,), between=(SEP,), after=(SEP,), max_len=8)
SETTINGS: dict[str, Any] = {"layout": LAYOUT, "labels": LABELS}


def row(*words: tuple[list[int], str]) -> TaggedIds:
    return TaggedIds(tuple(np.array(ids, np.int64) for ids, _ in words), tuple(tag for _, tag in words), "x line 1")


LONG = row(([1, 2], "B-A"), ([3], "I-A"), ([], "I-A"), ([4, 5, 6], "O"), ([7], "B-A"))
SHORT = row(([8], "O"))


def test_the_first_sub_word_carries_the_tag_and_no_other_token_does():
    batch = Tag(PAD, **SETTINGS).collate([LONG, SHORT], lambda _: pytest.fail("nothing is drawn"))
    assert batch.inputs["tokens"].tolist() == [[CLS, 1, 2, 3, 4, 5, 6, SEP], [CLS, 8, SEP, *[PAD] * 5]]
    none = IGNORE_INDEX
    assert batch.labels["tag"].tolist() == [[none, 0, none, 1, 2, none, none, none], [none, 2, *[none] * 6]]
    assert batch.counts == {"tag": 4} and batch.num_tokens == 11 and not batch.inputs["key_valid"][1, 3:].any()


def test_rows_are_padded_to_a_multiple_of_8_which_the_targets_share():
    batch = Tag(PAD, **SETTINGS).collate([SHORT], lambda _: pytest.fail("nothing is drawn"))
    assert batch.inputs["tokens"].shape == batch.labels["tag"].shape == (1, 8) and batch.num_tokens == 3


def test_lost_words_are_counted_and_said():
    tokens: Any = SimpleNamespace(rows=[LONG, SHORT])
    assert Tag(PAD, **SETTINGS).describe_cuts(tokens) == [
        "1 of 6 words are beyond the limit of 8 tokens: they get no prediction",
        "1 of 6 words have no token: they get no prediction",
    ]
    assert (
        Tag(PAD, **{**SETTINGS, "layout": replace(LAYOUT, max_len=9)})
        .describe_cuts(tokens)[0]
        .startswith("1 of 6 words have no token")
    )


def logits(batch: Any, *names: str) -> Output:
    """The logits of a model that is sure of these tags at the first tokens."""
    place = (batch.labels["tag"] != IGNORE_INDEX).nonzero()
    found = torch.zeros(*batch.labels["tag"].shape, len(LABELS))
    for (b, t), name in zip(place.tolist(), names, strict=True):
        found[b, t, LABELS.index(name)] = 9
    return Output(found, {"tag": found})


def test_entities_beyond_the_limit_count_as_not_found():
    objective = TagEntities(PAD, **SETTINGS)
    batch = objective.collate([LONG, SHORT], lambda _: pytest.fail("nothing is drawn"))
    measured = objective.measure(logits(batch, "B-A", "I-A", "O", "B-A"), batch)
    assert measured.tolist() == [[0, 1, 2], [0, 1, 0]], "the word without a token ends the first entity"
    assert objective.figures(np.array([[1, 2, 4]])) == {"precision": 0.5, "recall": 0.25, "f1": pytest.approx(1 / 3)}
    words = Tag(PAD, **SETTINGS)
    measured = words.measure(logits(batch, "B-A", "I-A", "O", "O"), batch)
    assert measured is not None
    figures = words.figures(measured)
    assert figures["accuracy"] == pytest.approx(4 / 6)


def test_an_unknown_tag_raises_with_its_row():
    tokens: Any = SimpleNamespace(rows=[row(([1], "B-X"))])
    with pytest.raises(ValueError, match="x line 1 has the tag 'B-X', which the training data lacks; the tags are B-A"):
        Tag(PAD, **SETTINGS).examples(tokens, DataConfig(), 8, training=True)
    corpus: Any = SimpleNamespace(
        train=SimpleNamespace(rows=[SHORT]),
        validation=SimpleNamespace(rows=[]),
        info=SimpleNamespace(source="x", validation_source=None),
    )
    with pytest.raises(ValueError, match="x has only one tag, 'O': at least two are needed"):
        name_tags(TagConfig(), corpus)


def test_the_baseline_gives_a_word_its_most_frequent_tag():
    train = [row(([1], "B-A"), ([2], "O")), row(([1], "O"), ([2], "O")), row(([1], "B-A"))]
    tokens = [row(([1], "B-A"), ([9], "B-A"), ([2], "O"))]
    measured: Any = SimpleNamespace(
        objective=Tag(PAD, **SETTINGS), train=SimpleNamespace(rows=train), tokens=SimpleNamespace(rows=tokens)
    )
    assert most_frequent_tags(measured) == {"most_frequent_tag_accuracy": pytest.approx(2 / 3)}
    measured.objective = TagEntities(PAD, **SETTINGS)
    assert most_frequent_tags(measured) == {"most_frequent_tag_f1": pytest.approx(2 / 3)}


@pytest.fixture(scope="module")
def tagger(run_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that finds numbers of two words, anywhere in a row: texts of all lengths; not to be changed."""
    folder = tmp_path_factory.mktemp("tagger")
    sentences = [f"so O\nit B-SUM\n{n} I-SUM\nand O\n" * (1 + n % 12) for n in range(60)]
    (folder / "train.conll").write_text("\n".join(sentences), encoding="utf-8")
    start = ["train", "finetune-tag", "--init-from", str(run_of("bert")), "--data", str(folder / "train.conll")]
    more = ["--train.steps", "30", "--optim.lr", "1e-2", "--schedule.warmup-steps", "3", "--train.precision", "fp32"]
    rest = ["--eval.every", "15", "--train.device", "cpu", "--data.cache", str(folder / "cache")]
    assert main([*start, *more, *rest, "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_a_tagger_finds_entities_with_their_characters(tagger: Path, capsys: pytest.CaptureFixture[str]):
    assert load_run(tagger).config.objective.labels == ("B-SUM", "I-SUM", "O")
    assert main(["eval", str(tagger), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["f1"] > 0.9 and found["accuracy"] > 0.9 and found["most_frequent_tag_f1"] < found["f1"]
    text = "so  it 7 and"
    (result,) = predict(tagger, [text])
    (entity,) = result["entities"]
    assert text[entity["start"] : entity["end"]] == entity["text"] == "it 7" and entity["label"] == "SUM"


def test_a_long_text_is_tagged_to_its_end(tagger: Path):
    length = load_run(tagger).config.model.max_seq_len
    text = "so it 7 and " * length
    (result,) = predict(tagger, [text])
    assert result["entities"][-1]["start"] > len(text) - 20 and len(result["entities"]) > 0.9 * length


def test_a_batch_equals_its_texts_one_by_one(tagger: Path):
    texts = ["so it 7 and", "it", "so it 8 and so it 9"]
    together, apart = predict(tagger, texts), [predict(tagger, [text])[0] for text in texts]
    for one, other in zip(together, apart, strict=True):
        assert [e["text"] for e in one["entities"]] == [e["text"] for e in other["entities"]]
        scores = ([e["score"] for e in found["entities"]] for found in (one, other))
        assert next(scores) == pytest.approx(next(scores), abs=1e-5)


def test_tokens_of_a_whole_data_set_are_served_in_order():
    from minillm.data.datasets.tagged import read_inputs
    from minillm.tokenizers.byte import ByteTokenizer

    tokens = TaggedTokens(read_inputs(["a b", "c"], None, DataConfig()), ByteTokenizer())
    assert len(tokens) == 2 and tokens.span(1) == (1, 2) and tokens.row(1).tags == ("O",) and tokens.seq_len == 2
