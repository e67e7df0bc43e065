from typing import get_args, get_type_hints

import pytest
import torch

from minillm.generation.beam import beam_search
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.generate import MAX_ROWS, FinishReason, generate, stream, window_start
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig

POSITIONS = get_args(get_type_hints(ModelConfig)["position"])
VOCAB, CONTEXT = 23, 8
RAGGED = [[5], [1, 2, 3, 4, 5, 6, 7], [9, 9, 8], list(range(20))]


def make_model(position="rotary", *, context=CONTEXT, **more):
    # Weights far from zero, so that the likeliest token is no matter of rounding, and changes.
    shape = {"vocab_size": VOCAB, "max_seq_len": context, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_ff": 64}
    weights = {"init_std": 0.5, "residual_init": "plain", "tie_embeddings": False}
    model = GPT(ModelConfig(**{"position": position, **shape, **weights, **more}))
    model.init_weights(torch.Generator().manual_seed(1))
    return model.eval()


def greedy(**more):
    return SampleConfig(**{"temperature": 0, "max_new_tokens": 25, **more})


def window_by_hand(text, context):
    """Tokens come one by one; where one is too many, the oldest quarter of the context goes."""
    window = []
    for token in text:
        window.append(token)
        if len(window) > context:
            del window[: max(1, context // 4)]
    return window


@torch.no_grad()
def uncached_logits(model, text):
    window = window_by_hand(text, model.config.max_seq_len)
    return model(torch.tensor([window])).logits["lm"][0, -1]


def uncached_greedy(model, prompt, num_tokens):
    text = list(prompt)
    for _ in range(num_tokens):
        text.append(int(uncached_logits(model, text).argmax()))
    return text[len(prompt) :]


def recorded(model):
    """The model, and the list of logits that it will have given out."""
    logits, start, step = [], model.start, model.step

    def recording_start(*args, **kwargs):
        cache, out = start(*args, **kwargs)
        logits.append(out)
        return cache, out

    def recording_step(*args):
        logits.append(step(*args))
        return logits[-1]

    model.start, model.step = recording_start, recording_step
    return model, logits


@pytest.mark.parametrize("context", [1, 2, 3, 8, 13])
def test_the_window_is_the_one_made_by_dropping_the_oldest_quarter_whenever_it_is_full(context):
    text = list(range(5 * context))
    for length in range(1, len(text)):
        assert text[window_start(length, context) : length] == window_by_hand(text[:length], context)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_ragged_batch_far_past_the_window_writes_what_uncached_runs_write_one_by_one(position):
    model = make_model(position)
    expected = [uncached_greedy(model, prompt, 25) for prompt in RAGGED]
    assert [row.ids for row in generate(model, RAGGED, greedy())] == expected
    assert [generate(model, [prompt], greedy())[0].ids for prompt in RAGGED] == expected


@pytest.mark.parametrize("position", POSITIONS)
def test_cached_logits_equal_uncached_ones_at_every_step_also_past_the_window(position):
    model, logits = recorded(make_model(position, num_kv_heads=1, qk_norm=True))
    rows = generate(model, RAGGED, SampleConfig(max_new_tokens=20, temperature=3))
    assert len(logits) == 20
    for i, row in enumerate(rows):
        text = list(row.prompt_ids)
        for n, token in enumerate(row.ids):
            torch.testing.assert_close(logits[n][i], uncached_logits(model, text), rtol=1e-4, atol=1e-4)
            text.append(token)


@pytest.mark.parametrize("context", [1, 2, 3])
def test_the_smallest_windows_work(context):
    model = make_model("learned", context=context)
    expected = [uncached_greedy(model, prompt, 10) for prompt in RAGGED]
    assert [row.ids for row in generate(model, RAGGED, greedy(max_new_tokens=10))] == expected


def test_past_the_window_the_cache_is_refilled_once_in_a_quarter_of_a_context():
    model = make_model(context=32)
    prefills, start = [], model.start

    def counting_start(tokens, **kwargs):
        prefills.append(tokens.size(1))
        return start(tokens, **kwargs)

    model.start = counting_start
    generate(model, [[1] * 32], greedy(max_new_tokens=33))
    assert prefills == [32, 25, 25, 25, 25]


def test_the_cache_is_no_larger_than_the_text_or_the_context():
    model, sizes = make_model(context=64), []
    start = model.start

    def measuring_start(tokens, *, max_len, **kwargs):
        sizes.append(max_len)
        return start(tokens, max_len=max_len, **kwargs)

    model.start = measuring_start
    generate(model, [[1, 2, 3]], greedy(max_new_tokens=10))
    generate(model, [[1, 2, 3]], greedy(max_new_tokens=62))
    assert sizes == [12, 64]


def test_samples_do_not_depend_on_the_batch_around_them():
    model = make_model()
    config = SampleConfig(
        temperature=1.5, top_k=15, top_p=0.95, repetition_penalty=1.2, max_new_tokens=20, num_samples=3
    )
    together = generate(model, RAGGED, config)
    alone = [row for prompt in RAGGED for row in generate(model, [prompt], config)]
    assert [(row.prompt_ids, row.sample, row.ids) for row in together] == [
        (row.prompt_ids, row.sample, row.ids) for row in alone
    ]
    assert [(row.prompt_ids, row.sample) for row in together] == [(tuple(p), s) for p in RAGGED for s in range(3)]


def test_fewer_samples_and_fewer_tokens_are_the_beginning_of_more():
    model = make_model()
    more = generate(model, [[1]], SampleConfig(num_samples=3, max_new_tokens=20))
    fewer = generate(model, [[1]], SampleConfig(num_samples=2, max_new_tokens=7))
    assert [row.ids[:7] for row in more[:2]] == [row.ids for row in fewer]


def test_a_seed_repeats_and_another_seed_or_sample_differs():
    model = make_model()
    texts = [
        tuple(row.ids)
        for seed in (1, 1, 2)
        for row in generate(model, [[1]], SampleConfig(seed=seed, temperature=2, num_samples=2))
    ]
    assert texts[:2] == texts[2:4]
    assert len(set(texts)) == 4


def test_sampling_leaves_the_global_random_state_alone():
    model = make_model()
    before = torch.get_rng_state()
    generate(model, [[1]], SampleConfig(max_new_tokens=3))
    assert torch.equal(before, torch.get_rng_state())


def test_a_row_ends_at_eos_which_is_not_among_its_ids_while_the_others_go_on():
    model = make_model()
    free = [row.ids for row in generate(model, RAGGED, greedy())]
    eos = next(token for token in range(VOCAB) if 0 < sum(token in ids for ids in free) < len(free))
    expected = [ids[: ids.index(eos)] if eos in ids else ids for ids in free]
    rows = generate(model, RAGGED, greedy(), eos_id=eos)
    assert [row.ids for row in rows] == expected
    assert [row.finish_reason for row in rows] == ["eos" if eos in ids else "length" for ids in free]


def test_a_row_ends_at_the_first_of_several_eos_ids():
    model = make_model()
    (free,) = generate(model, [[1, 2, 3]], greedy())
    first, second = dict.fromkeys(free.ids[2:4])
    for ends in ((first, second), (second, first), (VOCAB - 1, first, second)):
        (row,) = generate(model, [[1, 2, 3]], greedy(), eos_id=ends)
        assert row.ids == free.ids[: free.ids.index(first)] and row.finish_reason == "eos"
        (empty,) = generate(model, [[]], greedy(), eos_id=ends)
        assert empty.prompt_ids == ends[:1]


def test_the_loop_ends_with_the_last_row_and_reads_no_token_after_the_last():
    model, logits = recorded(make_model())
    rows = generate(model, [[1], [2]], greedy(max_new_tokens=1000), on_token=lambda row, token: len(logits) > row)
    assert [len(row.ids) for row in rows] == [1, 2]
    assert len(logits) == 2
    logits.clear()
    generate(model, [[1]], greedy(max_new_tokens=5))
    assert len(logits) == 5


def test_on_token_sees_every_id_of_live_rows_in_order_and_may_end_a_row():
    seen = {0: [], 1: []}

    def on_token(row, token):
        seen[row].append(token)
        return row == 1 and len(seen[1]) == 4

    rows = generate(make_model(), [[3], [4]], greedy(), on_token=on_token)
    assert [row.ids for row in rows] == [seen[0], seen[1]]
    assert [len(row.ids) for row in rows] == [25, 4]
    assert [row.finish_reason for row in rows] == ["length", "stop"]


def test_ids_that_are_not_allowed_never_come():
    allowed = torch.zeros(VOCAB, dtype=torch.bool)
    allowed[[2, 11, 17]] = True
    for config in (greedy(), SampleConfig(temperature=5, num_samples=4)):
        ids = {token for row in generate(make_model(), [[1]], config, allowed=allowed) for token in row.ids}
        assert ids <= {2, 11, 17}


def test_an_empty_prompt_starts_a_document_after_eos():
    empty, after_eos = generate(make_model(), [[], [4]], greedy(), eos_id=4)
    assert empty == after_eos
    assert empty.prompt_ids == (4,)


def test_an_empty_prompt_without_eos_is_refused():
    with pytest.raises(ValueError, match="the prompt is empty"):
        generate(make_model(), [[]], greedy())


@pytest.mark.parametrize("wrong", [-1, VOCAB])
def test_a_prompt_token_outside_the_vocabulary_is_named(wrong):
    with pytest.raises(ValueError, match=f"prompt token {wrong} is outside the model's vocabulary of {VOCAB}"):
        generate(make_model(), [[1, wrong, 2]], greedy())


def test_no_prompts_and_no_tokens_give_nothing():
    assert generate(make_model(), [], greedy()) == []
    (row,) = generate(make_model(), [[1]], greedy(max_new_tokens=0))
    assert (row.ids, row.finish_reason) == ([], "length")


@pytest.mark.parametrize(("length", "cut"), [(1, 0), (CONTEXT, 0), (CONTEXT + 1, 2), (90, 82)])
def test_what_is_cut_from_a_long_prompt_is_counted(length, cut):
    model, prompt = make_model(), [n % VOCAB for n in range(length)]
    (row,) = generate(model, [prompt], greedy())
    (best,) = beam_search(model, [prompt], BeamConfig(num_beams=1, max_new_tokens=25))
    assert row.prompt_tokens_cut == best.prompt_tokens_cut == cut
    assert row.ids == generate(model, [prompt[cut:]], greedy())[0].ids == best.ids


def test_a_huge_number_of_tokens_costs_nothing_until_they_are_generated():
    model, most = make_model(), 10**20
    (row,) = generate(model, [[1]], SampleConfig(max_new_tokens=most), on_token=lambda row, token: token == 3)
    (fewer,) = generate(model, [[1]], SampleConfig(max_new_tokens=len(row.ids)))
    assert row.finish_reason == "stop" and row.ids == fewer.ids
    (found,) = beam_search(model, [[1]], BeamConfig(num_beams=1, max_new_tokens=most), eos_id=row.ids[0])
    assert found.finish_reason == "eos"


@pytest.mark.parametrize("number", [MAX_ROWS + 1, 10**9, 10**20])
def test_a_batch_that_no_memory_holds_is_refused_at_once(number):
    with pytest.raises(ValueError, match="texts are too many for one batch, which has at most 65,536"):
        generate(make_model(), [[1]], SampleConfig(num_samples=number))
    with pytest.raises(ValueError, match="texts are too many for one batch"):
        beam_search(make_model(), [[1]], BeamConfig(num_beams=number))


def test_a_diverged_model_is_an_error_instead_of_a_text():
    model = make_model()
    with torch.no_grad():
        model.get_parameter("heads.lm.proj.weight")[3, 0] = torch.nan
    with pytest.raises(ValueError, match="logits are not finite"):
        generate(model, [[1]], greedy())


@pytest.mark.parametrize("training", [True, False])
def test_dropout_is_off_meanwhile_and_as_before_afterwards(training):
    plain, model = make_model(), make_model(dropout=0.5).train(training)
    assert generate(model, [[1]], greedy()) == generate(plain, [[1]], greedy())
    assert model.training is training


def test_an_interrupted_generation_leaves_the_model_in_training_mode():
    model = make_model().train()

    def interrupt(row, token):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, [[1]], greedy(), on_token=interrupt)
    assert model.training


def test_a_model_in_bf16_generates():
    (row,) = generate(make_model().bfloat16(), [[1, 2]], SampleConfig(max_new_tokens=12))
    assert len(row.ids) == 12


def test_the_stream_gives_each_token_as_it_is_chosen_and_its_reasons_are_those_of_generate():
    model = make_model()
    whole = generate(model, RAGGED, greedy(), eos_id=3)
    ids: list[list[int]] = [[] for _ in RAGGED]
    reasons: list[FinishReason | None] = [None] * len(RAGGED)
    for event in stream(model, RAGGED, greedy(), eos_id=3):
        assert reasons[event.row] is None, "nothing comes after the end of a row"
        ids[event.row] += [] if event.token is None else [event.token]
        reasons[event.row] = event.finish_reason
    assert ids == [row.ids for row in whole]
    assert reasons == [row.finish_reason for row in whole]


def test_a_closed_stream_computes_nothing_more_and_restores_the_models_mode():
    model, logits = recorded(make_model().train())
    events = stream(model, RAGGED, greedy())
    for _ in range(len(RAGGED) + 1):
        next(events)
    assert len(logits) == 2 and not model.training
    events.close()
    assert len(logits) == 2 and model.training


def test_sending_true_ends_the_row_of_the_last_event():
    events = stream(make_model(), [[3], [4]], greedy(max_new_tokens=4))
    rows = [next(events).row, next(events).row, events.send(True).row]
    rows += [event.row for event in events]
    assert rows == [0, 1, 0, 0, 0]


def test_a_wrong_prompt_is_refused_before_the_first_event():
    with pytest.raises(ValueError, match="the prompt is empty"):
        stream(make_model(), [[]], greedy())
