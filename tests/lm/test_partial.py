"""Passes in part give what whole passes give, under an edit too, in every family or not at all."""

import pytest
import torch
from torch import Tensor

from lm.families import FAMILIES, tiny_family
from own_copy import own_copy
from suture.lm import partial
from suture.lm.hooks import edit, logits
from suture.lm.partial import Partial

IDS = torch.tensor([[0, 17, 5, 250, 33, 8, 90], [0, 4, 4, 61, 12, 7, 1], [0, 99, 3, 3, 3, 3, 3]])
WHERE = torch.rand(IDS.shape, generator=torch.Generator().manual_seed(0)) < 0.4
pytestmark = pytest.mark.filterwarnings("ignore")


def edited(activation: Tensor) -> Tensor:
    return activation * 0.5 + torch.linspace(-1, 1, activation.shape[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_in_part_is_the_whole_pass(family: str) -> None:
    lm = tiny_family(family)
    for hookpoint in ("resid0.post", "resid1.pre"):
        cut = Partial.of(lm, hookpoint)
        before = cut.before(IDS)
        with edit(lm, hookpoint, edited):
            whole = logits(lm, IDS)[WHERE]
            found = cut.logits(IDS, WHERE, before)
        torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()))
        assert not torch.allclose(found, logits(lm, IDS)[WHERE], rtol=1e-2)
        assert (cut.carried, cut.cuts_head) == ("resid0.post", True), "every family here can run in part"


def test_blocks_before_the_hookpoint_do_not_run() -> None:
    lm = own_copy(tiny_family("llama"))
    ran: list[int] = []
    blocks = lm.model.model.layers  # pyright: ignore
    for n, block in enumerate(blocks):
        block.mlp = Counting(block.mlp, ran, n)
    cut = Partial.of(lm, "resid0.post")
    before = cut.before(IDS)
    ran.clear()
    sizes: list[int] = []
    handle = lm.model.lm_head.register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[:-1].numel()))  # pyright: ignore
    cut.logits(IDS, WHERE, before)
    handle.remove()
    assert ran == [1]
    assert sizes == [int(WHERE.sum())]
    assert "forward" not in vars(blocks[0])


def test_a_model_that_cannot_run_in_part_runs_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second block reads the first one's module, as shared keys and values would."""
    lm = own_copy(tiny_family("llama"))
    first, second = lm.model.model.layers  # pyright: ignore
    inner, kept = second.forward, []
    lm.model.model.embed_tokens.register_forward_pre_hook(lambda _m, _a: kept.clear())  # pyright: ignore
    first.mlp.register_forward_hook(lambda _m, _a, out: kept.append(out))
    monkeypatch.setattr(second, "forward", lambda x, *a, **k: inner(x + kept.pop(), *a, **k))
    cut = Partial.of(lm, "resid0.post")
    assert cut.carried is None
    assert cut.cuts_head
    monkeypatch.setattr(partial, "_cut_to", lambda _: lambda _m, args: (args[0] * 2,))
    assert not Partial.of(tiny_family("qwen2"), "mlp0.out").cuts_head


class Counting(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module, ran: list[int], number: int) -> None:
        super().__init__()
        self.inner, self.ran, self.number = inner, ran, number

    def forward(self, x: Tensor) -> Tensor:
        self.ran.append(self.number)
        return self.inner(x)
