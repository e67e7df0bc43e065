"""Chat: the loss is on the assistant's tokens and their end, packed rows equal single ones, a run learns to stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minillm import load_run
from minillm.cli import main
from minillm.data.config import DataConfig
from minillm.data.datasets.chat import ChatIds, ChatTokens, with_template
from minillm.data.sources.conversations import Dialogue, Message
from minillm.models.build import build_model
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig
from minillm.objectives.base import Batch, Setup, plain_cross_entropy_sum
from minillm.objectives.chat import Chat, ChatConfig, build
from minillm.objectives.layout import IGNORE_INDEX
from minillm.run import import_model
from minillm.run.warm_start import with_rows_of
from minillm.tokenizers.byte import ByteTokenizer
from minillm.training.metrics import read_metrics

BYTES = with_template(ByteTokenizer())
EOS = BYTES.eos_id
SCHEMES: list[dict[str, Any]] = [
    {"position": "learned"},
    {"position": "rotary"},
    {"position": "t5"},
    {"position": "alibi"},
    {"position": "rotary", "ngram_order": 3, "ngram_rows": 64},
]


def objective(rows: Any = "packed", length: int = 64, **settings: Any) -> Chat:
    return build(ChatConfig(rows=rows, **settings), Setup(ModelConfig(), BYTES, length, DataConfig()))


def talk(*contents: str) -> ChatIds:
    """User and assistant take turns."""
    messages = tuple(Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents))
    return ChatTokens([Dialogue("", "", messages, "line 1", contents[0])], BYTES).conversations[0]


TALKS = [talk("Hi", "Yes"), talk("One", "1", "Two", "2"), talk("a long question", "!")]


def collate(chat: Chat, *rows: list[ChatIds]) -> Batch:
    return chat.collate(rows, lambda row: pytest.fail("chat draws nothing"))


def model_with(scheme: dict[str, Any]) -> GPT:
    shape = {"d_model": 32, "num_layers": 2, "num_heads": 2, "max_seq_len": 64, "vocab_size": BYTES.vocab_size}
    model = build_model(ModelConfig(**shape, **scheme)).double()
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():  # tables that start at zero would hide a mistake
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def loss_of(model: GPT, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The summed loss, in the model's precision, and the gradients."""
    model.zero_grad()
    loss = plain_cross_entropy_sum(model(**batch.inputs).logits["lm"], batch.labels["lm"])
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_labels_are_the_assistants_tokens_and_the_end_of_each_turn():
    batch = collate(objective(), [TALKS[1]])
    assert batch.labels["lm"].tolist() == [[*b"1", EOS, *b"2", EOS]]
    assert batch.counts == {"lm": 4} and batch.num_tokens == len(TALKS[1].ids) - 1
    inputs = batch.inputs["tokens"][0]
    names = {i: name for name, i in BYTES.specials.items()}
    before = [names.get(int(i), chr(i)) for i in inputs[batch.inputs["predict_at"][0]]]
    assert before == ["<|assistant|>", "1", "<|assistant|>", "2"]


def test_the_end_of_a_turn_has_a_loss_even_if_it_is_the_padding_and_is_in_the_prompt():
    chat = Chat(EOS, template=objective().template, max_len=64)
    batch = collate(chat, [TALKS[0]], [TALKS[2]])
    ends = batch.labels["lm"] == EOS
    assert ends.sum() == 2, "one for each conversation, none for padding or for the EOS before it"
    assert batch.counts["lm"] == int((batch.labels["lm"] != IGNORE_INDEX).sum()) == 4 + 2


def test_the_prompt_gets_no_loss_but_the_answer_does():
    model = model_with({"position": "rotary"})
    tokens = torch.from_numpy(TALKS[0].ids[:-1])[None]
    batch = collate(objective(), [TALKS[0]])
    logits = model(tokens).logits["lm"].detach()
    picked = logits[0, np.flatnonzero(TALKS[0].is_target[1:])]
    wanted = torch.tensor([*b"Yes", EOS])
    by_hand = torch.nn.functional.cross_entropy(picked, wanted, reduction="sum")
    assert loss_of(model, batch)[0] == pytest.approx(by_hand.item(), rel=1e-12)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: "-".join(map(str, scheme.values())))
