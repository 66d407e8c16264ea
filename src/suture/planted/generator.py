"""Planted models: activations of several models whose concepts, signatures and directions are known.

1. Truth, drawn once from the seed: firing rates (Zipf, capped), parents, copula factors, which models have a concept,
   how strongly, and its direction in each of them (`PlantedModels.__init__`).
2. Rows come in blocks of `BLOCK`; a block is a pure function of (seed, block number), so any range of rows can be made
   again, in any order, without the rows before it.
3. In a block: correlated normals -> which concepts fire (children only with their parent) -> strengths -> codes; on
   misaligned rows the models after the first take the codes of another row of the block.
4. Activations of model m: codes @ directions(m) + offset(m) + noise; in a null mode model 0's, turned or as they are.
"""

from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from suture import seeds
from suture.dictionary.codes import Codes
from suture.errors import UserError
from suture.planted.settings import PlantedSettings

BLOCK = 1024
"""Rows generated together; part of the definition of the data, so changing it changes every row."""


@dataclass(frozen=True)
class PlantedRows:
    """A range of rows and what is true of them."""

    activations: list[Float[Tensor, "row _"]]
    """One matrix per model, raw units."""
    codes: Codes
    """Of concepts, not features: what the text says at each row, whether or not a model has it (as model 0 sees it)."""
    misaligned: Bool[Tensor, "row"]
    """Rows on which the models after the first show another text position."""


class PlantedModels:
    """Models with known concepts (methods.md section 7). The attributes are the truth; `rows` draws from it."""

    def __init__(self, settings: PlantedSettings) -> None:
        self.settings = settings
        generator = seeds.generator("planted truth", settings.seed)
        self.rates: Float[Tensor, "concept"] = firing_rates(
            settings.n_concepts, settings.mean_active, settings.zipf_exponent, settings.max_rate
        )
        self.parent: Int[Tensor, "concept"] = _draw_parents(settings, generator)
        self.presence: Bool[Tensor, "concept model"] = _draw_presence(settings, generator)
        self._embeddings, self._offsets = _draw_embeddings(settings, generator)
        self._common = _unit_rows(torch.randn(settings.n_concepts, min(settings.widths), generator=generator))
        self._independent = [
            _unit_rows(torch.randn(settings.n_concepts, w, generator=generator)) for w in settings.widths
        ]
        self._turns = [_orthogonal(w, w, generator) for w in settings.widths]
        loadings = torch.randn(settings.n_concepts, settings.n_factors, generator=generator)
        self._loadings = _unit_rows(loadings) * settings.correlation**0.5
        self.strength: Float[Tensor, "concept model"] = _draw_strength(settings, self.presence, generator)
        self._directions = [self._make_directions(m) for m in range(settings.n_models)]

    def directions(self, model: int) -> Float[Tensor, "concept width"]:
        """Each concept's direction in a model, raw units, as long as it is strong there: 0 where it lacks."""
        return self._directions[model]

    def offset(self, model: int) -> Float[Tensor, "width"]:
        """The constant in a model's activations; zero unless the embedding is affine."""
        settings = self.settings
        if settings.null == "none":
            return self._offsets[model]
        return self._offsets[0] if settings.null == "same" else self._offsets[0] @ self._turn(model)

    def labels(self) -> list[str]:
        """Per concept `shared` (every model has it), or the letters of the models that do: `A`, `B`, `AC`, ..."""
        everyone = self.settings.n_models
        letters = ["".join(chr(65 + m) for m in range(everyone) if row[m]) for row in self.presence.tolist()]
        return ["shared" if len(name) == everyone else name for name in letters]

    def map(self, source: int, target: int) -> Float[Tensor, "source_width target_width"]:
        """The matrix P with directions(source) @ P = directions(target) for every concept that both have.

        Of all that do so on the span of the concepts, the one of least norm.

        Raises:
            UserError: the embedding is `independent`: no linear map exists.
        """
        if self.settings.null != "none":
            return self._turn(source).T @ self._turn(target)
        if self.settings.embedding == "independent":
            fix = "use embedding rotation or affine"
            raise UserError("embedding", "independent", "has no linear map from one model to another", fix)
        return torch.linalg.pinv(self._embeddings[source].double()).float() @ self._embeddings[target]

    def rows(self, start: int, stop: int) -> PlantedRows:
        """Rows start, start + 1, .., stop - 1. Only the blocks that hold them are generated.

        Raises:
            UserError: a range that is empty or begins below 0.
        """
        if not 0 <= start < stop:
            raise UserError("rows", (start, stop), "is not a range of rows", "pass 0 <= start < stop")
        blocks = [self._block(number) for number in range(start // BLOCK, (stop - 1) // BLOCK + 1)]
        inside = slice(start % BLOCK, start % BLOCK + stop - start)
        activations = [torch.cat([b[0][m] for b in blocks])[inside] for m in range(self.settings.n_models)]
        codes = torch.cat([b[1] for b in blocks])[inside]
        misaligned = torch.cat([b[2] for b in blocks])[inside]
        return PlantedRows(activations, Codes.from_dense(codes), misaligned)

    def _block(
        self, number: int
    ) -> tuple[list[Float[Tensor, "row _"]], Float[Tensor, "row concept"], Bool[Tensor, "row"]]:
        """Step 3 and 4 for one block; the draws come in a fixed order, each of a fixed size."""
        settings = self.settings
        generator = seeds.generator("planted rows", settings.seed, number)
        codes = self._draw_codes(generator)
        misaligned = torch.rand(BLOCK, generator=generator) < settings.misaligned
        shift = torch.randint(1, BLOCK, (BLOCK,), generator=generator)
        elsewhere = codes[(torch.arange(BLOCK) + shift * misaligned) % BLOCK]
        activations = []
        for m, width in enumerate(settings.widths):
            noise = torch.randn(BLOCK, width, generator=generator) * (settings.noise_of[m] / width**0.5)
            if settings.null == "none" or m == 0:
                activations.append((elsewhere if m else codes) @ self.directions(m) + self.offset(m) + noise)
                continue
            at = (torch.arange(BLOCK) + shift * misaligned) % BLOCK
            copy = activations[0][at]
            activations.append(copy if settings.null == "same" else copy @ self._turn(m))
        return activations, codes, misaligned

    def _draw_codes(self, generator: torch.Generator) -> Float[Tensor, "row concept"]:
        """Copula, hierarchy, strengths: the rate of every concept is `self.rates` (exactly so for a child only when
        `correlation` is 0, else parent and child also meet through the factors)."""
        settings = self.settings
        factors = torch.randn(BLOCK, settings.n_factors, generator=generator)
        own = torch.randn(BLOCK, settings.n_concepts, generator=generator)
        latent = own * (1 - settings.correlation) ** 0.5 + factors @ self._loadings.T
        is_child = self.parent >= 0
        parent = self.parent.clamp(min=0)
        rate = torch.where(is_child, self.rates / self.rates[parent], self.rates)
        fires = latent > torch.special.ndtri(1 - rate.double()).float()
        fires &= ~is_child | fires[:, parent]
        normal = torch.randn(BLOCK, settings.n_concepts, generator=generator)
        spread = settings.magnitude_spread
        strength = 1 + spread * normal.abs() if settings.magnitude == "half-normal" else torch.exp(spread * normal)
        return fires * strength

    def _make_directions(self, model: int) -> Float[Tensor, "concept width"]:
        settings = self.settings
        base = 0 if settings.null != "none" else model
        independent = settings.embedding == "independent"
        full = self._independent[base] if independent else self._common @ self._embeddings[base]
        return full @ self._turn(model) * self.strength[:, model, None]

    def _turn(self, model: int) -> Float[Tensor, "width width"]:
        """The rotation of the `rotated` null; the identity for model 0 and in the other modes."""
        turned = self.settings.null == "rotated" and model > 0
        return self._turns[model] if turned else torch.eye(self.settings.widths[model])


def firing_rates(n_concepts: int, mean_active: float, exponent: float, max_rate: float) -> Float[Tensor, "concept"]:
    """Rates proportional to rank^-exponent but never above `max_rate`, summing to `mean_active`, largest first.

    >>> firing_rates(3, 0.9, 0.0, 0.5)
    tensor([0.3000, 0.3000, 0.3000])
    >>> firing_rates(2, 0.6, 3.0, 0.4)
    tensor([0.4000, 0.2000])
    """
    weight = torch.arange(1, n_concepts + 1, dtype=torch.float64) ** -exponent
    n_capped = 0
    while n_capped < n_concepts:
        unit = (mean_active - n_capped * max_rate) / weight[n_capped:].sum()
        if unit * weight[n_capped] <= max_rate + 1e-12:
            return torch.cat([torch.full((n_capped,), max_rate).double(), unit * weight[n_capped:]]).float()
        n_capped += 1
    return torch.full((n_concepts,), max_rate)


def _draw_parents(settings: PlantedSettings, generator: torch.Generator) -> Int[Tensor, "concept"]:
    """A parent of smaller rank (so of higher rate) for the share of concepts that are children, -1 for the rest.

    Parents are never children; concept 0 can be no child, so every child finds one.
    """
    parent = torch.full((settings.n_concepts,), -1)
    n_children = min(round(settings.child_share * settings.n_concepts), settings.n_concepts - 1)
    children = torch.randperm(settings.n_concepts - 1, generator=generator)[:n_children] + 1
    is_child = torch.zeros(settings.n_concepts, dtype=torch.bool)
    is_child[children] = True
    for child in children.tolist():
        choices = (~is_child[:child]).nonzero()[:, 0]
        parent[child] = choices[torch.randint(len(choices), (), generator=generator)]
    return parent


def _draw_presence(settings: PlantedSettings, generator: torch.Generator) -> Bool[Tensor, "concept model"]:
    """Which models have a concept; signatures are spread over the ranks at random."""
    m, n = settings.n_models, settings.n_concepts
    presence = torch.ones(n, m, dtype=torch.bool)
    free = torch.randperm(n, generator=generator)
    signatures = [((i,), settings.exclusive) for i in range(m)] if m > 1 else []
    signatures += [(pair, settings.pairwise) for pair in combinations(range(m), 2)]
    taken = 0
    for owners, share in signatures:
        chosen = free[taken : taken + round(share * n)]
        taken += len(chosen)
        presence[chosen] = torch.tensor([i in owners for i in range(m)])
    return presence


def _draw_strength(
    settings: PlantedSettings, presence: Bool[Tensor, "concept model"], generator: torch.Generator
) -> Float[Tensor, "concept model"]:
    """1 where a model has a concept, 0 where not, between them in the fainter models of a graded concept.

    Drawn last, so that without graded concepts everything is as if there were no such thing.
    """
    strength = presence.float()
    n, m = presence.shape
    if m == 1 or settings.graded == 0:
        return strength
    common = presence.all(dim=1).nonzero()[:, 0]
    chosen = common[torch.randperm(len(common), generator=generator)][: round(settings.graded * n)]
    low, high = settings.graded_share
    share = low + (high - low) * torch.rand(len(chosen), generator=generator)
    strength[chosen] = (share / (1 - share)).unsqueeze(1)
    strength[chosen, torch.randint(m, (len(chosen),), generator=generator)] = 1.0
    return strength


def _draw_embeddings(
    settings: PlantedSettings, generator: torch.Generator
) -> tuple[list[Float[Tensor, "common _"]], list[Float[Tensor, "_"]]]:
    """Per model the matrix from the common embedding and the offset.

    The common embedding has the width of the narrowest model, so that a rotation keeps every length and angle even
    where widths differ (orthonormal rows).
    """
    common = min(settings.widths)
    rotations = [_orthogonal(common, w, generator) for w in settings.widths]
    gaussians = [torch.randn(common, w, generator=generator) / w**0.5 for w in settings.widths]
    offsets = [_unit_rows(torch.randn(1, w, generator=generator))[0] * settings.offset for w in settings.widths]
    if settings.embedding == "affine":
        return gaussians, offsets
    return rotations, [torch.zeros(w) for w in settings.widths]


def _orthogonal(height: int, width: int, generator: torch.Generator) -> Float[Tensor, "height width"]:
    """A random matrix with orthonormal rows, uniform over all of them (needs height <= width)."""
    q, r = torch.linalg.qr(torch.randn(width, height, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).T.float().contiguous()


def _unit_rows(x: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    return x / x.norm(dim=1, keepdim=True)
