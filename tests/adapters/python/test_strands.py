"""The recipe for Strands Agents with a real agent and a scripted model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from recipes import *  # noqa: F403
from recipes import block, executed
from strands.models import Model


class Scripted(Model):
    """A model that makes the calls, then answers."""

    def __init__(self, calls: list[dict[str, Any]], seen: list[str]) -> None:
        self.calls, self.seen = list(calls), seen

    def update_config(self, **config: Any) -> None:
        pass

    def get_config(self) -> dict[str, Any]:
        return {}

    async def structured_output(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def stream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        self.seen.append(json.dumps(messages[-1]))
        yield {"messageStart": {"role": "assistant"}}
        if self.calls:
            start = {"toolUse": {"name": "refund", "toolUseId": f"tool_{len(self.calls)}"}}
            yield {"contentBlockStart": {"start": start}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": json.dumps(self.calls.pop(0))}}}}
            yield {"contentBlockStop": {}}
            yield {"messageStop": {"stopReason": "tool_use"}}
            return
        yield {"contentBlockStart": {"start": {}}}
        yield {"contentBlockDelta": {"delta": {"text": "done"}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}


class Kit:
    framework = "strands"

    def run(self, names: dict[str, Any], calls: list[dict[str, Any]], seen: list[str]) -> None:
        agent = executed(block("strands"), **names, model=Scripted(calls, seen))["agent"]
        agent("please")
        blocked = [one for one in seen if "was not run" in one]
        assert all('"status": "error"' in one for one in blocked)


@pytest.fixture
def kit() -> Kit:
    return Kit()
