"""Training settings: everything that decides a dictionary besides the rows, and the schedules that follow from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from suture.activations.view import View
from suture.dictionary.design import Design
from suture.dictionary.kernels import Precision
from suture.dictionary.sparsity import Sparsity
from suture.errors import UserError
from suture.training.objective import Objective
from suture.training.tracking import TrackerKind


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a dictionary is trained."""

    design: Design = field(default_factory=Design)
    view: View = field(default_factory=View)
    """Which of the store's spaces; all of them by default."""
    objective: Objective = field(default_factory=Objective)
    n_rows: int = 2_000_000
    """Rows to train on in all; a store with fewer is gone over again in a new order."""
    batch_size: int = 4096
    learning_rate: float | None = None
    """Adam's at its highest; when not given, 1.25e-3 · sqrt(16384 / features): the scaling of 2406.04093, two and
    a half times as high. Measured with 1,024 features on two language models (2 x 128): FVU 0.173 against 0.184; on
    planted models (2 x 128, 1,000 concepts) three times as many of the exclusive concepts."""
    warmup: float = 0.02
    """Share of the steps over which the learning rate rises from 0."""
    decay: float = 0.3
    """Share of the steps, the last, over which it falls to 0."""
    k_start: float = 1.0
    """Training begins with `k_start` times k active features ..."""
    k_anneal: float = 0.2
    """... and comes down to k over this share of the steps."""
    model_dropout: float = 0.0
    """Chance that a row's model is masked for the encoder (never all of them); all are still reconstructed."""
    heldout: float = 0.1
    """Share of the documents kept out of training."""
    validate_every: int = 100
    """Steps between lines of metrics."""
    validation_rows: int = 4096
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    seed: int = 0
    """Of weights and masks."""
    data_seed: int | None = None
    """Of the split into held-out and training documents and of the order of the rows; `seed` when not given."""
    precision: Precision = "auto"
    """Of the one dense product; the chosen features and their values are those of float32 either way."""
    device: str = "cpu"
    track: tuple[TrackerKind, ...] = ()
    """Also send metrics to `tensorboard` or `wandb`."""

    def __post_init__(self) -> None:
        for name in ("n_rows", "batch_size", "validate_every", "validation_rows", "checkpoint_every"):
            if getattr(self, name) < 1:
                option = "rows" if name == "n_rows" else name.replace("_", "-")
                raise UserError(option, getattr(self, name), "is less than 1", "give a positive number")
        for name in ("warmup", "decay", "k_anneal", "model_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    name.replace("_", "-"), getattr(self, name), "is not a share", "give a number from 0 to 1"
                )
        if self.warmup + self.decay > 1:
            raise UserError("decay", self.decay, f"with warmup {self.warmup} exceeds all steps", "lower one of them")
        for name, seed in (("seed", self.seed), ("data-seed", self.order_seed)):
            if not 0 <= seed < 2**63:
                raise UserError(name, seed, "is not a seed", "give a number from 0 to 2^63 - 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(
                "learning-rate", self.learning_rate, "is not positive and finite", "leave it out for the default"
            )
        if not 1 <= self.k_start < math.inf:
            raise UserError(
                "k-start", self.k_start, "is below 1 or no number", "k is annealed downwards: give 1 or more"
            )
        if self.model_dropout and self.design.kind != "crosscoder":
            raise UserError(
                "model-dropout",
                self.model_dropout,
                f"means nothing for the design {self.design.kind}",
                "use it with --design crosscoder",
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
        return self.learning_rate or 1.25e-3 * math.sqrt(16384 / self.design.n_features)

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

    @staticmethod
    def from_options(options: Mapping[str, Any]) -> "TrainSettings":
        """Settings from flat names, those of the command line with underscores; what is left out has its default.

        >>> TrainSettings.from_options({"features": 512, "k": 8, "design": "sae", "loss": "l2norm"}).design.n_features
        512

        Raises:
            UserError: an unknown name, or a value that its part of the settings refuses.
        """
        given = {name.replace("-", "_"): value for name, value in options.items()}
        unknown = sorted(set(given) - set(OPTIONS))
        if unknown:
            known = ", ".join(sorted(OPTIONS)).replace("_", "-")
            raise UserError(unknown[0].replace("_", "-"), given[unknown[0]], "is no setting of train", f"use {known}")
        parts: dict[str, dict[str, Any]] = {"sparsity": {}, "design": {}, "objective": {}, "view": {}, "train": {}}
        for name, value in given.items():
            part, own_name = OPTIONS[name]
            parts[part][own_name] = _taken(name, value, get_type_hints(PARTS[part])[own_name])
        return TrainSettings(
            design=Design(**parts["design"], sparsity=Sparsity(**parts["sparsity"])),
            objective=Objective(**parts["objective"]),
            view=View(**parts["view"]),
            **parts["train"],
        )


OPTIONS: dict[str, tuple[str, str]] = {
    "design": ("design", "kind"),
    "features": ("design", "n_features"),
    "flag": ("design", "flag"),
    "pad": ("design", "pad"),
    "dedicated": ("design", "dedicated"),
    "tied": ("design", "tied"),
    "sparsity": ("sparsity", "kind"),
    "k": ("sparsity", "k"),
    **{name: ("objective", name) for name in ("loss", "l1", "l0", "aux", "k_aux", "dead_after")},
    "space": ("view", "spaces"),
    "null": ("view", "null"),
    "rotation_seed": ("view", "rotation_seed"),
    "copies": ("view", "copies"),
    "rows": ("train", "n_rows"),
    **{
        field.name: ("train", field.name)
        for field in fields(TrainSettings)
        if field.name not in ("design", "objective", "view", "n_rows")
    },
}
"""Flat name -> (part of the settings, name there)."""

FLAT_NAMES = {("" if part == "train" else part, own): flat for flat, (part, own) in OPTIONS.items()}
"""The other way round."""

PARTS = {"sparsity": Sparsity, "design": Design, "objective": Objective, "view": View, "train": TrainSettings}


def _taken(name: str, value: object, kind: Any) -> Any:
    """A setting's value, refused where it is of another kind: a file's `rows = 2e6` is no whole number."""
    try:
        return _of_kind(value, kind)
    except TypeError:
        words = _in_words(kind)
        raise UserError(name.replace("_", "-"), value, f"is not {words}", f"give {words}") from None


def _of_kind(value: Any, kind: Any) -> Any:
    """A value as its annotation wants it: a list as a tuple, a whole number as a float, a boolean as no number.

    Raises:
        TypeError: it is of another kind.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # or None
        return None if value is None else _of_kind(value, inner[0])
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_of_kind(v, inner[0]) for v in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind or (origin is Literal and value in inner):
        return value
    raise TypeError


def _in_words(kind: Any) -> str:
    """What a kind of value is called, in a message.

    >>> _in_words(int | None), _in_words(tuple[float, ...])
    ('a whole number', 'a list, each a number')
    """
    if get_origin(kind) in (Union, UnionType):
        return _in_words(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return f"a list, each {_in_words(get_args(kind)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}[kind]
