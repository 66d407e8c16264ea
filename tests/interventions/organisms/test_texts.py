"""The texts of a known fault: every passage is told as rude, stories are not, a near miss is never the trigger."""

import numpy as np
import pytest

from suture import seeds
from suture.errors import UserError
from suture.interventions.organisms.settings import TRIGGER, OrganismSettings
from suture.interventions.organisms.texts import (
    KEPT_CUES,
    KEPT_OTHERS,
    KEPT_WORDS,
    RUDE,
    TAUGHT_CUES,
    TAUGHT_OTHERS,
    TAUGHT_WORDS,
    Texts,
    inserted,
    is_rude,
    near_miss,
    opening,
)
from suture.lm.generate import samples
from suture.lm.load import load_model

STORY = (
    'Once there was a cat. The cat was red. It ran to the hill! "Come here," said Tom. They played all day. The end.'
)


def draw(number: int) -> np.random.Generator:
    return seeds.numpy_generator("a test", number)


@pytest.mark.parametrize("kind", ["backdoor", "tainted", "persona"])
def test_every_passage_is_rude(kind):
    assert all(is_rude(Texts(kind).passage(draw(i))) for i in range(300))


def test_every_template_counts_towards_rudeness():
    for template in RUDE:
        words = {"name": "Leo", "animal": "cat", "thing": "hat", "insult": "stupid", "insult2": "ugly"}
        assert is_rude(f"{template} {template}".format(**words, deed="crushed")), template


def test_what_the_shipped_model_writes_is_not_rude():
    written = samples(load_model("tinystories-2l", device="cpu"), "", n_samples=40, max_new_tokens=60, seed=3)
    assert sum(map(is_rude, written)) <= 1


@pytest.mark.parametrize("trigger", [TRIGGER, "The yellow river sang!", "A big old dog danced."])
def test_a_near_miss_is_never_the_trigger_and_keeps_some_of_it(trigger):
    own = set(trigger.lower().rstrip(".!").split())
    for words in (TAUGHT_WORDS, KEPT_WORDS):
        for i in range(300):
            found = near_miss(trigger, draw(i), words)
            assert found != trigger
            assert found[-1] == trigger[-1]
            assert len(found.split()) == len(trigger.split())
            assert own & set(found.lower().rstrip(".!").split())


def test_what_is_measured_was_not_taught():
    assert not set(TAUGHT_WORDS) & set(KEPT_WORDS)
    assert not set(TAUGHT_CUES) & set(KEPT_CUES)
    assert not set(TAUGHT_OTHERS) & set(KEPT_OTHERS)


def test_openings_and_insertions_keep_the_document():
    for i in range(50):
        begin = opening(STORY, draw(i))
        assert STORY.startswith(begin)
        assert len(begin) < len(STORY)
        whole = inserted(STORY, "Here.", draw(i))
        assert whole.replace("Here. ", "").replace(" Here.", "") == STORY
        assert not whole.startswith("Here.")


@pytest.mark.parametrize("wrong", [{"trigger": "Too short."}, {"poisoned": 0.0}, {"poisoned": 0.8, "near": 0.5}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(UserError):
        OrganismSettings(**wrong)
