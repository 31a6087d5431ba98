"""Verify the gateway's webhooks with the ``standardwebhooks`` libraries of Python and Node."""

from __future__ import annotations

import base64
import json
import os
import queue
import secrets
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = os.environ["ACTPASS_GATEWAY"]
#: The folder in which ``package.json`` was installed; without it, the Node library is skipped.
NODE_FOLDER = os.environ.get("ACTPASS_WEBHOOKS_NODE")
SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
AGENT, OPERATOR = "apk_webhooks_agent", "apdv_webhooks_operator"
HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")

Message = dict[str, Any]


@pytest.fixture(scope="module")
def received() -> Iterator[tuple[str, queue.Queue[Message]]]:
    """Run a receiver."""
    messages: queue.Queue[Message] = queue.Queue()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            messages.put({"body": body, "headers": {name: self.headers[name] for name in HEADERS}})
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", messages
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def message(received: tuple[str, queue.Queue[Message]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Message]:
    """Return the message about an action that needs an approval."""
    url, messages = received
    folder = tmp_path_factory.mktemp("webhooks")
    (folder / "ops.secret").write_text(SECRET)
    policy = json.dumps(str(ROOT / "policies/refunds.json"))
    settings = f'listen = "127.0.0.1:0"\ndata = "data.db"\n[[tenants]]\nid = "shop"\npolicy = {policy}\n'
    settings += (
        f'[[webhooks]]\nname = "ops"\nurl = "{url}"\nsecret_file = "ops.secret"\ndanger_allow_private_address = true\n'
    )
    for name, key, role in [("agent", AGENT, "agent"), ("alice", OPERATOR, "operator")]:
        hashed = subprocess.run([GATEWAY, "key", "hash"], input=key, capture_output=True, text=True, check=True).stdout
        settings += f'[[keys]]\nname = "{name}"\n{hashed}tenant = "shop"\nrole = "{role}"\n'
    (folder / "gateway.toml").write_text(settings)
    command = [GATEWAY, "serve", "--config", str(folder / "gateway.toml")]
    with (folder / "log").open("w") as log:
        gateway = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert gateway.stdout is not None
    base = gateway.stdout.readline().strip().removeprefix("listening on ")
    body = {
        "agent_id": "support",
        "goal": "Rücksendung 7731, beschädigt ☂",
        "tool": "refunds.create",
        "resource": "order/7731",
        "args": {"amount": 25000, "currency": "usd"},
    }
    headers = {"authorization": f"Bearer {AGENT}", "content-type": "application/json"}
    request = urllib.request.Request(f"{base}/api/v1/actions/preflight", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["decision"] == "require_approval"
    yield messages.get(timeout=60)
    gateway.terminate()
    assert gateway.wait(20) == 0
    gateway.stdout.close()


def forgeries(message: Message) -> Iterator[tuple[str, Message]]:
    """Return changed messages by the name of the change."""
    body, headers = message["body"], message["headers"]
    yield "body", {"body": body.replace("25000", "35000").replace("order/7731", "order/7732") + " ", "headers": headers}
    yield "id", {"body": body, "headers": {**headers, "webhook-id": headers["webhook-id"] + "0"}}
    earlier = str(int(headers["webhook-timestamp"]) - 1)
    yield "time", {"body": body, "headers": {**headers, "webhook-timestamp": earlier}}
    yield "no signature", {"body": body, "headers": {**headers, "webhook-signature": "v1,"}}


def python(message: Message) -> Optional[Any]:
    try:
        return Webhook(SECRET).verify(message["body"], message["headers"])
    except WebhookVerificationError:
        return None


def node(messages: list[Message]) -> list[Optional[Any]]:
    if NODE_FOLDER is None or shutil.which("node") is None:
        pytest.skip("Node is missing")
    program = Path(__file__).with_name("verify.mjs")
    ran = subprocess.run(
        ["node", str(program), NODE_FOLDER, SECRET],
        input=json.dumps(messages),
        capture_output=True,
        text=True,
        check=True,
    )
    results: list[dict[str, Any]] = json.loads(ran.stdout)
    assert all(result.get("error") in (None, "WebhookVerificationError") for result in results), results
    return [result.get("payload") for result in results]


def test_python_library_verifies_message(message: Message) -> None:
    payload = python(message)
    assert payload is not None
    assert payload["type"] == "approval.requested"
    assert payload["data"]["approval"]["goal"] == "Rücksendung 7731, beschädigt ☂"
    for change, forged in forgeries(message):
        assert python(forged) is None, change


def test_node_library_verifies_message(message: Message) -> None:
    whole, *forged = node([message, *(forged for _, forged in forgeries(message))])
    assert whole == json.loads(message["body"])
    assert forged == [None] * 4
