"""An agent of the OpenAI Agents SDK whose $250 refund pauses until a person approves it at the gateway.

The model is scripted. Approve within a minute, on the page or with the command that the example prints. With
``--approve`` another process approves it.

Usage: openai_agents_refund.py GATEWAY [--approve], the path of ``actpass-gateway``. Install ``actpass[openai-agents]``.
"""

from __future__ import annotations

import asyncio
import sys

from actpass import AsyncActPassClient, ToolAction
from actpass.integrations.openai_agents import guard_tools, settle
from agents import Agent, RunConfig, Runner, RunState, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from own_gateway import AGENT_KEY, running
from person import approving

ACTIONS = {
    "refund": ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
}
UNTRACED = RunConfig(tracing_disabled=True)


@function_tool
def refund(charge: str, amount: int, currency: str = "usd") -> str:
    """Refund a charge; the amount is in cents."""
    return f"refunded {amount / 100:.2f}"


async def converse(base_url: str, *, approve: bool) -> None:
    """Let the agent refund, wait for the person, and continue the run."""
    call = function_call("refund", {"charge": "ch_123", "amount": 25000}, call_id="call_1")
    model = ScriptedModel([[call], [assistant_message("The refund is on its way.")]])
    async with AsyncActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client:
        agent = guard_tools(client, Agent(name="support", model=model, tools=[refund]), ACTIONS)
        result = await Runner.run(agent, "Please refund 250 dollars of ch_123.", run_config=UNTRACED)
        state = result.to_state()
        waiting = await settle(state)
        saved = state.to_json()  # Store it with `waiting`: both are JSON.
        for pending in waiting.values():
            print(f"paused: {pending['tool']} of {pending['args']['amount'] / 100:.2f}", flush=True)
            with approving(base_url, approve=approve):
                await client.wait_for_approval(pending, 60)
        state = await RunState.from_json(agent, saved)
        await settle(state, waiting)
        result = await Runner.run(agent, state, run_config=UNTRACED)
        print(*(one.output for one in result.new_items if one.type == "tool_call_output_item"))
        print(result.final_output)


def main(gateway: str, *, approve: bool) -> None:
    """Run the conversation against a gateway of the example."""
    with running(gateway) as (base_url, _):
        asyncio.run(converse(base_url, approve=approve))


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--approve"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    main(arguments[0], approve="--approve" in sys.argv)
