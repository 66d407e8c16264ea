"""A graft: saving is the identity, another model is refused, it acts where and when it should, then is gone."""

import copy
from dataclasses import replace

import pytest
import torch

from suture.errors import ArtifactError, UserError
from suture.interventions.graft.graft import Graft, strengths
from suture.interventions.graft.part import Projection, Removal, projection
from suture.interventions.graft.settings import Schedule
from suture.lm.continuations import continuations
from suture.lm.generate import cache_argument, generate
from suture.lm.hooks import logits
from suture.lm.load import LanguageModel
from suture.lm.positions import Positions, generating, watched
from suture.lm.tokens import tokenize, with_bos

PROMPT = "Tom saw a big dog. The dog"


def removal_at(hookpoint: str, width: int, seed: int = 0, radius: float = torch.inf) -> Removal:
    draw = torch.Generator().manual_seed(seed)
    n = 3
    return Removal(
        hookpoint=hookpoint, features=(4, 1, 9), encode=torch.randn(n, width, generator=draw),
        bias=torch.full((n,), 0.5), threshold=torch.full((n,), 0.1), gain=torch.ones(n), offset=torch.zeros(n),
        write=torch.randn(n, width, generator=draw), centre=torch.randn(width, generator=draw),
        radius=torch.tensor(radius),
    )  # fmt: skip


def graft_for(lm: LanguageModel, schedule: Schedule | None = None) -> Graft:
    removed = removal_at("mlp0.out", lm.d_model)
    parts = (projection(removal_at("attn0.out", lm.d_model, 1), torch.zeros(lm.d_model)), removed)
    return Graft(model=lm.name, fingerprint=lm.fingerprint, parts=parts, schedule=schedule or Schedule())


def ids_of(lm: LanguageModel) -> torch.Tensor:
    return with_bos(lm, tokenize(lm, PROMPT).ids)[None]


def test_saving_and_loading_is_the_identity(models, tmp_path):
    made = graft_for(models[0], Schedule(on_prompt=False, until=5, fade=2))
    made.save(tmp_path / "graft")
    found = Graft.load(tmp_path / "graft")
    assert (found.model, found.fingerprint, found.schedule) == (made.model, made.fingerprint, made.schedule)
    assert [type(part) for part in found.parts] == [Projection, Removal]
    for one, other in zip(made.parts, found.parts, strict=True):
        assert (one.hookpoint, one.features) == (other.hookpoint, other.features)
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())
    assert "6 features" not in repr(found)
    assert "3 features at mlp0.out" in repr(found)


def test_it_changes_the_logits_while_attached_and_nothing_afterwards(models):
    lm = models[0]
    before = logits(lm, ids_of(lm))
    with graft_for(lm).attach(lm):
        during = logits(lm, ids_of(lm))
    assert (during - before).abs().max() > 1e-2
    assert torch.equal(logits(lm, ids_of(lm)), before)
    with graft_for(lm).attach(lm, strength=0.0):
        assert torch.equal(logits(lm, ids_of(lm)), before)
    with pytest.raises(RuntimeError), graft_for(lm).attach(lm):
        raise RuntimeError
    assert torch.equal(logits(lm, ids_of(lm)), before)


def test_another_model_is_refused(models):
    made = graft_for(models[0])
    with pytest.raises(UserError, match="other weights"), made.attach(models[1]):
        pass
    with pytest.raises(UserError, match="wide in"):
        replace(made, fingerprint="").check(models[1])
    part = replace(made.parts[1], hookpoint="mlp7.out")
    with pytest.raises(UserError, match="no such place"):
        replace(made, parts=(part,)).check(models[0])


def test_a_hookpoint_that_never_runs_is_refused(models):
    lm = models[0]
    lm.model.transformer.idle = torch.nn.Linear(lm.d_model, lm.d_model)
    part = replace(graft_for(lm).parts[1], hookpoint="transformer.idle")
    with pytest.raises(UserError, match="does not run"):
        replace(graft_for(lm), parts=(part,)).check(lm)


def test_what_is_no_graft_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        Graft.load(tmp_path / "none")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(),
        Schedule(on_first=False),
        Schedule(on_generated=False),
        Schedule(on_prompt=False),
        Schedule(on_prompt=False, until=3),
        Schedule(until=2, fade=4),
    ],
)
def test_a_schedule_is_the_same_with_and_without_cache_batched_and_single(models, number, schedule):
    lm = models[number]
    prompts = [PROMPT, "Mia wanted a blue cake for her birthday. Her", "One"]
    with graft_for(lm, schedule).attach(lm):
        cached = continuations(lm, prompts, max_new_tokens=8)
        assert cached == continuations(lm, prompts, max_new_tokens=8, use_cache=False)
        assert cached == [continuations(lm, [p], max_new_tokens=8)[0] for p in prompts]
        assert generate(lm, PROMPT, max_new_tokens=8) == PROMPT + cached[0]
        assert generate(lm, PROMPT, max_new_tokens=8, use_cache=False) == PROMPT + cached[0]


def test_a_schedule_says_how_strongly_at_each_token():
    seen = Positions()
    with generating(torch.tensor([3, 2])):
        mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]])
        seen.see((torch.zeros(2, 7, dtype=torch.long),), {"attention_mask": mask})
    assert seen.at.tolist() == [[0, 1, 2, 3, 4, 5, 6], [-1, 0, 1, 2, 3, 4, 5]]
    assert seen.generated.tolist() == [[0, 0, 0, 1, 2, 3, 4], [0, 0, 0, 1, 2, 3, 4]]
    acts = strengths(Schedule(on_prompt=False, until=2, fade=1), seen)
    assert acts[0].tolist() == [0, 0, 0, 1, 1, 0.5, 0]
    assert strengths(Schedule(on_first=False), seen)[1].tolist() == [1, 0, 1, 1, 1, 1, 1]
    assert strengths(Schedule(on_generated=False), seen)[0].tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_positions_are_told_by_the_cache_where_nothing_else_tells_them(models):
    lm = models[1]
    name = cache_argument(lm.model)
    assert name is not None
    with watched(lm) as seen:
        output = lm.model(torch.tensor([[1, 2, 3]]), use_cache=True)
        assert seen.at.tolist() == [[0, 1, 2]]
        lm.model(torch.tensor([[4]]), use_cache=True, **{name: output[name]})
        assert seen.at.tolist() == [[3]]
        assert seen.generated.tolist() == [[1]]


def test_only_the_prompt_is_left_alone_by_a_schedule_of_what_is_written(models):
    lm = models[0]
    made = graft_for(lm, Schedule(on_prompt=False))
    plain = logits(lm, ids_of(lm))
    with made.attach(lm):
        assert torch.equal(logits(lm, ids_of(lm)), plain)
    assert Schedule(on_prompt=False) != Schedule()
    with pytest.raises(UserError, match="no token"):
        Schedule(on_prompt=False, on_generated=False)


def test_the_model_given_is_not_changed(models):
    lm = models[0]
    before = copy.deepcopy(lm.model.state_dict())
    with graft_for(lm).attach(lm):
        continuations(lm, [PROMPT], max_new_tokens=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in lm.model.state_dict().items())
