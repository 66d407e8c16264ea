"""How numbers and labels are written, and that HTML is escaped."""

import pytest

from suture.report import words
from suture.report.gather import short_labels
from suture.report.html import embedded_json, tag


def test_plain_values() -> None:
    assert words.plain([1, 2.5, "x", None]) == "1, 2.5, x, –"
    assert words.plain(True) == "yes"
    assert words.plain(3e-4) == "0.0003"
    assert words.plain(2048) == "2,048"


def test_labels_in_order_with_others_between() -> None:
    assert words.ordered_labels({"dead": 1, "AB": 2}) == ["shared", "A", "B", "AB", "ambiguous", "dead"]


def test_flatten() -> None:
    nested = {"design": {"kind": "sae", "sizes": [1, 2]}, "models": [{"name": "m"}]}
    assert words.flatten(nested) == {"design.kind": "sae", "design.sizes": [1, 2], "models.0.name": "m"}


def test_model_paths_are_shortened_only_where_they_stay_apart() -> None:
    assert short_labels(["/x/m1 @ mlp0.out", "hub/m2 @ mlp0.out"]) == ["m1 @ mlp0.out", "m2 @ mlp0.out"]
    assert short_labels(["a/m @ mlp0.out", "b/m @ mlp0.out"]) == ["a/m @ mlp0.out", "b/m @ mlp0.out"]


def test_tag_escapes_text_and_attributes() -> None:
    made = tag("p", "<b>", tag("i", "x"), class_='a"b', hidden=True, id=None)
    assert made == '<p class="a&quot;b" hidden>&lt;b&gt;<i>x</i></p>'


def test_embedded_json_cannot_be_left() -> None:
    made = embedded_json({"t": "</script><!--"}, id_="d")
    assert made.count("<") == 2
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded_json(float("nan"), id_="d")


def test_settings_in_a_sentence() -> None:
    settings = {
        "design": {"kind": "crosscoder", "n_features": 512, "flag": False, "sparsity": {"kind": "batchtopk", "k": 12}},
        "learning_rate": None,
        "model_dropout": 0.0,
        "n_rows": 400_000,
        "seed": 0,
    }
    said = "crosscoder, 512 features, batchtopk sparsity, k = 12, trained on 400,000 rows, seed 0"
    assert words.settings_sentence(settings) == said
