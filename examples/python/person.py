"""The person of an example, in a separate process: prints how to approve the first pending approval, or approves it.

Usage: person.py BASE_URL [--approve]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from own_gateway import OPERATOR_KEY


@contextmanager
def approving(base_url: str, *, approve: bool) -> Iterator[None]:
    """Run the person's process during the block."""
    process = subprocess.Popen([sys.executable, __file__, base_url, *(["--approve"] if approve else [])])
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def attend(base_url: str, *, approve: bool) -> None:
    """Poll for a pending approval, as an operator, and decide it or print how to."""
    while not (pending := ask(f"{base_url}/api/v1/approvals?status=pending")["approvals"]):
        time.sleep(0.1)
    url = f"{base_url}/api/v1/approvals/{pending[0]['id']}/approve"
    if approve:
        ask(url, b'{"note": "the parcel is back"}')
        return
    print(f"approve it at {base_url}/ with the key {OPERATOR_KEY}, or run")
    print(
        f"  curl -H 'authorization: Bearer {OPERATOR_KEY}' -H 'content-type: application/json' -d '{{}}' {url}",
        flush=True,
    )


def ask(url: str, body: bytes | None = None) -> Any:
    """Call the gateway as an operator."""
    headers = {"authorization": f"Bearer {OPERATOR_KEY}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
        return json.load(answer)


if __name__ == "__main__":
    attend(sys.argv[1], approve="--approve" in sys.argv)
