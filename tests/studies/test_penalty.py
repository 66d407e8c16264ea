"""The search for a penalty ends within its tolerance, and goes on from its trials alone."""

from hypothesis import given, settings
from hypothesis import strategies as st

from suture.studies.penalty import Trial, next_penalty, within


def search(l0_of: dict[str, float], target: float, at_most: int) -> list[Trial]:
    """A search where the active features fall as scale · (l1 / knee)^-slope, and to none beyond a cliff."""
    trials: list[Trial] = []
    while len(trials) < at_most and not (trials and within(trials[-1], target, 0.05)):
        l1 = next_penalty(trials, target, 0.03)
        fallen = l0_of["scale"] * (1 + l1 / l0_of["knee"]) ** -l0_of["slope"]
        trials.append(Trial(l1=l1, l0=0.0 if l1 > l0_of["cliff"] else fallen))
    return trials


@settings(max_examples=100, deadline=None)
@given(
    scale=st.floats(40, 400),
    knee=st.floats(0.01, 0.3),
    slope=st.floats(0.8, 3.0),
    target=st.sampled_from([4.0, 8.0, 16.0]),
)
def test_it_finds_the_penalty(scale: float, knee: float, slope: float, target: float) -> None:
    found = search({"scale": scale, "knee": knee, "slope": slope, "cliff": float("inf")}, target, 14)
    assert within(found[-1], target, 0.05), found
    assert all(t.l1 > 0 for t in found)


def test_it_comes_back_from_a_penalty_that_silences_everything() -> None:
    found = search({"scale": 60, "knee": 0.02, "slope": 1.2, "cliff": 0.15}, 8.0, 14)
    assert within(found[-1], 8.0, 0.05), found


def test_the_next_penalty_lies_between_the_nearest_trials_on_both_sides() -> None:
    trials = [Trial(l1=0.03, l0=40.0), Trial(l1=0.12, l0=12.0), Trial(l1=0.5, l0=3.0)]
    assert 0.12 < next_penalty(trials, 8.0, 0.03) < 0.5
    assert next_penalty([], 8.0, 0.03) == 0.03
    assert next_penalty(trials[:1], 8.0, 0.03) == 0.12
