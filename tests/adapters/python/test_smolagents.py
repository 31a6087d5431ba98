"""The recipe for smolagents with a real agent and a scripted model."""

from __future__ import annotations

from typing import Any

import pytest
from recipes import *  # noqa: F403
from recipes import block, executed
from smolagents.models import ChatMessage, ChatMessageToolCall, ChatMessageToolCallFunction, MessageRole, Model


class Scripted(Model):
    """A model that makes the calls, then answers."""

    def __init__(self, calls: list[dict[str, Any]], seen: list[str]) -> None:
        super().__init__(model_id="scripted")
        self.calls, self.seen = list(calls), seen

    def generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatMessage:
        self.seen.append(str(messages[-1].content))
        name, arguments = ("refund", self.calls.pop(0)) if self.calls else ("final_answer", {"answer": "done"})
        function = ChatMessageToolCallFunction(name=name, arguments=arguments)
        call = ChatMessageToolCall(id=f"call_{len(self.calls)}", type="function", function=function)
        return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=[call])


class Kit:
    framework = "smolagents"

    def run(self, names: dict[str, Any], calls: list[dict[str, Any]], seen: list[str]) -> None:
        executed(block("smolagents"), **names, model=Scripted(calls, seen))["agent"].run("please")


@pytest.fixture
def kit() -> Kit:
    return Kit()
