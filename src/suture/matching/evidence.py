"""What is known about given pairs of features: correlation, beyond the token, how sure, and which implies which.

Codes are [row, feature] and hold zeros nowhere; f is the feature of A, g that of B, d a document, v a token type.

1. r is Pearson over all rows, zeros included; Jaccard and the two conditional rates count the rows where they fire.
2. r_ctx is what r is beyond the token: f and g less their means over the rows of the same token, correlated, over
   tokens seen twice at least. (A model with random weights finds a partner for most features; what they share is the
   token.) r_token is the mean of r over shuffles within tokens, in closed form: sum_v S_f(v) S_g(v) / n_v in place of
   sum f g.
3. Intervals by the jackknife over documents of atanh r: sums per document, each left out in turn. (Fisher's interval,
   which takes rows for independent, is 6 to 9 times too narrow.) Token means are held as they are.
4. p of "r is zero or less" from the same standard error.

All sums are of non-zeros; of a chunk of pairs there is one [document, pair] array per sum, never a [row, pair] one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray
from scipy.sparse import csc_matrix, csr_matrix
from scipy.special import ndtr

from suture.matching.correlate import columns

ONE_SIDED = 1.6448536269514722
"""Standard errors below which 5 % of a normal lie."""
NEARLY_ONE = 1 - 1e-9
"""The atanh of 1 is no number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Numbers of pairs; r is 0 and its error infinite where one of the two never fires."""

    r: Float64[ndarray, "pair"]
    r_low: Float64[ndarray, "pair"]
    """Below this with a chance of 5 %."""
    r_error: Float64[ndarray, "pair"]
    """Standard error of atanh r."""
    p: Float64[ndarray, "pair"]
    r_ctx: Float64[ndarray, "pair"]
    r_ctx_low: Float64[ndarray, "pair"]
    r_token: Float64[ndarray, "pair"]
    jaccard: Float64[ndarray, "pair"]
    b_given_a: Float64[ndarray, "pair"]
    """Share of the rows where A's feature fires on which B's does; NaN where it never fires."""
    a_given_b: Float64[ndarray, "pair"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouping:
    """Which document and which token type every row belongs to, as numbers from 0."""

    document: Int[ndarray, "row"]
    token: Int[ndarray, "row"]

    @staticmethod
    def of(documents: Int[ndarray, "row"], tokens: Int[ndarray, "row space"]) -> Grouping:
        """Of several spaces, a token type is a combination of theirs."""
        document = np.unique(documents, return_inverse=True)[1]
        token = np.unique(tokens, axis=0, return_inverse=True)[1]
        return Grouping(document=document.ravel().astype(np.int64), token=token.ravel().astype(np.int64))


def evidence(
    a: csr_matrix,
    b: csr_matrix,
    pair_a: Int[ndarray, "pair"],
    pair_b: Int[ndarray, "pair"],
    grouping: Grouping,
    *,
    memory: int = 2**26,
) -> Evidence:
    """The evidence about pairs (a feature of A, a feature of B), from codes of the same rows in both.

    `memory` bounds the bytes of a chunk's per-document sums.
    """
    n_documents = int(grouping.document.max(initial=-1)) + 1
    n_tokens = int(grouping.token.max(initial=-1)) + 1
    chunk = max(1, memory // (8 * 16 * max(n_documents, n_tokens, 1)))
    left, right = csc_matrix(a, dtype=np.float64), csc_matrix(b, dtype=np.float64)
    seen_twice = np.bincount(grouping.token, minlength=n_tokens)[grouping.token] >= 2
    kept = np.flatnonzero(seen_twice)
    inner = Grouping(document=grouping.document[kept], token=grouping.token[kept])
    parts = []
    for start in range(0, len(pair_a), chunk):
        f, g = (csc_matrix(x[:, p[start : start + chunk]]) for x, p in ((left, pair_a), (right, pair_b)))
        parts.append(_of_chunk(f, g, grouping, csc_matrix(f[kept]), csc_matrix(g[kept]), inner, n_documents, n_tokens))
    if not parts:
        return Evidence(**{field.name: np.zeros(0) for field in fields(Evidence)})
    return Evidence(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _of_chunk(
    f: csc_matrix,
    g: csc_matrix,
    grouping: Grouping,
    f_kept: csc_matrix,
    g_kept: csc_matrix,
    inner: Grouping,
    n_documents: int,
    n_tokens: int,
) -> dict[str, ndarray]:
    """Every field of `Evidence` of some pairs; `f_kept` and `inner` are of the rows whose token was seen twice."""
    plain = Sums.per_document(f, g, grouping, n_documents)
    r, error = jackknife(plain)
    means = [_token_means(x, inner, n_tokens) for x in (f_kept, g_kept)]
    within = Sums.per_document(f_kept, g_kept, inner, n_documents, means=(means[0], means[1]))
    r_ctx, ctx_error = jackknife(within)
    left, right = columns(csr_matrix(f)), columns(csr_matrix(g))
    both = np.diff(csc_matrix(f.multiply(g)).indptr).astype(np.float64)
    spread = left.spread * right.spread
    beyond = np.divide(within.fg.sum(0), spread, out=np.zeros_like(spread), where=spread > 0)
    with np.errstate(invalid="ignore"):
        return {
            "r": r,
            "r_low": lower_bound(r, error),
            "r_error": error,
            "p": ndtr(-np.arctanh(np.clip(r, -NEARLY_ONE, NEARLY_ONE)) / np.maximum(error, 1e-300)),  # 4
            "r_ctx": r_ctx,
            "r_ctx_low": lower_bound(r_ctx, ctx_error),
            "r_token": r - beyond,
            "jaccard": both / (left.count + right.count - both),
            "b_given_a": both / left.count,
            "a_given_b": both / right.count,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Sums over each document's rows, from which r follows; a row's weight is one."""

    rows: Float64[ndarray, "document"]
    f: Float64[ndarray, "document pair"]
    g: Float64[ndarray, "document pair"]
    ff: Float64[ndarray, "document pair"]
    gg: Float64[ndarray, "document pair"]
    fg: Float64[ndarray, "document pair"]

    @staticmethod
    def per_document(
        f: csc_matrix,
        g: csc_matrix,
        grouping: Grouping,
        n_documents: int,
        means: tuple[Float64[ndarray, "token pair"], Float64[ndarray, "token pair"]] | None = None,
    ) -> Sums:
        """Of columns f and g, pair by pair; with `means`, of what they are beyond their token's mean.

        sum (f - m)(g - k) = sum f g - sum f k - sum g m + sum m k, of which only the last runs over all rows: it is
        the documents' counts of token types times m k.
        """
        both = csc_matrix(f.multiply(g))
        rows = np.bincount(grouping.document, minlength=n_documents).astype(np.float64)
        sums = {
            "f": _spread(f, f.data, grouping, n_documents),
            "g": _spread(g, g.data, grouping, n_documents),
            "ff": _spread(f, f.data**2, grouping, n_documents),
            "gg": _spread(g, g.data**2, grouping, n_documents),
            "fg": _spread(both, both.data, grouping, n_documents),
        }
        if means is not None:
            m, k = means
            types = csr_matrix(
                (np.ones(len(grouping.token)), (grouping.document, grouping.token)), shape=(n_documents, len(m))
            )
            f_m, f_k, g_m, g_k = (_at(x, mean, grouping) for x in (f, g) for mean in (m, k))
            sums["ff"] += types @ (m * m) - 2 * _spread(f, f.data * f_m, grouping, n_documents)
            sums["gg"] += types @ (k * k) - 2 * _spread(g, g.data * g_k, grouping, n_documents)
            sums["fg"] += types @ (m * k) - _spread(f, f.data * f_k, grouping, n_documents)
            sums["fg"] -= _spread(g, g.data * g_m, grouping, n_documents)
            sums["f"] -= types @ m
            sums["g"] -= types @ k
        return Sums(rows=rows, **sums)


def jackknife(sums: Sums) -> tuple[Float64[ndarray, "pair"], Float64[ndarray, "pair"]]:
    """r of each pair and the standard error of its atanh, leaving out one document at a time (3)."""
    totals = [x.sum(0) for x in (sums.f, sums.g, sums.ff, sums.gg, sums.fg)]
    n_rows = sums.rows.sum()
    r = _pearson(n_rows, *totals)
    without = _pearson(
        n_rows - sums.rows[:, None],
        *(t - x for t, x in zip(totals, (sums.f, sums.g, sums.ff, sums.gg, sums.fg), strict=True)),
    )
    z = np.arctanh(np.clip(without, -NEARLY_ONE, NEARLY_ONE))
    n = len(z)
    error = np.sqrt((n - 1) / max(n, 1) * ((z - z.mean(0)) ** 2).sum(0)) if n > 1 else np.full(len(r), np.inf)
    fires = (totals[2] > 0) & (totals[3] > 0)
    return np.where(fires, r, 0.0), np.where(fires, error, np.inf)


def lower_bound(r: Float64[ndarray, "pair"], error: Float64[ndarray, "pair"]) -> Float64[ndarray, "pair"]:
    """What r exceeds with a chance of 95 %; -1 where nothing is known."""
    return np.tanh(np.arctanh(np.clip(r, -NEARLY_ONE, NEARLY_ONE)) - ONE_SIDED * error)


def _pearson(n: ndarray | float, f: ndarray, g: ndarray, ff: ndarray, gg: ndarray, fg: ndarray) -> ndarray:
    """Zero where one of the two does not vary (rounding leaves a variance of 1e-13 of the square)."""
    n = np.maximum(n, 1)
    var_f, var_g = ff - f * f / n, gg - g * g / n
    known = (var_f > 1e-12 * ff) & (var_g > 1e-12 * gg)
    spread = np.sqrt(np.maximum(var_f, 0) * np.maximum(var_g, 0))
    return np.divide(fg - f * g / n, spread, out=np.zeros_like(spread), where=known & (spread > 0))


def _spread(x: csc_matrix, values: ndarray, grouping: Grouping, n_documents: int) -> Float64[ndarray, "document pair"]:
    """Values at a matrix's non-zeros summed by document and column."""
    n_pairs = len(x.indptr) - 1
    place = grouping.document[x.indices] * n_pairs + _column(x)
    return np.bincount(place, values, n_documents * n_pairs).reshape(n_documents, n_pairs).astype(np.float64)


def _token_means(x: csc_matrix, grouping: Grouping, n_tokens: int) -> Float64[ndarray, "token pair"]:
    n_pairs = len(x.indptr) - 1
    place = grouping.token[x.indices] * n_pairs + _column(x)
    total = np.bincount(place, x.data, n_tokens * n_pairs).reshape(n_tokens, n_pairs)
    return total / np.maximum(np.bincount(grouping.token, minlength=n_tokens), 1)[:, None]


def _at(x: csc_matrix, means: Float64[ndarray, "token pair"], grouping: Grouping) -> Float64[ndarray, "active"]:
    """The mean of its token at every non-zero of a matrix."""
    return means[grouping.token[x.indices], _column(x)]


def _column(x: csc_matrix) -> Int[ndarray, "active"]:
    return np.repeat(np.arange(len(x.indptr) - 1, dtype=np.int64), np.diff(x.indptr))
