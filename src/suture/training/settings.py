"""Training settings: everything that decides a dictionary besides the rows, and the schedules that follow from it."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from suture.activations.settings import View
from suture.dictionary.design import Design, Precision
from suture.errors import UserError
from suture.pipeline.settings import Count, Limits, Option, Positive, Seed, Share, Weight, check

LossKind = Literal["joint", "per_model", "l2norm"]
TrackerKind = Literal["tensorboard", "wandb"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised."""

    loss: LossKind = "joint"
    """One squared L2 over the concatenation IS the sum of the models' squared L2s; per_model divides each by its own
    variance, l2norm leaves norms unsquared."""
    l1: Weight = 0.1
    """Weight of relu+l1's penalty, sum_i f_i sum_m ||d_i^m|| over the square root of the rows' variance (gated: of its
    gates'): a feature is worth its price where it lowers the loss by more."""
    l0: Weight = 5e-3
    """Weight of jumprelu's penalty, the number of active features: the share of variance one must explain."""
    cross: Annotated[float, Limits(-1, 1)] = 0.0
    """crosscoder of models of one width, joint loss: weight of the errors' inner product, 2 cross <e_A, e_B>, in the
    loss. Below 0 what the models have in common costs less than what tells them apart: for a model and its fine-tune,
    -0.9 makes exclusive features easier to find and the reconstruction worse; at -1 neither model is reconstructed."""
    aux: Weight = 1 / 32
    """Weight of AuxK, the loss that revives dead features (2406.04093); 0 for none."""
    k_aux: Count | None = None
    """Dead features that share out the error of one row; half the width where it is not given."""
    dead_after: Count = 20_000
    """Rows of silence after which a feature is dead."""

    def __post_init__(self) -> None:
        check(self)
        if self.cross and self.loss != "joint":
            raise UserError("cross", self.cross, f"is a part of the joint loss, not of {self.loss}", "use --loss joint")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a dictionary is trained."""

    design: Design = field(default_factory=Design)
    view: View = field(default_factory=View)
    objective: Objective = field(default_factory=Objective)
    n_rows: Annotated[Count, Option("rows")] = 2_000_000
    """Rows to train on in all; a store with fewer is gone over again in a new order."""
    batch_size: Count = 1024
    """Rows per step."""
    # Of equal rows, small batches make more of them: on two language models (2 x 128), 600,000 rows, batches of 1,024
    # found 21 of 32 known exclusive features, those of 4,096 found 14.
    learning_rate: Annotated[Positive | None, Option(also=("lr",))] = None
    """Adam's at its highest; where it is not given, 2.5e-3 · sqrt(16384 / features · batch size / 1024)."""
    # The scaling of 2406.04093 with the features, five times as high. Measured with 1,024 features on two language
    # models (2 x 128), batches of 1,024: rates of .005, .01, .02 leave FVU .171, .159, .161 and find 21, 24, 24 of 32
    # known exclusive features; batches of 4,096: .203, .193, .178.
    warmup: Share = 0.02
    """Share of the steps, the first, with a rising learning rate."""
    decay: Share = 0.3
    """Share of the steps, the last, with a falling learning rate."""
    k_start: Annotated[
        float, Limits(1, problem="is below 1 or no number", fix="k is annealed downwards: give 1 or more")
    ] = 2.0
    """Begin with so many times k active features."""
    # 1 is a little better on short runs on language models (FVU .159 against .163 and .173 with 4), 4 where planted
    # concepts are many for the features (exclusive ones found .80 against .78 with 2).
    k_anneal: Share = 0.7
    """Share of the steps to come down to k."""
    lock: Annotated[float, Limits(0, below=1, problem="is not a share", fix="give a number from 0 to below 1")] = 0.0
    """crosscoder: share of the features, as many for each model, that begin in one model alone and are held there for
    half of the steps; then they are free. A prior: that many exclusive features are worth a try."""
    # Where features are fewer than concepts, which are found is a matter of allocation: planted exclusives are half of
    # an even one in the loss, and come last.
    model_dropout: Share = 0.0
    """crosscoder: chance that a row's model is hidden from the encoder (never all of them); all are reconstructed."""
    heldout: Annotated[float, Limits(0, below=1, problem="is not a share", fix="give a number from 0 to below 1")] = 0.1
    """Share of the documents kept out of training."""
    validate_every: Count = 100
    """Steps between lines of metrics."""
    validation_rows: Count = 4096
    """Held-out rows behind each line of metrics."""
    checkpoint_every: Count = 1000
    """Steps between checkpoints."""
    seed: Seed = 0
    """Of weights, split, order and masks."""
    data_seed: Seed | None = None
    """Of split and order where it is to be another; dictionaries with one data seed see the same batches."""
    precision: Precision = "auto"
    """Of the one dense product; the chosen features and their values are those of float32 either way."""
    device: str = "cpu"
    """cpu, cuda, cuda:N, mps, or auto: CUDA where there is one."""
    track: tuple[TrackerKind, ...] = ()
    """Also send metrics there."""

    def __post_init__(self) -> None:
        check(self)
        if self.warmup + self.decay > 1:
            raise UserError("decay", self.decay, f"with warmup {self.warmup} exceeds all steps", "lower one of them")
        for name, value in (
            ("model-dropout", self.model_dropout),
            ("lock", self.lock),
            ("cross", self.objective.cross),
        ):
            if value and self.design.kind != "crosscoder":
                problem = f"means nothing for the design {self.design.kind}"
                raise UserError(name, value, problem, "use it with --design crosscoder")
        if self.lock and (self.design.dedicated or self.design.tied):
            problem = "cannot go with features that are dedicated or tied for good"
            raise UserError("lock", self.lock, problem, "leave one of them out")

    def of_one_space(self, *, least_heldout: float) -> "TrainSettings":
        """The same recipe for one of several dictionaries of a single space, that keep back the same documents."""
        return replace(
            self,
            design=replace(self.design, kind="sae", flag=False, pad="native", dedicated=(), tied=0.0),
            objective=replace(self.objective, cross=0.0),
            model_dropout=0.0,
            lock=0.0,
            heldout=max(self.heldout, least_heldout),
            data_seed=self.order_seed,
        )

    @property
    def order_seed(self) -> int:
        """What decides which rows come when."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def n_steps(self) -> int:
        return max(1, self.n_rows // self.batch_size)

    @property
    def top_learning_rate(self) -> float:
        return self.learning_rate or 2.5e-3 * math.sqrt(16384 / self.design.n_features * self.batch_size / 1024)

    @property
    def finishing_step(self) -> int:
        """The step with which the learning rate begins to fall, and topk+batchtopk becomes batchtopk."""
        return self.n_steps - int(self.decay * self.n_steps)

    def is_locked_at(self, step: int) -> bool:
        """Whether the features of `lock` are still held in one model."""
        return self.lock > 0 and 2 * step < self.n_steps

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, constant, linear decay to zero."""
        rising = (step + 1) / max(1.0, self.warmup * self.n_steps)
        falling = (self.n_steps - step) / max(1.0, self.decay * self.n_steps)
        return self.top_learning_rate * min(1.0, rising, falling)

    def k_at(self, step: int) -> float:
        """k, annealed downwards in the beginning."""
        left = max(0.0, 1.0 - step / max(1.0, self.k_anneal * self.n_steps))
        k = self.design.sparsity.k * (1.0 + (self.k_start - 1.0) * left)
        return min(k, float(self.design.n_features))
