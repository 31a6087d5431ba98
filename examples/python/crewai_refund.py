"""A CrewAI crew whose $250 refund waits in the tool until a person approves it at the gateway.

The model is scripted. Approve within a minute, on the page or with the command that the example prints. With
``--approve`` another process approves it.

Usage: crewai_refund.py GATEWAY [--approve], the path of ``actpass-gateway``. Install ``actpass[crewai]``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ.setdefault("CREWAI_DISABLE_TELEMETRY", "true")
os.environ.setdefault("CREWAI_TRACING_ENABLED", "false")

from actpass import ActPassClient, ToolAction
from actpass.integrations.crewai import guard_tools, refuse_unguarded
from crewai import Agent, BaseLLM, Crew, Task
from crewai.tools import tool
from own_gateway import AGENT_KEY, running
from person import approving

ACTIONS = {
    "refund": ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
}


@tool("refund")
def refund(charge: str, amount: int, currency: str = "usd") -> str:
    """Refund a charge; the amount is in cents."""
    return f"refunded {amount / 100:.2f}"


class Scripted(BaseLLM):
    """A model that requests a refund of $250 and repeats the tool's answer."""

    def supports_function_calling(self) -> bool:
        """Request tools natively."""
        return True

    def call(self, messages: Any, *_: Any, **__: Any) -> Any:
        """Call the tool, or answer with its result."""
        if messages[-1]["role"] == "tool":
            return messages[-1]["content"]
        args = json.dumps({"charge": "ch_123", "amount": 25000})
        return [{"id": "call_1", "type": "function", "function": {"name": "refund", "arguments": args}}]


def crew_of(client: ActPassClient) -> Crew:
    """Return a crew of one agent with a guarded tool; its calls wait up to a minute for the person."""
    refuse_unguarded(client, ACTIONS)
    tools = guard_tools([refund], client, ACTIONS, approvals="hold", hold=60)
    agent = Agent(role="support", goal="help", backstory="-", llm=Scripted(model="scripted"), tools=tools)
    task = Task(description="Refund 250 dollars of ch_123.", expected_output="a report", agent=agent)
    return Crew(agents=[agent], tasks=[task])


def main(gateway: str, *, approve: bool) -> None:
    """Run the crew against a gateway of the example."""
    with (
        running(gateway) as (base_url, _),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
        approving(base_url, approve=approve),
    ):
        print(crew_of(client).kickoff())


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--approve"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    main(arguments[0], approve="--approve" in sys.argv)
