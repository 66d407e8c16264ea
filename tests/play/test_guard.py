"""Who may ask the live page: itself, by its own address; every door is tried by those who may not."""

import html
import json
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient

from suture.play.app import MOST_AT_ONCE, MOST_BYTES, application
from suture.play.player import Player

PORT, TOKEN = 8123, "the-right-token"
HOME = f"http://127.0.0.1:{PORT}"
PAGE = {"origin": HOME, "x-suture-token": TOKEN}
SCENE = {"prompt": "Tom saw a big", "features": [3], "strengths": [[3, 20.0]], "new_tokens": 3}


@pytest.fixture
def client(player: Player) -> TestClient:
    app: Any = application(player, port=PORT, token=TOKEN)
    return TestClient(app, base_url=HOME)


def test_the_page_itself_is_answered(client: TestClient) -> None:
    shown = client.get("/", params={"token": TOKEN})
    assert shown.status_code == 200
    said = html.unescape(shown.text)
    assert "default-src 'none'" in said
    assert "connect-src 'self'" in said
    assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
    assert shown.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in shown.headers
    said = client.post("/read", json=SCENE, headers=PAGE)
    assert said.status_code == 200
    assert "".join(said.json()["tokens"]) + said.json()["tail"] == SCENE["prompt"]
    events = [json.loads(line) for line in client.post("/play", json=SCENE, headers=PAGE).text.splitlines()]
    ends = [e for e in events if e["what"] == "end"]
    assert {(e["cell"], e["model"]) for e in ends} == {(c, m) for c in ("default", "steered") for m in (0, 1)}
    assert all(e["n"] == 3 and e["text"] for e in ends)


def test_localhost_is_the_same_place(client: TestClient) -> None:
    local = f"localhost:{PORT}"
    headers = {**PAGE, "host": local, "origin": f"http://{local}"}
    assert client.post("/read", json=SCENE, headers=headers).status_code == 200


WRONG_HOSTS = ("evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1:{PORT}.evil", "")
WRONG_ORIGINS = ("http://evil.example", "null", "http://127.0.0.1", f"https://127.0.0.1:{PORT}", f"{HOME}.evil.example")
WRONG_TOKENS = ("", "wrong", TOKEN[:-1], f"{TOKEN} ", TOKEN.upper())


@pytest.mark.parametrize("host", WRONG_HOSTS)
@pytest.mark.parametrize("path", ["/", "/read", "/play"])
def test_another_host_is_refused(client: TestClient, host: str, path: str) -> None:
    if path == "/":
        answer = client.get(path, params={"token": TOKEN}, headers={"host": host})
    else:
        answer = client.post(path, json=SCENE, headers={**PAGE, "host": host})
    assert answer.status_code == 403
    assert "another host" in answer.text


@pytest.mark.parametrize("origin", WRONG_ORIGINS)
@pytest.mark.parametrize("path", ["/", "/read", "/play"])
def test_another_page_is_refused_though_it_had_the_token(client: TestClient, origin: str, path: str) -> None:
    headers = {**PAGE, "origin": origin}
    answer = client.get(path, params={"token": TOKEN}, headers=headers)
    assert answer.status_code == 403
    answer = client.post(path, json=SCENE, headers=headers)
    assert answer.status_code == 403
    assert "another page" in answer.text


@pytest.mark.parametrize("path", ["/read", "/play"])
def test_what_computes_wants_a_page_that_asks(client: TestClient, path: str) -> None:
    answer = client.post(path, json=SCENE, headers={"x-suture-token": TOKEN})
    assert answer.status_code == 403
    assert "no page is named" in answer.text


@pytest.mark.parametrize("token", WRONG_TOKENS)
@pytest.mark.parametrize("path", ["/read", "/play"])
def test_without_the_token_nothing_is_answered(client: TestClient, token: str, path: str) -> None:
    answer = client.post(path, json=SCENE, headers={**PAGE, "x-suture-token": token}, params={"token": TOKEN})
    assert answer.status_code == 403
    assert "lacks its token" in answer.text
    assert client.post(path, json=SCENE, headers={"origin": HOME}).status_code == 403
    assert client.get("/", params={"token": token}).status_code == 403
    assert client.get("/").status_code == 403


def test_what_is_given_twice_is_refused(client: TestClient) -> None:
    twice: Any = [("x-suture-token", TOKEN), ("x-suture-token", "other"), ("origin", HOME)]
    assert client.post("/read", json=SCENE, headers=twice).status_code == 403
    assert client.get(f"/?token=other&token={TOKEN}").status_code == 403
    origins: Any = [("x-suture-token", TOKEN), ("origin", HOME), ("origin", "http://evil.example")]
    assert client.post("/read", json=SCENE, headers=origins).status_code == 403


def test_preflights_and_other_places_are_refused(client: TestClient) -> None:
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    answer = client.options("/play", headers=asked)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert client.get("/nothing", params={"token": TOKEN}).status_code == 404
    assert client.get("/play", params={"token": TOKEN}).status_code == 405


def test_wrong_scenes_are_one_line_and_too_much_is_not_read(client: TestClient) -> None:
    for path in ("/read", "/play"):
        for sent in (b"", b"{", b"[" * 100_000, b'{"prompt": "\\ud800"}' if path == "/read" else b"3"):
            answer = client.post(path, content=sent, headers=PAGE)
            assert answer.status_code == 400, sent[:20]
            assert answer.json()["error"].count("\n") == 0
        answer = client.post(path, json={**SCENE, "prompt": "a" * MOST_BYTES}, headers=PAGE)
        assert answer.status_code == 400
        assert "too large" in answer.json()["error"]
    answer = client.post("/play", json={**SCENE, "strengths": [[64, 1]]}, headers=PAGE)
    assert (answer.status_code, "64" in answer.json()["error"]) == (400, True)
    (line,) = client.post("/play", json={"prompt": "a dog " * 400}, headers=PAGE).text.splitlines()
    assert "context" in json.loads(line)["error"]
    assert MOST_AT_ONCE >= 2


def test_a_closed_tab_stops_the_work(player: Player) -> None:
    """Not even a token is computed for one who is gone; the next reader is answered."""
    app = application(player, port=PORT, token=TOKEN)
    n_lines = 0

    async def main() -> None:
        nonlocal n_lines
        body = json.dumps({**SCENE, "new_tokens": 200}).encode()
        sent = False

        async def receive() -> Any:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            if n_lines >= 5:
                return {"type": "http.disconnect"}
            return await anyio.sleep_forever()

        async def send(message: Any) -> None:
            nonlocal n_lines
            n_lines += message["type"] == "http.response.body" and bool(message["body"])

        headers = [
            (b"host", f"127.0.0.1:{PORT}".encode()),
            (b"origin", HOME.encode()),
            (b"x-suture-token", TOKEN.encode()),
        ]
        scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "method": "POST", "path": "/play",
                 "raw_path": b"/play", "query_string": b"", "headers": headers, "http_version": "1.1",
                 "scheme": "http", "server": ("127.0.0.1", PORT), "client": ("127.0.0.1", 5)}  # fmt: skip
        await app(scope, receive, send)

    anyio.run(main)
    assert 5 <= n_lines <= 6
    assert not player.turn.locked()
