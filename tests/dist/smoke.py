"""Run the vectors that need no hostile gateway against the installed package, and print how many passed.

usage: smoke.py VECTORS

It runs each vector of VECTORS/table whose gateway answers with one JSON decision, in each mode that the vector names,
and compares whether the action ran and the members of the decision. It uses the standard library alone.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from actpass import ActPassClient


class Gateway(BaseHTTPRequestHandler):
    """Answers every request with `answer`."""

    protocol_version = "HTTP/1.1"
    answer = b""

    def do_POST(self) -> None:
        """Read the request and answer."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def main(vectors: Path) -> None:
    """Run the vectors."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = ActPassClient(
        "apk_vector_secret", agent_id="vectors", base_url=f"http://127.0.0.1:{server.server_port}", timeout=20
    )
    passed, files = 0, 0
    for path in sorted(vectors.glob("table/*.json")):
        vector = json.loads(path.read_text(encoding="utf-8"))
        [step, *more] = vector["gateway"]["steps"]
        if more or set(step) != {"do", "json"} or set(vector) != {"description", "gateway", "expect"}:
            continue
        if len(vector["gateway"]) > 1 or "{{" in json.dumps(step):
            continue
        files += 1
        Gateway.answer = json.dumps(step["json"]).encode()
        for mode, expected in vector["expect"].items():
            ran = []
            out = client.guard(
                goal="resolve_refund_request",
                tool="stripe.refund.create",
                resource="stripe:charge:ch_123",
                args={"amount": 4900, "currency": "usd"},
                idempotency_key="vector_key",
                mode=mode,
                execute_fn=lambda ctx, ran=ran: ran.append(ctx),
            )
            decision = {name: out["decision"].get(name) for name in expected["decision"]}
            found = (len(ran) == 1, out["executed"], decision)
            if found != (expected["executed"], expected["executed"], expected["decision"]):
                sys.exit(f"{path.name}, {mode}: expected {expected}, found {found}")
            passed += 1
    server.shutdown()
    if not passed:
        sys.exit("no vector ran")
    print(f"{files} vectors, {passed} cases passed")


main(Path(sys.argv[1]))
