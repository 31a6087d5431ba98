"""Start a gateway with an empty ledger for an example, and stop it at the end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Optional

#: The API keys of ``actpass-gateway dev``: an agent's and an operator's.
AGENT_KEY = "apk_dev"
OPERATOR_KEY = "apdv_dev"


@contextmanager
def running(gateway: str, policy: Optional[str] = None) -> Iterator[tuple[str, Callable[[], None]]]:
    """Run a gateway with a new data file; yield its URL and a function that stops it.

    ``policy`` is the path of the policy; by default, the one of development mode.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ["--data", f"{folder}/dev.db", *([] if policy is None else ["--policy", policy])]
        with _started([gateway, "dev", "--listen", "127.0.0.1:0", *options]) as started:
            yield started


@contextmanager
def serving(gateway: str, settings: str) -> Iterator[str]:
    """Run a gateway with a new data file and these settings; yield its URL.

    ``settings`` is TOML without the address and the data file.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = f"{folder}/gateway.toml"
        with open(config, "w", encoding="utf-8") as file:
            file.write(f'listen = "127.0.0.1:0"\ndata = "gateway.db"\n{settings}')
        with _started([gateway, "serve", "--config", config]) as (base_url, _):
            yield base_url


@contextmanager
def _started(command: list[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def stop() -> None:
        process.terminate()
        process.wait(timeout=30)

    try:
        first_line = process.stdout.readline() if process.stdout else ""
        if not first_line.startswith("listening on "):
            sys.exit(f"the gateway did not start: {first_line!r}")
        yield first_line.split()[-1], stop
    finally:
        stop()
        if process.stdout:
            process.stdout.close()
