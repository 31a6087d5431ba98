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
from ._errors import ActPassArgumentError

#: Returns status and decision, or ``None`` to close the connection.
Decide = Callable[[dict[str, Any]], "tuple[int, dict[str, Any] | None]"]
#: Receives the request, the status, the decision and its request id, before the response is sent.
Answered = Callable[[dict[str, Any], int, "dict[str, Any] | None", str], None]


class Server(ThreadingHTTPServer):
    """Answers preflights by script, and every other call with success."""

    daemon_threads = True
    # Do not wait for clients that keep their connections open.
    block_on_close = False

    def __init__(self, decide: Decide, answered: Answered) -> None:
        """Listen on a free port and start serving."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.decide = decide
        self.answered = answered
        self.approvals: dict[str, str] = {}
        self._lock = threading.Lock()
        self._count = 0
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

    def reply(self, path: str, asked: dict[str, Any], request_id: str = "") -> tuple[int, dict[str, Any] | None]:
        """Return status and body of the response; without a body, the connection is closed."""
        with self._lock:
            self._count += 1
            count = self._count
        if path.endswith("/actions/preflight"):
            with self._lock:
                status, decision = self.decide(asked)
                if decision is not None:
                    decision = {"evidence_event_id": f"ev_{count}", **_bound(asked), **decision}
                self.answered(asked, status, decision, request_id)
            return status, decision
        jwks = f"{self.base_url}/.well-known/jwks.json"
        known: dict[str, dict[str, Any]] = {
            "/api/v1/evidence/events": {"event_id": f"ev_{count}", "current_event_hash": f"{count:064x}"},
            "/api/v1/passports/issue": {"token": f"test.passport.{count}", "jti": f"ap_{count}", "jwks_uri": jwks},
            "/api/v1/passports/verify": {"valid": True, "errors": []},
            "/api/v1/passports/revoke": {"revoked": True},
            "/.well-known/jwks.json": {"keys": []},
        }
        if path in known:
            return 200, known[path]
        return 404, {"error": {"code": "not_found", "message": f"a scripted gateway has no {path}"}}

    def poll(self, path: str, query: str) -> tuple[int, dict[str, Any] | None]:
        """Return the state of an approval; long-poll while it is pending, like the gateway."""
        approval = path.rpartition("/")[2]
        wait = query.partition("wait=")[2]
        until = time.monotonic() + min(float(wait) if wait.isdigit() else 0.0, 25.0)
        while self.approvals.get(approval) is None and time.monotonic() < until:
            time.sleep(0.01)
        status = {None: "pending", "spent": "approved"}.get(self.approvals.get(approval), self.approvals.get(approval))
        return 200, {"id": approval, "status": status, "decided_by": None if status == "pending" else "test"}


def _bound(asked: dict[str, Any]) -> dict[str, str]:
    """Return the request hash, which ``strict`` requires."""
    try:
        return {"request_hash": _native.hash_payload(asked)}
    except ActPassArgumentError:  # No canonical form.
        return {}


def _disconnect(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # The client closed it first.
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self._answer(*(self.server.poll(path, query) if "/approvals/" in path else self.server.reply(path, {})))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        request_id = f"req_{uuid.uuid4().hex}"
        self._answer(*self.server.reply(self.path, json.loads(body), request_id), request_id)

    def _answer(self, status: int, body: dict[str, Any] | None, request_id: str | None = None) -> None:
        if body is None:
            self.close_connection = True
            _disconnect(self.connection)
            return
        said = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        if request_id is not None:
            self.send_header("x-request-id", request_id)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass
