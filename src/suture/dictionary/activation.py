"""What keeps codes sparse: settings, choices, values, penalty and thresholds of each kind in one record, only there.

| kind       | active in training                    | active in use    | value               | kept few by           |
|------------|---------------------------------------|------------------|---------------------|-----------------------|
| `topk`     | the k largest of a row                | the same         | ReLU                | k                     |
| `batchtopk`| the n·k largest scores of a batch     | above a cut-off  | ReLU                | k (2412.06410)        |
| `relu+l1`  | above zero                            | the same         | ReLU                | l1 · norm of decoder  |
| `jumprelu` | above a learned threshold, or near it | above it         | the pre-activation  | l0 (2407.14435)       |
| `gated`    | where the gate is open                | the same         | a magnitude         | l1 of the gate        |

`topk+batchtopk`, the default, is `topk` until the learning rate falls, then `batchtopk`, and is kept as that.

Gated (2404.16014): the gate <x, e_i> + b_i says whether, exp(g_i) <x, e_i> + m_i how much. The gate has no gradient of
its own, so it learns by its price and by reconstructing the rows through a decoder that is held constant.

A new kind is one more record here. The command line reads the settings below without torch, so none is imported:
tensors come in as arguments, and what is more than arithmetic on them is asked of `Chunks` and `Learning`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

from suture.pipeline.settings import Count, Option, Positive, check

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from suture.dictionary.dictionary import Dictionary
    from suture.dictionary.kernels.select import Chunks, Selection
else:
    # settings are read by --help, which is to load neither torch nor numpy; shapes are for readers and checkers here
    Tensor = Dictionary = Chunks = Selection = Any
    Float = Annotated

SparsityKind = Literal["topk+batchtopk", "topk", "batchtopk", "relu+l1", "jumprelu", "gated"]
Score = Literal["value", "norm"]
Own = Mapping[str, Tensor]
"""The weights that only one kind has, a number per feature, by name."""


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """What keeps codes sparse."""

    kind: Annotated[SparsityKind, Option("sparsity")] = "topk+batchtopk"
    """What keeps codes sparse; topk+batchtopk is trained by topk, then by batchtopk while the learning rate falls, and
    becomes a batchtopk dictionary."""
    k: Count = 32
    """Active features of a row (topk) or of the average row (batchtopk); unused by the others."""
    score: Score = "value"
    """What batchtopk ranks the values of a batch by: themselves, or times the feature's decoder norms summed over
    models, which puts features of one model at a disadvantage."""
    bandwidth: Positive = 0.5
    """Width of the window around a jumprelu threshold through which its gradient flows, in units of pre-activation."""
    initial_threshold: Positive = 0.5
    """Where jumprelu thresholds start, in units of pre-activation."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def activation(self) -> "Activation":
        """The kind's record."""
        return ACTIVATIONS[self.kind]

    @property
    def finished(self) -> "Sparsity":
        """What it is once the learning rate falls."""
        then = self.activation.then
        return self if then is None else replace(self, kind=then)

    @property
    def selects_k(self) -> bool:
        """Whether k decides how many features are active."""
        return self.activation.selects_k

    @property
    def ranks(self) -> bool:
        """Whether in use a row's k largest values are active, not those above a threshold."""
        return self.selects_k and self.activation.thresholds is None


@runtime_checkable
class Learning(Protocol):
    """The active pairs of a training step, as a kind sees them."""

    @property
    def own(self) -> Own:
        """The kind's own weights."""
        ...

    @property
    def linear(self) -> Float[Tensor, "active"]:
        """<x, e_i> at each pair, with gradient."""
        ...

    @property
    def pre(self) -> Float[Tensor, "active"]:
        """The same with the encoder's bias."""
        ...

    def per_feature(self, vector: Float[Tensor, "feature"]) -> Float[Tensor, "active"]:
        """A number of each feature at the pairs, with gradient."""
        ...

    def jump(self, threshold: Float[Tensor, "active"]) -> tuple[Float[Tensor, "active"], Float[Tensor, "active"]]:
        """(pre where it is above the threshold, 1 there), with a gradient for the threshold within the bandwidth."""
        ...

    def priced(self, amount: Float[Tensor, "active"], *, by_norm: bool) -> Float[Tensor, ""]:
        """l1 times the mean over rows of the amounts, each times sum_m ||d_i^m|| if `by_norm`."""
        ...

    def counted(self, amount: Float[Tensor, "active"]) -> Float[Tensor, ""]:
        """l0 times the mean over rows of the amounts."""
        ...

    def rebuilt(self, amount: Float[Tensor, "active"]) -> Float[Tensor, ""]:
        """The reconstruction's loss with the amounts for values and the decoder held constant."""
        ...


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A kind of sparsity: everything in which it differs from the others."""

    choose: Callable[[Chunks, Dictionary, Own, float], Selection]
    """What a training step looks at, where k (annealed) are wanted."""
    learn: Callable[[Learning], tuple[Tensor, dict[str, Tensor]]]
    """Values at the pairs chosen, and the loss's terms beside the reconstruction, by name."""
    use: Callable[[Chunks, Dictionary], Selection]
    """What `encode` returns, but for values of zero or less."""
    selects_k: bool = False
    """Whether k decides how many features are active."""
    then: SparsityKind | None = None
    """What it becomes once the learning rate falls."""
    free_norms: bool = False
    """Whether decoder rows are as long as they pay for, and not of norm 1."""
    start_norm: float = 1.0
    """Of decoder rows before the first step."""
    price: Literal["l1", "l0"] | None = None
    """The objective's weight that keeps features few, where no k does."""
    weights: tuple[str, ...] = ()
    """Names of its own weights, kept with the dictionary; they start at 0."""
    start_threshold: Callable[[Sparsity], float] = lambda _: 0.0
    learned: Mapping[str, Callable[[Dictionary], Tensor]] = field(default_factory=dict)
    """Names of own weights that only training needs, and how they start."""
    thresholds: Callable[[Dictionary, Own, float], Tensor] | None = None
    """What `encode` compares pre-activations with, from a training's own weights and the running cut-off."""

    shifted: Callable[[Own, Tensor], Mapping[str, Tensor]] = lambda own, _: own
    """Its own weights where <x, e_i> has become smaller by so much (as with another centre) and b_i larger."""
    stretched: Callable[[Own, Tensor], Mapping[str, Tensor]] = lambda own, _: own
    """Its own weights where <x, e_i>, b_i and the threshold have become so many times as large, and the values with
    them."""
    valued: Callable[[Dictionary], tuple[Tensor, Tensor]] = lambda dictionary: (
        dictionary.threshold * 0 + 1,
        dictionary.threshold * 0,
    )
    """(gain, offset) of each feature: where it is active, its value is ReLU(gain · pre-activation + offset)."""
    floor: Callable[[Dictionary], Tensor] = lambda dictionary: dictionary.threshold * 0
    """The pre-activations above which values are positive, whatever the thresholds."""
    shrinks: bool = False
    """Whether its price falls on the values, so that they come out too small."""

    @property
    def n_own(self) -> int:
        """Numbers that are trained per feature beside the encoder, its bias and the decoder."""
        return len(self.weights) + len(self.learned)


# --- shared by several kinds ------------------------------------------------------------------------------------------


def _above_threshold(chunks: Chunks, dictionary: Dictionary) -> Selection:
    return chunks.above(dictionary.threshold)


def _choose_above_zero(chunks: Chunks, dictionary: Dictionary, own: Own, k: float) -> Selection:  # noqa: ARG001
    return chunks.above(dictionary.threshold * 0)


def _relu(at: Learning) -> tuple[Tensor, dict[str, Tensor]]:
    return at.pre.relu(), {}


# --- topk -------------------------------------------------------------------------------------------------------------

TOPK = Activation(
    choose=lambda chunks, _dictionary, _own, k: chunks.top_k(round(k)),
    learn=_relu,
    use=lambda chunks, dictionary: chunks.top_k(dictionary.sparsity.k),
    selects_k=True,
)

# --- topk, then batchtopk ---------------------------------------------------------------------------------------------

# Top-k per row wastes variance on rows that hold more concepts than k, or fewer: planted rows hold 5 ± 2, and the TRUE
# dictionary under top-5 leaves 15 % unexplained. BatchTopK from the start loses concepts before it has found them.
TOPK_BATCHTOPK = replace(TOPK, then="batchtopk")

# --- batchtopk --------------------------------------------------------------------------------------------------------


def _batch_cutoff(dictionary: Dictionary, own: Own, cutoff: float) -> Tensor:  # noqa: ARG001
    """The smallest score kept, as a pre-activation of each feature."""
    return cutoff / _score_weight(dictionary)


