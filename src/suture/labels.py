"""The words that features are labelled with; besides them letters of models, `A`, `B`, `AC`, for whose a feature is."""

SHARED = "shared"
"""Every model writes it, on the same occasions."""
ONE_SIDED = "one-sided"
"""Every model knows its occasion, but hardly any except some write it."""
DRIFTED = "drifted"
"""Every model writes it, each on other occasions."""
AMBIGUOUS = "ambiguous"
"""The data do not decide."""
DEAD = "dead"
"""It never fired."""

OPEN = (ONE_SIDED, DRIFTED, AMBIGUOUS)
"""Labels of live features that say neither whose a feature is nor that it is everyone's."""


def is_exclusive(label: str) -> bool:
    """Whether a label says that some model lacks the feature.

    >>> [is_exclusive(label) for label in ("A", "AC", "shared", "one-sided", "dead")]
    [True, True, False, False, False]
    """
    return label not in (SHARED, *OPEN, DEAD)
