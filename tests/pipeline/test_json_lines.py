"""JSON on one line: what is written is read back, and what is no JSON is refused."""

from pathlib import Path

import pytest

from suture.pipeline import files


def test_a_line_of_json_holds_what_is_read_back_and_no_nan(tmp_path: Path) -> None:
    value = {"token": " é", "values": [0, 1.5, None], "word": "null"}
    (tmp_path / "line.json").write_bytes(files.json_line(value))
    assert files.read_json(tmp_path / "line.json") == value
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            files.json_line([1.0, bad])
