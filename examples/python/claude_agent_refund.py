"""A Claude Agent SDK agent whose $250 refund waits in the tool until a person approves it at the gateway.

A script acts as Claude Code. Approve within a minute, on the page or with the command that the example prints. With
``--approve`` another process approves it.

Usage: claude_agent_refund.py GATEWAY [--approve], the path of ``actpass-gateway``. Install ``actpass[claude-agent]``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from actpass import UNGUARDED, ActPassClient, ToolAction
from actpass.integrations.claude_agent import guard_tool, pre_tool_use
from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, create_sdk_mcp_server, query, tool
from own_gateway import AGENT_KEY, running
from person import approving
from scripted_claude import ScriptedClaude

ACTIONS = {
    "refund": ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
}
CALL = ("mcp__payments__refund", {"charge": "ch_123", "amount": 25000, "currency": "usd"})


@tool("refund", "Refund a charge; the amount is in cents.", {"charge": str, "amount": int, "currency": str})
async def refund(args: Any) -> dict[str, Any]:
    """Refund a charge."""
    return {"content": [{"type": "text", "text": f"refunded {args['amount'] / 100:.2f}"}]}


async def converse(client: ActPassClient) -> None:
    """Let the agent refund; the call waits up to a minute for the person."""
    guarded = guard_tool(refund, client, ACTIONS, approvals="hold", hold=60)
    options = ClaudeAgentOptions(
        mcp_servers={"payments": create_sdk_mcp_server("payments", tools=[guarded])},
        # The guarded tool decides itself. The hook denies all other tools.
        hooks=pre_tool_use(client, {CALL[0]: UNGUARDED}),
    )
    # Without `transport`, the SDK starts Claude Code.
    async for message in query(prompt="Refund 250 dollars.", options=options, transport=ScriptedClaude(*CALL)):
        if isinstance(message, ResultMessage):
            print(message.result)


def main(gateway: str, *, approve: bool) -> None:
    """Run the conversation against a gateway of the example."""
    with (
        running(gateway) as (base_url, _),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
        approving(base_url, approve=approve),
    ):
        asyncio.run(converse(client))


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--approve"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    main(arguments[0], approve="--approve" in sys.argv)
