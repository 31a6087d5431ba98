"""Real clients and servers with and without the proxy: the messages must be equal.

usage: compare.py ACTPASS_MCP NODE_MODULES

The gateway in ACTPASS_API_BASE_URL decides, and the proxy runs each call (`--mode monitor`). A tap next to the client
notes each message. Prints a table: for each client, server and pair of transports the methods with the number of
messages, and each difference. Exits with 1 if a difference has no reason in REASONS.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).resolve().parent
#: Seconds that one run may take.
LONGEST = 120
#: Values that differ between two runs with the same messages.
VOLATILE = [
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(Z|[+-]\d\d:\d\d)?"), "TIME"),
    (re.compile(r"\d{1,2}:\d\d:\d\d( [AP]M)?"), "TIME"),
]
#: Why a message differs, by a part of its method and a part of its text.
REASONS: list[tuple[str, str, str]] = [
    (
        "server/discover",
        "error",
        "a server of an earlier version refuses the probe; over HTTP each side words the refusal",
    ),
    (
        "unknown",
        "Server not initialized",
        "the server refuses the probe without the id of the request, which the proxy adds",
    ),
    (
        "roots/list",
        "roots",
        "server-everything reads the roots 350 ms after the handshake, or later if the stream is not open",
    ),
    (
        "notifications/message",
        "Roots updated",
        "server-everything reads the roots 350 ms after the handshake, or later if the stream is not open",
    ),
    (
        "list_changed",
        "notifications",
        "the server drops a notification that it sends before the client's stream is open",
    ),
    (
        "tools/call (result)",
        "Allowed directories",
        "server-filesystem replaces its directories after the handshake, when it has read the roots",
    ),
    (
        "unknown (error)",
        "the session has ended",
        "a client may open its stream again while it ends the session; each side words the refusal",
    ),
]


def serve(transport: str, port: int) -> None:
    from fastmcp import Context, FastMCP

    # FastMCP reads the annotation of a tool by its name.
    globals()["Context"] = Context
    server = FastMCP("compare")

    @server.tool(name="refunds.create")
    def refund(amount: int, currency: str) -> str:
        """Refund an amount."""
        return f"refunded {amount} {currency}"

    @server.tool
    def fails() -> str:
        """Fail."""
        raise ValueError("failed")

    @server.tool
    async def progresses(ctx: Context) -> str:
        """Report progress."""
        await ctx.report_progress(1, 2)
        return "progressed"

    @server.resource("data://a")
    def data() -> str:
        return "a"

    @server.prompt
    def greet() -> str:
        return "hello"

    if transport == "stdio":
        server.run(show_banner=False)
    else:
        server.run(transport="http", port=port, show_banner=False, log_level="error")


@dataclass
class Server:
    """A server, and how it is started for each transport."""

    name: str
    stdio: list[str]
    http: Callable[[int], list[str]] | None = None


@dataclass
class Run:
    """The messages of one client with one server."""

    sent: list[Any]
    received: list[Any]
    problem: str = ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(command: list[str], port: int, **env: str) -> Iterator[None]:
    """Run a server over HTTP until the end of the block."""
    child = subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + LONGEST
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert child.poll() is None, f"{command}: {child.returncode}"
                assert time.monotonic() < until, command
                time.sleep(0.05)
        yield
    finally:
        child.terminate()
        child.wait()


def warm_up(port: int) -> None:
    """Wait until a process of the proxy at `port` responds: a client probes for ten seconds only."""
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    message = {"jsonrpc": "2.0", "id": "warm-up", "method": "server/discover", "params": {"_meta": meta}}
    headers = {
        "content-type": "application/json",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "server/discover",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONGEST)
    connection.request("POST", "/mcp", json.dumps(message), headers)
    connection.getresponse().read()
    connection.close()


@contextlib.contextmanager
def tap(port: int, log: Path) -> Iterator[str]:
    """Note the messages to and from the server at `port`, at the URL."""
    lock = threading.Lock()

    def note(mark: str, text: str) -> None:
        with lock, log.open("a", encoding="utf-8") as file:
            file.write(mark + json.dumps(json.loads(text)) + "\n")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if body:
                note(">", body.decode())
            upstream = http.client.HTTPConnection("127.0.0.1", port)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            upstream.request(self.command, self.path, body or None, headers)
            response = upstream.getresponse()
            self.close_connection = True
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("connection", "close")
            self.end_headers()
            if "event-stream" in (response.getheader("content-type") or ""):
                for line in response:
                    if line.startswith(b"data:") and line[5:].strip():
                        note("<", line[5:].decode())
                    self.wfile.write(line)
                    self.wfile.flush()
            else:
                content = response.read()
                if content.startswith(b"{"):
                    note("<", content.decode())
                self.wfile.write(content)

        def handle_one_request(self) -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                super().handle_one_request()

        do_GET = do_POST = do_DELETE = forward  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
    finally:
        server.shutdown()
        server.server_close()


async def python(mode: str, target: list[str], environment: dict[str, str]) -> None:
    """Run the scenario of `scenario.mjs` with the client of the package `mcp`."""
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent

    async def sample(*_: object) -> CreateMessageResult:
        return CreateMessageResult(model="m", role="assistant", content=TextContent(type="text", text="sampled"))

    async def elicit(*_: object) -> ElicitResult:
        return ElicitResult(action="decline")

    async def roots(*_: object) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri="file:///tmp", name="tmp")])

    server: Any = target[0]
    if not server.startswith("http://"):
        server = stdio_client(StdioServerParameters(command=target[0], args=target[1:], env=environment))
    client = Client(
        server,
        mode=mode,
        sampling_callback=sample,
        elicitation_callback=elicit,
        list_roots_callback=roots,
        read_timeout_seconds=LONGEST,
    )

    async def progressed(*_: object) -> None:
        pass

    async with client:
        has = client.server_capabilities

        async def attempt(run: Any) -> Any:
            try:
                return await run
            except Exception as error:
                return error

        await attempt(client.send_ping())
        if has.logging:
            await attempt(client.set_logging_level("warning"))
        names = {tool.name for tool in (await client.list_tools()).tools}
        calls: list[tuple[str, dict[str, Any]]] = [
            ("echo", {"message": 'é\u2028 \\ " 1.00'}),
            ("get-sum", {"a": 1, "b": 2.5}),
            ("get-sum", {"a": "no"}),
            ("get-structured-content", {"location": "New York"}),
            ("trigger-long-running-operation", {"duration": 0.05, "steps": 2}),
            ("trigger-sampling-request", {"prompt": "p", "maxTokens": 5}),
            ("trigger-elicitation-request", {}),
            ("get-roots-list", {}),
            ("refunds.create", {"amount": 4900, "currency": "usd"}),
            ("fails", {}),
            ("progresses", {}),
            ("list_allowed_directories", {}),
            ("read_text_file", {"path": os.environ["COMPARE_FILE"]}),
            ("read_text_file", {"path": "/nonexistent"}),
        ]
        for name, arguments in calls:
            if name in names:
                await attempt(client.call_tool(name, arguments, progress_callback=progressed))
        await attempt(client.call_tool("no-such-tool", {}))
        if has.resources:
            found = (await client.list_resources()).resources
            await attempt(client.list_resource_templates())
            if found:
                await attempt(client.read_resource(found[0].uri))
        if has.prompts:
            prompts = (await client.list_prompts()).prompts
            plain = [prompt for prompt in prompts if not prompt.arguments]
            if plain:
                await attempt(client.get_prompt(plain[0].name))


def normal(value: Any) -> Any:
    """Return a message in which volatile values are equal."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    for pattern, replacement in VOLATILE:
        text = pattern.sub(replacement, text)
    return text


