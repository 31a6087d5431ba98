"""A gateway in its own process, and its policy."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

GATEWAY = os.environ["ACTPASS_GATEWAY"]
PROXY, OPERATOR = "apk_envoy_proxy", "apdv_envoy_operator"


def policy(amount: str, *small: dict[str, Any]) -> dict[str, Any]:
    """Return a policy that allows amounts up to 10000, and requires an approval up to 20000.

    Args:
        amount: The path of the amount.
        small: Further conditions of the allowed requests.
    """
    return {
        "id": "shop",
        "version": "1",
        "rules": [
            {
                "name": "small",
                "when": [*small, {"path": amount, "operator": "<=", "value": 10000}],
                "decision": "allow",
                "reason": "refund.small",
            },
            {
                "name": "large",
                "when": [{"path": amount, "operator": "<=", "value": 20000}],
                "decision": "require_approval",
                "reason": "refund.large",
            },
        ],
    }


class Gateway:
    """A gateway in its own process."""

    def __init__(self, folder: Path, policy: dict[str, Any]) -> None:
        (folder / "policy.json").write_text(json.dumps(policy))
        settings = 'listen = "127.0.0.1:0"\ndata = "data.db"\n[[tenants]]\nid = "shop"\npolicy = "policy.json"\n'
        for name, key, role in [("envoy", PROXY, "agent"), ("alice", OPERATOR, "operator")]:
            hashed = hashlib.sha256(key.encode()).hexdigest()
            settings += f'[[keys]]\nname = "{name}"\nhash = "sha256:{hashed}"\ntenant = "shop"\nrole = "{role}"\n'
        (folder / "gateway.toml").write_text(settings)
        with (folder / "gateway.log").open("w") as log:
            self.process = subprocess.Popen(
                [GATEWAY, "serve", "--config", "gateway.toml"],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])

    def call(self, method: str, path: str, key: str, body: Optional[dict[str, Any]] = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        assert response.status == 200, text
        return json.loads(text)

    def events(self) -> list[dict[str, Any]]:
        return self.call("GET", "/api/v1/evidence/chains/decisions?limit=1000", PROXY)["events"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


@contextmanager
def running(folder: Path, policy: dict[str, Any]) -> Iterator[Gateway]:
    """Run a gateway with its files in a folder."""
    gateway = Gateway(folder, policy)
    try:
        yield gateway
    finally:
        gateway.stop()
