import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.models.build import build_model
from minillm.models.gpt import GPT
from minillm.nn.cache import KVCache
from minillm.nn.config import ModelConfig

POSITIONS = ["learned", "sinusoidal", "rotary", "t5", "alibi", "none"]
V, T = 31, 12


def gpt(**changes: Any) -> GPT:
    """A small model with grouped heads, whose weights are large enough for every part to matter."""
    shape = {"vocab_size": V, "d_model": 24, "num_heads": 4, "num_kv_heads": 2, "num_layers": 2, "max_seq_len": T}
    model = build_model(ModelConfig(**{**shape, "init_std": 0.25, "qk_norm": True, **changes}))
    model.init_weights(torch.Generator().manual_seed(0))
    return model.eval()


def tokens(rows: int, length: int = T, seed: int = 1) -> Tensor:
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-5, rtol=1e-5)


EXTRAS: dict[str, dict[str, Any]] = {
    "": {},
    "trigrams": {"ngram_order": 3, "ngram_rows": 50},
    "a window": {"layer_pattern": ("local", "full"), "window": 3},
}


@pytest.fixture(params=[*POSITIONS, "rotary and trigrams", "rotary and a window", "t5 and a window"])
def model(request: pytest.FixtureRequest) -> GPT:
    position, _, extra = request.param.partition(" and ")
    theta = {"local_rope_theta": 100.0} if extra == "a window" and position == "rotary" else {}
    return gpt(position=position, **EXTRAS[extra], **theta)


@torch.no_grad()
def test_changing_a_token_affects_only_later_predictions(model):
    ids = tokens(2)
    for j in range(T):
        changed = ids.clone()
        changed[:, j] = (changed[:, j] + 1) % V
        before, after = model(ids).logits["lm"], model(changed).logits["lm"]
        assert torch.equal(before[:, :j], after[:, :j])
        assert (before[:, j:] - after[:, j:]).abs().amax((0, 2)).min() > 0


@torch.no_grad()
def test_cached_and_chunked_passes_equal_the_full_pass(model):
    ids = tokens(2)
    full = model(ids).logits["lm"]
    for sizes in ([1] * T, [T], [5, 1, 1, 5], [3, 4, 5]):
        cache = KVCache(2, T)
        parts = [model(part, cache=cache).logits["lm"] for part in ids.split(sizes, 1)]
        assert close(torch.cat(parts, 1), full), sizes


@torch.no_grad()
def test_a_left_padded_batch_equals_its_prompts_one_by_one(model):
    prompts = [tokens(1, n, seed=n) for n in (3, 8, 1)]
    ids, valid = torch.zeros(3, 8, dtype=torch.long), torch.zeros(3, 8, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, 8 - prompt.size(1) :], valid[row, 8 - prompt.size(1) :] = prompt[0], True
    batch = model(ids, key_valid=valid).logits["lm"]
    assert torch.isfinite(batch).all()
    cache, logits = model.start(ids, max_len=T, key_valid=valid)
    growing = prompts
    for _ in range(T - 8 + 1):
        for row, prompt in enumerate(growing):
            alone = model(prompt).logits["lm"]
            assert close(logits[row], alone[0, -1])
            if prompt.size(1) == prompts[row].size(1):
                assert close(batch[row, 8 - prompt.size(1) :], alone[0])
        if cache.length < T:
            chosen = logits.argmax(-1, keepdim=True)
            growing = [torch.cat((prompt, chosen[row : row + 1]), 1) for row, prompt in enumerate(growing)]
            logits = model.step(chosen, cache)[:, 0]


@torch.no_grad()
def test_right_padding_does_not_change_real_tokens(model):
    ids, valid = tokens(2), torch.arange(T) < torch.tensor([[7], [T]])
    assert close(model(ids, key_valid=valid).logits["lm"][0, :7], model(ids[:1, :7]).logits["lm"][0])


@torch.no_grad()
def test_packed_documents_equal_separate_rows(model):
    lengths = [5, 1, 6]
    documents = [tokens(1, n, seed=n) for n in lengths]
    packed, document_ids = (
        torch.cat(documents, 1),
        torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None],
    )
    together = model(packed, document_ids=document_ids).logits["lm"].split(lengths, 1)
    for document, answer in zip(documents, together, strict=True):
        assert close(answer, model(document).logits["lm"])
    cache = KVCache(2, T)
    chunks = [
        model(packed[:, a:b], document_ids=document_ids[:, a:b], cache=cache).logits["lm"]
        for a, b in ((0, 4), (4, 8), (8, 12))
    ]
    assert close(torch.cat(chunks, 1), torch.cat(together, 1))


@torch.no_grad()
def test_a_token_sees_no_further_than_the_windows_of_all_layers_together():
    model = gpt(position="rotary", layer_pattern=("local",), window=3)
    ids = tokens(1)
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % V
    difference = (model(ids).hidden - model(changed).hidden).abs().amax((0, 2))
    assert (difference[:5] > 0).all() and (difference[5:] == 0).all()  # two layers reach two tokens each


