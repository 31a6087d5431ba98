"""A gateway that allows every action, after the test releases the response."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from actpass import ActPassClient, AsyncActPassClient


class SlowGateway:
    """Sets `asked` on a request, and responds after `answer.set()`."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.answered = threading.Event()
        slow = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                slow.asked.set()
                slow.answer.wait(60)
                body = json.dumps({"decision": "allow"}).encode()
                try:
                    self.send_response(200)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # The client has left.
                    pass
                slow.answered.set()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self._settings = {
            "api_key": "apk_test",
            "base_url": f"http://127.0.0.1:{self._server.server_address[1]}",
            "timeout": 60,
            "max_retries": 0,
        }

    def client(self, **settings: Any) -> ActPassClient:
        """Return a client of this gateway."""
        return ActPassClient(**{**self._settings, **settings})

    def async_client(self, **settings: Any) -> AsyncActPassClient:
        """Return an asynchronous client of this gateway."""
        return AsyncActPassClient(**{**self._settings, **settings})

    def __enter__(self) -> SlowGateway:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.answer.set()
        self._server.shutdown()
        self._server.server_close()