def messages(log: Path) -> tuple[list[Any], list[Any]]:
    sent, received = [], []
    for line in log.read_text(encoding="utf-8").split("\n") if log.exists() else []:
        with contextlib.suppress(ValueError):
            (sent if line.startswith(">") else received).append(json.loads(line[1:]))
    return sent, received


def methods(run: Run) -> dict[tuple[str, str], collections.Counter[str]]:
    """Count the messages by direction and method; a response has the method of its request.

    The server numbers its own requests, whose order depends on time: their ids are compared within a run only.
    """
    found: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    requests = {}
    for mark, several in ((">", run.sent), ("<", run.received)):
        for message in several:
            if "method" in message and "id" in message:
                requests[mark, json.dumps(message["id"])] = message["method"]
    for mark, several in ((">", run.sent), ("<", run.received)):
        other = "<" if mark == ">" else ">"
        for message in several:
            method = message.get("method")
            is_servers = mark == "<" and "id" in message
            if method is None:
                asked = requests.get((other, json.dumps(message.get("id"))), "unknown")
                method = f"{asked} ({'error' if 'error' in message else 'result'})"
                is_servers = mark == ">" and asked != "unknown"
            found[mark, method][normal({**message, "id": "ID"} if is_servers else message)] += 1
    return found


class Comparison:
    """The runs, and their differences."""

    def __init__(self, proxy: str, modules: Path) -> None:
        self.proxy = proxy
        self.folder = Path.cwd()
        self.count = 0
        self.node = shutil.which("node")
        everything = str(modules / "@modelcontextprotocol/server-everything/dist/index.js")
        files = str(modules / "@modelcontextprotocol/server-filesystem/dist/index.js")
        here = [sys.executable, __file__, "serve"]
        node = self.node or "node"
        self.servers = [
            Server(
                "server-everything",
                [node, everything, "stdio"],
                lambda _: [node, everything, "streamableHttp"],
            ),
            Server("server-filesystem", [node, files, str(self.folder)]),
            Server("FastMCP", [*here, "stdio", "0"], lambda port: [*here, "http", str(port)]),
        ]
        self.clients = {
            "mcp (Python), 2025": lambda target: [sys.executable, __file__, "client", "legacy", *target],
            "mcp (Python), 2026": lambda target: [sys.executable, __file__, "client", "auto", *target],
            "sdk 1 (TypeScript)": lambda target: [node, str(modules.parent / "client1.mjs"), "legacy", *target],
            "client 2 (TypeScript)": lambda target: [node, str(modules.parent / "client2.mjs"), "auto", *target],
        }
        self.failed = 0
        self.rows: list[tuple[str, ...]] = []

    def client(self, name: str, target: list[str], log: Path) -> Run:
        done = subprocess.run(self.clients[name](target), capture_output=True, text=True, timeout=LONGEST, check=False)
        sent, received = messages(log)
        problem = (done.stderr.strip().splitlines() or ["failed"])[-1] if done.returncode else ""
        return Run(sent, received, problem)

    def guarded(self, inner: list[str], listen: int | None = None) -> list[str]:
        options = ["proxy", "--server", "compare", "--mode", "monitor", "--env", "COMPARE_FILE"]
        if listen is not None:
            options += ["--listen", f"127.0.0.1:{listen}"]
        return [self.proxy, *options, *inner]

    def run(self, client: str, server: Server, way: str) -> Run:
        """`way` is the client's transport and the server's, or one of them without the proxy."""
        self.count += 1
        log = self.folder / f"{self.count}.log"
        with contextlib.ExitStack() as stack:
            inner, outer = ["--", *server.stdio], way.split(" ", 1)[0]
            if way.endswith("http"):
                port = free_port()
                assert server.http
                stack.enter_context(process(server.http(port), port, PORT=str(port)))
                inner = ["--upstream", f"http://127.0.0.1:{port}/mcp"]
                if way == "http":
                    return self.client(client, [stack.enter_context(tap(port, log))], log)
            if way == "stdio":
                return self.client(client, [sys.executable, str(HERE / "tap.py"), str(log), *server.stdio], log)
            if outer == "stdio":
                command = [sys.executable, str(HERE / "tap.py"), str(log), *self.guarded(inner)]
                return self.client(client, command, log)
            port = free_port()
            stack.enter_context(process(self.guarded(inner, port), port))
            if way == "http to stdio":
                warm_up(port)
            return self.client(client, [stack.enter_context(tap(port, log))], log)

    def compare(self, client: str, server: Server, way: str, direct: Run) -> None:
        guarded = self.run(client, server, way)
        before, after = methods(direct), methods(guarded)
        differences = []
        if guarded.problem != direct.problem:
            differences.append(f"the client ended with: {guarded.problem or direct.problem}")
        for key in sorted(before.keys() | after.keys()):
            missing, added = before[key] - after[key], after[key] - before[key]
            if not missing and not added:
                continue
            mark, method = key
            example = next(iter(missing or added))
            reason = next((why for name, text, why in REASONS if name in method and text in example), None)
            self.failed += reason is None
            kind = "missing" if missing else "added"
            differences.append(reason or f"DIFFERS: {mark} {method}: {kind} {example[:300]}")
        if direct.problem:
            differences.append(f"the client ends without the proxy too: {direct.problem}")
        if not before:
            self.failed += 1
            differences.append("no messages")
        counts: collections.Counter[str] = collections.Counter()
        for (_, method), found in before.items():
            counts[method.split(" ")[0]] += sum(found.values())
        table = ", ".join(f"{method} {count}" for method, count in sorted(counts.items()))
        self.rows.append((client, server.name, way, table, "; ".join(dict.fromkeys(differences)) or "equal"))
        print(" | ".join(self.rows[-1]), flush=True)

    def all(self) -> int:
        for server in self.servers:
            for client in self.clients:
                ways = {"stdio": ["stdio to stdio", "http to stdio"]}
                if server.http:
                    ways["http"] = ["http to http", "stdio to http"]
                for way, guarded in ways.items():
                    direct = self.run(client, server, way)
                    for one in guarded:
                        self.compare(client, server, one, direct)
        print(f"compared {len(self.rows)} runs, {self.failed} differences without a reason")
        return int(self.failed > 0)


def main() -> int:
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
        return 0
    if sys.argv[1] == "client":
        asyncio.run(python(sys.argv[2], sys.argv[3:], dict(os.environ)))
        return 0
    Path("file.txt").write_text("content\n", encoding="utf-8")
    os.environ["COMPARE_FILE"] = str(Path("file.txt").resolve())
    return Comparison(sys.argv[1], Path(sys.argv[2])).all()


if __name__ == "__main__":
    sys.exit(main())
