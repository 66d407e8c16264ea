"""Refit a dictionary: a common threshold offset to an L0, then factors, decoder and b_dec by least squares.

1. `to_l0`: ONE offset, added to every feature's threshold, so that the average item has l0 active features: the offset
   is the (l0 · items)-th largest distance of a pre-activation from its threshold, found from the largest ones kept of
   each piece. topk, which has no thresholds, becomes batchtopk. It is what makes dictionaries comparable.
2. `Sums`: what the fits below need of the codes f and rows x, in one pass: sums of f, x, f x and f f'.
3. Scales: the factors s that minimise |x - b - sum_i s_i f_i d_i|^2 + penalty |s - 1|^2, all together: with
   H_ij = sum f_i f_j <d_i, d_j>, one linear system.
4. Decoder: the rows D and b_dec that minimise |x - b_dec - f D|^2 + penalty |D - D_before|^2; codes and rows centred,
   so that b_dec comes out of itself. Pooled columns beyond a narrower space are fitted on the items that have them.
5. Bias: b_dec = mean x - mean f · D.

Penalties are parts of the mean diagonal of what they are added to. A feature that never fires stays what it was. The
encoder is not touched: which features are active, and how much, changes by the offset alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from numpy import ndarray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from suture.activations.batches import split_rows
from suture.activations.settings import View
from suture.activations.store import Store, as_store
from suture.activations.view import seen
from suture.dictionary.dictionary import EVALUATION, STAGE, Dictionary
from suture.dictionary.evaluate import evaluate
from suture.dictionary.kernels.sparse import transpose_times
from suture.dictionary.parts import portable
from suture.dictionary.pieces import as_sparse, cuts, inner_products, pieces
from suture.dictionary.refit_settings import RefitSettings
from suture.dictionary.rows import matching_view, order_seed, whole_documents
from suture.errors import ArtifactError, UserError
from suture.pipeline import artifact

DENSE_FEATURES = 4096
"""Up to so many features a system is factorised whole (0.1 GB); beyond it conjugate gradients do without."""
TOLERANCE, MOST_STEPS = 1e-8, 1000
"""Of conjugate gradients: the residual that is left, as a part of the first one."""
FIRST_ROWS = 256
EVALUATION_ROWS = 50_000


def refit(
    out: str | Path,
    dictionary: Dictionary | str | Path,
    store: Store | str | Path,
    settings: RefitSettings | None = None,
    *,
    overwrite: bool = False,
    command: str | None = None,
) -> Dictionary:
    """The stage `refit`: a dictionary of any kind, fitted anew on its training documents and written to `out`.

    What comes out is a dictionary like any other, evaluated on the documents that training kept back.

    Args:
        out: the folder to be made.
        dictionary: its folder, or itself.
        store: activations of its spaces.
        settings: what is fitted, and to which L0.
        overwrite: replace `out`.
        command: the shell command to be recorded.

    Raises:
        UserError: the store has not its spaces; an L0 above the number of its features.
        ArtifactError: the dictionary cannot be read, or `out` is taken.
    """
    settings, store = settings or RefitSettings(), as_store(store)
    given = dictionary if isinstance(dictionary, Dictionary) else Dictionary.load(dictionary)
    made = artifact.open_artifact(given.path).settings if given.path is not None else {}
    view = matching_view(given, seen(store, View.from_json(made.get("view"))))
    train, heldout = split_rows(view, heldout=float(made.get("heldout", 0.1)), seed=order_seed(made))
    rows = whole_documents(view.documents, train, settings.fit_rows)
    parents = tuple(p for p in (given.path, store.path) if p is not None)
    refuse_itself(out, parents)
    check_l0(settings.l0, given)
    recorded: dict[str, Any] = made | {"refit": asdict(settings), "store": str(store.path)}
    seed = made.get("seed")
    with artifact.create(
        out, stage=STAGE, settings=recorded, seed=seed, parents=parents, overwrite=overwrite, command=command
    ) as draft:
        found = refitted(given, view, rows, settings)
        draft.settings["design"] = asdict(found.design)
        write_evaluated(draft.folder, found, view, heldout if len(heldout) else train, heldout=len(heldout) > 0)
    return Dictionary.load(out)


def refuse_itself(out: str | Path, parents: Sequence[Path]) -> None:
    """Refuse to write over what is read.

    Raises:
        ArtifactError: `out` is one of the parents.
    """
    if Path(out).resolve() in {parent.resolve() for parent in parents}:
        raise ArtifactError("out", out, "is what is read", "name another folder")


def write_evaluated(
    folder: Path, dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"], *, heldout: bool
) -> None:
    """A dictionary and its evaluation on some of these rows, as training writes them."""
    chosen = whole_documents(view.documents, rows, EVALUATION_ROWS)
    evaluation = evaluate(dictionary, view, chosen).to_json() | {"heldout": heldout}
    artifact.write_json(folder / EVALUATION, evaluation)
    dictionary.write(folder)


def check_l0(l0: float | None, dictionary: Dictionary) -> None:
    """Refuse more active features than there are.

    Raises:
        UserError: naming the setting.
    """
    if l0 is not None and l0 > dictionary.n_features:
        raise UserError("l0", l0, f"exceeds the {dictionary.n_features} features", "lower it")


@torch.no_grad()
def refitted(dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"], settings: RefitSettings) -> Dictionary:
    """1 to 5, on these rows of a store that holds the dictionary's spaces in its order.

    Decoder rows come out with norm 1 where training keeps them so (the norms go into the values), unless features are
    ranked by their values. Tied features are fitted like any other, and are tied no more; dedicated ones stay so.
    """
    found = dictionary if settings.l0 is None else to_l0(dictionary, view, rows, settings.l0)
    found = copied(found)
    if not settings.fit:
        return found
    sums = Sums.of(found, view, rows)
    if "scales" in settings.fit:
        found.W_dec.mul_(torch.from_numpy(sums.scales(found, settings.penalty)).to(found.W_dec)[:, None])
    if "decoder" in settings.fit:
        found.W_dec.copy_(sums.decoder(found, settings.penalty))
        found.design = replace(found.design, tied=0.0)
    if "bias" in settings.fit or "decoder" in settings.fit:
        found.b_dec.copy_(sums.bias(found))
    kept = found.sparsity.activation.free_norms or found.sparsity.ranks
    return found if kept else portable(found)


# --- 1 ----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def to_l0(dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"], l0: float) -> Dictionary:
    """The dictionary with one common offset on its thresholds, so that l0 features are active on the average item (1).

    Fewer are where all positive pre-activations together are fewer.
    """
    check_l0(l0, dictionary)
    found = copied(dictionary)
    if found.sparsity.ranks:
        found.design = replace(found.design, sparsity=replace(found.sparsity, kind="batchtopk"))
    floor = found.sparsity.activation.floor(found)
    first = rows[:: max(1, len(rows) // FIRST_ROWS)]  # a few of all rows raise the bar before the many come
    n_items = len(rows) * (1 if found.design.joint else found.n_spaces)
    wanted = round(l0 * n_items)
    guess = _offset(found, view, first, round(l0 * n_items * len(first) / len(rows) * 1.3) + 10, floor, -torch.inf)
    offset, n_found = _counted(found, view, rows, wanted, floor, guess)
    if n_found < wanted and guess > -torch.inf:  # the few rows misled
        offset, _ = _counted(found, view, rows, wanted, floor, -torch.inf)
    found.threshold.copy_(torch.maximum(found.threshold + offset, floor) if offset > -torch.inf else floor)
    return found


def _offset(
    dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"], wanted: int, floor: Tensor, bar: float
) -> float:
    return _counted(dictionary, view, rows, wanted, floor, bar)[0]


def _counted(
    dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"], wanted: int, floor: Tensor, bar: float
) -> tuple[float, int]:
    """The largest offset that leaves `wanted` pairs active, and how many distances above `bar` there are."""
    best = dictionary.threshold.new_zeros(0)
    n_found = 0
    for piece in pieces(dictionary, view, rows):
        chunks = dictionary.chunks(dictionary.encoder_input(piece.x, model=piece.model))
        above = chunks.above(torch.maximum(dictionary.threshold + bar, floor))
        distance = above.pre - dictionary.threshold[above.pattern.feature]
        n_found += distance.numel()
        best = torch.cat([best, distance])
        if best.numel() > wanted:
            best = best.topk(wanted + 1, sorted=False).values
            bar = max(bar, float(best.min()))
    if best.numel() <= wanted:
        return bar, n_found
    return float(best.min()), n_found


# --- 2 ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Sums over the items that have these columns."""

    columns: slice
    n: int
    f: Float64[ndarray, "feature"]
    x: Float64[ndarray, "width"]
    fx: Float64[ndarray, "feature width"]
    ff: csr_matrix
    """[feature, feature]"""

    def within(self, columns: slice) -> Block:
        """The same of some of its columns."""
        return replace(self, columns=columns, x=self.x[columns], fx=self.fx[:, columns])

    def and_also(self, other: Block) -> Block:
        """Of the items of both, which have the same columns."""
        ff = csr_matrix(self.ff + other.ff)
        return Block(
            columns=self.columns,
            n=self.n + other.n,
            f=self.f + other.f,
            x=self.x + other.x,
            fx=self.fx + other.fx,
            ff=ff,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Over items, for each kind of item by itself (2)."""

    blocks: tuple[Block, ...]

    @staticmethod
    def of(dictionary: Dictionary, view: Store, rows: Int[Tensor, "row"]) -> Sums:
        """One pass over the rows."""
        columns, F = cuts(dictionary), dictionary.n_features
        codes: list[list[csr_matrix]] = [[] for _ in columns]
        x = [np.zeros(cut.stop) for cut in columns]
        fx = [np.zeros((F, cut.stop)) for cut in columns]
        for piece in pieces(dictionary, view, rows):
            found, cut = piece.codes(dictionary), columns[piece.kind]
            own = piece.x[:, cut].double().contiguous()
            codes[piece.kind].append(as_sparse(found))
            x[piece.kind] += own.sum(0).cpu().numpy()
            fx[piece.kind] += transpose_times(found.pattern, found.value.double(), own).cpu().numpy()
        blocks = []
        for number, cut in enumerate(columns):
            if codes[number]:
                f = csr_matrix(vstack(codes[number], format="csr"))
                n, total = _shape(f)[0], np.asarray(f.sum(axis=0), dtype=np.float64).ravel()
                ff = csr_matrix(f.T @ f)
                blocks.append(Block(columns=cut, n=n, f=total, x=x[number], fx=fx[number], ff=ff))
        return Sums(blocks=tuple(blocks))

    def by_columns(self) -> list[Block]:
        """Every column once, with the sums over all items that have it."""
        found = []
        for first, last in pairwise([0, *(block.columns.stop for block in self.blocks)]):
            having = [block.within(slice(first, last)) for block in self.blocks if block.columns.stop >= last]
            whole = having[0]
            for other in having[1:]:
                whole = whole.and_also(other)
            found.append(whole)
        return found

    def scales(self, dictionary: Dictionary, penalty: float) -> Float64[ndarray, "feature"]:
        """3: a factor for every feature."""
        system: csr_matrix | None = None
        wanted = np.zeros(dictionary.n_features)
        b = dictionary.b_dec.detach().double().cpu().numpy()
        for block in self.blocks:
            cut = block.columns
            rows = dictionary.W_dec.detach()[:, cut].cpu()
            own = csr_matrix((block.ff.data * inner_products(block.ff, rows), block.ff.indices, block.ff.indptr))
            own.resize(block.ff.shape)
            system = own if system is None else csr_matrix(system + own)
            wanted += ((block.fx - np.outer(block.f, b[cut])) * rows.double().numpy()).sum(1)
        assert system is not None
        floor = _floor(system.diagonal(), penalty)
        ones = np.ones((dictionary.n_features, 1))
        return 1 + solved(system, wanted[:, None] - system @ ones, floor)[:, 0]

    def decoder(self, dictionary: Dictionary, penalty: float) -> Float[Tensor, "feature D"]:
        """4: W_dec."""
        found = dictionary.W_dec.detach().clone()
        for block, chosen in self._fitted_together(dictionary):
            before = found[:, block.columns].double().cpu().numpy()[chosen]
            mean = block.f[chosen] / block.n
            across = block.fx[chosen] - np.outer(mean, block.x)
            ff = csr_matrix(block.ff[chosen][:, chosen]) if len(chosen) < dictionary.n_features else block.ff
            floor = _floor(ff.diagonal() - block.n * mean**2, penalty)
            left = across - (ff @ before - block.n * np.outer(mean, mean @ before))
            change = solved(ff, left, floor, mean=mean, n=block.n)
            rows = torch.from_numpy(before + change).to(found)
            found[torch.from_numpy(chosen)[:, None], torch.arange(block.columns.start, block.columns.stop)] = rows
        return found

    def _fitted_together(self, dictionary: Dictionary) -> list[tuple[Block, Int[ndarray, "chosen"]]]:
        """Columns, and the features that may use them: all, or where some are dedicated, space by space."""
        owned, everyone = dictionary.owned_columns, np.arange(dictionary.n_features)
        if owned is None:
            return [(block, everyone) for block in self.by_columns()]
        (whole,) = self.blocks
        spaces = [dictionary.columns(m) for m in range(dictionary.n_spaces)]
        return [(whole.within(cut), np.flatnonzero(owned[:, cut.start].numpy())) for cut in spaces]

    def bias(self, dictionary: Dictionary) -> Float[Tensor, "D"]:
        """5: b_dec."""
        found = dictionary.b_dec.detach().clone()
        for block in self.by_columns():
            rows = dictionary.W_dec.detach()[:, block.columns].double().cpu().numpy()
            found[block.columns] = torch.from_numpy((block.x - block.f @ rows) / block.n).to(found)
        return found


def _floor(diagonal: Float64[ndarray, "feature"], penalty: float) -> float:
    return penalty * max(float(diagonal.mean()), 1e-12)


def solved(
    system: csr_matrix,
    wanted: Float64[ndarray, "feature width"],
    floor: float,
    *,
    mean: Float64[ndarray, "feature"] | None = None,
    n: int = 0,
) -> Float64[ndarray, "feature width"]:
    """The y with (system - n · mean mean^T + floor · I) y = wanted, for a matrix that is positive but for rounding.

    By its Cholesky factor, or where it is too large for that by conjugate gradients, all columns at once.
    """
    mean = np.zeros(len(wanted)) if mean is None else mean
    if len(wanted) <= DENSE_FEATURES:
        matrix = system.toarray() - n * np.outer(mean, mean)
        matrix[np.diag_indices_from(matrix)] += floor
        return cho_solve(cho_factor(matrix, lower=True, overwrite_a=True), wanted)
    inverse = 1 / (system.diagonal() - n * mean**2 + floor)[:, None]  # Jacobi
    y, left = np.zeros_like(wanted), wanted.copy()
    step = inverse * left
    size = first = (left * step).sum(0)
    for _ in range(MOST_STEPS):
        if (size <= TOLERANCE**2 * first).all():
            break
        ahead = system @ step - n * np.outer(mean, mean @ step) + floor * step
        far = size / np.maximum((step * ahead).sum(0), 1e-300)
        y += far * step
        left -= far * ahead
        ready = inverse * left
        size, before = (left * ready).sum(0), size
        step = ready + size / np.maximum(before, 1e-300) * step
    return y


@torch.no_grad()
def copied(dictionary: Dictionary) -> Dictionary:
    """A copy, to be changed."""
    made = Dictionary(dictionary.spaces, dictionary.design, flag_scale=dictionary.flag_scale).to(dictionary.W_dec)
    made.load_state_dict(dictionary.state_dict())
    made.precision, made.imputation, made.clipping = dictionary.precision, dictionary.imputation, dictionary.clipping
    return made.requires_grad_(requires_grad=False)


def _shape(codes: csr_matrix) -> tuple[int, int]:
    assert codes.shape is not None
    return int(codes.shape[0]), int(codes.shape[1])
