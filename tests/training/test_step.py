"""Every gradient of the sparse step agrees with a dense reference in float64."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from suture.activations.batches import Batch
from suture.activations.space import Space
from suture.dictionary.activation import Sparsity
from suture.dictionary.design import Design
from suture.dictionary.dictionary import Dictionary
from suture.training.settings import Objective
from suture.training.start import locked_columns
from suture.training.step import TrainingState

WIDTHS, F, ROWS, K = (6, 6), 24, 40, 5


def a_state(design: Design, objective: Objective, widths: tuple[int, ...] = WIDTHS) -> TrainingState:
    """A dictionary in float64 with nothing at a special value."""
    draw = torch.Generator().manual_seed(1)
    spaces = [Space(model=f"m{i}", hookpoint="mlp0.out", width=w) for i, w in enumerate(widths)]
    dictionary = Dictionary(spaces, design, flag_scale=1.7 if design.flag else 0.0).double()
    with torch.no_grad():
        for tensor in (*dictionary.parameters(), dictionary.center):
            tensor.copy_(torch.randn(tensor.shape, generator=draw, dtype=torch.float64) * 0.5)
        dictionary.W_dec.div_(dictionary.W_dec.norm(dim=1, keepdim=True))
        dictionary.threshold.fill_(0.3)
    variance = torch.tensor([3.0, 5.0, 4.0][: len(widths)], dtype=torch.float64)
    return TrainingState(dictionary, objective, variance)


def dense_loss(state: TrainingState, x: Tensor, available: Tensor | None, model: Tensor | None) -> dict[str, Tensor]:
    """The loss written the plain way: dense codes, dense decoder, autograd everywhere."""
    d, o = state.dictionary, state.objective
    inner = x - d.center
    if available is not None:
        columns = torch.repeat_interleave(
            available.double() / available.sum(1, keepdim=True), torch.tensor(d.widths), 1
        )
        inner = inner * columns
    elif d.design.joint:
        inner = inner / d.n_spaces
    own = torch.ones_like(x)
    if model is not None:
        if d.design.pad == "native":
            own = (torch.arange(d.width) < torch.tensor(d.widths)[model].unsqueeze(1)).double()
        inner = inner * own
        if d.design.flag:
            inner = torch.cat([inner, torch.nn.functional.one_hot(model, d.n_spaces).double() * d.flag_scale], 1)
    pre = inner @ d.W_enc.T + d.b_enc
    f = pre.relu()
    norms = torch.stack([w.norm(dim=1) for w in d.W_dec.split(d.cuts, 1)]).sum(0)
    terms: dict[str, Tensor] = {}
    if d.sparsity.kind == "topk":
        f = f * torch.zeros_like(f).scatter(1, pre.topk(K).indices, 1.0)
    elif d.sparsity.kind == "batchtopk":
        score = f * norms.detach() if d.sparsity.score == "norm" else f
        f = f * (score >= score.flatten().topk(ROWS * K).values[-1])
    elif d.sparsity.kind == "jumprelu":
        # values and gates with the straight-through gradient of 2407.14435, written as differences of plain terms
        threshold, width = state.own["log_threshold"].exp(), d.sparsity.bandwidth
        on = (pre > threshold).double()
        near = ((pre - threshold).abs() < width / 2).double() / width
        moving = threshold - threshold.detach()
        gates = on - near.detach() * moving
        f = pre * on - (threshold.detach() * near).detach() * moving
        terms["l0"] = o.l0 * gates.sum() / ROWS
    elif d.sparsity.kind == "relu+l1":
        terms["l1"] = o.l1 * (f * norms).sum() / ROWS / state.variance.sum().sqrt()
    elif d.sparsity.kind == "gated":
        gate, linear = f, pre - d.b_enc
        f = (pre > 0) * (state.own["log_gain"].exp() * linear + state.own["magnitude_bias"]).relu()
        terms["l1"] = o.l1 * gate.sum() / ROWS / state.variance.sum().sqrt()
        frozen = (x - gate @ d.W_dec.detach() - d.b_dec.detach()) * own
        terms["gate"] = dense_reconstruction(state, frozen, model)
    error = (x - f @ d.W_dec - d.b_dec) * own
    terms["reconstruction"] = dense_reconstruction(state, error, model)
    if o.cross:
        e_a, e_b = error.split(d.cuts, 1)
        terms["cross"] = 2 * o.cross * (e_a * e_b).sum() / ROWS / state.variance.sum()
    dead = state.dead.nonzero().squeeze(1)
    if dead.numel() and o.aux:
        k_aux = min(o.k_aux or d.width // 2, dead.numel())
        chosen = torch.zeros(ROWS, dead.numel()).scatter(1, pre[:, dead].topk(k_aux).indices, 1.0)
        dead_f = pre[:, dead].relu() * chosen
        e = error.detach()
        terms["aux"] = o.aux * (e - dead_f @ d.W_dec[dead]).square().sum() / e.square().sum()
    return terms


def dense_reconstruction(state: TrainingState, error: Tensor, model: Tensor | None) -> Tensor:
    loss = state.objective.loss
    per_space = torch.stack([e.square().sum(1) for e in error.split(state.dictionary.cuts, 1)], 1)
    if model is not None and loss == "per_model":
        return (per_space[:, 0] / state.variance[model]).mean()
    variance = state.variance if model is None else state.variance.mean().unsqueeze(0)
    return {
        "joint": per_space.sum() / ROWS / variance.sum(),
        "per_model": (per_space / variance).mean(),
        "l2norm": (per_space + 1e-12).sqrt().sum(1).mean() / variance.sqrt().sum(),
    }[loss]


def gradients(state: TrainingState, monkeypatch: pytest.MonkeyPatch, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """Those that a step hands to Adam, put together from the blocks it hands them over in."""
    caught: dict[str, list[Tensor]] = {}

    def catch(self: TrainingState, name: str, gradient: Tensor, learning_rate: float, rows: slice) -> None:
        caught.setdefault(name, []).append(gradient.clone())

    monkeypatch.setattr(TrainingState, "_adam", catch)
    monkeypatch.setattr("suture.training.step.BLOCK_ELEMENTS", 12 * 7)  # several blocks, the last one smaller
    state.step(*args, **kwargs)
    return {name: torch.cat(blocks) for name, blocks in caught.items()}


CASES = [
    *[("crosscoder", s, "joint", False) for s in ("topk", "batchtopk", "relu+l1")],
    *[("crosscoder", s, "per_model", False) for s in ("topk", "batchtopk", "relu+l1")],
    *[("crosscoder", s, "l2norm", False) for s in ("topk", "batchtopk", "relu+l1")],
    *[("crosscoder", s, "joint", True) for s in ("topk", "batchtopk", "relu+l1")],
    *[("pooled", "topk", loss, False) for loss in ("joint", "per_model", "l2norm")],
    *[("pooled+flag", s, "joint", True) for s in ("topk", "batchtopk")],
    *[("pooled+zeros", "topk", loss, True) for loss in ("joint", "per_model")],
    *[("universal", "topk", "per_model", aux) for aux in (False, True)],
    ("crosscoder", "batchtopk by norm", "joint", True),
    *[("crosscoder, crossed", s, "joint", True) for s in ("topk", "gated")],
    *[("sae", s, "joint", True) for s in ("topk", "batchtopk", "relu+l1")],
    *[(kind, "jumprelu", "joint", True) for kind in ("sae", "crosscoder", "pooled+flag", "universal")],
    *[(kind, "gated", "joint", True) for kind in ("sae", "crosscoder", "pooled+flag", "pooled+zeros", "universal")],
    *[("crosscoder", "gated", loss, False) for loss in ("joint", "per_model", "l2norm")],
]  # fmt: skip
WITHIN = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize(("kind", "sparsity", "loss", "aux"), CASES)
def test_gradients_agree_with_the_dense_reference(
    kind: str, sparsity: Any, loss: Any, aux: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is dense and in float64; the decoder's is then freed of its part along each unit row."""
    name: Any = kind.partition("+")[0].partition(",")[0]
    crossed = kind.endswith("crossed")
    extra: dict[str, Any] = {"pooled+flag": {"flag": True}, "pooled+zeros": {"pad": "zeros"}}.get(kind, {})
    by_norm = "norm" if sparsity.endswith(" by norm") else "value"
    chosen = Sparsity(kind=sparsity.partition(" ")[0], k=K, score=by_norm)
    design = Design(kind=name, n_features=F, sparsity=chosen, **extra)
    widths = (6,) if kind == "sae" else (6, 6) if crossed else (6, 4)
    state = a_state(design, Objective(loss=loss, l1=0.3, k_aux=4, dead_after=10, cross=-0.9 * crossed), widths)
    if aux:
        # silent by their counters, yet firing on these rows: the chosen ones then lie where AuxK's ReLU is smooth
        state.silent[[1, 3, 4, 7, 9, 20]] = 99
        with torch.no_grad():
            state.dictionary.b_enc[[1, 3, 4, 7, 9, 20]] += 6.0
    draw = torch.Generator().manual_seed(2)
    D = state.dictionary.width
    x = torch.randn(ROWS, D, generator=draw, dtype=torch.float64)
    model = available = None
    if name == "pooled":
        model = torch.randint(2, (ROWS,), generator=draw)
        x = x * (torch.arange(D) < torch.tensor(widths)[model].unsqueeze(1))
    if kind == "universal" or (kind == "crosscoder" and loss == "per_model"):
        available = torch.nn.functional.one_hot(torch.randint(2, (ROWS,), generator=draw), 2).bool()
        available |= (torch.rand(ROWS, 2, generator=draw) < 0.4) & (kind != "universal")
    expected = dense_loss(state, x, available, model)
    torch.stack(list(expected.values())).sum().backward()
    reference = {n: p.grad.clone() for n, p in state.parameters.items() if p.grad is not None}
    if state.dictionary.sparsity.kind != "relu+l1":
        W = state.dictionary.W_dec.detach()
        reference["W_dec"] -= (reference["W_dec"] * W).sum(1, keepdim=True) * W
    if dtype == torch.float32:
        x, state = x.float(), in_float32(state)
    batch = object.__new__(Batch)  # float64 is for this comparison alone, so the shape checks of batches are passed by
    object.__setattr__(batch, "activations", x)
    object.__setattr__(batch, "model", model)
    found = gradients(state, monkeypatch, batch, k=float(K), learning_rate=1e-3, available=available)
    assert found.keys() == reference.keys()
    for parameter, expected_gradient in reference.items():
        scale = expected_gradient.norm()
        assert scale > 0
        assert float((found[parameter].double() - expected_gradient).norm() / scale) < WITHIN[dtype], parameter


