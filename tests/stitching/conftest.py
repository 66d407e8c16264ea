"""The planted stores of `planted_fixtures`."""

from planted_fixtures import _seed, store, unequal_store

__all__ = ["_seed", "store", "unequal_store"]
