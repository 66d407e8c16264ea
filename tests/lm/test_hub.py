"""Whether the hub can be reached is found out with one request, and without one where it is known."""

import ssl
import urllib.error
import urllib.request
from email.message import Message
from types import TracebackType
from typing import Any

import pytest

from suture.errors import UserError
from suture.lm.corpus import open_corpus
from suture.lm.hub import hub_answers
from suture.lm.load import load_model


class Network:
    """In place of urlopen: counts the requests and answers them with `outcome`."""

    def __init__(self, outcome: Exception | None) -> None:
        self.outcome, self.n_requests = outcome, 0

    def __call__(self, request: urllib.request.Request, timeout: float) -> "Network":
        self.n_requests += 1
        assert request.get_method() == "HEAD"
        assert timeout > 0
        if self.outcome is not None:
            raise self.outcome
        return self

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


UNREACHABLE = urllib.error.URLError(OSError(-2, "Name or service not known"))


def network(
    monkeypatch: pytest.MonkeyPatch, outcome: Exception | None, proxies: dict[str, str] | None = None
) -> Network:
    made = Network(outcome)
    monkeypatch.setattr("urllib.request.urlopen", made)
    monkeypatch.setattr("urllib.request.getproxies", lambda: proxies or {})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return made


@pytest.mark.parametrize(
    ("outcome", "answers"),
    [
        (None, True),
        (urllib.error.HTTPError("https://hub", 503, "busy", Message(), None), True),
        (urllib.error.URLError(ssl.SSLCertVerificationError("unknown authority")), True),
        (UNREACHABLE, False),
        (urllib.error.URLError(TimeoutError("timed out")), False),
        (ConnectionResetError("reset"), False),
    ],
)
def test_only_a_failure_to_connect_counts(
    outcome: Exception | None, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = network(monkeypatch, outcome)
    assert hub_answers() is answers
    assert asked.n_requests == 1


def test_with_a_proxy_or_when_forbidden_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = network(monkeypatch, UNREACHABLE, proxies={"https": "http://proxy:8080"})
    assert hub_answers()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not hub_answers()
    assert asked.n_requests == 0


def test_without_a_network_a_hub_name_is_refused_at_once_and_in_silence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = network(monkeypatch, UNREACHABLE)

    def no_more(*_: Any, **__: Any) -> None:
        raise AssertionError("huggingface_hub asked again")

    monkeypatch.setattr("time.sleep", no_more)  # it waits between its tries
    with pytest.raises(UserError, match="nobody/no-such-model: is no folder and not in the local hub cache"):
        load_model("nobody/no-such-model")
    with pytest.raises(UserError, match="nobody/no-such-dataset: is not in the datasets cache"):
        open_corpus("nobody/no-such-dataset")
    assert asked.n_requests == 2
    assert capfd.readouterr() == ("", "")


def test_a_folder_or_a_shipped_model_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = network(monkeypatch, UNREACHABLE)
    load_model("tinystories-1l")
    assert asked.n_requests == 0
