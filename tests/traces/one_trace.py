"""Show one trace from a Python agent through the gateway to PostgreSQL, in one collector.

Usage: one_trace.py GATEWAY: the program ``actpass-gateway``. Needs the packages ``actpass`` and
``opentelemetry-exporter-otlp-proto-http``, and PostgreSQL's programs; without the latter it is skipped, unless CI=true.
The agent and the gateway export to a collector in this process. Prints the spans as a tree, and exits with 1 if the
chain from the agent's span to the transaction is not whole, a span belongs to another trace, or a span contains the API
key, an argument or the database's password.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from actpass import ActPassClient
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "halts"))
from run import postgres, postgres_programs

KEY = "apk_traced"
SECRETS = [KEY, "4711", "load_password"]
#: Each span of the chain, from the agent to the database, with the service that sends it.
CHAIN = [
    ("agent", "refund the order"),
    ("agent", "actpass.guard"),
    ("actpass-gateway", "POST /api/v1/actions/preflight"),
    ("actpass-gateway", "record"),
    ("actpass-gateway", "transaction"),
]
POLICY = {
    "id": "traced",
    "version": "1",
    "rules": [{"name": "all", "when": [], "decision": "allow", "reason": "traced.all"}],
}


@contextlib.contextmanager
def collector(received: list[ExportTraceServiceRequest]) -> Iterator[str]:
    """Run a collector; yield its URL for traces."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *given: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@contextlib.contextmanager
def gateway(program: str, folder: Path, database_url: str, endpoint: str) -> Iterator[str]:
    """Run a gateway that exports its spans; yield its URL. Its end exports the remaining spans."""
    hashed = hashlib.sha256(KEY.encode()).hexdigest()
    (folder / "policy.json").write_text(json.dumps(POLICY))
    (folder / "gateway.toml").write_text(f"""
listen = "127.0.0.1:0"
[traces]
endpoint = "{endpoint}"
[[tenants]]
id = "traced"
policy = "policy.json"
[[keys]]
name = "agent"
hash = "sha256:{hashed}"
tenant = "traced"
role = "agent"
""")
    running = subprocess.Popen(
        [os.path.abspath(program), "serve", "--config", "gateway.toml"],
        env={**os.environ, "ACTPASS_DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=(folder / "gateway.log").open("wb"),
        text=True,
        cwd=folder,
    )
    try:
        line = running.stdout.readline() if running.stdout else ""
        if not line.startswith("listening on "):
            sys.exit(f"the gateway did not start: {line!r} {(folder / 'gateway.log').read_text()}")
        yield line.split()[-1]
    finally:
        running.terminate()
        running.wait(60)


def act(base_url: str, endpoint: str) -> None:
    """Run one guarded action within a span of the agent."""
    provider = TracerProvider(resource=Resource.create({"service.name": "agent"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
    client = ActPassClient(KEY, agent_id="support", base_url=base_url, timeout=60)
    with trace.get_tracer("agent").start_as_current_span("refund the order"):
        out = client.guard(
            goal="refund the order",
            tool="refunds.create",
            args={"order": "4711"},
            execute_fn=lambda _: trace.get_current_span(),
        )
    provider.shutdown()
    if not out["executed"]:
        sys.exit(f"the action was not executed: {out}")


def check(received: list[ExportTraceServiceRequest]) -> list[str]:
    """Print the spans as a tree; return the problems."""
    spans: list[tuple[str, Any]] = []
    for export in received:
        for resource in export.resource_spans:
            attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                spans += [(attributes["service.name"], span) for span in scope.spans]
    roots = [span for _, span in spans if not span.parent_span_id]
    if len(roots) != 1:
        return [f"expected one root, found {[span.name for span in roots]}"]
    problems = [f"{span.name}: other trace" for _, span in spans if span.trace_id != roots[0].trace_id]
    text = str(received)
    problems += [f"a span contains {secret!r}" for secret in SECRETS if secret in text]
    reported = [span.span_id for _, span in spans]
    problems += [f"{span.name}: sent twice" for _, span in spans if reported.count(span.span_id) > 1]

    def show(parent: bytes, depth: int) -> None:
        below = [(service, span) for service, span in spans if span.parent_span_id == parent]
        for service, span in sorted(below, key=lambda one: int(one[1].start_time_unix_nano)):
            took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
            of = [one.value.string_value for one in span.attributes if one.key == "db.system.name"]
            print(f"{'  ' * depth}{span.name} [{' '.join([service, *of])}] {took:.2f} ms")
            show(span.span_id, depth + 1)

    show(b"", 0)
    parent = b""
    for service, name in CHAIN:
        found = [span for by, span in spans if (by, span.name) == (service, name) and span.parent_span_id == parent]
        if len(found) != 1:
            return [*problems, f"expected one {name!r} of {service} below its parent, found {len(found)}"]
        parent = found[0].span_id
    system = {one.key: one.value.string_value for one in found[0].attributes}.get("db.system.name")
    return problems if system == "postgresql" else [*problems, f"db.system.name: {system}"]


def main(program: str) -> int:
    """Run the action and check its trace."""
    if postgres_programs() is None:
        print("SKIPPED: one trace to PostgreSQL (install PostgreSQL)", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    received: list[ExportTraceServiceRequest] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "pg").mkdir()
        folder.chmod(0o755)
        database_url = stack.enter_context(postgres(folder / "pg"))
        endpoint = stack.enter_context(collector(received))
        with gateway(program, folder, database_url, endpoint) as base_url:
            act(base_url, endpoint)
    problems = check(received)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if sys.argv[1:] else __doc__)
