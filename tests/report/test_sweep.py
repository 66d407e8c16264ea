"""The maps of a sweep: what is one map, what is another, and where a cell's page is."""

import re
from pathlib import Path

import numpy as np

from suture.pipeline.table import Column, Table
from suture.report.html import clean
from suture.report.sweep import PAGE, Sweep, sweep_section


def sweep(folder: Path, *, third: bool) -> Sweep:
    """Two by two hookpoints at two values of k, or at two hookpoints of a third model; one page is missing."""
    cells = [(a, b, c) for c in (0, 1) for a in ("mlp0.out", "mlp1.out") for b in ("resid0.post", "resid3.post")]
    varied = Column(name="at_C", title="At C", sentence="Hookpoint in model C.", format="text")
    k = Column(name="k", title="k", sentence="Active features asked for.", format="integer")
    text = [Column(name=n, title=n, sentence="Where.", format="text") for n in ("cell", "at_A", "at_B")]
    shared = Column(name="shared", title="Shared", sentence="Share of live features.", format="percent")
    fvu = Column(name="fvu_A", title="FVU A", sentence="Left.", format="share")
    pages = [f"cells/{i}/report.html" for i in range(len(cells))]
    for page in pages[1:]:
        (folder / page).parent.mkdir(parents=True)
        (folder / page).write_text("a page")
    values = {
        "cell": np.array([f"cell {i}" for i in range(len(cells))], dtype=object),
        "at_A": np.array([a for a, _, _ in cells], dtype=object),
        "at_B": np.array([b for _, b, _ in cells], dtype=object),
        "shared": np.array([0.1, 0.2, 0.9, 0.4, 0.5, np.nan, 0.6, 0.3]),
        "fvu_A": np.arange(8) / 10,
        PAGE.name: np.array(pages, dtype=object),
    }
    values |= {"at_C": np.array([f"mlp{c}.out" for *_, c in cells], dtype=object)} if third else {}
    values |= {} if third else {"k": np.array([8.0 + 8 * c for *_, c in cells])}
    columns = (*text, varied if third else k, shared, fvu, PAGE)
    ordered = {column.name: values[column.name] for column in columns}
    return Sweep(table=Table(axes=("cell",), columns=columns, values=ordered), folder=folder)


def test_there_is_a_map_for_each_choice_of_the_rest_and_cells_open_their_pages(tmp_path: Path) -> None:
    for third, words in ((False, ("Shared: k 8", "Shared: k 16")), (True, ("At C mlp0.out", "At C mlp1.out"))):
        folder = tmp_path / str(third)
        page = clean(str(sweep_section(sweep(folder, third=third), folder / "elsewhere" / "report.html"))).replace(
            "\xa0", " "
        )
        assert all(word in page for word in words)
        assert "Largest of 4 cells: mlp1.out with resid0.post, 90.0 %." in page
        assert "Largest of 4 cells: mlp1.out with resid0.post, 60.0 %." in page, "what is not known is not the largest"
        links = re.findall(r'href="([^"]+)"', page)
        assert sorted(links) == sorted(2 * [f"../cells/{i}/report.html" for i in range(1, 8)]), "of the first no page"
        assert PAGE.sentence not in page
