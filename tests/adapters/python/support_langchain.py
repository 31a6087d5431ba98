"""A scripted model and the ways to run a LangChain agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from actpass import ToolAction
from actpass.integrations.langchain import ActPassMiddleware
from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.types import Command

TOOL = "stripe.refund.create"
REFUND = ToolAction(TOOL, goal="resolve_refund_request", resource="stripe:charge:{charge}")
#: The ways to run an agent.
FLAVOURS = ("invoke", "ainvoke", "stream", "astream")
BOTH = ("invoke", "ainvoke")


def call(amount: Any = 4900, *, id: str = "call_1", name: str = "refund", **args: Any) -> dict[str, Any]:  # noqa: A002
    """Return the model's call of a tool."""
    given = {"charge": "ch_1", **({} if amount is None else {"amount": amount}), "currency": "usd", **args}
    return {"name": name, "args": given, "id": id, "type": "tool_call"}


class ScriptedModel(BaseChatModel):
    """Calls the tools of one turn after another, then answers `done`."""

    turns: list[Any]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
        """Ignore the tools: the script names them."""
        return self

    def _message(self, messages: list[BaseMessage]) -> AIMessage:
        calls = [{name: value for name, value in one.items() if name != "raw"} for one in self._calls(messages)]
        return AIMessage(content="" if calls else "done", tool_calls=calls)

    def _calls(self, messages: list[BaseMessage]) -> list[Any]:
        # The turn follows from the messages, so that another process continues the script.
        turn = sum(isinstance(one, AIMessage) for one in messages)
        return self.turns[turn] if turn < len(self.turns) else []

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._message(messages))])

    def _stream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        said = self._message(messages)
        chunks = [
            {"name": one["name"], "args": one.get("raw") or json.dumps(one["args"]), "id": one["id"], "index": index}
            for index, one in enumerate(self._calls(messages))
        ]
        yield ChatGenerationChunk(message=AIMessageChunk(content=said.content, tool_call_chunks=chunks))

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for one in self._stream(messages):
            yield one


def agent(*turns: Any, tools: Sequence[Any], middleware: Sequence[Any], checkpointer: Any = None) -> Any:
    """Return an agent with a scripted model."""
    return create_agent(ScriptedModel(turns=list(turns)), tools, middleware=middleware, checkpointer=checkpointer)


def guard(gateway: Any, flavour: str, actions: Any = None, **options: Any) -> ActPassMiddleware:
    """Return the middleware with the client that fits the flavour."""
    client = (
        gateway.async_client(agent_id="support_agent")
        if flavour.startswith("a")
        else gateway.client(agent_id="support_agent")
    )
    return ActPassMiddleware(client, {"refund": REFUND} if actions is None else actions, **options)


def go(flavour: str, graph: Any, given: Any = None, thread: str = "t") -> dict[str, Any]:
    """Run the graph in one of the ways; return its last state, with `__interrupt__`."""
    given = {"messages": [("user", "refund it")]} if given is None else given
    config = {"configurable": {"thread_id": thread}}
    if flavour == "invoke":
        return graph.invoke(given, config)
    if flavour == "ainvoke":
        return asyncio.run(graph.ainvoke(given, config))
    seen: list[Any] = []
    modes = ["messages", "values"]
    if flavour == "stream":
        seen = list(graph.stream(given, config, stream_mode=modes))
    else:

        async def collect() -> None:
            seen.extend([one async for one in graph.astream(given, config, stream_mode=modes)])

        asyncio.run(collect())
    values = [chunk for mode, chunk in seen if mode == "values"]
    state = next(one for one in reversed(values) if "messages" in one)
    waiting = [one for chunk in values for one in chunk.get("__interrupt__", ())]
    return {**state, "__interrupt__": waiting} if waiting else state


def answers(state: dict[str, Any]) -> list[ToolMessage]:
    """Return the tools' answers."""
    return [one for one in state["messages"] if isinstance(one, ToolMessage)]


def resume(state: dict[str, Any], value: Any = None) -> Command[Any]:
    """Return the command that answers each interrupt with its own value, or with `value`."""
    return Command(resume={one.id: one.value if value is None else value for one in state["__interrupt__"]})


def approval_of(state: dict[str, Any]) -> str:
    """Return the id of the approval for which the graph waits."""
    [waiting] = state["__interrupt__"]
    return waiting.value["actpass"]["approval_request_id"]
