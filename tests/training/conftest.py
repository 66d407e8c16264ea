"""The planted stores of `planted_fixtures`."""

from planted_fixtures import _seed, out, store, unequal_store

__all__ = ["_seed", "out", "store", "unequal_store"]
