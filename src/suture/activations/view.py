"""Look at a store through a view: all its spaces, some of them, or one against a copy of itself (a null)."""

from suture.activations.null import self_pair
from suture.activations.settings import View
from suture.activations.store import Store
from suture.errors import UserError


def seen(store: Store, view: View) -> Store:
    """The chosen part of a store.

    Raises:
        UserError: a space that the store has not, or a null of not exactly one space.
    """
    for space in view.spaces:
        if not 0 <= space < len(store.spaces):
            have = ", ".join(f"{i}: {s.label}" for i, s in enumerate(store.spaces))
            raise UserError("space", space, f"is not in {store.path}", f"choose from {have}")
    store = store.without_outliers(view.outliers, view.outlier_multiple)
    if view.null:
        chosen = view.spaces or tuple(range(len(store.spaces)))
        if len(chosen) != 1:
            raise UserError("null", chosen, "needs one space", "name it with --space")
        pair = self_pair(store, chosen[0], rotation_seed=view.rotation_seed, n_copies=view.copies)
        return pair if view.side is None else pair.select((view.side,))
    return store.select(view.spaces) if view.spaces else store
