"""An MCP server whose $250 refund needs human approval. The approved refund runs once.

Approve it within a minute, on the page or with the command that the example prints. With ``--approve`` another process
approves it.

Usage: fastmcp_refund.py GATEWAY [--approve], the path of the program ``actpass-gateway``. Install ``actpass[fastmcp]``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from actpass import ActPassClient, ToolAction
from actpass.integrations.fastmcp import ActPassExtension
from fastmcp import Client, FastMCP
from own_gateway import AGENT_KEY, running
from person import approving

ACTIONS = {
    "refund": ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
}


def server_of(client: ActPassClient) -> FastMCP[Any]:
    """Return a server with a guarded tool."""
    server: FastMCP[Any] = FastMCP("payments")

    @server.tool()
    def refund(charge: str, amount: int, currency: str = "usd") -> str:
        return f"refunded {amount / 100:.2f}"

    server.add_extension(ActPassExtension(client, ACTIONS, approvals="hold", hold=60))
    return server


async def call(server: FastMCP[Any], cents: int) -> None:
    """Call the tool as a model's client does, and print the answer."""
    async with Client(server) as client:
        result = await client.call_tool("refund", {"charge": "ch_123", "amount": cents}, raise_on_error=False)
        print(f"{cents / 100:.2f}: {result.content[0].text}", flush=True)


def main(gateway: str, *, approve: bool) -> None:
    """Refund 49, 250 and 900 dollars."""
    with (
        running(gateway) as (base_url, _),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
        approving(base_url, approve=approve),
    ):
        server = server_of(client)
        for cents in (4900, 25000, 90000):
            asyncio.run(call(server, cents))


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--approve"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    main(arguments[0], approve="--approve" in sys.argv)
