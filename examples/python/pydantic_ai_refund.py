"""A Pydantic AI agent whose $250 refund is deferred until a person approves it at the gateway.

The model is scripted. Approve within a minute, on the page or with the command that the example prints. With
``--approve`` another process approves it.

Usage: pydantic_ai_refund.py GATEWAY [--approve], the path of ``actpass-gateway``. Install ``actpass[pydantic-ai]``.
"""

from __future__ import annotations

import sys

from actpass import ActPassClient, ToolAction
from actpass.integrations.pydantic_ai import ActPass
from own_gateway import AGENT_KEY, running
from person import approving
from pydantic_ai import Agent, DeferredToolRequests
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

ACTIONS = {
    "refund": ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
}


def refund(charge: str, amount: int, currency: str = "usd") -> str:
    """Refund a charge; the amount is in cents."""
    return f"refunded {amount / 100:.2f}"


def scripted(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
    """Request a refund of $250 and repeat the tool's answer."""
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        return ModelResponse([TextPart(str(last.content))])
    return ModelResponse([ToolCallPart("refund", {"charge": "ch_123", "amount": 25000}, tool_call_id="call_1")])


def converse(client: ActPassClient, base_url: str, *, approve: bool) -> None:
    """Let the agent refund, wait for the person, and continue."""
    agent = Agent(
        FunctionModel(scripted),
        tools=[refund],
        output_type=[str, DeferredToolRequests],
        capabilities=[ActPass(client, ACTIONS)],
    )
    result = agent.run_sync("Please refund 250 dollars of ch_123.")
    requests = result.output
    assert isinstance(requests, DeferredToolRequests)
    for one in requests.metadata.values():
        pending = one["actpass"]
        print(f"paused: {pending['tool']} of {pending['args']['amount'] / 100:.2f}", flush=True)
        with approving(base_url, approve=approve):
            client.wait_for_approval(pending, 60)
    # The messages and the requests can be stored as JSON; another process can continue.
    results = requests.build_results(
        approvals={call.tool_call_id: True for call in requests.approvals}, metadata=requests.metadata
    )
    print(agent.run_sync(message_history=result.all_messages(), deferred_tool_results=results).output)


def main(gateway: str, *, approve: bool) -> None:
    """Run the conversation against a gateway of the example."""
    with (
        running(gateway) as (base_url, _),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
    ):
        converse(client, base_url, approve=approve)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--approve"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    main(arguments[0], approve="--approve" in sys.argv)
