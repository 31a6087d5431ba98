"""``tame-ai-sdk``: ``protect_tool`` in its default failure mode, ``fail_closed``."""

from __future__ import annotations

from typing import Any, Callable

from kit import Blocked, serve
from tame_ai import TameClient, TameToolError


def guard(case: dict[str, Any], run: Callable[[], None]) -> None:
    client = TameClient(
        base_url=case["base_url"],
        api_key=case["api_key"],
        agent_id=case["agent_id"],
        timeout_ms=int(case["options"]["timeout"] * 1000),
    )
    tool = client.protect_tool(name=case["action"]["tool"], execute=lambda _: run())
    try:
        tool(case["action"]["args"])
    except TameToolError as error:
        raise Blocked({"decision": error.decision.get("result"), **error.decision}) from error


serve(guard)
