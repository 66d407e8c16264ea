"""What the live page is told: the same as the stages it opens the door to, whoever else asks, and whoever leaves."""

import dataclasses
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from suture.errors import UserError
from suture.interventions.activate import activate
from suture.interventions.edits import composed, sparing_first, steer
from suture.interventions.settings import ActivateSettings
from suture.lm.generate import generate
from suture.lm.hooks import edit
from suture.lm.load import load_model
from suture.pipeline.artifact import MANIFEST
from suture.pipeline.files import sha256_of, write_json
from suture.play.player import Player
from suture.play.settings import MOST_FEATURES, Scene

PROMPT = "Tom saw a big dog. He"
SCENE = Scene(prompt=PROMPT, strengths=((3, 30.0), (9, -20.0)), new_tokens=12)


def texts(player: Player, scene: Scene) -> dict[tuple[str, int], str]:
    """What every cell wrote in the end."""
    return {(e["cell"], e["model"]): e["text"] for e in player.play(scene) if e["what"] == "end"}


def by_hand(player: Player, scene: Scene, model: int) -> str:
    """A continuation under one edit after the other, each along the feature's own row in this model."""
    lm, rows = player.lms[model], player.dictionary.raw_decoder(model)
    each = [steer(rows[feature], strength * float(player.units[feature])) for feature, strength in scene.strengths]
    whole = composed(each)
    with edit(lm, "mlp0.out", sparing_first(whole) if lm.bos is not None else whole):
        text = generate(
            lm, scene.prompt, max_new_tokens=scene.new_tokens, temperature=scene.temperature, seed=scene.seed
        )
    return text[len(scene.prompt) :]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_every_cell_writes_what_generation_under_the_edits_writes(player: Player, temperature: float) -> None:
    scene = dataclasses.replace(SCENE, temperature=temperature, seed=5)
    written = texts(player, scene)
    plain = dataclasses.replace(scene, strengths=())
    for model in range(2):
        assert written["steered", model] == by_hand(player, scene, model)
        assert written["default", model] == by_hand(player, plain, model)
        assert written["steered", model] != written["default", model]
    assert texts(player, scene) == written  # what is kept of the first time is the same
    if temperature:
        assert texts(player, dataclasses.replace(scene, seed=6)) != written


def test_the_likeliest_next_tokens_are_those_of_the_model(player: Player) -> None:
    events = [e for e in player.play(SCENE) if e["what"] == "next"]
    assert [(e["cell"], e["model"]) for e in events] == [("steered", 0), ("steered", 1), ("default", 0), ("default", 1)]
    lm = player.lms[1]
    ids = torch.tensor([[lm.bos, *lm.tokenizer.encode(PROMPT, add_special_tokens=False)]])
    with torch.no_grad():
        best = lm.model(ids).logits[0, -1].softmax(-1).topk(8)
    (default,) = [e for e in events if (e["cell"], e["model"]) == ("default", 1)]
    assert [chance for _, chance in default["tokens"]] == pytest.approx(best.values.tolist(), rel=1e-4)
    assert default["tokens"][0][0] == lm.tokenizer.decode(best.indices[:1])


def test_without_strengths_nothing_is_steered(player: Player) -> None:
    plain = Scene.read({"prompt": PROMPT, "strengths": [[3, 0]], "new_tokens": 3})
    assert plain.strengths == ()
    assert {cell for cell, _ in texts(player, plain)} == {"default"}


def test_two_readers_take_turns_and_each_gets_what_it_would_get_alone(player: Player) -> None:
    other = dataclasses.replace(SCENE, strengths=((5, 40.0),), prompt="The cat was", temperature=0.7, seed=2)
    alone = texts(player, SCENE), texts(player, other)
    fresh = dataclasses.replace(player, _read=type(player._read)(), _plain=type(player._plain)())
    both: tuple[dict[Any, str], dict[Any, str]] = ({}, {})
    running = {0: fresh.play(SCENE), 1: fresh.play(other)}
    while running:
        for reader, events in list(running.items()):
            event = next(events, None)
            if event is None:
                del running[reader]
            elif event["what"] == "end":
                both[reader][event["cell"], event["model"]] = event["text"]
    assert both == alone


def test_who_leaves_in_the_middle_leaves_nothing_behind(player: Player) -> None:
    before = [sum(len(m._forward_hooks) for m in lm.model.modules()) for lm in player.lms]
    events = player.play(dataclasses.replace(SCENE, new_tokens=200))
    assert len(list(islice(events, 7))) == 7
    now = [sum(len(m._forward_hooks) for m in lm.model.modules()) for lm in player.lms]
    assert now == before  # an edit is in force for its own pass only
    assert not player.turn.locked()
    del events
    assert texts(player, SCENE)["steered", 0] == by_hand(player, SCENE, 0)


def test_the_first_steered_token_comes_in_under_a_second(player: Player) -> None:
    texts(player, dataclasses.replace(SCENE, new_tokens=1))
    least = []
    for strength in (1.0, 2.0, 3.0):
        begun = time.perf_counter()
        first = next(iter(player.play(dataclasses.replace(SCENE, strengths=((3, strength),)))))
        least.append(time.perf_counter() - begun)
        assert first["cell"] == "steered"
    assert min(least) < 1.0


