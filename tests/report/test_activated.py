"""The page of one's own text: escaped, self-contained, shaded where features fire."""

import re
from pathlib import Path

import pytest
import torch

from suture.dictionary.codes import Codes
from suture.errors import UserError
from suture.interventions.activate import Activated, Known, OnText
from suture.report.activated import activated_page

NASTY = "<script>alert(1)</script>"


def activated() -> Activated:
    """Three positions; feature 3 fires in A alone on the second, 5 in both on the third."""
    a, b = torch.zeros(3, 8), torch.zeros(3, 8)
    a[1, 3], a[2, 5], b[2, 5] = 4.0, 1.0, 2.0
    alone = (Codes.from_dense(a), Codes.from_dense(b))
    joint = Codes.from_dense((a + b) / 2)
    known = Known(label="shared", promoted=((NASTY,), ()))
    features = tuple(
        OnText(
            feature=i,
            together=tuple(joint.column(i).tolist()),
            alone=tuple(tuple(c.column(i).tolist()) for c in alone),
            known=known,
        )
        for i in (3, 5)
    )
    return Activated(
        models=("one @ x", "two @ y"), tokens=("A", f" {NASTY}", " dog"), tail=" <b>", features=features, joint=joint,
        alone=alone, n_active=2, n_differing=1, notes=("the text is cut",),
    )  # fmt: skip


def test_the_page_shows_what_fires_and_runs_nothing(tmp_path: Path) -> None:
    page = activated_page(tmp_path / "new" / "page.html", activated()).read_text(encoding="utf-8")
    assert "<script" not in page
    assert NASTY.replace("<", "&lt;").replace(">", "&gt;") in page
    assert not re.search(r"(src|href)=\"(?!#|data:,)", page)
    shaded = re.findall(r'<span class="on" title="([^"]+)" style="([^"]+)">([^<]*)</span>', page)
    assert [title for title, _, _ in shaded] == [
        "A alone 4.00, B alone 0, all together 2.00",
        "A alone 1.00, B alone 2.00, all together 1.50",
    ]
    assert ["underline" in style for _, style, _ in shaded] == [True, False]
    assert "rgb(var(--a-ink) / 0.60) 0% 50%,rgb(var(--b-ink) / 0) 50% 100%" in shaded[0][1]
    assert "rgb(var(--a-ink) / 0.35) 0% 50%,rgb(var(--b-ink) / 0.60) 50% 100%" in shaded[1][1]
    assert page.count('id="feature-') == page.count('href="#feature-') == 2
    assert "Note: the text is cut." in page


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        activated_page(tmp_path, activated())
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        activated_page(tmp_path / "file" / "page.html", activated())
