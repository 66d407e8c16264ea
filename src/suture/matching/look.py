"""What helps a person to look at a matching: words, subjects, maps and rows; no judgement rests on any of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from suture.activations.store import Store
from suture.matching.direction import Direction, Place
from suture.matching.examples import N_WORD_ROWS, Examples, Reader, examples, named, strongest, words
from suture.matching.groups import Keywords, group_of
from suture.matching.maps import places, turned
from suture.matching.read import Halves, Side
from suture.matching.settings import MatchSettings


@dataclass(frozen=True, kw_only=True)
class Look:
    """Of both sides."""

    a: Place
    b: Place
    examples: Examples | None
    """None where the store has no text, or none were asked for."""


def decoder_rows(side: Side) -> ndarray:
    """Every feature's direction in the spaces that its codes are read from, float32 [feature, width]."""
    return side.dictionary.W_dec.detach()[:, side.columns].float().cpu().numpy()


def look(
    a: Side, b: Side, one: Direction, store: Store, halves: Halves, settings: MatchSettings, keywords: Keywords
) -> Look:
    """Words and subjects from the strongest rows, the maps of both decoders, rows of every pair."""
    rows = halves.rows[halves.scoring].numpy()
    reader = Reader(store=store, rows=rows)
    documents = store.documents.numpy()[rows]
    codes = one.scoring
    tops = [strongest(own, documents, N_WORD_ROWS) for own in codes] if reader.has_text else None
    n = one.candidates.shape
    maps: list[ndarray | None] = [places(decoder_rows(s), settings.maps, seed=settings.map_seed) for s in (a, b)]
    onto, moved = maps
    if onto is not None and moved is not None:
        maps[1] = turned(moved, onto, one.single)
    sides = []
    for m in (0, 1):
        found = words(reader, tops[m]) if tops is not None else [[] for _ in range(n[m])]
        place = maps[m]
        flat = np.full((n[m], 2), np.nan) if place is None else place
        sides.append(
            Place(
                words=np.array([named(own) for own in found], dtype=object),
                subject=np.array([group_of(own, keywords) for own in found], dtype=object),
                map_x=flat[:, 0].copy(),
                map_y=flat[:, 1].copy(),
            )
        )
    kept = None
    if tops is not None and settings.examples:
        back = one.reversed()
        kept = examples(reader, codes, (tops[0], tops[1]), (one.pairs, back.pairs), settings.examples)
    return Look(a=sides[0], b=sides[1], examples=kept)
