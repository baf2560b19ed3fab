"""The process: from settings to a server that answers until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from typing import Any

from polygraft.errors import PolygraftError, RecipeError
from polygraft.serving.limits import CONNECTIONS
from polygraft.settings import Serve

END_SECONDS = 10
"""For requests that are in the work when the server is told to end."""


def serve(models: Sequence[str], settings: Serve, token: str | None) -> None:
    """Serve models until SIGINT or SIGTERM; requests in the work are answered before it ends, if they take seconds.

    Raises:
        RecipeError: others can reach it and there is no token; the packages are not installed.
        DataError, CheckpointError: a model that cannot be loaded.
        PolygraftError: the port is taken.
    """
    uvicorn = _import_uvicorn()
    from polygraft.inference.generate import cuts_unsaid
    from polygraft.serving.app import Service
    from polygraft.serving.guard import Gate, Guard
    from polygraft.serving.shelf import open_all

    gate = Gate.of(settings.host, settings.allowed_host, token)
    listener = listening(settings.host, settings.port)
    served = open_all(models)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"serve: {', '.join(served)}: http://{shown}:{port}/ (Ctrl-C ends it)", file=sys.stderr, flush=True)
    server = uvicorn.Server(configured(Guard(Service(served, settings, gate).app, gate)))
    # A text that is cut is said in its answer. KeyboardInterrupt is how uvicorn passes a signal on, when all is done.
    with cuts_unsaid(), contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve([listener]))
    print("serve: ended", file=sys.stderr, flush=True)


def configured(app: Any) -> Any:
    """Return uvicorn's configuration: it logs no request, believes no proxy, and waits for no client for ever."""
    import uvicorn

    from polygraft.serving.protocol import Patient

    return uvicorn.Config(
        app, http=Patient, ws="none", loop="asyncio", lifespan="on", log_level="error", access_log=False,
        log_config=None,  # its own would close the handlers of all loggers
        proxy_headers=False, server_header=False, limit_concurrency=2 * CONNECTIONS,
        timeout_graceful_shutdown=END_SECONDS,
    )  # fmt: skip


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises PolygraftError where it cannot."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS)
    except OSError as error:
        raise PolygraftError(
            f"polygraft serve: cannot listen on {host}, port {port} ({error.strerror}). Give another --port or --host."
        ) from None
    return listener


def _import_uvicorn() -> Any:
    """Return the library.

    Raises:
        RecipeError: it is not installed, or Starlette is not.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise RecipeError(f"{error.name} is not installed: pip install 'polygraft[serve]'") from None
    return uvicorn
