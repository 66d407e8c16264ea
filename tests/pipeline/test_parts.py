"""Parts: made once, read back as they were, made anew where the file is damaged, and gone when the result is whole."""

from pathlib import Path

import pytest
import torch

from suture.pipeline import artifact
from suture.pipeline.parts import Parts


class Work:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"sum": torch.arange(3).double() / 7, "count": torch.tensor([1, 2])}


def test_a_part_is_made_once(tmp_path: Path) -> None:
    parts, work = Parts(tmp_path / "parts"), Work()
    first, second = parts.get("one", work), parts.get("one", work)
    assert work.calls == 1
    assert all(torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first)
    parts.get("two", work)
    assert work.calls == 2


def test_a_damaged_part_is_made_anew(tmp_path: Path) -> None:
    parts, work = Parts(tmp_path / "parts"), Work()
    parts.get("one", work)
    (file,) = (tmp_path / "parts").iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert torch.equal(parts.get("one", work)["count"], torch.tensor([1, 2]))
    assert work.calls == 2
    parts.get("one", work)
    assert work.calls == 2


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    work = Work()
    for _ in range(2):
        Parts().get("one", work)
    assert work.calls == 2
    assert not list(tmp_path.iterdir())


def test_a_finished_result_holds_no_parts(tmp_path: Path) -> None:
    def run(*, fails: bool, resume: bool, work: Work) -> None:
        with artifact.create(tmp_path / "out", stage="test", settings={}, resume=resume, resumable=True) as draft:
            Parts.of(draft).get("one", work)
            if fails:
                raise KeyboardInterrupt
            (draft.folder / "result").write_text("whole")

    work = Work()
    with pytest.raises(KeyboardInterrupt):
        run(fails=True, resume=False, work=work)
    run(fails=False, resume=True, work=work)
    assert work.calls == 1
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["manifest.json", "result"]
    assert [f.name for f in artifact.open_artifact(tmp_path / "out").files] == ["result"]
