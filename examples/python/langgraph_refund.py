"""A LangChain agent, which is a LangGraph graph, whose $250 refund pauses until a person approves it at the gateway.

The model is scripted. Approve within a minute, on the page or with the command that the example prints. With
``--approve`` another process approves it.

Usage: langgraph_refund.py GATEWAY [--approve], the path of ``actpass-gateway``. Install ``actpass[langchain]``.
"""

from __future__ import annotations

import sys
from typing import Any

from actpass import ActPassClient, ToolAction
from actpass.integrations.langchain import ActPassMiddleware
from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from own_gateway import AGENT_KEY, running
from person import approving

ACTIONS = {
    "refund": ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
}


@tool
def refund(charge: str, amount: int, currency: str = "usd") -> str:
    """Refund a charge; the amount is in cents."""
    return f"refunded {amount / 100:.2f}"


class Scripted(BaseChatModel):
    """A model that requests a refund of $250 and repeats the tool's answer."""

    _llm_type = "scripted"

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        """Ignore the tools: the script names them."""
        return self

    def _generate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
        if messages[-1].type == "tool":
            answer = AIMessage(messages[-1].content)
        else:
            args = {"charge": "ch_123", "amount": 25000}
            answer = AIMessage("", tool_calls=[{"name": "refund", "args": args, "id": "call_1"}])
        return ChatResult(generations=[ChatGeneration(message=answer)])


def converse(client: ActPassClient, base_url: str, *, approve: bool) -> None:
    """Let the agent refund, wait for the person, and resume."""
    # With the checkpointer of a database, another process can resume the graph.
    graph = create_agent(
        Scripted(), [refund], middleware=[ActPassMiddleware(client, ACTIONS)], checkpointer=InMemorySaver()
    )
    config: Any = {"configurable": {"thread_id": "conversation_1"}}
    state = graph.invoke({"messages": [HumanMessage("Please refund 250 dollars of ch_123.")]}, config)
    [paused] = state["__interrupt__"]
    pending = paused.value["actpass"]
    print(f"paused: {pending['tool']} of {pending['args']['amount'] / 100:.2f}", flush=True)
    with approving(base_url, approve=approve):
        client.wait_for_approval(pending, 60)
    state = graph.invoke(Command(resume={paused.id: paused.value}), config)
    print(state["messages"][-1].content)


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
