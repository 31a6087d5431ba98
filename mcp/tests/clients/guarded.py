"""Guarded calls of the package `mcp` to a FastMCP server through the proxy.

usage: guarded.py ACTPASS_MCP

The gateway in ACTPASS_API_BASE_URL has the refund policy. For each transport and mode of the client, prints how often
the server ran in each case, and exits with 1 at the first wrong number.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmcp import FastMCP
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import ElicitResult

if TYPE_CHECKING:
    from collections.abc import Iterator

EFFECTS = Path("effects")
#: Seconds that one call may take.
LONGEST = 60
DENIED, ALLOWED = 90_000, 4900


def serve() -> None:
    server = FastMCP("stripe")

    @server.tool(name="refunds.create")
    def refund(amount: int, currency: str) -> str:
        """Refund an amount."""
        with EFFECTS.open("a", encoding="utf-8") as file:
            file.write(f"{amount}\n")
        return f"refunded {amount} {currency}"

    server.run(show_banner=False)


class Gateway:
    """A gateway that answers each request with `answer`, or with nothing before `released`."""

    def __init__(self, answer: bytes | None) -> None:
        self.asked, self.released = threading.Event(), threading.Event()
        gateway = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                gateway.asked.set()
                if answer is None:
                    gateway.released.wait(LONGEST)
                    return
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def decide(approval: str) -> None:
    """Approve as an operator, in another process than the proxy."""
    request = urllib.request.Request(
        f"{os.environ['ACTPASS_API_BASE_URL']}/api/v1/approvals/{approval}/approve",
        data=b"{}",
        headers={"authorization": "Bearer apdv_dev", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=LONGEST) as response:
        assert response.status == 200


@contextlib.contextmanager
def proxied(proxy: str, transport: str, gateway: str, *options: str) -> Iterator[Any]:
    """Return a transport of the client that leads through the proxy."""
    environment = {"ACTPASS_API_KEY": "apk_dev", "ACTPASS_API_BASE_URL": gateway}
    arguments = ["proxy", "--server", "stripe", "--goal", "resolve_refund_request", *options]
    server = ["--", sys.executable, __file__]
    if transport == "stdio":
        yield stdio_client(StdioServerParameters(command=proxy, args=[*arguments, *server], env=environment))
        return
    command = [proxy, *arguments, "--listen", "127.0.0.1:0", *server]
    child = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        yield child.stdout.readline().removeprefix("listening on ").strip()
    finally:
        child.terminate()
        child.wait()


async def check(proxy: str, transport: str, mode: Any) -> None:
    real = os.environ["ACTPASS_API_BASE_URL"]
    ran: dict[str, int] = {}

    async def case(name: str, expected: int, gateway: str, amount: int, *options: str, **settings: Any) -> str:
        EFFECTS.write_text("", encoding="utf-8")
        with proxied(proxy, transport, gateway, *options) as server:
            async with Client(server, mode=mode, read_timeout_seconds=LONGEST, **settings) as client:
                result = await client.call_tool("refunds.create", {"amount": amount, "currency": "usd"})
                text = result.content[0].text
                if name == "approved elsewhere":
                    decide(text.partition("(approval ")[2].partition(")")[0])
                    result = await client.call_tool("refunds.create", {"amount": amount, "currency": "usd"})
                    text = result.content[0].text
        ran[name] = len(EFFECTS.read_text(encoding="utf-8").split())
        assert ran[name] == expected, (name, ran, text)
        assert result.is_error == (expected == 0), (name, result)
        return text

    assert "refunded" in await case("allowed", 1, real, ALLOWED)
    assert "refund.over_limit" in await case("denied", 0, real, DENIED)
    assert "actpass.unreachable" in await case("gateway gone", 0, "http://127.0.0.1:1", ALLOWED)
    hanging, garbage = Gateway(None), Gateway(b'{"decision": "allow", "decision": "allow"}')
    assert "actpass.timeout" in await case("gateway hangs", 0, hanging.url, ALLOWED, "--timeout", "1")
    assert "actpass.invalid_response" in await case("gateway garbage", 0, garbage.url, ALLOWED)
    await case("approved elsewhere", 1, real, 25_000 + len(transport + mode))

    async def elicited(_: Any, params: Any) -> ElicitResult:
        assert params.mode == "url", params
        await asyncio.to_thread(decide, params.url.rpartition("/")[2])
        return ElicitResult(action="accept")

    await case("elicited", 1, real, 26_000 + len(transport + mode), elicitation_callback=elicited)

    EFFECTS.write_text("", encoding="utf-8")
    slow = Gateway(None)
    with proxied(proxy, transport, slow.url) as server:
        async with Client(server, mode=mode) as client:
            call = asyncio.create_task(client.call_tool("refunds.create", {"amount": ALLOWED, "currency": "usd"}))
            assert await asyncio.to_thread(slow.asked.wait, LONGEST)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            slow.released.set()
            await client.list_tools()
    ran["cancelled"] = len(EFFECTS.read_text(encoding="utf-8").split())
    assert ran["cancelled"] == 0, ran
    print(f"{transport}, {mode}: ran {json.dumps(ran)}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    else:
        for way in ("stdio", "http"):
            for era in ("legacy", "auto"):
                asyncio.run(check(sys.argv[1], way, era))
        print("guarded calls: every number is right")
