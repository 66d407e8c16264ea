"""Which part of a store a step works on: all spaces, some of them, or one against a copy of itself (a null)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suture.activations.null import self_pair
from suture.activations.store import Store
from suture.errors import UserError


@dataclass(frozen=True, kw_only=True)
class View:
    """A choice of spaces, recorded with the result so that a later step makes the same choice."""

    spaces: tuple[int, ...] = ()
    """Numbers of the spaces, in the order wanted; all of them when empty."""
    null: bool = False
    """Pair the one chosen space with a copy of itself: whatever is then called exclusive is called so falsely."""
    rotation_seed: int | None = None
    """With `null`: rotate the copy by a random orthogonal matrix, so that no coordinate gives the pairing away."""

    copies: int = 1
    """With `null`: so many copies, each with a rotation of its own, for a null of more than two models."""

    def of(self, store: Store) -> Store:
        """The chosen part of a store.

        Raises:
            UserError: a space that the store has not or that is named twice, a null of not exactly one space, a
                rotation without a null.
        """
        for space in self.spaces:
            if not 0 <= space < len(store.spaces):
                have = ", ".join(f"{i}: {s.label}" for i, s in enumerate(store.spaces))
                raise UserError("space", space, f"is not in {store.path}", f"choose from {have}")
        if len(set(self.spaces)) < len(self.spaces):
            raise UserError("space", self.spaces, "names one twice", "name each once; --null pairs one with a copy")
        if self.rotation_seed is not None and not self.null:
            raise UserError("rotation-seed", self.rotation_seed, "rotates the copy of a null", "add --null")
        if self.copies < 1 or (self.copies > 1 and not self.null):
            fix = "give 1 or more, with --null"
            raise UserError("copies", self.copies, "is not a number of copies of a null", fix)
        if self.null:
            chosen = self.spaces or tuple(range(len(store.spaces)))
            if len(chosen) != 1:
                raise UserError("null", chosen, "needs one space", "name it with --space")
            return self_pair(store, chosen[0], rotation_seed=self.rotation_seed, n_copies=self.copies)
        return store.select(self.spaces) if self.spaces else store

    @staticmethod
    def from_json(recorded: Mapping[str, Any] | None) -> View:
        """The view that a manifest records; of one that records none, the whole store."""
        if not recorded:
            return View()
        return View(
            spaces=tuple(recorded["spaces"]),
            null=recorded["null"],
            rotation_seed=recorded["rotation_seed"],
            copies=recorded.get("copies", 1),
        )
