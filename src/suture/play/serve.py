"""Serve the live page on this machine's loopback address, until interrupted.

1. The socket is bound to 127.0.0.1 before anything is said, so that a taken port is refused in one line.
2. The token is drawn anew for every run, by the system, since a seed would let others know it.
"""

import secrets
import socket
from collections.abc import Callable

import uvicorn

from suture.errors import UserError
from suture.play.app import application
from suture.play.player import Player

LOOPBACK = "127.0.0.1"
GRACE = 2
"""Seconds that answers have to end after an interrupt."""


def serve(player: Player, *, on_ready: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; `on_ready` is told the address, with its token, once connections are taken.

    Raises:
        UserError: the port is taken, or may not be used.
    """
    port = player.settings.port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))  # 1
        except OSError as error:
            raise UserError(
                "port", port, f"cannot be had ({error.strerror})", "leave it out, or take another"
            ) from None
        listening.listen()
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(24)  # 2
        app = application(player, port=port, token=token)
        config = uvicorn.Config(
            app, log_level="error", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=GRACE,
            server_header=False,
        )  # fmt: skip
        on_ready(f"http://{LOOPBACK}:{port}/?token={token}")
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:  # how this ends
            return
