"""The live page's three answers: the page, the features of a text, and what the models write, streamed as it comes.

1. `GET /` is the page. `POST /read` answers with JSON; `POST /play` with one JSON object a line, a token each.
2. Both take a scene as JSON, at most `MOST_BYTES` of it. What is wrong with it is said in one line, as on the command
   line, with status 400.
3. A line is computed when the one before it has been taken. A reader who stops, or closes the tab, is seen gone before
   the next token, and nothing more is computed.
"""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from suture.errors import UserError
from suture.play.guard import Guard
from suture.play.page import page
from suture.play.player import Event, Player
from suture.play.settings import Scene

MOST_BYTES = 200_000
"""Of a scene."""
MOST_AT_ONCE = 8
"""Answers that are being written; who comes then is told to wait."""


def application(player: Player, *, port: int, token: str) -> Guard:
    """The guarded application that answers on 127.0.0.1:port to those who know the token."""
    shown = page(player.about)
    running: set[int] = set()

    async def show(request: Request) -> Response:
        del request
        return HTMLResponse(shown)

    async def read(request: Request) -> Response:
        try:
            scene = Scene.read(await _json(request))
            return JSONResponse(await run_in_threadpool(player.read, scene))
        except UserError as error:
            return _refused(error)

    async def play(request: Request) -> Response:
        try:
            events = player.play(Scene.read(await _json(request)))
        except UserError as error:
            return _refused(error)
        if len(running) >= MOST_AT_ONCE:
            return JSONResponse({"error": f"{MOST_AT_ONCE} answers are being written; stop one of them"}, 503)
        return StreamingResponse(_lines(request, events, running), media_type="application/x-ndjson")

    routes = [
        Route("/", show, methods=["GET"]),
        Route("/read", read, methods=["POST"]),
        Route("/play", play, methods=["POST"]),
    ]
    return Guard(Starlette(routes=routes), port=port, token=token)


async def _json(request: Request) -> Any:
    """What was sent.  (2)

    Raises:
        UserError: too much, or no JSON.
    """
    sent = bytearray()
    try:
        async for part in request.stream():
            sent += part
            if len(sent) > MOST_BYTES:
                raise UserError("scene", f"{len(sent):,} bytes", "is too large", f"send at most {MOST_BYTES:,}")
        return json.loads(sent)
    except (ValueError, RecursionError) as error:
        raise UserError("scene", f"{len(sent):,} bytes", "is no JSON", "send an object") from error
    except ClientDisconnect as error:
        raise UserError("scene", f"{len(sent):,} bytes", "is not all there", "send all of it") from error


async def _lines(request: Request, events: Iterator[Event], running: set[int]) -> AsyncIterator[str]:
    """The events as lines; what goes wrong on the way is the last of them.  (3)"""
    mark = id(events)
    running.add(mark)
    try:
        while not await request.is_disconnected():
            event = await run_in_threadpool(next, events, None)
            if event is None:
                break
            yield json.dumps(event) + "\n"
    except UserError as error:
        yield json.dumps({"what": "error", "error": str(error)}) + "\n"
    finally:
        running.discard(mark)


def _refused(error: UserError) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)
