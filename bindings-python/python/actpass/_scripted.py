"""The HTTP server of :mod:`actpass.testing`, on the loopback interface, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable

from . import _native

PREFLIGHT = "/api/v1/actions/preflight"
#: Receives a preflight, its status, decision and request id, before the response is sent. Without a response, the
#: decision is ``None``.
Answered = Callable[[dict[str, Any], int, "dict[str, Any] | None", str], None]


class Server(ThreadingHTTPServer):
    """Serves the answers of ``state``, the scripted gateway of the core."""

    daemon_threads = True
    # Do not wait for clients that keep their connections open.
    block_on_close = False

    def __init__(self, state: _native.ScriptedGatewayState, answered: Answered) -> None:
        """Listen on a free port and start serving."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = state
        self.answered = answered
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="actpass.testing", daemon=True)
        self._thread.start()

    @property
    def base_url(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        """Stop listening and close all connections."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._open:
                _disconnect(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Track the connection and serve it in a thread."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection and stop tracking it."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def reply(self, method: str, path: str, body: bytes, request_id: str) -> tuple[int, str] | None:
        """Return status and body of the response; ``None`` to close the connection."""
        until = time.monotonic() + self.state.hold(method, path)
        while self.state.hold(method, path) and time.monotonic() < until:
            time.sleep(0.01)
        answer = self.state.reply(method, path, body)
        if path == PREFLIGHT:
            status, decision = (0, None) if answer is None else (answer[0], json.loads(answer[1]))
            self.answered(json.loads(body), status, decision, request_id)
        return answer


def _disconnect(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # The client closed it first.
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["content-length"])))

    def _answer(self, body: bytes) -> None:
        request_id = f"req_{uuid.uuid4().hex}"
        answer = self.server.reply(self.command, self.path, body, request_id)
        if answer is None:
            self.close_connection = True
            _disconnect(self.connection)
            return
        status, said = answer[0], answer[1].encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        self.send_header("x-request-id", request_id)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass
