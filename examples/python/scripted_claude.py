"""A script that acts as Claude Code for an example: it makes one call of a tool and reports the tool's answer."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

from claude_agent_sdk import Transport


class ScriptedClaude(Transport):
    """Claude Code with one scripted call of ``mcp__SERVER__TOOL``, over the control protocol of the SDK."""

    def __init__(self, name: str, args: dict[str, Any]) -> None:
        """Script the call."""
        _, self._server, self._tool = name.split("__")
        self._name, self._args = name, args
        self._inbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._hooks: list[dict[str, Any]] = []
        self._running: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Start nothing."""

    async def write(self, data: str) -> None:
        """Take a message of the SDK."""
        message = json.loads(data)
        if message["type"] == "user":
            self._running = asyncio.create_task(self._turn())
        elif message["type"] == "control_response":
            response = message["response"]
            self._answers.pop(response["request_id"]).set_result(response.get("response"))
        elif message["type"] == "control_request":
            self._hooks += (message["request"].get("hooks") or {}).get("PreToolUse", [])
            said = {"hook_on_failure_supported": True}
            answer = {"subtype": "success", "request_id": message["request_id"], "response": said}
            await self._inbox.put({"type": "control_response", "response": answer})

    async def _turn(self) -> None:
        """Call the hooks and the tool, and report the tool's answer as the result."""
        given = {"hook_event_name": "PreToolUse", "tool_name": self._name, "tool_input": self._args}
        for callback in itertools.chain.from_iterable(one["hookCallbackIds"] for one in self._hooks):
            request = {"subtype": "hook_callback", "callback_id": callback, "input": given, "tool_use_id": "toolu_1"}
            assert not await self._ask(request), "a hook denied the call"
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "script", "version": "1"}}
        await self._send("initialize", hello)
        answer = await self._send("tools/call", {"name": self._tool, "arguments": self._args})
        numbers = {"duration_ms": 1, "duration_api_ms": 1, "num_turns": 1, "session_id": "session"}
        text = answer["result"]["content"][0]["text"]
        await self._inbox.put({"type": "result", "subtype": "success", "is_error": False, "result": text, **numbers})
        await self._inbox.put(None)

    async def _send(self, method: str, params: Any) -> Any:
        message = {"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params}
        answer = await self._ask({"subtype": "mcp_message", "server_name": self._server, "message": message})
        return answer["mcp_response"]

    async def _ask(self, request: dict[str, Any]) -> Any:
        number = f"cli_{next(self._numbers)}"
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._inbox.put({"type": "control_request", "request_id": number, "request": request})
        return await self._answers[number]

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the messages for the SDK."""
        while (message := await self._inbox.get()) is not None:
            yield message

    async def close(self) -> None:
        """End the messages."""
        await self._inbox.put(None)

    def is_ready(self) -> bool:
        """Accept messages at any time."""
        return True

    async def end_input(self) -> None:
        """Keep the session open."""
