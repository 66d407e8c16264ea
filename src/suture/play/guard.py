"""Who may ask the live page: programs of this machine's user that know its address, and no web page but itself.

1. Listening on 127.0.0.1 keeps other machines out, but not other pages in the reader's browser.
2. Host must be this server's own: a foreign name that was made to resolve to 127.0.0.1 is refused.
3. Origin, where there is one, must be the page's own; whatever computes must have one, so that no other page, and no
   form or image in it, sets off work.
4. The token stands in the address that `suture play` prints, and is compared without telling how much of it was right.
"""

import hmac
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from starlette.responses import PlainTextResponse

TOKEN_HEADER = b"x-suture-token"
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
)
"""Of every answer: nothing is kept, guessed, told on, or shown inside another page."""
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """In front of an ASGI application."""

    def __init__(self, app: App, *, port: int, token: str) -> None:
        self.app = app
        self.token: bytes = token.encode()
        self.hosts: set[bytes] = {f"{name}:{port}".encode() for name in ("127.0.0.1", "localhost")}
        self.origins: set[bytes] = {b"http://" + host for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through, or refuse with 403 and why."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        why = self.refusal(scope) if scope["type"] == "http" else "only HTTP is spoken here"
        if why and scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        app = PlainTextResponse(f"refused: {why}\n", status_code=403) if why else self.app
        await app(scope, receive, sent)

    def refusal(self, scope: Scope) -> str:
        """Why not; empty where nothing speaks against it."""
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        if values(headers, b"host") not in [[host] for host in self.hosts]:  # 2
            return "another host was asked for"
        origins = values(headers, b"origin")
        if any(origin not in self.origins for origin in origins):  # 3
            return "another page asks"
        if scope["method"] not in ("GET", "HEAD") and not origins:
            return "no page is named that asks"
        return "" if self._knows_token(scope, headers) else "the address lacks its token: open the one printed"

    def _knows_token(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> bool:  # 4
        reading = scope["method"] in ("GET", "HEAD")
        given = _asked_token(scope) if reading else values(headers, TOKEN_HEADER)
        return len(given) == 1 and hmac.compare_digest(given[0], self.token)


def values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """All that a header was given as."""
    return [value for key, value in headers if key.lower() == name]


def _asked_token(scope: Scope) -> list[bytes]:
    parts = scope.get("query_string", b"").split(b"&")
    return [part.removeprefix(b"token=") for part in parts if part.startswith(b"token=")]
