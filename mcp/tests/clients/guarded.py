"""The client of the package `mcp` and a FastMCP server, with and without the proxy.

usage: clients.py ACTPASS_MCP

The gateway has the refund policy. Prints the number of executions for each way to connect, and exits with 1 at the
first difference.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from fastmcp import FastMCP
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

EFFECTS = Path("effects")


def serve() -> None:
    server = FastMCP("stripe")

    @server.tool(name="refunds.create")
    def refund(amount: int, currency: str) -> str:
        """Refund an amount."""
        with EFFECTS.open("a", encoding="utf-8") as file:
            file.write(f"{amount}\n")
        return f"refunded {amount} {currency}"

    server.run(show_banner=False)


async def check(proxy: str, mode: str) -> None:
    EFFECTS.write_text("", encoding="utf-8")
    server = [sys.executable, __file__]
    environment = {name: value for name, value in os.environ.items() if name.startswith("ACTPASS_")}
    direct = StdioServerParameters(command=server[0], args=server[1:])
    options = ["proxy", "--server", "stripe", "--goal", "resolve_refund_request", "--"]
    guarded = StdioServerParameters(command=proxy, args=[*options, *server], env=environment)
    listed = []
    for parameters in (direct, guarded):
        async with Client(stdio_client(parameters), mode=mode) as client:
            listed.append(await client.list_tools())
    assert listed[0].tools == listed[1].tools, listed
    async with Client(stdio_client(guarded), mode=mode) as client:
        small, large, medium = [
            await client.call_tool("refunds.create", {"amount": amount, "currency": "usd"})
            for amount in (4900, 90_000, 25_000)
        ]
    assert not small.is_error and small.content[0].text == "refunded 4900 usd", small
    assert large.is_error and "deny (refund.over_limit)" in large.content[0].text, large
    assert medium.is_error and "require_approval" in medium.content[0].text, medium
    ran = EFFECTS.read_text(encoding="utf-8").split()
    assert ran == ["4900"], ran
    print(f"{mode}: ran {len(ran)}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    else:
        for way in ("legacy", "auto"):
            asyncio.run(check(sys.argv[1], way))