def test_a_packed_row_gives_the_loss_and_gradients_of_single_rows(scheme):
    model = model_with(scheme)
    packed, single = collate(objective(), TALKS), collate(objective(), *([one] for one in TALKS))
    assert packed.inputs["tokens"].shape[0] == 1 and packed.counts == single.counts
    (loss, gradients), (expected, wanted) = loss_of(model, packed), loss_of(model, single)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert all(torch.allclose(gradients[name], wanted[name], rtol=1e-9, atol=1e-12) for name in wanted)


def test_rows_of_any_number_of_conversations_make_a_batch():
    model = model_with({"position": "learned"})
    mixed, single = collate(objective(), TALKS[:2], TALKS[2:]), collate(objective(), *([one] for one in TALKS))
    assert loss_of(model, mixed)[0] == pytest.approx(loss_of(model, single)[0].item(), rel=1e-12)


def test_nothing_leaks_between_conversations_of_a_row():
    model = model_with({"position": "rotary"}).eval()
    other = talk("No", "Xxx")
    logits = [model(**collate(objective(), [first, TALKS[1]]).inputs).logits["lm"] for first in (TALKS[0], other)]
    assert torch.equal(logits[0][:, -4:], logits[1][:, -4:])
    assert not torch.equal(logits[0][:, :4], logits[1][:, :4])


def test_a_loss_without_the_prompt_is_that_of_transformers():
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=BYTES.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    theirs: Any = transformers.LlamaForCausalLM(config).eval()
    from minillm.exchange.architectures import model_from_hf

    shape, weights = model_from_hf(config.to_dict() | {"model_type": "llama"}, theirs.state_dict())
    ours = build_model(shape)
    ours.load_state_dict(weights)
    batch = collate(objective(), [TALKS[1]])
    labels = torch.from_numpy(np.where(TALKS[1].is_target, TALKS[1].ids, -100))[None]
    expected = theirs(input_ids=torch.from_numpy(TALKS[1].ids)[None], labels=labels).loss
    assert loss_of(ours, batch)[0] / 4 == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_is_that_of_the_shifted_labels_and_off_in_evaluation():
    model, batch = model_with({"position": "rotary"}).float(), collate(objective(), TALKS)
    output, chat = model(**batch.inputs), objective(label_smoothing=0.1)
    for training, smoothing in ((True, 0.1), (False, 0.0)):
        by_hand = torch.nn.functional.cross_entropy(
            output.logits["lm"][0], batch.labels["lm"][0], reduction="sum", label_smoothing=smoothing
        )
        found = chat.loss(output, batch.labels, training=training)["lm"].loss
        assert found.item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_what_is_cut_is_counted():
    made: Any = ChatTokens.__new__(ChatTokens)
    made.conversations = TALKS
    assert objective(length=64).describe_cuts(made) == []
    assert [one.turns for one in TALKS] == [((5, 9),), ((6, 8), (13, 15)), ((18, 20),)]
    (note,) = objective(length=6).describe_cuts(made)
    assert note.startswith("3 of 3 conversations are longer than 6 tokens and are truncated")
    assert "2 assistant turns lose their end and 2 are left out" in note
    assert "1 have no answer left and are not used" in note


