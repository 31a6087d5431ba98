"""A Google ADK agent whose $250 refund pauses for ADK's confirmation until a person approves it at the gateway.

The model is scripted. Approve within a minute, on the page or with the command that the example prints. With
``--approve`` another process approves it.

Usage: google_adk_refund.py GATEWAY [--approve], the path of ``actpass-gateway``. Install ``actpass[google-adk]``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from typing import Any

from actpass import ActPassClient, ToolAction
from actpass.integrations.google_adk import ActPassPlugin, guard_tool
from google.adk.agents import LlmAgent
from google.adk.apps import App
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types
from own_gateway import AGENT_KEY, running
from person import approving

ACTIONS = {
    "refund": ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
}


def refund(charge: str, amount: int, currency: str = "usd") -> dict[str, str]:
    """Refund a charge; the amount is in cents."""
    return {"refunded": f"{amount / 100:.2f}"}


class Scripted(BaseLlm):
    """A model that requests a refund of $250 and repeats the tool's response."""

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncGenerator[LlmResponse, None]:
        """Call the tool, or answer with its response."""
        last = llm_request.contents[-1].parts[-1]
        if last.function_response:
            part = types.Part(text=str(last.function_response.response))
        else:
            args = {"charge": "ch_123", "amount": 25000, "currency": "usd"}
            part = types.Part(function_call=types.FunctionCall(name="refund", args=args))
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


async def send(runner: InMemoryRunner, part: types.Part) -> types.FunctionCall | None:
    """Send a message, print the agent's texts, and return the request for a confirmation, if any."""
    requested = None
    message = types.Content(role="user", parts=[part])
    async for event in runner.run_async(user_id="u", session_id="s", new_message=message):
        for one in event.content.parts or [] if event.content else []:
            if one.text:
                print(one.text, flush=True)
            if one.function_call and one.function_call.name == "adk_request_confirmation":
                requested = one.function_call
    return requested


async def converse(client: ActPassClient, base_url: str, *, approve: bool) -> None:
    """Let the agent refund, wait for the person, and confirm."""
    tool = guard_tool(refund, client, ACTIONS, approvals="interrupt")
    agent = LlmAgent(name="support", model=Scripted(model="scripted"), tools=[tool])
    app = App(name="support", root_agent=agent, plugins=[ActPassPlugin(client, ACTIONS)])
    runner = InMemoryRunner(app=app)
    await runner.session_service.create_session(app_name="support", user_id="u", session_id="s")
    request = await send(runner, types.Part(text="Please refund 250 dollars of ch_123."))
    assert request is not None and request.args is not None
    pending = request.args["toolConfirmation"]["payload"]
    print(f"paused: {pending['tool']} of {pending['args']['amount'] / 100:.2f}", flush=True)
    with approving(base_url, approve=approve):
        await asyncio.to_thread(client.wait_for_approval, pending, 60)
    answer = types.FunctionResponse(id=request.id, name=request.name, response={"confirmed": True, "payload": pending})
    await send(runner, types.Part(function_response=answer))


def main(gateway: str, *, approve: bool) -> None:
    """Run the conversation against a gateway of the example."""
    with (
        running(gateway) as (base_url, _),
        ActPassClient(AGENT_KEY, agent_id="support_agent", base_url=base_url) as client,
    ):
        asyncio.run(converse(client, base_url, approve=approve))


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != "--approve"]
    if len(arguments) != 1:
        sys.exit(__doc__)
    main(arguments[0], approve="--approve" in sys.argv)