def in_float32(state: TrainingState) -> TrainingState:
    """The same state in single precision."""
    single = TrainingState(copy.deepcopy(state.dictionary).float(), state.objective, state.variance.float())
    single.silent.copy_(state.silent)
    return single


def test_jumprelu_passes_its_gradient_to_values_and_thresholds() -> None:
    """By 2407.14435: d/dθ = -(1/ε) [|z - θ| < ε/2] (θ · gradient of the value + gradient of the gate)."""
    from suture.training.objective import jump_relu

    pre = torch.tensor([0.1, 0.45, 0.55, 2.0], dtype=torch.float64, requires_grad=True)
    threshold = torch.full((4,), 0.5, dtype=torch.float64, requires_grad=True)
    value, gate = jump_relu(pre, threshold, 0.2)
    assert value.tolist() == [0.0, 0.0, 0.55, 2.0]
    assert gate.tolist() == [0.0, 0.0, 1.0, 1.0]
    (3 * value + 7 * gate).sum().backward()
    assert pre.grad is not None
    assert threshold.grad is not None
    assert pre.grad.tolist() == [0.0, 0.0, 3.0, 3.0]
    near = -(0.5 * 3 + 7) / 0.2
    assert threshold.grad.tolist() == pytest.approx([0.0, near, near, 0.0])


