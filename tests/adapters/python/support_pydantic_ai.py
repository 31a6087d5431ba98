"""Ways to run a Pydantic AI agent with a scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from actpass import ToolAction
from actpass.integrations.pydantic_ai import ActPass
from pydantic_ai import Agent, DeferredToolRequests
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

TOOL = "stripe.refund.create"
REFUND = ToolAction(TOOL, goal="resolve_refund_request", resource="stripe:charge:{charge}")
#: The ways to run an agent.
FLAVOURS = ("run", "run_sync", "run_stream")


def call(amount: Any = 4900, *, id: str = "call_1", name: str = "refund", **args: Any) -> ToolCallPart:  # noqa: A002
    """Return the model's call of a tool."""
    return raw({"charge": "ch_1", "amount": amount, "currency": "usd", **args}, id=id, name=name)


def raw(args: Any, *, id: str = "call_1", name: str = "refund") -> ToolCallPart:  # noqa: A002
    """Return the model's call of a tool with these arguments, which may be JSON text."""
    return ToolCallPart(name, args, tool_call_id=id)


def scripted(*turns: Sequence[ToolCallPart]) -> FunctionModel:
    """Return a model that calls the tools of one turn after another, then answers `done`."""

    def calls(messages: list[ModelMessage]) -> Sequence[ToolCallPart]:
        # The turn follows from the messages, so that another process continues the script.
        turn = sum(isinstance(one, ModelResponse) for one in messages)
        return turns[turn] if turn < len(turns) else ()

    def respond(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        return ModelResponse(list(calls(messages)) or [TextPart("done")])

    async def stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[Any]:
        found = calls(messages)
        for index, one in enumerate(found):
            args = one.args if isinstance(one.args, str) else json.dumps(one.args)
            yield {index: DeltaToolCall(one.tool_name, args, tool_call_id=one.tool_call_id)}
        if not found:
            yield "done"

    return FunctionModel(respond, stream_function=stream)


def guard(gateway: Any, flavour: str, actions: Any = None, **options: Any) -> ActPass:
    """Return the capability with a client of one kind or the other, because either serves every flavour."""
    make = gateway.async_client if flavour == "run" else gateway.client
    return ActPass(make(agent_id="support_agent"), {"refund": REFUND} if actions is None else actions, **options)


def agent(*turns: Any, capabilities: Sequence[Any], **members: Any) -> Agent[Any, Any]:
    """Return an agent with a scripted model."""
    members = {"output_type": [str, DeferredToolRequests], **members}
    return Agent(scripted(*turns), capabilities=list(capabilities), **members)


class Result:
    """The output of a run and its messages."""

    def __init__(self, output: Any, messages: list[ModelMessage]) -> None:
        self.output = output
        self.messages = messages

    def saved(self) -> list[ModelMessage]:
        """Return the messages after a round trip through JSON."""
        return ModelMessagesTypeAdapter.validate_json(ModelMessagesTypeAdapter.dump_json(self.messages))

    def answers(self) -> list[str]:
        """Return the tools' answers that the model gets."""
        parts = [part for one in self.messages for part in one.parts]
        return [str(part.content) for part in parts if part.part_kind in {"tool-return", "retry-prompt"}]


def go(flavour: str, one: Agent[Any, Any], given: Any = "refund it", **options: Any) -> Result:
    """Run the agent in one of the ways."""
    if flavour == "run_sync":
        done = one.run_sync(given, **options)
        return Result(done.output, done.all_messages())

    async def run() -> Result:
        if flavour == "run":
            done = await one.run(given, **options)
            return Result(done.output, done.all_messages())
        async with one.run_stream(given, **options) as streamed:
            return Result(await streamed.get_output(), streamed.all_messages())

    return asyncio.run(run())


def resumed(flavour: str, one: Agent[Any, Any], paused: Result, approved: Any = True, **changes: Any) -> Result:
    """Continue a paused run, with the state that another process stored."""
    requests = paused.output
    approvals = {item.tool_call_id: approved for item in requests.approvals}
    metadata = json.loads(json.dumps(requests.metadata))
    results = requests.build_results(**{"approvals": approvals, "metadata": metadata, **changes})
    return go(flavour, one, None, message_history=paused.saved(), deferred_tool_results=results)


def approval_of(paused: Result, call_id: str = "call_1") -> str:
    """Return the id of the approval for which a call waits."""
    return str(paused.output.metadata[call_id]["actpass"]["approval_request_id"])
