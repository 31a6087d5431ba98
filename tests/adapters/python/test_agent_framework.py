"""The recipe for Microsoft Agent Framework with a real agent and a scripted model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from agent_framework import BaseChatClient, ChatResponse, Content, FunctionInvocationLayer, Message
from recipes import *  # noqa: F403
from recipes import block, executed


class Scripted(FunctionInvocationLayer, BaseChatClient):
    """A model that makes the calls, then answers."""

    def __init__(self, calls: list[dict[str, Any]], seen: list[str]) -> None:
        super().__init__()
        self.calls, self.seen = list(calls), seen

    async def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **kwargs: Any
    ) -> ChatResponse:
        self.seen.append(str([[one.to_dict() for one in message.contents] for message in messages[-1:]]))
        if not self.calls:
            return ChatResponse(messages=[Message(role="assistant", contents=["done"])])
        call = Content.from_function_call(f"call_{len(self.calls)}", "refund", arguments=self.calls.pop(0))
        return ChatResponse(messages=[Message(role="assistant", contents=[call])])


class Kit:
    framework = "agent-framework"

    def run(self, names: dict[str, Any], calls: list[dict[str, Any]], seen: list[str]) -> None:
        async def run() -> None:
            agent = executed(block("agent_framework"), **names, model=Scripted(calls, seen))["agent"]
            await agent.run("please")

        asyncio.run(run())


@pytest.fixture
def kit() -> Kit:
    return Kit()
