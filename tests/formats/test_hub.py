"""A hub repository: one dictionary of many is fetched, not the whole; without a network its cache is all there is."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from suture.errors import DiskSpaceError, UserError
from suture.formats.importing import import_dictionary
from suture.formats.settings import ImportSettings
from suture.lm import hub
from suture.pipeline.artifact import open_artifact

DATA = Path(__file__).parent / "data" / "saelens"
COMMIT = "0" * 39 + "1"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A hub that holds the fixtures; gets what is fetched."""
    asked: list[str] = []
    files = {f.relative_to(DATA).as_posix(): f.stat().st_size for f in DATA.rglob("*") if f.is_file()}
    model = {"config.json": 700, "model.safetensors": 10**12}

    class Api:
        def model_info(self, name: str, *, revision: str | None, files_metadata: bool) -> Any:
            assert files_metadata
            if name not in ("org/saes", "org/model") or revision == "gone":
                raise OSError(f"404: no {name}\nat all")
            held = files if name == "org/saes" else model
            siblings = [SimpleNamespace(rfilename=file, size=size) for file, size in held.items()]
            return SimpleNamespace(sha=COMMIT, siblings=siblings)

    def snapshot(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        assert revision == COMMIT
        for file in allow_patterns:
            asked.append(file)
            (tmp_path / "cache" / file).parent.mkdir(parents=True, exist_ok=True)
            if name == "org/model":
                (tmp_path / "cache" / file).write_text('{"architectures": ["LlamaForCausalLM"]}')
            else:
                shutil.copy(DATA / file, tmp_path / "cache" / file)
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "hub_answers", lambda: True)
    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    return asked


def test_only_the_files_of_one_dictionary_are_fetched(fetched: list[str], tmp_path: Path) -> None:
    dictionary = import_dictionary(tmp_path / "out", "org/saes", ImportSettings(file="gated"))
    assert set(fetched) == {"gated/cfg.json", "gated/sae_weights.safetensors"}
    assert dictionary.sparsity.kind == "gated"
    record = open_artifact(tmp_path / "out").settings["imported"]
    assert (record["source"], record["folder"], record["revision"]) == ("org/saes", "gated", COMMIT)


def test_nothing_is_fetched_before_it_is_known_what(fetched: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 12 dictionaries"):
        import_dictionary(tmp_path / "out", "org/saes")
    for settings in ({"revision": "gone"}, {}):
        with pytest.raises(UserError, match=r"the hub does not give it: 404: no org/\w+; check"):
            import_dictionary(tmp_path / "out", "org/saes" if settings else "org/other", ImportSettings(**settings))  # pyright: ignore[reportArgumentType]
    assert fetched == []


def test_of_a_language_model_its_configuration_alone_is_fetched(fetched: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a language model, not a dictionary"):
        import_dictionary(tmp_path / "out", "org/model")
    assert fetched == ["config.json"]


def test_what_would_not_fit_is_not_fetched(fetched: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("suture.pipeline.files.free_bytes", lambda _: 100)
    with pytest.raises(DiskSpaceError, match="make room for the hub's cache"):
        import_dictionary(tmp_path / "out", "org/saes", ImportSettings(file="gated"))
    assert fetched == []


def test_offline_the_cache_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """huggingface_hub's own cache, as a download leaves it."""
    repository = tmp_path / "hub" / "models--org--saes"
    shutil.copytree(DATA / "topk", repository / "snapshots" / COMMIT / "topk")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    dictionary = import_dictionary(tmp_path / "out", "org/saes", ImportSettings(offline=True))
    assert dictionary.sparsity.kind == "topk"
    assert open_artifact(tmp_path / "out").settings["imported"]["revision"] == COMMIT
    with pytest.raises(UserError, match="not in the local hub cache, all there is without a network"):
        import_dictionary(tmp_path / "other", "org/others", ImportSettings(offline=True))


def test_a_snapshot_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("not there")

    monkeypatch.setattr(hub, "snapshot_download", missing)
    listing = hub.Listing(name="org/saes", commit=COMMIT, n_bytes={"a": 1}, cached=None)
    with pytest.raises(UserError, match="the hub does not give it: not there"):
        hub.fetch(listing, ["a"])