def _score_weight(dictionary: Dictionary) -> Tensor:
    """What multiplies pre-activations before they are ranked."""
    norms = dictionary.decoder_norms().sum(-1).clamp_min(1e-12)
    return norms if dictionary.sparsity.score == "norm" else norms.new_ones(norms.shape)


BATCHTOPK = Activation(
    choose=lambda chunks, dictionary, _own, k: chunks.top_of_batch(k, _score_weight(dictionary)),
    learn=_relu,
    use=_above_threshold,
    selects_k=True,
    thresholds=_batch_cutoff,
)

# --- relu+l1 ----------------------------------------------------------------------------------------------------------


def _pay_for_norms(at: Learning) -> tuple[Tensor, dict[str, Tensor]]:
    values = at.pre.relu()
    return values, {"l1": at.priced(values, by_norm=True)}


RELU_L1 = Activation(
    choose=_choose_above_zero,
    learn=_pay_for_norms,
    use=_above_threshold,
    free_norms=True,
    start_norm=0.1,
    price="l1",
    shrinks=True,
)

# --- jumprelu ---------------------------------------------------------------------------------------------------------


def _choose_near_threshold(chunks: Chunks, dictionary: Dictionary, own: Own, k: float) -> Selection:  # noqa: ARG001
    """Also the pairs just below, through which the threshold's gradient flows."""
    return chunks.above(own["log_threshold"].detach().exp() - dictionary.sparsity.bandwidth / 2)


def _jump(at: Learning) -> tuple[Tensor, dict[str, Tensor]]:
    values, gates = at.jump(at.per_feature(at.own["log_threshold"].exp()))
    return values, {"l0": at.counted(gates)}


JUMPRELU = Activation(
    choose=_choose_near_threshold,
    learn=_jump,
    use=_above_threshold,
    price="l0",
    start_threshold=lambda sparsity: sparsity.initial_threshold,
    learned={"log_threshold": lambda dictionary: dictionary.threshold.log()},
    thresholds=lambda _dictionary, own, _cutoff: own["log_threshold"].exp(),
)

# --- gated ------------------------------------------------------------------------------------------------------------


def _magnitudes(at: Learning) -> tuple[Tensor, dict[str, Tensor]]:
    gain, offset = (at.per_feature(vector) for vector in (at.own["log_gain"].exp(), at.own["magnitude_bias"]))
    gate = at.pre.relu()
    return (gain * at.linear + offset).relu(), {"l1": at.priced(gate, by_norm=False), "gate": at.rebuilt(gate)}


def _use_magnitudes(chunks: Chunks, dictionary: Dictionary) -> Selection:
    open_gates = chunks.above(dictionary.threshold)
    feature, own = open_gates.pattern.feature, dictionary.own_weights
    linear = open_gates.pre - dictionary.b_enc.detach()[feature]
    value = own["log_gain"].detach().exp()[feature] * linear + own["magnitude_bias"].detach()[feature]
    return open_gates.valued(value)


GATED = Activation(
    choose=_choose_above_zero,
    learn=_magnitudes,
    use=_use_magnitudes,
    price="l1",
    weights=("log_gain", "magnitude_bias"),
    shifted=lambda own, by: {**own, "magnitude_bias": own["magnitude_bias"] + own["log_gain"].exp() * by},
    stretched=lambda own, by: {**own, "magnitude_bias": own["magnitude_bias"] * by},
    valued=lambda dictionary: (
        dictionary.own_weights["log_gain"].detach().exp(),
        dictionary.own_weights["magnitude_bias"].detach()
        - dictionary.own_weights["log_gain"].detach().exp() * dictionary.b_enc.detach(),
    ),
    floor=lambda dictionary: (
        dictionary.b_enc.detach()
        - dictionary.own_weights["magnitude_bias"].detach() * (-dictionary.own_weights["log_gain"].detach()).exp()
    ),
)

ACTIVATIONS: Mapping[SparsityKind, Activation] = {
    "topk+batchtopk": TOPK_BATCHTOPK,
    "topk": TOPK,
    "batchtopk": BATCHTOPK,
    "relu+l1": RELU_L1,
    "jumprelu": JUMPRELU,
    "gated": GATED,
}


def common_kind(kinds: Iterable[SparsityKind]) -> SparsityKind:
    """The kind that dictionaries of all these kinds can be written as: a threshold of each feature's own, or a gate."""
    known = set(kinds)
    if len(known) == 1:
        return known.pop()
    return "gated" if "gated" in known else "jumprelu"
