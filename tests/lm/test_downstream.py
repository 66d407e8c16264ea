"""What an added vector does downstream, against one plain pass with a hook for every vector and context."""

import pytest
import torch

from lm.families import WIDTH, tiny_family
from suture.errors import UserError
from suture.lm import downstream
from suture.lm.downstream import changes, contexts_of

TEXTS = ("Once upon a time, there was a little dog named Max.", "The cat sat on the mat, and Lily saw a ball.", " a")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba", "opt"])
def test_changes_are_those_of_plain_passes(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downstream, "BATCH_TOKENS", 60)  # several batches
    lm = tiny_family(family)
    contexts = contexts_of(lm, TEXTS)
    assert contexts.shape == (2, 1 + downstream.CONTEXT_TOKENS)
    vectors = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    found = torch.cat(list(changes(lm, "resid0.post", vectors, contexts)))
    block = next(m for m in lm.model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == lm.n_layers)[0]
    for vector, change in zip(vectors, found, strict=True):
        expected = torch.zeros(lm.vocab_size)
        for ids in contexts:

            def added(_module, _args, output, vector=vector):
                stream = (output[0] if isinstance(output, tuple) else output).clone()
                stream[0, -1] += vector
                return (stream, *output[1:]) if isinstance(output, tuple) else stream

            plain = lm.model(ids[None], use_cache=False).logits[0, -1]
            handle = block.register_forward_hook(added)
            expected += (lm.model(ids[None], use_cache=False).logits[0, -1] - plain) / len(contexts)
            handle.remove()
        torch.testing.assert_close(change, expected - expected.mean(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_what_comes_before_is_read_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes under vectors are of one token each; a cache that gives other logits is not used, and nothing changes."""
    lm = tiny_family(family)
    contexts, vectors = contexts_of(lm, TEXTS), torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    lengths: list[int] = []
    handle = lm.model.get_input_embeddings().register_forward_hook(
        lambda _m, args, _o: lengths.append(args[0].shape[1])
    )
    found = torch.cat(list(changes(lm, "resid0.post", vectors, contexts)))
    assert lengths[-1] == 1
    assert max(lengths) == contexts.shape[1]  # the pass that it is held against
    lengths.clear()
    monkeypatch.setattr(downstream, "CLOSE", -1.0)
    whole = torch.cat(list(changes(lm, "resid0.post", vectors, contexts)))
    assert lengths[-1] == contexts.shape[1]
    handle.remove()
    torch.testing.assert_close(found, whole, rtol=1e-3, atol=1e-5)


def test_texts_without_a_token_are_refused() -> None:
    with pytest.raises(UserError, match="hold no token"):
        contexts_of(tiny_family("gpt2"), ["", ""])
    assert contexts_of(tiny_family("gpt2"), ["cat"]).shape[0] == 1