@torch.no_grad()
def test_prefix_tokens_attend_in_both_directions_and_the_rest_is_causal(model):
    ids, prefix = tokens(2), torch.tensor([5, 0])
    plain, answer = model(ids).logits["lm"], model(ids, prefix_length=prefix).logits["lm"]
    assert close(answer[1], plain[1])
    assert (answer[0, :4] - plain[0, :4]).abs().amax(-1).min() > 1e-4
    changed = ids.clone()
    changed[:, 4] = (changed[:, 4] + 1) % V
    moved = (model(changed, prefix_length=prefix).logits["lm"] - answer).abs().amax(-1)
    assert moved[0].min() > 1e-6 and moved[1, :4].max() == 0
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % V
    assert torch.equal(model(changed, prefix_length=prefix).logits["lm"][:, :7], answer[:, :7])


@torch.no_grad()
def test_beyond_the_context_a_new_prefill_equals_an_uncached_pass(model):
    text = tokens(1, T + 6)
    cache, logits = model.start(text[:, :T], max_len=T)
    with pytest.raises(ValueError, match="max_seq_len"):
        model.step(text[:, T : T + 1], cache)
    begin, keep = T + 1 - 8, 8  # five tokens leave at once, so that the next steps need no prefill
    cache, logits = model.start(text[:, begin : begin + keep], max_len=T)
    for stop in range(begin + keep, T + 5):
        assert close(logits, model(text[:, begin:stop]).logits["lm"][:, -1])
        logits = model.step(text[:, stop : stop + 1], cache)[:, 0]


@torch.no_grad()
def test_given_positions_override_the_counted_ones():
    ids = tokens(2, 4)
    for position in ("learned", "rotary", "alibi", "t5"):
        model = gpt(position=position)
        assert close(model(ids, positions=torch.arange(4)).logits["lm"], model(ids).logits["lm"])
        apart = torch.tensor([[0, 2, 5, 9], [0, 1, 2, 3]])
        logits = model(ids, positions=apart).logits["lm"]
        assert close(logits[1], model(ids).logits["lm"][1]) and not close(logits[0], model(ids).logits["lm"][0])
        cache = KVCache(2, 4)
        parts = [model(ids[:, t : t + 1], positions=apart[:, t : t + 1], cache=cache).logits["lm"] for t in range(4)]
        assert close(torch.cat(parts, 1), logits)


@torch.no_grad()
def test_predict_at_gives_the_same_logits_at_the_chosen_positions():
    model, ids, at = gpt(), tokens(2), torch.tensor([[0, 11, 3], [4, 4, 5]])
    full, output = model(ids).logits["lm"], model(ids, predict_at=at)
    assert output.logits["lm"].shape == (2, 3, V) and output.hidden.shape == (2, T, 24)
    assert close(output.logits["lm"], full.take_along_dim(at[..., None], 1))


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("preset", ["zero", "scaled"])
def test_the_first_loss_is_about_ln_vocab_size(tie, preset):
    config = ModelConfig(vocab_size=500, d_model=32, num_heads=2, residual_init=preset, tie_embeddings=tie)
    model = build_model(config)
    model.init_weights(torch.Generator().manual_seed(0))
    ids = torch.randint(500, (4, 64), generator=torch.Generator().manual_seed(1))
    loss = F.cross_entropy(model(ids[:, :-1]).logits["lm"].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(500), abs=0.05)


def test_bf16_training_with_the_eager_kernel_stays_near_fp32(model):
    ids, grads = tokens(2), []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(ids).logits["lm"]
        F.cross_entropy(logits.float().flatten(0, 1), ids.roll(-1, 1).flatten()).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.zero_grad()
    assert torch.cosine_similarity(*grads, dim=0) > 0.99


def test_more_tokens_than_the_context_or_the_cache_can_hold_raise():
    model = gpt()
    with pytest.raises(ValueError, match=r"13 tokens are more than model\.max_seq_len 12"):
        model(tokens(1, 13))
    with pytest.raises(ValueError, match="holds 3 tokens and 4 are needed"):
        model.start(tokens(1, 4), max_len=3)


def test_a_bf16_model_has_a_bf16_cache():
    model = gpt().bfloat16()
    cache, logits = model.start(tokens(2, 5), max_len=T)
    assert model.step(logits.argmax(-1, keepdim=True), cache).shape == (2, 1, V)
    keys, _ = cache.self_layers[0].read()
    assert keys.dtype == torch.bfloat16 and keys.shape == (2, 2, T, 6) and cache.length == 6


def test_token_types_reach_the_embedding():
    model, ids = gpt(num_token_types=2), tokens(1)
    assert not close(model(ids, token_types=torch.ones_like(ids)).logits["lm"], model(ids).logits["lm"])


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo does so itself
def test_a_training_pass_has_no_graph_break(model):
    torch._dynamo.reset()  # compiled code of other models counts against the limit of recompilations
    ids = tokens(2)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(ids).logits["lm"], model(ids).logits["lm"])