TINY = "--model.d_model 32 --model.num_layers 1 --model.num_heads 2 --model.max_seq_len 64 --tokenizer.vocab_size 400"
TINY += " --train.steps 4 --train.precision fp32 --train.device cpu"
LEARN = "--train.steps 60 --optim.lr 1e-2 --train.precision fp32 --train.device cpu --eval.every 30 --save.every 30"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT, `base`, and what it becomes in one more command, `chat`."""
    folder = tmp_path_factory.mktemp("chat")
    cache = ["--data.cache", str(folder / "cache")]
    (folder / "text.txt").write_text("".join(f"{n} is a number.\n" for n in range(300)), encoding="utf-8")
    asked = [{"prompt": f"Color of {thing}?", "completion": "red"} for thing in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "talk.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
    base, chat = str(folder / "base"), str(folder / "chat")
    assert main(["train", "--data", str(folder / "text.txt"), "--out", base, *TINY.split(), *cache]) == 0
    start = ["train", "finetune-chat", "--init-from", base, "--data", str(folder / "talk.jsonl"), *LEARN.split()]
    assert main([*start, "--out", chat, *cache]) == 0
    return folder


def test_a_gpt_becomes_a_chat_model_that_answers_and_stops(runs):
    base, loaded = load_run(runs / "base"), load_run(runs / "chat")
    assert loaded.config.model.vocab_size == (base.config.model.vocab_size or 0) + 3
    assert (runs / "chat" / "chat_template.jinja").is_file() and base.tokenizer.chat_template is None
    chat: Any = loaded.objective
    from minillm.generation.config import SampleConfig
    from minillm.generation.text import complete

    ids = chat.encode_prompt("Color of c?")
    (answer,) = complete(loaded.decoder, loaded.tokenizer, [ids], SampleConfig(temperature=0, max_new_tokens=20))
    assert answer.text == "red" and answer.finish_reason == "eos"


def test_the_parents_embeddings_are_kept_and_three_are_new(runs, capsys):
    start = ["train", "finetune-chat", "--init-from", str(runs / "base"), "--data", str(runs / "talk.jsonl")]
    start += [*LEARN.replace("60", "1").split(), "--data.cache", str(runs / "cache"), "--out", str(runs / "new")]
    assert main(start) == 0
    assert "3 special tokens added to the vocabulary" in capsys.readouterr().err
    table = load_run(runs / "new" / "step-000000").model.embed.tokens.weight
    before = load_run(runs / "base").model.embed.tokens.weight
    assert torch.equal(table[: len(before)], before) and len(table) == len(before) + 3
    new = table[len(before) :]
    assert not torch.equal(new[0], new[1]) and (new.mean(0) - before.mean(0)).abs().max() < 0.1


def test_new_rows_of_a_table_are_the_average_and_a_little_more():
    given, own = torch.randn(40, 6) + 5, 0.02 * torch.randn(43, 6)
    grown = with_rows_of(own, given)
    assert torch.equal(grown[:40], given) and torch.equal(grown[40:], own[40:] + given.mean(0))
    assert with_rows_of(own[:40], given) is given and with_rows_of(torch.zeros(43, 7), given) is given


def test_eval_gives_loss_and_token_accuracy_of_the_assistant(runs, capsys):
    capsys.readouterr()
    assert main(["eval", str(runs / "chat"), "--data", str(runs / "talk.jsonl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["token_accuracy"] > 0.95 and found["loss"] < 0.3 and "bits_per_byte" not in found
    assert found["targets"] % 26 == 0, "the same answer and its end, 26 times"


def test_a_stopped_run_resumes_to_the_same_losses(runs, tmp_path):
    import shutil

    shutil.copytree(runs / "chat", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "step-000060")
    assert main(["train", "--resume", "--out", str(tmp_path / "stopped")]) == 0
    whole, stopped = (
        [(line["step"], line.get("loss"), line.get("val_loss")) for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (runs / "chat", tmp_path / "stopped")
    )
    assert whole == stopped


def test_packed_and_single_rows_have_one_loss(runs, tmp_path, capsys):
    config = (runs / "chat" / "config.toml").read_text(encoding="utf-8")
    import shutil

    shutil.copytree(runs / "chat", tmp_path / "single")
    assert 'rows = "packed"' in config
    text = config.replace('rows = "packed"', 'rows = "single"')
    (tmp_path / "single" / "config.toml").write_text(text, encoding="utf-8")
    losses = []
    for folder in (runs / "chat", tmp_path / "single"):
        capsys.readouterr()
        assert main(["eval", str(folder), "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_template_goes_out_with_the_model_and_comes_back(runs, tmp_path):
    assert main(["export", str(runs / "chat"), str(tmp_path / "out")]) == 0
    import transformers

    loaded = load_run(runs / "chat")
    theirs: Any = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "Color of c?"}]
    chat: Any = loaded.objective
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == chat.encode_prompt("Color of c?")
    again = load_run(import_model(tmp_path / "out", tmp_path / "again"))
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template


def test_a_bad_file_is_one_line(runs, tmp_path, capsys):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "Hi", "completion": "Yes"}\n{"prompt": "Hi", "completion": ""}\n', encoding="utf-8")
    start = ["train", "finetune-chat", "--init-from", str(runs / "base"), "--out", str(tmp_path / "run")]
    assert main([*start, "--data", str(bad)]) == 2
    assert "message 2 of" in (err := capsys.readouterr().err) and "bad.jsonl line 2 is an empty assistant turn" in err
    assert err.count("minillm: error:") == 1 and not (tmp_path / "run").exists()


def test_a_chat_model_is_measured_on_plain_text_too(runs, capsys):
    found = []
    for run in ("base", "chat"):
        capsys.readouterr()
        text = str(runs / "text.txt")
        assert main(["eval", str(runs / run), "--data", text, "--objective", "clm", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["bits_per_byte"])
    assert found[0] > 0 and found[1] > 0 and found[0] != found[1]
    assert main(["eval", str(runs / "chat"), "--objective", "clm"]) == 2
    assert "give --data too" in capsys.readouterr().err
    assert main(["eval", str(runs / "chat"), "--objective", "mlm", "--data", text]) == 2
    assert "objective.name mlm needs a model of family bert" in capsys.readouterr().err
    assert main(["eval", str(runs / "chat"), "--objective", "classify", "--data", text]) == 2
    assert "has no class head" in capsys.readouterr().err


def test_an_adapter_trains_the_embeddings_of_new_tokens(runs, tmp_path):
    start = ["train", "finetune-chat", "--init-from", str(runs / "base"), "--data", str(runs / "talk.jsonl")]
    start += [*LEARN.replace("60", "2").split(), "--adapter.name", "lora"]
    assert main([*start, "--out", str(tmp_path / "run")]) == 0
    assert main(["chat", str(tmp_path / "run"), "--prompt", "Color of c?", "--max-new-tokens", "3"]) == 0
    assert main(["merge", str(tmp_path / "run"), str(tmp_path / "merged")]) == 0
    assert load_run(tmp_path / "merged").tokenizer.chat_template is not None


def test_data_shows_a_conversation_as_the_model_reads_it_with_the_targets_marked(runs, capsys):
    capsys.readouterr()
    assert main(["data", str(runs / "talk.jsonl"), "--objective", "chat", "--run", str(runs / "chat"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == found["answers"] == 26 and found["notes"][0].endswith("prompt and completion")
    color = found["sample"][len("<|eos|><|user|>Color of ")]
    assert found["sample"] == f"<|eos|><|user|>Color of {color}?<|assistant|>[[red<|eos|>]]"
    assert found["target tokens"] * found["longest tokens"] > 0
    assert main(["data", str(runs / "talk.jsonl"), "--objective", "chat", "--tokenizer.kind", "byte"]) == 0
    shown = capsys.readouterr().out
    assert "[[red<|eos|>]]" in shown and "target tokens              104" in shown, "26 times three letters and the end"
    assert main(["data", str(runs / "talk.jsonl"), "--run", str(runs / "chat"), "--tokenizer.kind", "byte"]) == 2
    assert "--tokenizer.kind has no effect" in capsys.readouterr().err