def test_decoder_rows_keep_norm_one_and_never_pay_for_it_in_direction() -> None:
    state = a_state(Design(n_features=F, sparsity=Sparsity(k=K)), Objective(aux=0.0))
    before = state.dictionary.W_dec.detach().clone()
    batch = _batch(torch.randn(ROWS, 12))
    state.dictionary.float()
    state = TrainingState(state.dictionary, state.objective, state.variance.float())
    state.step(batch, k=float(K), learning_rate=1e-2, available=None)
    W = state.dictionary.W_dec
    torch.testing.assert_close(W.norm(dim=1), torch.ones(F))
    gradient = state.adam.moments["W_dec"].first  # after one step a tenth of it
    assert float((gradient * before.float()).sum(1).abs().max()) < 1e-6


def test_dedicated_features_touch_their_own_space_only_and_tied_ones_stay_tied() -> None:
    design = Design(n_features=F, dedicated=(0.25, 0.25), tied=0.25, sparsity=Sparsity(k=K))
    from suture.training.start import tie

    dictionary = Dictionary([Space(model=m, hookpoint="x", width=6) for m in "ab"], design)
    owned = dictionary.owned_columns
    assert owned is not None
    with torch.no_grad():
        dictionary.W_dec.copy_(tie(dictionary, torch.randn(F, 12)) * owned)
        dictionary.W_dec.div_(dictionary.W_dec.norm(dim=1, keepdim=True))
        dictionary.W_enc.copy_(dictionary.W_dec)
    state, before = TrainingState(dictionary, Objective(), torch.ones(2)), dictionary.W_dec.detach().clone()
    for step in range(5):
        state.step(_batch(torch.randn(ROWS, 12)), k=float(K), learning_rate=1e-2, available=None)
        if step == 0:  # what is left of a gradient after masking and tying has no part along the decoder row
            assert float((state.adam.moments["W_dec"].first * before).sum(1).abs().max()) < 1e-6
    W = dictionary.W_dec.detach()
    quarter = F // 4
    for weights in (W, dictionary.W_enc.detach()):
        assert float(weights[:quarter, 6:].abs().max()) == 0.0
        assert float(weights[quarter : 2 * quarter, :6].abs().max()) == 0.0
    torch.testing.assert_close(W[-quarter:, :6], W[-quarter:, 6:])
    assert float((W[2 * quarter : -quarter, :6] - W[2 * quarter : -quarter, 6:]).abs().max()) > 0.1


