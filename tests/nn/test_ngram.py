import torch

from minillm.nn.config import ModelConfig
from minillm.nn.ngram import _BASE, _MIX, NgramEmbedding


def wrap(n: int) -> int:
    """As int64 does."""
    return (n + (1 << 63)) % (1 << 64) - (1 << 63)


def embedding(order: int = 3, rows: int = 40) -> NgramEmbedding:
    torch.manual_seed(0)
    return NgramEmbedding(ModelConfig(vocab_size=29, d_model=8, ngram_order=order, ngram_rows=rows))


def test_ngram_embeddings_equal_a_naive_loop():
    module = embedding(order=4)
    tokens = torch.randint(29, (2, 9))
    out = module(tokens, torch.arange(9))
    for b in range(2):
        for t in range(9):
            hashed, expected = int(tokens[b, t]) + 1, torch.zeros(8)
            for n, table in enumerate(module.tables, 1):
                hashed = wrap(wrap(hashed * _BASE) + (int(tokens[b, t - n]) + 1 if t >= n else 0))
                expected += table(torch.tensor((wrap(hashed * _MIX) >> 16) % 40))
            assert torch.allclose(out[b, t], expected, atol=1e-6)


def test_a_token_affects_only_ngrams_that_contain_it():
    module, tokens = embedding(rows=4001), torch.randint(29, (1, 10))
    changed = tokens.clone()
    changed[0, 4] = (changed[0, 4] + 1) % 29
    moved = (module(tokens, torch.arange(10)) != module(changed, torch.arange(10))).any(-1)[0]
    assert moved.tolist() == [t in (4, 5, 6) for t in range(10)]


def test_ngrams_do_not_cross_document_boundaries():
    module, tokens = embedding(), torch.randint(29, (1, 8))
    packed = module(tokens, torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]]))
    assert torch.equal(packed[:, 4:], module(tokens[:, 4:], torch.arange(4)))


def test_different_ngrams_use_different_rows():
    module = embedding(order=2, rows=64)
    pairs = torch.cartesian_prod(torch.arange(29), torch.arange(29))
    with torch.no_grad():
        next(module.tables[0].parameters()).copy_(torch.arange(64.0)[:, None].expand(-1, 8))
        rows = module(pairs, torch.arange(2))[:, 1, 0].long()
    counts = torch.bincount(rows, minlength=64)
    assert counts.min() > 0 and counts.max() < 4 * len(pairs) / 64
