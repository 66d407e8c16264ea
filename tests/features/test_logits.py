"""The direct path against a plain product."""

import numpy as np
import pytest
import torch

from suture.features import logits
from suture.features.logits import direct_path, largest, spelled
from suture.lm.unembedding import Derivative


def test_promoted_tokens_are_those_of_the_full_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits, "CHUNK_LOGITS", 100)  # several chunks
    generator = torch.Generator().manual_seed(0)
    directions, inner, head = (torch.randn(n, 5, generator=generator) for n in (9, 5, 40))
    full = (directions.double() @ inner.double() @ head.double().T).numpy()
    full = (full - full.mean(1, keepdims=True)) / directions.double().norm(dim=1, keepdim=True).numpy()
    known = torch.tensor([i for i in range(40) if i % 7])  # the others are no tokens
    full[:, ::7] = 0
    path = direct_path(directions, Derivative(inner=inner, head=head), known, n_top=3)
    texts = tuple(f"t{i}" for i in range(40))
    for i in range(9):
        order = [j for j in np.argsort(full[i]) if j % 7]
        assert path.promoted[i].tolist() == order[::-1][:3]
        assert path.suppressed[i].tolist() == order[:3]
        assert path.promoted_logit[i].tolist() == pytest.approx(full[i][order[::-1][:3]], abs=1e-5)
        side = spelled(path, texts, i)
        assert [token for token, _ in side["promoted"]] == [f"t{j}" for j in order[::-1][:3]]
        assert side["suppressed"][0][1] == pytest.approx(full[i].min(), rel=1e-3)


def test_lengths_do_not_matter_and_small_vocabularies_do_not_hurt() -> None:
    plain = Derivative(inner=torch.eye(4), head=torch.eye(4))
    direction = torch.tensor([[0.0, 3.0, 0.0, 0.0]])
    path = direct_path(torch.cat([direction, 10 * direction, 0 * direction]), plain, torch.arange(4), n_top=10)
    assert path.promoted.shape == (3, 4)
    assert path.promoted[:2, 0].tolist() == [1, 1]
    assert torch.equal(path.promoted_logit[0], path.promoted_logit[1])
    assert path.promoted_logit[2].abs().max() == 0


def test_every_known_entry_is_counted_in_its_bin() -> None:
    generator = torch.Generator().manual_seed(1)
    directions, unembedding = torch.randn(6, 5, generator=generator), torch.randn(300, 5, generator=generator)
    known = torch.tensor([i for i in range(300) if i % 7])
    centred = unembedding.double() - unembedding.double().mean(0)
    full = (torch.nn.functional.normalize(directions.double(), dim=-1) @ centred.T)[:, known].numpy()
    plain = Derivative(inner=torch.eye(5), head=unembedding)
    path = direct_path(torch.cat([directions, 0 * directions[:1]]), plain, known, n_top=3)
    for i, logit in enumerate(full):
        farthest = abs(logit).max()
        expected, _ = np.histogram(logit, bins=logits.N_BINS, range=(-farthest, farthest))
        assert path.counts[i].sum() == len(known)
        assert abs(path.counts[i].numpy() - expected).sum() <= 2  # one may lie at an edge
        side = spelled(path, tuple(str(j) for j in range(300)), i)
        assert side["farthest"] == pytest.approx(farthest, rel=1e-3)
        assert side["counts"] == path.counts[i].tolist()
    assert path.counts[6].nonzero()[:, 0].tolist() == [logits.N_BINS // 2]  # nothing moved


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n_entries", [5, 64, 100, 131])
def test_the_largest_of_long_rows_are_those_of_a_sort(
    n_entries: int, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 8 and more, with entries left over, and several of the largest in one block."""
    monkeypatch.setattr(logits, "BLOCKS", 8)
    generator = torch.Generator().manual_seed(2)
    values = torch.stack([torch.randperm(n_entries, generator=generator) for _ in range(50)]).float()
    values[0, ::8] += 1000.0 * sign  # all in one block
    values[1, -3:] += 1000.0 * sign  # none in any, where some are left over
    found, columns = largest(values, 4, sign=sign)
    expected = (sign * values).sort(dim=1, descending=True).values[:, :4] * sign
    assert torch.equal(found, expected)
    assert torch.equal(values.gather(1, columns), expected)
