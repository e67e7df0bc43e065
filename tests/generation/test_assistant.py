"""A conversation: the template around each turn, the end of an answer, and whole turns that leave a full context."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minillm.generation import assistant as room
from minillm.generation.assistant import Assistant
from minillm.generation.config import SampleConfig
from minillm.generation.text import complete, prepare_prompts
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.chat_template import CHAT_TEMPLATE, CHAT_TOKENS
from minillm.tokenizers.load import with_special_tokens

BYTES = with_special_tokens(ByteTokenizer(), CHAT_TOKENS)
BYTES.chat_template = CHAT_TEMPLATE
GREEDY = SampleConfig(temperature=0, max_new_tokens=8)


@pytest.fixture(scope="module")
def model() -> Any:
    shape: dict[str, Any] = {"d_model": 32, "num_layers": 2, "num_heads": 2, "vocab_size": BYTES.vocab_size}
    made = build_model(ModelConfig(**shape, max_seq_len=48, position="rotary"))
    made.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made.eval()


@pytest.fixture
def asked(monkeypatch) -> list[list[int]]:
    """The ids of every prompt, and answers without a model's work."""
    seen: list[list[int]] = []

    def stream_text(model: Any, tokenizer: Any, prompts: Any, config: SampleConfig, **options: Any) -> Any:
        seen.append(prompts[0])
        yield from (room_event(piece) for piece in ("ye", "s"))

    monkeypatch.setattr(room, "stream_text", stream_text)
    return seen


def room_event(text: str) -> Any:
    from minillm.generation.text import TextEvent

    return TextEvent(0, 1, text, None)


def test_pieces_are_the_text_after_the_templates_prompt(model):
    chat = Assistant(model, BYTES, GREEDY, system="Be brief.")
    pieces = list(chat.reply("Hi"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    ids = chat.template.prompt_ids(messages)
    (expected,) = complete(model, BYTES, [ids], GREEDY)
    assert "".join(pieces) == expected.text and chat.finish_reason == expected.finish_reason
    assert chat.messages == [*messages, {"role": "assistant", "content": expected.text}]


def test_the_next_turn_reads_the_whole_conversation(model, asked):
    chat = Assistant(model, BYTES, GREEDY)
    for text in ("Hi", "So"):
        assert "".join(chat.reply(text)) == "yes"
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "So"},
    ]
    assert asked[1] == chat.template.prompt_ids(talk)
    chat.reset()
    list(chat.reply("Hi"))
    assert asked[2] == asked[0] and len(chat.messages) == 2


def test_a_full_context_loses_its_oldest_turns_whole_but_not_the_system_message(model, asked):
    chat = Assistant(model, BYTES, GREEDY, system="Be.")
    for text in ("0123", "4567", "89ab", "cdef"):
        list(chat.reply(text))
    assert all(len(ids) + GREEDY.max_new_tokens <= 48 for ids in asked)
    assert chat.left_out == 2 and len(chat.messages) == 9
    messages = [chat.messages[0], *chat.messages[3:8]]
    assert asked[-1] == chat.template.prompt_ids(messages), "a question goes with its answer"


def test_a_long_message_leaves_less_room_for_the_answer_and_one_too_long_is_refused(model):
    chat = Assistant(model, BYTES, SampleConfig(temperature=0, max_new_tokens=100))
    text = "".join(chat.reply("x" * 40))
    assert len(chat.template.prompt_ids([{"role": "user", "content": "x" * 40}])) == 43 and len(text.encode()) <= 15
    with pytest.raises(
        ValueError, match=r"the message has 48 tokens, with what .* and this model reads 48; shorten it"
    ):
        chat.reply("x" * 45)
    with pytest.raises(ValueError, match="empty"):
        chat.reply(" ")
    assert len(chat.messages) == 2, "what was refused is not part of the conversation"


def test_an_answer_that_is_interrupted_stays_as_far_as_it_was_written(model, asked):
    chat = Assistant(model, BYTES, GREEDY)
    pieces = chat.reply("Hi")
    assert next(pieces) == "ye"
    pieces.close()
    assert chat.messages[-1] == {"role": "assistant", "content": "ye"} and chat.finish_reason is None


def test_the_end_of_a_turn_ends_a_text_as_the_tokenizers_eos_does():
    model = type("Model", (), {"writes": "continuation", "config": ModelConfig(vocab_size=BYTES.vocab_size)})()
    stop = BYTES.specials["<|user|>"]
    options = prepare_prompts(model, BYTES, ["Hi"], eos_id=stop).options
    assert options["eos_id"] == (BYTES.eos_id, stop) and options["allowed"][[stop, BYTES.eos_id]].all()
    plain = prepare_prompts(model, BYTES, ["Hi"]).options
    assert plain["eos_id"] == (BYTES.eos_id,) and plain["allowed"][BYTES.eos_id] and not plain["allowed"][stop]


def test_answers_that_are_drawn_differ_from_turn_to_turn(model, monkeypatch):
    seeds: list[int] = []
    monkeypatch.setattr(room, "stream_text", lambda m, t, p, config, **o: iter_of(seeds, config))
    chat = Assistant(model, BYTES, GREEDY)
    for _ in range(2):
        list(chat.reply("Hi"))
    assert seeds == [GREEDY.seed, GREEDY.seed + 2]


def iter_of(seeds: list[int], config: SampleConfig) -> Any:
    seeds.append(config.seed)
    yield room_event("a")


def test_what_cannot_chat_says_so(model):
    with pytest.raises(ValueError, match="has no chat template"):
        Assistant(model, ByteTokenizer(), GREEDY)
    encoder = build_model(ModelConfig(family="bert", vocab_size=BYTES.vocab_size, d_model=16, num_heads=2))
    with pytest.raises(ValueError, match="a bert model cannot hold a conversation"):
        Assistant(encoder, BYTES, GREEDY)
