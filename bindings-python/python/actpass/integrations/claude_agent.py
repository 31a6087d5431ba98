"""Adapter for the Claude Agent SDK: guarded in-process tools, and a hook for all other tools.

    from actpass.integrations.claude_agent import guard_tool, pre_tool_use

    server = create_sdk_mcp_server("payments", tools=[guard_tool(refund, client, {"refund": action})])
    options = ClaudeAgentOptions(
        mcp_servers={"payments": server},
        hooks=pre_tool_use(client, {"mcp__payments__refund": UNGUARDED, "Read": UNGUARDED, "Bash": bash_action}),
    )

A guarded tool decides around its execution. The hook decides before Claude Code executes a tool; names that it does
not map are denied. Install ``actpass[claude-agent]``.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any, Literal, Optional, TypeVar

from claude_agent_sdk import HookMatcher, SdkMcpTool
from claude_agent_sdk.types import HookContext, HookEvent, HookInput, HookJSONOutput

from .._tools import ToolAction, Unguarded, wrong
from ._common import Actions, ToolMap, blocked_text

if TYPE_CHECKING:
    from ._common import Client

__all__ = ["guard_tool", "pre_tool_use"]

T = TypeVar("T")
#: Seconds that a hook may take in addition to holding a call: more than the total deadline of a request.
_HOOK_SECONDS = 60.0
_log = logging.getLogger("actpass")


def guard_tool(
    tool: SdkMcpTool[T],
    client: Client,
    actions: Actions,
    *,
    approvals: Literal["tell", "hold"] = "tell",
    hold: Optional[float] = None,
) -> SdkMcpTool[T]:
    """Return an in-process tool that runs only if the decision about its arguments allows it.

    The gateway evaluates the arguments that the handler receives, after every hook; the handler receives this copy. A
    blocked call is a result with ``is_error``.

    Args:
        tool: A tool made by the decorator ``tool``.
        client: An ``ActPassClient`` or ``AsyncActPassClient``.
        actions: The names of tools and their ``ToolAction`` or ``UNGUARDED``; an unguarded tool is returned unchanged.
        approvals: ``"tell"`` answers that an approval is pending: the model repeats the call after it. ``"hold"``
            waits.
        hold: Seconds to wait for a decision, with ``approvals="hold"``.

    Raises:
        ActPassConfigError: An entry or an option is invalid, or the tool has no action.

    >>> server = create_sdk_mcp_server("payments", tools=[guard_tool(refund, client, {"refund": action})])
    """
    tools = ToolMap(client, actions, approvals=approvals, hold=hold, supported=("tell", "hold"))
    if not isinstance(tool, SdkMcpTool):
        raise wrong("tool", f"expected an SdkMcpTool, found {type(tool).__name__}: use the decorator tool")
    tools.check_coverage([tool.name])
    action = tools.lookup(tool.name)
    if not isinstance(action, ToolAction):
        return tool
    inner: Any = tool.handler

    async def handler(args: Any) -> dict[str, Any]:
        async def execute(evaluated: dict[str, Any], _: object) -> Any:
            return await inner(evaluated)

        outcome = await tools.run_async(action, args, execute)
        if not outcome["executed"]:
            return {"content": [{"type": "text", "text": blocked_text(outcome)}], "is_error": True}
        result: dict[str, Any] = outcome.unwrap()
        return result

    return dataclasses.replace(tool, handler=handler)


def pre_tool_use(
    client: Client,
    actions: Actions,
    *,
    approvals: Literal["tell", "hold"] = "tell",
    hold: Optional[float] = None,
) -> dict[HookEvent, list[HookMatcher]]:
    """Return the hooks for ``ClaudeAgentOptions(hooks=…)`` that decide before Claude Code executes a tool.

    A denied call reaches the model as the reason. A permitted call still passes the user's permission rules. If the
    hook fails or exceeds its timeout, Claude Code blocks the call (``on_failure="block"``); a Claude Code that does not
    support this is refused at connect.

    The hook does not execute the tool: another hook may still change its input. Guard in-process tools with
    :func:`guard_tool` and map them to ``UNGUARDED`` here.

    Args:
        client: An ``ActPassClient`` or ``AsyncActPassClient``.
        actions: The names of tools and their ``ToolAction`` or ``UNGUARDED``; others are denied. The name of a tool of
            an MCP server is ``mcp__SERVER__TOOL``.
        approvals: ``"tell"`` answers that an approval is pending: the model repeats the call after it. ``"hold"``
            waits.
        hold: Seconds to wait for a decision, with ``approvals="hold"``.

    Raises:
        ActPassConfigError: An entry or an option is invalid.

    >>> options = ClaudeAgentOptions(hooks=pre_tool_use(client, {"Read": UNGUARDED}))
    """
    tools = ToolMap(client, actions, approvals=approvals, hold=hold, supported=("tell", "hold"))

    async def decide(given: HookInput, tool_use_id: Optional[str], context: HookContext) -> HookJSONOutput:
        called: Any = given
        name = str(called.get("tool_name"))
        try:
            action = tools.lookup(name)
            if isinstance(action, Unguarded):
                return {}
            if action is None:
                return _denied(blocked_text(tools.unmapped(name)))
            outcome = await tools.run_async(action, called["tool_input"], _permitted)
        except Exception:
            _log.exception("pre_tool_use: the guard of %s failed", name)
            return _denied(f"{name} was not run: its guard failed. Do not call it again.")
        return {} if outcome["executed"] else _denied(blocked_text(outcome))

    timeout = (hold or 0.0) + _HOOK_SECONDS
    return {"PreToolUse": [HookMatcher(matcher=None, hooks=[decide], timeout=timeout, on_failure="block")]}


def _permitted(_args: object, _context: object) -> None:
    """Do nothing: Claude Code executes the tool after the hook."""


def _denied(text: str) -> HookJSONOutput:
    return {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "deny",
            "permissionDecisionReason": text,
        }
    }
