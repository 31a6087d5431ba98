#!/usr/bin/env python3
"""Serve npm packages from a folder as a registry, for the scope @actpass, while a command runs.

usage: npm_registry.py FOLDER -- COMMAND...

So `npm install` selects the package of the platform by `os`, `cpu` and `libc` as it does from the public registry. Only
the scope's packages come from here. Exits as COMMAND does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Serve the packages of FOLDER on a free port of loopback; yield the URL."""
    packages = {}
    for path in folder.glob("*.tgz"):
        with tarfile.open(path) as packed:
            manifest = json.load(packed.extractfile("package/package.json"))
        packages[manifest["name"]] = (manifest, path)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = unquote(self.path).lstrip("/")
            if name.endswith(".tgz") and (folder / Path(name).name).is_file():
                self.answer(200, (folder / Path(name).name).read_bytes(), "application/octet-stream")
            elif name in packages:
                manifest, path = packages[name]
                digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
                dist = {"tarball": f"{url}/{path.name}", "integrity": f"sha512-{digest}"}
                version = manifest["version"]
                document = {
                    "name": name,
                    "dist-tags": {"latest": version},
                    "versions": {version: {**manifest, "dist": dist}},
                }
                self.answer(200, json.dumps(document).encode(), "application/json")
            else:
                self.answer(404, b'{"error": "not found"}', "application/json")

        def answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        sys.exit(__doc__)
    with registry(Path(sys.argv[1])) as url:
        environment = {**os.environ, "npm_config_@actpass:registry": url}
        sys.exit(subprocess.run(sys.argv[3:], env=environment, check=False).returncode)
