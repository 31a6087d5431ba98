"""The recipe for LlamaIndex with a real agent and a scripted model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from recipes import *  # noqa: F403
from recipes import block, executed


class Kit:
    framework = "llama-index"

    def run(self, names: dict[str, Any], calls: list[dict[str, Any]], seen: list[str]) -> None:
        left = list(calls)

        def answer(messages: Any, **kwargs: Any) -> ChatMessage:
            seen.append(str(messages[-1].blocks))
            if not left:
                return ChatMessage(role="assistant", blocks=[TextBlock(text="done")])
            call = ToolCallBlock(tool_call_id=f"call_{len(left)}", tool_name="refund", tool_kwargs=left.pop(0))
            return ChatMessage(role="assistant", blocks=[call])

        async def run() -> None:
            model = MockFunctionCallingLLM(response_generator=answer, is_chat_model=True)
            agent = executed(block("llama_index"), **names, model=model)["agent"]
            await agent.run("please")

        asyncio.run(run())


@pytest.fixture
def kit() -> Kit:
    return Kit()
