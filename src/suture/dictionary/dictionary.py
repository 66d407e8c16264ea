"""The one dictionary class: encoder and decoder over a tuple of spaces laid side by side (or stacked along the batch).

| design       | a row is                              | code                                   | reconstructs |
|--------------|---------------------------------------|----------------------------------------|--------------|
| `sae`        | x of one space                        | sparsity(x E + b)                      | itself       |
| `crosscoder` | (x_1 .. x_M) at one text position     | sparsity(mean_m x_m E_m + b)           | every space  |
| `universal`  | as crosscoder, one x_m at a time      | the same, with one m available         | every space  |
| `pooled`     | one space's x_m, narrower ones padded | sparsity(x E + b), may be told which m | that row     |

Activations enter in scaled units (x · s_m, so that rows centred on their mean have a mean squared norm of the width)
and have `center` subtracted before encoding. Where a crosscoder is given some models only, the others are imputed
(`imputation`), or left out of the mean, which then stands for an average activation, not for zero (`missing="zero"`).
The scales stay beside the weights until `fold`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from suture.activations.space import Space, spaces_from_json
from suture.dictionary.activation import Sparsity
from suture.dictionary.clipping import Clipping
from suture.dictionary.codes import Codes
from suture.dictionary.design import Design, Missing, Precision
from suture.dictionary.imputation import Imputation
from suture.dictionary.kernels import select, sparse
from suture.dictionary.kernels.select import Buffers, Chunks
from suture.errors import ArtifactError, UserError
from suture.parallel import ALONE, Grid
from suture.pipeline import artifact

STAGE = "dictionary"
WEIGHTS, DESCRIPTION = "dictionary.safetensors", "dictionary.json"
MOMENTS = "moments.safetensors"
CLIPPING = "clipping.safetensors"
EVALUATION = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a dictionary's folder says of it, without its weights."""

    spaces: tuple[Space, ...]
    design: Design
    flag_scale: float

    def __str__(self) -> str:
        places = " x ".join(space.label for space in self.spaces)
        return f"{self.design.kind} of {self.design.n_features:,} features over {places}"

    @staticmethod
    def load(folder: Path) -> "Description":
        """Read it from a dictionary's folder.

        Raises:
            ArtifactError: it is not there, or is something else.
        """
        try:
            raw = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            design = raw["design"]
            before = {"score": "norm"}  # the only one there was when none was written down
            sparsity = Sparsity(**{**before, **design["sparsity"]})
            parts = {"dedicated": tuple(design["dedicated"]), "sparsity": sparsity}
            spaces = spaces_from_json(raw["spaces"])
            return Description(spaces=spaces, design=Design(**{**design, **parts}), flag_scale=raw["flag_scale"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError("dictionary", folder, f"cannot be read ({error})", "train or export it again") from None


class Dictionary(nn.Module):
    """Features over spaces: `encode` rows to sparse `Codes`, `decode` them back.

    Weights, with D the sum of the widths (`pooled`: the largest) and D_in the same (plus one per space with a flag):
    W_enc [feature, D_in], W_dec [feature, D] (a decoder row is a feature's direction), b_enc [feature], b_dec [D],
    center [D], threshold [feature], and what a kind of sparsity adds (`own_weights`).
    """

    center: Tensor
    threshold: Tensor

    def __init__(self, spaces: Sequence[Space], design: Design, *, flag_scale: float = 0.0, grid: Grid = ALONE) -> None:
        """All weights zero; `suture.training.train` starts them, `load` reads them.

        Args:
            spaces: what is read and written, in order.
            design: the whole dictionary's, also where `grid` splits its features over ranks.
            flag_scale: what stands in the flag's column of a row's own space.
            grid: this process's place. Split features are encoded and decoded by all ranks together: each gets the
                codes of its own features and whole decoded rows.

        Raises:
            UserError: spaces that the design cannot have.
        """
        super().__init__()
        design.check_widths([space.width for space in spaces])
        self.spaces: tuple[Space, ...] = tuple(spaces)
        self.design = design
        self.flag_scale = flag_scale
        self.precision: Literal["float32", "bfloat16"] = "float32"
        self.imputation: Imputation | None = None
        """From which a crosscoder's missing models are imputed; None until it is trained, or where none was kept."""
        self.clipping: Clipping = Clipping.none(len(spaces))
        self.path: Path | None = None
        """The folder it was loaded from."""
        self.fvu: tuple[float, ...] = ()
        """Per space what it left unexplained when it was trained, where that is known."""
        self.grid = grid
        self.own: slice = grid.features.share(design.n_features)
        F, D = self.own.stop - self.own.start, self.width
        self.W_enc: nn.Parameter = nn.Parameter(torch.zeros(F, D + (len(spaces) if design.flag else 0)))
        self.W_dec: nn.Parameter = nn.Parameter(torch.zeros(F, D))
        self.b_enc: nn.Parameter = nn.Parameter(torch.zeros(F))
        self.b_dec: nn.Parameter = nn.Parameter(torch.zeros(D))
        for name in design.sparsity.activation.weights:
            self.register_parameter(name, nn.Parameter(torch.zeros(F)))
        self.register_buffer("center", torch.zeros(D))
        self.register_buffer("threshold", torch.zeros(F))

    def __repr__(self) -> str:
        design, sparsity = self.design, self.sparsity
        places = ", ".join(f"{space.label} ({space.width})" for space in self.spaces)
        k = f" with k = {sparsity.k}" if sparsity.selects_k else ""
        what = f"{design.kind} of {design.n_features:,} features over {places}; {sparsity.kind}{k}"
        where = "not saved" if self.path is None else str(self.path)
        fvu = f"; FVU {', '.join(f'{v:.3f}' for v in self.fvu)}" if self.fvu else ""
        return f"Dictionary: {what}\n  {where}{fvu}"

    @property
    def n_features(self) -> int:
        """Of the whole dictionary; this rank holds those numbered `own`."""
        return self.design.n_features

    @property
    def n_spaces(self) -> int:
        return len(self.spaces)

    @property
    def sparsity(self) -> Sparsity:
        return self.design.sparsity

    @property
    def own_weights(self) -> dict[str, Tensor]:
        """What only its kind of sparsity has, a number per feature, by name."""
        return {name: self.get_parameter(name) for name in self.sparsity.activation.weights}

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(s.width for s in self.spaces)

    @property
    def width(self) -> int:
        """D: columns of a row."""
        return sum(self.widths) if self.design.joint else max(self.widths)

    @property
    def masks_padding(self) -> bool:
        """Whether a row of a narrower space ends where its space does; otherwise zeros beyond it are data."""
        return not self.design.joint and self.design.pad == "native" and len(set(self.widths)) > 1

    @property
    def missing(self) -> Missing:
        """What stands in for a missing model unless told otherwise.

        Only a crosscoder's code is of all models at once; one without second moments (made by an older suture, or
        imported) can but leave the missing ones out.
        """
        return "zero" if self.imputation is None or self.design.kind != "crosscoder" else "impute"

    @property
    def cuts(self) -> tuple[int, ...]:
        """How a row's columns split: by space, or not at all when pooled."""
        return self.widths if self.design.joint else (self.width,)

    def columns(self, space: int) -> slice:
        """The columns of a space in a row."""
        start = sum(self.widths[:space]) if self.design.joint else 0
        return slice(start, start + self.widths[space])

    def decoder(self, space: int) -> Float[Tensor, "feature width"]:
        """Every feature's direction in a space, in scaled units."""
        return self.W_dec.detach()[:, self.columns(space)]

    def raw_decoder(self, space: int) -> Float[Tensor, "feature width"]:
        """Every feature's direction in a space, in the model's own units."""
        return self.decoder(space) / self.spaces[space].scale

    def decoder_norms(self) -> Float[Tensor, "feature space"]:
        """||d_i^m|| in scaled units; `pooled` has one norm for all spaces."""
        return torch.stack([part.norm(dim=-1) for part in self.W_dec.detach().split(self.cuts, dim=-1)], dim=-1)

    # --- encode, decode -------------------------------------------------------------------------------------------

    def encoder_input(
        self,
        x: Float[Tensor, "row D"],
        *,
        available: Bool[Tensor, "row space"] | Bool[Tensor, "space"] | None = None,
        model: Int[Tensor, "row"] | None = None,
    ) -> Float[Tensor, "row D_in"]:
        """What meets W_enc: centred, the mean over available spaces taken, a pooled row's padding and flag added."""
        if self.design.joint:
            centered = x - self.center
            if available is None:
                return centered if self.n_spaces == 1 else centered.div_(self.n_spaces)
            share = self._share(available, x)
            return torch.where(share > 0, centered * share, 0.0)  # a missing model's columns may hold anything
        centered = x - self.center
        if model is not None and self.masks_padding:
            column = torch.arange(self.width, device=x.device)
            centered = centered * (column < torch.tensor(self.widths, device=x.device)[model.long()].unsqueeze(1))
        if not self.design.flag:
            return centered
        if model is None:
            raise UserError(
                "model", None, "is needed by a pooled dictionary with a flag", "say which space each row is"
            )
        flags = torch.nn.functional.one_hot(model.long(), self.n_spaces).to(x.dtype)
        return torch.cat([centered, flags * self.flag_scale], dim=-1)

    def _share(self, available: Tensor, x: Tensor) -> Tensor:
        """1 / n_available for the columns of an available space, else 0: [D] or [row, D]."""
        counts = available.sum(-1, keepdim=True)
        if bool((counts == 0).any()):
            raise UserError("available", "none", "a row needs one model at least", "name an available model")
        widths = torch.tensor(self.widths, device=x.device)
        return (available.to(x.dtype) / counts).repeat_interleave(widths, dim=-1, output_size=self.width)

    def chunks(self, encoder_input: Float[Tensor, "row D_in"], buffers: Buffers | None = None) -> Chunks:
        """The pre-activations, a chunk of rows at a time."""
        return Chunks(encoder_input, self.W_enc.detach(), self.b_enc.detach(), self.precision, buffers, self.grid)

    @torch.no_grad()
    def encode(
        self,
        x: Float[Tensor, "row D"],
        *,
        available: Bool[Tensor, "row space"] | Bool[Tensor, "space"] | None = None,
        model: Int[Tensor, "row"] | None = None,
        missing: Missing | None = None,
    ) -> Codes:
        """Codes of rows in scaled units.

        Args:
            x: spaces side by side (`pooled`: one space's rows, padded with zeros).
            available: which spaces the code may come from; all by default. Columns of others are not read.
            model: `pooled`: the space of each row.
            missing: what stands in for the spaces that are not available: `impute`, their rows as the available ones'
                predict them, or `zero`, nothing. `self.missing` when not given.

        Raises:
            UserError: a row without any available space; a flag without `model`; nothing to impute from.
        """
        if available is not None and (missing or self.missing) == "impute":
            x, available = self.imputed(x, available), None
        chunks = self.chunks(self.encoder_input(x, available=available, model=model))
        selection = self.sparsity.activation.use(chunks, self)
        codes = Codes(selection.pattern, selection.pre)
        positive = codes.value > 0
        return codes if bool(positive.all()) else codes.kept(positive)

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "row D"]:
        """The rows that the codes stand for, in scaled units."""
        own = sparse.decode(codes.value, self.W_dec, codes.pattern)
        return self.grid.features.add_up(own) + self.b_dec

    def imputed(
        self, x: Float[Tensor, "row D"], available: Bool[Tensor, "row space"] | Bool[Tensor, "space"]
    ) -> Float[Tensor, "row D"]:
        """Rows in scaled units with the columns of spaces that are not available as the available ones predict them.

        Raises:
            UserError: a row without any available space; a dictionary without second moments.
        """
        if self.imputation is None:
            problem = "needs the second moments of the training rows, which this dictionary does not have"
            raise UserError("missing", "impute", problem, 'use "zero", or train it again')
        self._share(available, x)
        return self.imputation.fill(x, available)

    def encode_alone(self, x: Float[Tensor, "row D_all"], space: int, *, missing: Missing | None = None) -> Codes:
        """Codes from one space alone, of rows that hold every space side by side in scaled units (any design).

        `missing` as in `encode`.
        """
        if self.design.joint:
            only = torch.arange(self.n_spaces, device=x.device) == space
            return self.encode(x, available=only if self.n_spaces > 1 else None, missing=missing)
        return self.encode(self.padded(x, space), model=torch.full((x.shape[0],), space, device=x.device))

    def padded(self, x: Float[Tensor, "row D_all"], space: int) -> Float[Tensor, "row D"]:
        """One space's columns out of rows that hold every space, as a pooled dictionary reads them."""
        own = x.split(self.widths, dim=-1)[space]
        return torch.nn.functional.pad(own, (0, self.width - own.shape[1]))

    def per_space(self, decoded: Float[Tensor, "row D"]) -> list[Float[Tensor, "row _"]]:
        """Decoded rows cut into spaces (`pooled`: the same numbers read in each space's width)."""
        return [decoded[:, self.columns(m)] for m in range(self.n_spaces)]

    def scaled(self, activations: Sequence[Float[Tensor, "row _"]]) -> Float[Tensor, "row D_all"]:
        """Every space's activations, in its model's own units, side by side in scaled units, where the weights are."""
        pairs = zip(activations, range(self.n_spaces), strict=True)
        return torch.cat([self._read(values.to(self.W_dec.device), m) for values, m in pairs], dim=-1)

    def _read(self, raw: Float[Tensor, "row width"], space: int) -> Float[Tensor, "row width"]:
        """One space's activations in scaled units, outlier rows drawn in as training drew them in (`clipping`)."""
        return self.clipping.rows(raw, space) * self.spaces[space].scale

    def encode_raw(
        self, activations: Sequence[Float[Tensor, "row _"] | None], *, missing: Missing | None = None
    ) -> Codes:
        """Codes of activations in the models' own units; None stands for a missing model, `missing` as in `encode`.

        Raises:
            UserError: not one entry per space; a pooled dictionary given several models' rows at once.
        """
        if len(activations) != self.n_spaces:
            raise UserError(
                "activations",
                len(activations),
                f"the dictionary has {self.n_spaces} spaces",
                "give one entry each, None if missing",
            )
        present = [m for m, a in enumerate(activations) if a is not None]
        if not present or (not self.design.joint and len(present) > 1):
            raise UserError(
                "activations", present, "a row needs one model (pooled: just one)", "encode the models in turn"
            )
        first = activations[present[0]]
        assert first is not None
        if not self.design.joint:
            x = first.new_zeros(first.shape[0], self.width)
            x[:, self.columns(present[0])] = self._read(first, present[0])
            return self.encode(x, model=torch.full((x.shape[0],), present[0], device=x.device))
        parts = [
            first.new_zeros(first.shape[0], self.widths[m]) if a is None else self._read(a, m)
            for m, a in enumerate(activations)
        ]
        available = torch.tensor([a is not None for a in activations], device=first.device)
        everyone = len(present) == self.n_spaces
        return self.encode(torch.cat(parts, dim=-1), available=None if everyone else available, missing=missing)

    def decode_raw(self, codes: Codes) -> list[Float[Tensor, "row _"]]:
        """The activations of every space, in the models' own units, that the codes stand for."""
        per_space = self.per_space(self.decode(codes))
        return [x / s.scale for x, s in zip(per_space, self.spaces, strict=True)]

    # --- scales ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fold(self) -> "Dictionary":
        """The same dictionary for raw activations: scales moved into the weights, outputs in the models' own units.

        Raises:
            UserError: a pooled dictionary over spaces of different scales, whose one decoder cannot hold both.
        """
        return self.with_scales([1.0] * self.n_spaces, setting="fold")

    @torch.no_grad()
    def with_scales(self, scales: Sequence[float], *, setting: str = "scales") -> "Dictionary":
        """The same dictionary for rows in other units: codes of the same activations stay what they were.

        Args:
            scales: of every space, what activations are to be multiplied by before they enter.
            setting: what an error is to name.

        Raises:
            UserError: a pooled dictionary over spaces whose units change differently, whose one decoder cannot hold
                both.
        """
        factors = [new / space.scale for space, new in zip(self.spaces, scales, strict=True)]
        if not self.design.joint and len(set(factors)) > 1:
            raise UserError(
                setting,
                sorted({space.scale for space in self.spaces}),
                "a pooled dictionary has one decoder for several scales",
                "keep the scales beside it",
            )
        spaces = [replace(space, scale=new) for space, new in zip(self.spaces, scales, strict=True)]
        made = Dictionary(spaces, self.design, flag_scale=self.flag_scale)
        made.load_state_dict(self.state_dict())
        cuts = zip(self.widths, factors, strict=True) if self.design.joint else [(self.width, factors[0])]
        per_column = torch.cat([torch.full((width,), factor) for width, factor in cuts]).to(self.center)
        made.W_enc[:, : self.width].div_(per_column)
        made.W_dec.mul_(per_column)
        made.b_dec.mul_(per_column)
        made.center.mul_(per_column)
        made.imputation = None if self.imputation is None else self.imputation.rescaled(per_column)
        made.clipping = self.clipping  # raw units
        return made

    @property
    def owned_columns(self) -> Bool[Tensor, "feature D"] | None:
        """Which decoder (and encoder) entries each own feature may use; None where every feature may use all.

        The first features belong to the first space, and so on by `dedicated`; the rest belong to all.
        """
        return self.columns_by_share(self.design.dedicated)

    def columns_by_share(self, shares: Sequence[float]) -> Bool[Tensor, "feature D"] | None:
        """The same where the first features are one space's each, by any shares."""
        if not any(shares):
            return None
        owned = torch.ones(self.n_features, self.width, dtype=torch.bool)
        first = 0
        for space, share in enumerate(shares):
            count = round(share * self.n_features)
            owned[first : first + count] = False
            owned[first : first + count, self.columns(space)] = True
            first += count
        return owned[self.own]

    # --- split over ranks -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def whole(self) -> "Dictionary":
        """All ranks' features in one dictionary on the CPU; itself where nothing is split."""
        if self.grid.features.size == 1:
            return self
        joined = Dictionary(self.spaces, self.design, flag_scale=self.flag_scale)
        for name, tensor in self.state_dict().items():
            per_feature = tensor.shape[0] != joined.state_dict()[name].shape[0]
            joined.state_dict()[name].copy_(self.grid.features.concatenate(tensor) if per_feature else tensor)
        joined.imputation, joined.clipping = self.imputation, self.clipping
        return joined

    # --- on disk --------------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """Put weights, description, second moments and the bounds of outlier rows into an artifact being written."""
        if self.imputation is not None:
            self.imputation.save(folder / MOMENTS)
        if self.clipping:
            self.clipping.save(folder / CLIPPING)
        save_file({n: t.detach().contiguous() for n, t in self.state_dict().items()}, folder / WEIGHTS)
        artifact.write_json(
            folder / DESCRIPTION,
            {
                "design": asdict(self.design),
                "spaces": [s.to_json() for s in self.spaces],
                "flag_scale": self.flag_scale,
            },
        )

    def save(self, path: str | Path, *, settings: dict[str, Any] | None = None, overwrite: bool = False) -> None:
        """Save as an artifact of its own (training writes its dictionary itself, with its metrics).

        Raises:
            ArtifactError: `path` is taken.
        """
        with artifact.create(path, stage=STAGE, settings=settings or {}, overwrite=overwrite) as draft:
            self.write(draft.folder)

    @staticmethod
    def load(path: str | Path, *, device: str = "cpu", precision: Precision = "float32") -> "Dictionary":
        """Read a dictionary that `train` or `save` wrote.

        Raises:
            ArtifactError: missing, unfinished, damaged or of another version.
        """
        path = Path(path)
        artifact.open_artifact(path, stage=STAGE, setting="dictionary")
        dictionary = Dictionary.read(path)
        dictionary.path = path
        if (path / EVALUATION).is_file():
            dictionary.fvu = tuple(artifact.read_json(path / EVALUATION)["fvu"])
        dictionary.precision = select.resolve_precision(precision, torch.device(device))
        return dictionary.to(device).requires_grad_(requires_grad=False)

    @staticmethod
    def folder_of(dictionary: "Dictionary | str | Path", *, setting: str = "dictionary") -> Path:
        """The folder of a dictionary that is given by its folder or opened.

        Raises:
            UserError: it was never saved, or its weights were changed since it was loaded.
        """
        folder = artifact.folder_of(dictionary, setting=setting)
        if isinstance(dictionary, Dictionary):
            saved = Dictionary.read(folder).state_dict()
            if any(not torch.equal(saved[name], own.cpu()) for name, own in dictionary.state_dict().items()):
                fix = "save it under another name, and give that"
                raise UserError(setting, folder, "has other weights on disk than in memory", fix)
        return folder

    @staticmethod
    def read(folder: Path) -> "Dictionary":
        """What `write` put into a folder.

        Raises:
            ArtifactError: weights that do not fit the description.
        """
        described = Description.load(folder)
        dictionary = Dictionary(described.spaces, described.design, flag_scale=described.flag_scale)
        try:
            dictionary.load_state_dict(load_file(folder / WEIGHTS))
            if (folder / MOMENTS).is_file():
                dictionary.imputation = Imputation.load(folder / MOMENTS)
            if (folder / CLIPPING).is_file():
                dictionary.clipping = Clipping.load(folder / CLIPPING, dictionary.n_spaces)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ArtifactError("dictionary", folder, f"cannot be read ({error})", "train or export it again") from None
        return dictionary
