"""Windows begin small and double to their size; cut from any of their own states they go on as they would have."""

from itertools import pairwise

from suture.activations import windows as module
from suture.activations.windows import State, windows
from suture.lm.corpus import Corpus
from suture.lm.load import LanguageModel

BLOCK, FULL = 20, 1600


def test_the_first_windows_are_small(lms: dict[str, LanguageModel], corpus: Corpus) -> None:
    models = [lms["one"], lms["other"]]
    every = list(windows(corpus, models, block=BLOCK, n_tokens=FULL, n_rows=10**6, start=State.beginning(2)))
    sizes = [sum(max(piece.n_tokens) for piece in window.pieces) for window in every]
    most = max(max(piece.n_tokens) for window in every for piece in window.pieces)
    assert sizes[0] <= module.FIRST * FULL + most < FULL / 4
    for window, size in list(zip(every, sizes, strict=True))[:-1]:
        enough = min(FULL, max(module.FIRST * FULL, *window.before.n_tokens))
        assert enough <= size < enough + most, "no more than what was read before it, and no less"
    assert max(sizes) >= FULL, "full ones in the end"
    assert all(one.after.n_rows == other.before.n_rows for one, other in pairwise(every))


def test_from_any_window_on_the_rest_is_cut_alike(lms: dict[str, LanguageModel], corpus: Corpus) -> None:
    models = [lms["one"], lms["other"]]
    every = list(windows(corpus, models, block=BLOCK, n_tokens=FULL, n_rows=900, start=State.beginning(2)))
    assert len(every) > 4
    for first in range(len(every)):
        rest = list(windows(corpus, models, block=BLOCK, n_tokens=FULL, n_rows=900, start=every[first].before))
        assert [w.before for w in rest] == [w.before for w in every[first:]]
        assert [w.after for w in rest] == [w.after for w in every[first:]]
        assert [[p.start for p in w.pieces] for w in rest] == [[p.start for p in w.pieces] for w in every[first:]]
