"""`minillm chat`: one answer, and a conversation with commands, on a stand-in for a model."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from minillm.generation import assistant as room


@pytest.fixture
def chat(command, fake_run, monkeypatch) -> Any:
    """Runs the command with lines on standard input; answers repeat the message, backward."""

    def stream_text(model: Any, tokenizer: Any, prompts: Any, config: Any, **options: Any) -> Iterator[Any]:
        fake_run.asked |= {"sample": config, **options}
        if prompts[0][-1] == "break":
            raise KeyboardInterrupt
        for piece in reversed(prompts[0][-1]):
            yield SimpleNamespace(text=piece, finish_reason=None)
        yield SimpleNamespace(text="", finish_reason="length" if "long" in prompts[0] else "eos")

    class Template:
        stop_id = 7

        def __init__(self, tokenizer: Any) -> None: ...

        def prompt_ids(self, messages: Any) -> list[str]:
            return [message["content"] for message in messages]

    fake_run.model.config = fake_run.config.model
    fake_run.decoder = fake_run.model
    monkeypatch.setattr(room, "stream_text", stream_text)
    monkeypatch.setattr(room, "ChatTemplate", Template)

    def call(*arguments: object, lines: str = "") -> Any:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        return command("chat", *arguments)

    return call


def test_one_answer(chat, fake_run):
    done = chat("runs/x", "--prompt", "abc", "--temperature", "0")
    assert (done.code, done.out) == (0, "cba\n")
    assert fake_run.asked["sample"].temperature == 0 and fake_run.asked["eos_id"] == 7
    assert fake_run.asked["sample"].top_k == 5, "from the run's section"


def test_one_answer_as_json(chat):
    found = json.loads(chat("--prompt", "abc", "--system", "Be.", "--json").out)
    roles = [message["role"] for message in found["messages"]]
    assert found["text"] == "cba" and found["finish_reason"] == "eos" and roles == ["system", "user", "assistant"]
    done = chat("--json")
    assert done.code == 2 and "give --prompt too" in done.err


def test_a_conversation_with_commands(chat, tmp_path):
    done = chat(lines="ab\n\ncd\n/save talk.jsonl\n/reset\nef\n/save talk.jsonl\nlong\n/quit\nnever\n")
    assert (done.code, done.out) == (0, "ba\ndc\nfe\ngnol\n")
    saved = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [message["content"] for message in saved[0]["messages"]] == ["ab", "ba", "cd", "dc"]
    assert len(saved[1]["messages"]) == 2 and "4 messages saved to talk.jsonl" in done.err
    assert "the answer was cut off at --max-new-tokens" in done.err


def test_a_mistake_does_not_end_the_conversation(chat):
    done = chat(lines="/sav\n/save\n/save x\nbreak\nab\n/save no/where/x.jsonl\n")
    assert (done.code, done.out) == (0, " …\nba\n")
    for words in ("there is no command /sav", "name a file: /save FILE", "there is no answer to save", "No such file"):
        assert words in done.err


def test_the_weights_are_rounded_as_for_sample(chat, fake_run):
    done = chat("--prompt", "abc", "--quantize", 4, "--dtype", "fp32")
    assert done.code == 0 and fake_run.asked["options"] == {"dtype": "fp32", "quantize": 4}
    assert done.err == "runs/fake: step 7\ndecoding: fp32 weights\n" and fake_run.asked["writer"]


def test_the_help_explains_a_conversation(chat):
    lines = chat("--help").out
    assert "--prompt TEXT: Answer this message and exit." in lines
    assert all(word in lines for word in ("/reset clears it", "/save FILE", "oldest turns are left out"))