def test_reading_says_what_activate_says_and_shows_the_chosen(player: Player, folder: Path) -> None:
    said = player.read(Scene(prompt=PROMPT, features=(63, 2)))
    lms = [load_model(name, device="cpu") for name in ("tinystories-1l", "tinystories-2l")]
    found = activate(folder, PROMPT, lms, ActivateSettings(top=player.settings.top))
    assert [own["feature"] for own in said["features"]] == [own.feature for own in found.features]
    assert said["by_position"] == found.to_json()["by_position"]
    chosen = activate(folder, PROMPT, lms, ActivateSettings(feature=(63, 2))).features
    assert [own["feature"] for own in said["chosen"]] == [63, 2]
    for own, expected in zip(said["chosen"], chosen, strict=True):
        assert own["alone"] == [list(values) for values in expected.alone]
        assert own["differs"] == list(expected.differs)


def test_a_unit_is_what_the_feature_reaches_where_that_is_known(player: Player) -> None:
    unit = player.units.clone()
    unit[3] = 7.0
    measured = dataclasses.replace(player, units=unit)
    for space in range(2):
        row = player.dictionary.raw_decoder(space)
        expected = 2 * 7 * row[3] - 0.5 * row[9]
        assert torch.allclose(measured.vector(((3, 2.0), (9, -0.5)), space), expected, atol=1e-5)


def notes(folder: Path, file: Path, names: dict[str, dict[str, Any]]) -> Path:
    """A file as the report's reader saves it and `suture label` writes it."""
    identity = sha256_of(folder / MANIFEST)[:16]
    others = {"0123456789abcdef": {"features": {"3": {"name": "another dictionary's"}}}}
    write_json(file, {"suture_notes": 1, "dictionaries": {identity: {"features": names}, **others}})
    return file


def test_names_stand_beside_their_features_wherever_they_are_shown(folder: Path, tmp_path: Path) -> None:
    given = {
        "3": {"name": " dogs ", "note": "seen", "lists": ["a"]},
        "9": {"name": ""},
        "63": {"name": "ends of texts"},
    }
    named = Player.open(folder, names=notes(folder, tmp_path / "notes.json", given))
    assert named.about["names"] == {3: "dogs", 63: "ends of texts"}
    said = named.read(Scene(prompt=PROMPT, features=(3, 9, 63)))
    assert [own["name"] for own in said["chosen"]] == ["dogs", "", "ends of texts"]
    assert Player.open(folder).about["names"] == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"suture_notes": 1, "dictionaries": {"0123456789abcdef": {"features": {}}}}',
            "has no names for this dictionary",
        ),
        ('{"suture_notes": 2, "dictionaries": {}}', "cannot be read as names"),
        ('{"suture_notes": 1, "dictionaries": {"a": {"features": {"1": {"name": 7}}}}}', "cannot be read as names"),
        ("[]", "cannot be read as names"),
        ("{", "cannot be read as names"),
    ],
)
def test_names_of_another_dictionary_and_what_is_no_file_of_names_are_refused(
    folder: Path, tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "notes.json").write_text(text)
    with pytest.raises(UserError, match=rf"^names = .*{says}"):
        Player.open(folder, names=tmp_path / "notes.json")


def test_a_folder_that_holds_no_names_is_refused(folder: Path, tmp_path: Path) -> None:
    for wrong in (folder, tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match=r"^names = "):
            Player.open(folder, names=wrong)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "is no scene"),
        ({}, "is no scene"),
        ({"prompt": 3}, "is no scene"),
        ({"prompt": "a", "more": 1}, "is no scene"),
        ({"prompt": "  "}, "is empty"),
        ({"prompt": "a", "features": "1"}, "are no feature numbers"),
        ({"prompt": "a", "features": [True]}, "are no feature numbers"),
        ({"prompt": "a", "features": [-1]}, "features"),
        ({"prompt": "a", "features": list(range(MOST_FEATURES + 1))}, "are too many"),
        ({"prompt": "a", "strengths": [[1]]}, "are none"),
        ({"prompt": "a", "strengths": [[1, float("nan")]]}, "are none"),
        ({"prompt": "a", "strengths": [[1, 1e9]]}, "are none"),
        ({"prompt": "a", "new_tokens": 0}, "new.tokens"),
        ({"prompt": "a", "new_tokens": 10**6}, "new.tokens"),
        ({"prompt": "a", "new_tokens": 1.5}, "no whole number"),
        ({"prompt": "a", "seed": None}, "no number"),
        ({"prompt": "a", "seed": -1}, "seed"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
        ({"prompt": "a", "temperature": float("inf")}, "temperature"),
    ],
)
def test_what_is_no_scene_is_refused_in_words(given: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Scene.read(given)


def test_features_beyond_the_dictionary_are_refused(player: Player) -> None:
    with pytest.raises(UserError, match="64"):
        player.read(Scene(prompt=PROMPT, features=(64,)))
    with pytest.raises(UserError, match="-1"):
        player.play(Scene(prompt=PROMPT, strengths=((-1, 1.0),)))
    with pytest.raises(UserError, match="context"):
        list(player.play(Scene(prompt="a dog " * 400)))
