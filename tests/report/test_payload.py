"""The data behind the feature pages: what is in a table comes back from the pieces, folded, cut and once."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from report.made_artifacts import NASTY, make_columns, make_example, make_features, make_store, make_table
from report.made_artifacts import make_dictionary as made_dictionary
from report.parsed_page import Page
from suture.features.details import Details
from suture.features.table import FeatureTable
from suture.report.page import report
from suture.report.payload import BLOCK, KINDS, Limits, explorer
from suture.report.pieces import packed, unpacked
from suture.report.texts import CHUNK, Texts

MODELS = ("a @ x", "b @ y")


def made_table(n_features: int = 30, *, extra: bool = True) -> FeatureTable:
    """A store of two documents, examples cut from it, and everything that the features stage records."""
    rng = random.Random(7)
    words = [f" w{i}" for i in range(40)] + list(NASTY[:5])
    tokens = [rng.choice(words) for _ in range(2 * CHUNK)]
    document = [0] * (CHUNK - 100) + [1] * (CHUNK + 100)

    def example(row: int, kind: str) -> dict[str, Any]:
        first = max(row - 14, document.index(document[row]))
        last = min(row + 10, len(tokens), len(document) - document[::-1].index(document[row]))
        values = [0.0] * (last - first)
        values[row - first] = round(rng.uniform(0.5, 9), 4)
        joint = [1.5 * v for v in values]
        side = {"tokens": tokens[first:last], "values": values, "peak": row - first}
        other = {**side, "values": [0.25 * v for v in values]}
        return {"kind": kind, "value": joint[row - first], "document": document[row], "row": row, "joint": joint,
                "sides": [side, other]}  # fmt: skip

    rows = [[rng.randrange(100, len(tokens) - 100) for _ in range(6)] for _ in range(n_features)]
    kinds = ("top", "top", "store", "q50-q90", "weakest", "random")
    examples = [[example(r, k) for r, k in zip(own, kinds, strict=True)] for own in rows]
    columns = make_columns(n_features, rng, pooled=False, null=False)
    logits = [
        [
            {"promoted": [[f" up{i}{m}", 2.0], [NASTY[0], 1.0]], "suppressed": [[" down", -1.5]], "path": "direct"}
            | ({"farthest": 2.0, "counts": [1, 2, 3]} if extra else {})
            for m in range(2)
        ]
        for i in range(n_features)
    ]
    table = make_table(MODELS, columns, examples, logits, {"counts": {}, "null": False})
    if not extra:
        return table
    split = [i for i in range(len(tokens)) if i == 0 or document[i] != document[i - 1]]
    ends = [*split[1:], len(tokens)]
    passages = [{"document": document[a], "row": a, "tokens": tokens[a:b]} for a, b in zip(split, ends, strict=True)]
    found = Details(
        largest=torch.full((n_features,), 9.0),
        values=torch.arange(3 * n_features * 4, dtype=torch.int32).view(3, n_features, 4),
        nearest=torch.tensor([[(i + 1) % n_features, -1] for i in range(n_features)]),
        cosine=torch.tensor([[0.5, math.nan]] * n_features),
        cosine_each=torch.tensor([[[0.4, 0.6], [math.nan, math.nan]]] * n_features),
        together=torch.tensor([[(i + 2) % n_features, (i + 3) % n_features] for i in range(n_features)]),
        correlation=torch.tensor([[0.9, 0.8]] * n_features),
        n_rows=torch.tensor([100]),
    )
    values = {name: getattr(table, name) for name in ("models", "labels", "reasons", "columns", "summary", "specs")}
    return FeatureTable(**values, examples=examples, logits=logits, passages=passages, details=found)


def read(table: FeatureTable, *, whole: bool = True, limits: Limits | None = None) -> tuple[dict[str, Any], dict]:
    found = explorer(table, name="x", identity="abc", limits=limits or Limits(), whole=whole)
    return unpacked(packed(found.index)), {name: unpacked(packed(content)) for name, content in found.pieces}


def token_at(pieces: dict[str, Any], row: int) -> tuple[int, str] | None:
    for document, first, tokens in pieces.get(f"x{row // CHUNK}", ()):
        if first <= row < first + len(tokens):
            return document, tokens[row - first]
    return None


def test_every_example_is_found_again_from_its_row() -> None:
    table = made_table()
    index, pieces = read(table)
    limits = Limits()
    for i, own in enumerate(table.examples):
        record = pieces[f"b{i // BLOCK}"]["features"][i % BLOCK]["e"]
        assert record["r"] == [e["row"] for e in own]
        assert record["k"] == "".join(KINDS[e["kind"]] for e in own)
        assert "o" not in record
        for n, example in enumerate(own):
            before, length = record.get("w", {}).get(str(n), index["window"])
            peak = example["sides"][0]["peak"]
            start = max(0, peak - limits.n_before)
            assert before == peak - start
            wanted = example["sides"][0]["tokens"][start : start + length]
            got = [token_at(pieces, example["row"] - before + j) for j in range(length)]
            assert got == [(example["document"], t) for t in wanted]
            place, joint, a, b = record["v"][n]
            assert place == before
            assert [joint, a, b] == pytest.approx(
                [example["value"], *(s["values"][peak] for s in example["sides"])], rel=6e-3
            )


def test_index_and_blocks_hold_the_rest_of_the_table() -> None:
    table = made_table()
    index, pieces = read(table)
    assert index["columns"]["label"] == list(table.labels)
    assert index["columns"]["rate"] == pytest.approx(table.columns["rate"].tolist(), rel=1e-3)
    assert index["missing"] == []
    for i in range(table.n_features):
        strongest = [e["sides"][0]["tokens"][e["sides"][0]["peak"]] for e in table.examples[i][:3]]
        assert [index["strings"][t] for t in index["peaks"][i]] == list(dict.fromkeys(strongest))
        assert [[index["strings"][t] for t in side] for side in index["promoted"][i]] == [
            [f" up{i}0", NASTY[0]], [f" up{i}1", NASTY[0]]
        ]  # fmt: skip
        block = pieces[f"b{i // BLOCK}"]
        record = block["features"][i % BLOCK]
        path, ups, downs, farthest, counts = record["l"][0]
        assert (path, ups, farthest, counts) == ("direct", [2, 1], 2, [1, 2, 3])
        assert [block["strings"][downs[0]], downs[1]] == [" down", -1.5]
        assert record["h"] == [9, table.details.values[:, i].tolist()]  # pyright: ignore[reportOptionalMemberAccess]
        assert record["c"] == [(i + 1) % 30, 50, 40, 60]
        assert record["o"] == [(i + 2) % 30, 90, (i + 3) % 30, 80]


def test_a_large_table_keeps_its_other_columns_aside() -> None:
    table = made_table()
    index, pieces = read(table, whole=False)
    assert {"index", "label", "rate", "refit_share"} <= index["columns"].keys()
    assert "q999" in index["later"]
    assert not set(index["later"]) & index["columns"].keys()
    everything, _ = read(table)
    for place, key in enumerate(index["later"]):
        assert pieces[f"c{place}"] == everything["columns"][key]
        assert [pieces[f"b{i // BLOCK}"]["features"][i % BLOCK]["n"][place] for i in range(30)] == pieces[f"c{place}"]


def test_an_old_table_opens_and_says_what_it_has_not() -> None:
    table = made_table(extra=False)
    index, pieces = read(table)
    (said,) = index["missing"]
    for part in ("histograms of values", "neighbours", "longer text", "histograms of logit effects", "an older suture"):
        assert part in said
    record = pieces["b0"]["features"][0]
    assert "h" not in record
    assert "c" not in record
    example = table.examples[0][0]
    assert token_at(pieces, example["row"]) == (example["document"], example["sides"][0]["tokens"][14])


def test_texts_that_are_not_those_of_their_rows_are_kept_with_the_example() -> None:
    rng = random.Random(0)
    examples = [[make_example(rng, "shared", nasty=i == 0) for _ in range(3)] for i in range(4)]
    for own in examples:
        for e in own:
            e["row"] = 500  # they cannot all be this row's
    columns = make_columns(4, rng, pooled=False, null=False)
    _, pieces = read(make_table(MODELS, columns, examples, [], {"counts": {}, "null": False}))
    block = pieces["b0"]
    n_own = 0
    for own, record in zip(examples, block["features"], strict=True):
        for place, (document, sides) in record["e"].get("o", {}).items():
            n_own += 1
            example = own[int(place)]
            assert document == example["document"]
            for (tokens, peak), side in zip(sides, example["sides"], strict=True):
                start = max(0, side["peak"] - Limits().n_before)
                assert peak == side["peak"] - start
                wanted = [t.replace("\ud83d", "\ufffd") for t in side["tokens"][start : side["peak"] + 9]]
                assert [block["strings"][t] for t in tokens or sides[0][0]] == wanted
    assert n_own > 4


def test_the_same_text_is_folded_and_the_same_row_shown_once() -> None:
    table = made_table(2)
    first = table.examples[0][0]
    twin = {**first, "row": first["row"] + 7, "value": 0.75}
    again = {**first, "kind": "random"}
    changed = make_table(MODELS, {k: v[:2] for k, v in table.plain_columns().items()}, [[first, twin, again], []], [], {"counts": {}, "null": False})  # fmt: skip  # noqa: E501
    _, pieces = read(changed)
    record = pieces["b0"]["features"][0]["e"]
    assert record["r"] == [first["row"]]
    assert record["s"] == {"0": [[0.75, first["row"] + 7]]}


def test_examples_are_cut_to_the_budget_the_strongest_and_the_other_kinds_alike() -> None:
    assert Limits().per_feature(2048) == 18
    assert Limits(n_total=3000).per_feature(1000) == 3
    assert Limits(n_total=10).per_feature(1000) == 0
    assert Limits().per_feature(65_536) == 18  # a folder of pieces has room
    _, pieces = read(made_table(2), limits=Limits(n_examples=4))
    assert pieces["b0"]["features"][0]["e"]["k"] == "tts" + "u"
    index, pieces = read(made_table(2), limits=Limits(n_total=1))
    assert pieces["b0"]["features"][0]["e"]["r"] == []
    assert "too large for examples" in index["missing"][0]


def test_chunks_cut_passages_at_their_ends_and_documents_apart() -> None:
    texts = Texts.of([{"document": 4, "row": CHUNK - 2, "tokens": list("abcd")}, {"document": 5, "row": CHUNK + 2, "tokens": ["e"]}], [])  # fmt: skip  # noqa: E501
    assert dict(texts.pieces()) == {
        "x0": [[4, CHUNK - 2, ["a", "b"]]],
        "x1": [[4, CHUNK, ["c", "d"]], [5, CHUNK + 2, ["e"]]],
    }


def test_packed_is_strict_json_without_halves_of_characters() -> None:
    assert unpacked(packed({"a": ["\ud83d", "</script>"]})) == {"a": ["\ufffd", "</script>"]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        packed([math.nan])
    assert "<" not in packed(["</script>"] * 100)


# ---- pieces beside the page ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_store(tmp_path / "store")
    made_dictionary(tmp_path / "x", tmp_path / "store", design="crosscoder", n_features=300)
    make_features(tmp_path / "f", tmp_path, dictionary="x", n_features=300, n_examples=2)
    return tmp_path


def test_a_large_dictionary_has_its_pieces_beside_the_page_and_old_ones_go(folder: Path) -> None:
    paths = [folder / name for name in ("store", "x", "f")]
    out = report(folder / "r.html", paths, limits=Limits(n_inline=100))
    page = Page(out.read_text(encoding="utf-8"))
    assert set(page.pieces) == {"t0"}
    files = page.data["pieces"]
    assert {"t0-b0", "t0-b1", "t0-b2", "t0-c0"} <= files.keys()
    for name, file in files.items():
        script = (folder / file).read_text(encoding="utf-8")
        detail = json.loads(script[script.index("detail:") + 7 : script.rindex("}")])
        assert detail[0] == name
        unpacked(detail[1])
    kept = folder / "r-pieces" / "theirs.js"
    kept.write_text("not ours")
    stale = folder / "r-pieces" / "t0-b9-0123456789ab.js"
    stale.write_text("ours, of an earlier page")
    again = report(out, paths, limits=Limits(n_inline=100))
    assert Page(again.read_text(encoding="utf-8")).data["pieces"] == files
    assert kept.exists()
    assert not stale.exists()
    kept.unlink()
    report(out, paths)
    assert not (folder / "r-pieces").exists()


def test_only_a_page_with_pieces_may_load_scripts(folder: Path) -> None:
    paths = [folder / name for name in ("store", "x", "f")]

    def policy(limits: Limits) -> str:
        page = Page(report(folder / "r.html", paths, limits=limits).read_text(encoding="utf-8"))
        return str(next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"))

    assert "script-src 'unsafe-inline';" in policy(Limits())
    assert "script-src 'unsafe-inline' 'self' file:;" in policy(Limits(n_inline=100))
