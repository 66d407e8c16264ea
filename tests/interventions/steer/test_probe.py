"""A probe's padded batches give what each text gives alone, and BOS is never steered."""

import torch

from interventions.conftest import PROMPTS, SENTENCES
from suture.interventions.edits import steer
from suture.interventions.steer.probe import make_probe
from suture.lm.hooks import edit as editing
from suture.lm.hooks import logits, record
from suture.lm.tokens import tokenize, with_bos

INNER = "resid0.post"
"""Below another block, so that steering BOS would be felt by the tokens after it."""


def test_log_probs_after_prompts_are_those_of_each_prompt_alone(models):
    lm = models[1]
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
    probe = make_probe(lm, INNER, neutral=SENTENCES, prompts=PROMPTS, block=32, batch_tokens=50)
    assert len(probe.prompts) > 1
    for strength in (0.0, 0.5):
        found = probe.prompt_log_probs(steer(vector, strength))

        def all_but_bos(x: torch.Tensor, strength: float = strength) -> torch.Tensor:
            return x + strength * vector * (torch.arange(x.shape[1]) > 0)[:, None]

        for prompt, log_probs in zip(PROMPTS, found, strict=True):
            ids = with_bos(lm, tokenize(lm, prompt).ids)[None, :]
            with editing(lm, INNER, all_but_bos):
                torch.testing.assert_close(log_probs, logits(lm, ids)[0, -1].log_softmax(-1), atol=1e-5, rtol=1e-5)


def test_the_starting_token_keeps_its_activation(models):
    lm = models[1]
    probe = make_probe(lm, INNER, neutral=SENTENCES, prompts=PROMPTS, block=32, batch_tokens=999)
    ids = probe.prompts[0].ids
    plain = record(lm, ids, [INNER])[0]
    with probe.under(steer(torch.ones(lm.d_model), 1.0)):
        steered = record(lm, ids, [INNER])[0]
    assert torch.equal(steered[:, 0], plain[:, 0])
    torch.testing.assert_close(steered[:, 1:], plain[:, 1:] + 1)


def test_every_neutral_token_is_scored_once_except_where_a_piece_begins_and_special_tokens(models):
    lm = models[0]
    texts = [*SENTENCES, "One dog.<|endoftext|>Two dogs."]
    block = 10
    probe = make_probe(lm, INNER, neutral=texts, prompts=PROMPTS, block=block, batch_tokens=40)
    expected = torch.zeros(len(texts), dtype=torch.int64)
    for number, text in enumerate(texts):
        tokens = tokenize(lm, text)
        follows = torch.arange(len(tokens.ids)) % block > 0
        expected[number] = (follows & ~tokens.special).sum()
    found = torch.zeros_like(expected)
    for batch in probe.neutral:
        found.index_add_(0, batch.text, batch.scored.sum(1))
        assert not bool(batch.scored[:, 0].any()), "what follows BOS is predicted by a position that is not steered"
        assert batch.ids.shape[1] <= block + 1
    assert torch.equal(found, expected)


def test_of_a_prompt_beyond_the_context_the_end_is_kept(models):
    lm = models[0]
    long = " ".join(SENTENCES * 2)
    probe = make_probe(lm, INNER, neutral=SENTENCES, prompts=[long], block=32, batch_tokens=999)
    (batch,) = probe.prompts
    assert batch.ids.shape == (1, lm.context)
    assert torch.equal(batch.ids[0, 1:], tokenize(lm, long).ids[-(lm.context - 1) :])
