"""Repetition against a count by hand, self-perplexity against a direct computation, neither under the edit."""

import pytest
import torch

from interventions.conftest import PROMPTS, SENTENCES
from suture.interventions.edits import steer
from suture.interventions.steer.fluency import fluency, repetition
from suture.lm.continuations import nats_after
from suture.lm.hooks import edit as editing
from suture.lm.hooks import logits
from suture.lm.partial import Partial
from suture.lm.tokens import tokenize, with_bos


def test_repetition_counts_the_runs_that_stood_there_before():
    assert repetition([1, 2, 3, 1, 2, 3, 1]) == pytest.approx(2 / 5)  # 123 231 312 123 231
    assert repetition([5] * 12) == pytest.approx(9 / 10)
    assert repetition(list(range(30))) == 0
    assert repetition([1, 2, 3]) is None


def test_what_was_written_is_scored_after_its_prompt_by_the_model_left_alone(models):
    lm, written = models[1], [" The dog was happy.", " ran", ""]
    nats, count = nats_after(lm, [PROMPTS[0], PROMPTS[4], PROMPTS[1]], written)
    for i, (prompt, text) in enumerate(zip((PROMPTS[0], PROMPTS[4]), written, strict=False)):
        head, tail = with_bos(lm, tokenize(lm, prompt).ids), tokenize(lm, text).ids
        chances = logits(lm, torch.cat([head, tail])[None])[0].log_softmax(-1)
        wanted = -sum(float(chances[len(head) - 1 + j, token]) for j, token in enumerate(tail))
        assert float(nats[i]) == pytest.approx(wanted, rel=1e-5)
        assert int(count[i]) == len(tail)
    assert (float(nats[2]), int(count[2])) == (0.0, 0)
    found = fluency(lm, PROMPTS[0], [PROMPTS[0] + written[0], PROMPTS[0]])
    assert found[0][1] == pytest.approx(float(nats[0] / count[0]))
    assert found[1] == (None, None)


def test_scoring_in_small_batches_changes_nothing(models):
    texts = [s[20:60] for s in SENTENCES]
    one, many = (nats_after(models[0], SENTENCES, texts, batch_size=b) for b in (1, 8))
    torch.testing.assert_close(one[0], many[0])
    assert torch.equal(one[1], many[1])


def test_an_edit_in_force_is_seen(models):
    lm = models[0]
    plain, _ = nats_after(lm, [PROMPTS[0]], [" The dog"])
    with editing(lm, "resid0.post", steer(torch.arange(lm.d_model).float(), 0.3)):
        edited, _ = nats_after(lm, [PROMPTS[0]], [" The dog"])
    assert abs(float(plain - edited)) > 1e-3


def test_logits_where_they_count_are_enough(models):
    """The same nats with the head cut down, an empty text and one cut off by the context among them."""
    lm, texts = models[1], [*(s[20:60] for s in SENTENCES[:4]), "", " the dog" * 80]
    whole = nats_after(lm, [*SENTENCES[:4], PROMPTS[0], PROMPTS[1]], texts, batch_size=3)
    partial = Partial.of(lm, "resid0.post")
    assert partial.cuts_head
    cut = nats_after(lm, [*SENTENCES[:4], PROMPTS[0], PROMPTS[1]], texts, batch_size=3, partial=partial)
    torch.testing.assert_close(cut[0], whole[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(cut[1], whole[1])
    assert float(whole[0].min()) == 0.0 < float(whole[0].max())