def test_locked_features_stay_in_their_space_until_they_are_free() -> None:
    spaces = [Space(model=m, hookpoint="x", width=6) for m in "ab"]
    dictionary = Dictionary(spaces, Design(n_features=F, sparsity=Sparsity(k=K)))
    locked = locked_columns(dictionary, 0.5)
    assert locked is not None
    with torch.no_grad():
        dictionary.W_dec.copy_(torch.randn(F, 12) * locked)
        dictionary.W_dec.div_(dictionary.W_dec.norm(dim=1, keepdim=True))
        dictionary.W_enc.copy_(dictionary.W_dec)
    state = TrainingState(dictionary, Objective(), torch.ones(2), lock=0.5)
    for step in range(10):
        state.step(_batch(torch.randn(ROWS, 12)), k=float(K), learning_rate=1e-2, available=None, locked=step < 5)
        quarter = F // 4
        other = torch.cat([dictionary.W_dec[:quarter, 6:], dictionary.W_dec[quarter : 2 * quarter, :6]]).detach()
        assert (float(other.abs().max()) == 0.0) == (step < 5)
        assert (float(dictionary.W_enc.detach()[:quarter, 6:].abs().max()) == 0.0) == (step < 5)


def test_a_planted_dead_feature_revives() -> None:
    """Through encoder AND decoder: it starts silent and pointing nowhere useful, and ends up explaining a direction."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(12, 12, generator=draw))[0][:6]
    dictionary = Dictionary(
        [Space(model=m, hookpoint="x", width=6) for m in "ab"], Design(n_features=6, sparsity=Sparsity(k=2))
    )
    with torch.no_grad():
        dictionary.W_dec.copy_(directions)
        dictionary.W_dec[5] = torch.nn.functional.normalize(torch.randn(12, generator=draw), dim=0)
        dictionary.W_enc.copy_(2 * dictionary.W_dec)
        dictionary.W_enc[5] *= -1.0
        dictionary.b_enc[5] = -5.0
    state = TrainingState(dictionary, Objective(dead_after=1000, k_aux=1), torch.ones(2))
    state.silent[5] = 10_000
    before = {name: p.detach()[5].clone() for name, p in dictionary.named_parameters() if name.startswith("W_")}
    for _ in range(1200):
        on = torch.nn.functional.one_hot(torch.randint(6, (32, 2), generator=draw), 6).amax(1).float()
        x = (on * (1 + torch.rand(32, 6, generator=draw))) @ directions
        state.step(_batch(x), k=2.0, learning_rate=1e-2, available=None)
    row = dictionary.W_dec.detach()[5]
    assert float(torch.nn.functional.cosine_similarity(row, directions[5], dim=0)) > 0.8
    for name, old in before.items():
        assert float((dictionary.get_parameter(name).detach()[5] - old).norm()) > 0.1, name
    assert not bool(state.dead[5])


def test_a_step_is_the_same_every_time_with_several_threads() -> None:
    """Gradients are summed in a fixed order, also where a batch has enough pairs to be split among threads."""
    draw = torch.Generator().manual_seed(0)
    spaces = [Space(model=m, hookpoint="x", width=16) for m in "ab"]
    x = torch.randn(6000, 32, generator=draw)
    threads, weights = torch.get_num_threads(), torch.randn(64, 32, generator=draw)
    try:
        torch.set_num_threads(4)
        for kind in ("topk", "jumprelu", "relu+l1"):
            ends = []
            for _ in range(3):
                dictionary = Dictionary(spaces, Design(n_features=64, sparsity=Sparsity(kind=kind, k=16)))
                with torch.no_grad():
                    dictionary.W_dec.copy_(torch.nn.functional.normalize(weights, dim=1))
                    dictionary.W_enc.copy_(dictionary.W_dec)
                    dictionary.threshold.fill_(0.5)
                state = TrainingState(dictionary, Objective(dead_after=1), torch.ones(2))
                state.silent[:8] = 10
                for _ in range(3):
                    state.step(_batch(x), k=16.0, learning_rate=1e-2, available=None)
                ends.append(state.per_feature() | state.common())
            for name, first in ends[0].items():
                assert all(torch.equal(first, other[name]) for other in ends[1:]), f"{kind}: {name}"
    finally:
        torch.set_num_threads(threads)


def test_without_auxk_the_dead_feature_stays_dead() -> None:
    """The control of the test above."""
    state = a_state(Design(n_features=F, sparsity=Sparsity(k=K)), Objective(aux=0.0, dead_after=10))
    dictionary = state.dictionary.float()
    with torch.no_grad():
        dictionary.b_enc[5] = -50.0
    state = TrainingState(dictionary, state.objective, torch.ones(2))
    row = dictionary.W_dec[5].detach().clone()
    for _ in range(20):
        state.step(_batch(torch.randn(ROWS, 12)), k=float(K), learning_rate=1e-2, available=None)
    assert bool(state.dead[5])
    torch.testing.assert_close(dictionary.W_dec[5].detach(), row)


def test_settings_are_checked() -> None:
    from suture.errors import UserError

    with pytest.raises(UserError, match="k = 40: exceeds the 24 features"):
        Design(n_features=24, sparsity=Sparsity(k=40))
    with pytest.raises(UserError, match="flag = True: means nothing for the design crosscoder"):
        Design(flag=True)
    with pytest.raises(UserError, match="pad = zeros: means nothing for the design crosscoder"):
        Design(pad="zeros")
    with pytest.raises(UserError, match="pad = zeros: means nothing for spaces of one width"):
        Design(kind="pooled", pad="zeros").check_widths([4, 4])
    with pytest.raises(UserError, match="must be shares that sum to at most 1"):
        Design(dedicated=(0.6, 0.6))
    with pytest.raises(UserError, match=r"tied = 0\.5: needs equal widths"):
        Design(tied=0.5).check_widths([4, 6])
    with pytest.raises(UserError, match="is for one space, the store has 2"):
        Design(kind="sae").check_widths([4, 4])
    with pytest.raises(UserError, match="aux = -1"):
        Objective(aux=-1.0)
    assert replace(Objective(), loss="l2norm").loss == "l2norm"


def _batch(x: Tensor) -> Batch:
    return Batch(activations=x, model=None)
