"""Ways to run an agent of the OpenAI Agents SDK with a scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from actpass import ToolAction
from actpass.integrations.openai_agents import guard_tools
from agents import Agent, RunConfig, Runner, RunState
from agents.testing import ScriptedModel, assistant_message, function_call

TOOL = "stripe.refund.create"
REFUND = ToolAction(TOOL, goal="resolve_refund_request", resource="stripe:charge:{charge}")
#: The ways to run an agent.
FLAVOURS = ("run", "run_sync", "run_streamed")


def call(amount: Any = 4900, *, id: str = "call_1", name: str = "refund", **args: Any) -> Any:  # noqa: A002
    """Return the model's call of a tool."""
    return function_call(name, {"charge": "ch_1", "amount": amount, "currency": "usd", **args}, call_id=id)


def scripted(*turns: Sequence[Any]) -> ScriptedModel:
    """Return a model that calls the tools of one turn after another, then answers `done`."""
    return ScriptedModel([*map(list, turns), [assistant_message("done")]])


def agent(*turns: Any, tools: Sequence[Any], **members: Any) -> Agent[Any]:
    """Return an agent with a scripted model."""
    return Agent(name=members.pop("name", "support"), model=scripted(*turns), tools=list(tools), **members)


def client_of(gateway: Any, flavour: str) -> Any:
    """Return a client: of one kind or the other, because either serves every flavour."""
    make = gateway.async_client if flavour == "run" else gateway.client
    return make(agent_id="support_agent")


def guarded(gateway: Any, flavour: str, one: Agent[Any], actions: Any = None, **options: Any) -> Agent[Any]:
    """Guard an agent."""
    return guard_tools(client_of(gateway, flavour), one, {"refund": REFUND} if actions is None else actions, **options)


def go(flavour: str, one: Agent[Any], given: Any = "refund it", **options: Any) -> Any:
    """Run the agent in one of the ways."""
    options = {"run_config": RunConfig(tracing_disabled=True), **options}
    if flavour == "run_sync":
        return Runner.run_sync(one, given, **options)

    async def run() -> Any:
        if flavour == "run":
            return await Runner.run(one, given, **options)
        result = Runner.run_streamed(one, given, **options)
        async for _ in result.stream_events():
            pass
        return result

    return asyncio.run(run())


def saved(result: Any, one: Agent[Any]) -> RunState[Any, Any]:
    """Return the state of a paused run after a round trip through JSON."""
    text = json.dumps(result.to_state().to_json())
    return asyncio.run(RunState.from_json(one, json.loads(text)))


def outputs(result: Any) -> list[str]:
    """Return the tools' answers that the model gets."""
    return [str(one.output) for one in result.new_items if one.type == "tool_call_output_item"]
