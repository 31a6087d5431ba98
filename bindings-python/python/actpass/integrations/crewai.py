"""Adapter for CrewAI: guarded tools, and a hook that refuses all others.

    from actpass.integrations.crewai import guard_tools, refuse_unguarded

    actions = {
        "refund": ToolAction("stripe.refund.create", goal="refund", resource="stripe:charge:{charge}"),
        "search": UNGUARDED,
    }
    agent = Agent(role="support", tools=guard_tools([refund, search], client, actions), …)
    refuse_unguarded(client, actions)

A blocked call is a ``ToolFailure`` with a text for the model. Install ``actpass[crewai]``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional

from crewai.hooks import (
    register_after_tool_call_hook,
    register_before_tool_call_hook,
    unregister_after_tool_call_hook,
    unregister_before_tool_call_hook,
)
from crewai.hooks.dispatch import HookAborted
from crewai.hooks.tool_hooks import ToolCallHookContext
from crewai.tools import BaseTool
from crewai.tools.tool_failure import ToolFailure, ToolFailureReason
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import PrivateAttr
from pydantic_core import to_jsonable_python

from .._outcome import GuardOutcome
from .._tools import ToolAction, Unguarded, wrong
from ._common import Actions, ToolMap, blocked_text

if TYPE_CHECKING:
    from ._common import Client

__all__ = ["GuardedTool", "guard_tools", "refuse_unguarded"]


class GuardedTool(BaseTool):
    """A tool that runs only if the decision about its arguments allows it; created by :func:`guard_tools`."""

    _tool: BaseTool = PrivateAttr()
    _tools: ToolMap = PrivateAttr()
    _action: ToolAction = PrivateAttr()

    def _run(self, **kwargs: Any) -> Any:
        def execute(args: dict[str, Any], _: object) -> Any:
            result = self._tool._run(**args)
            return asyncio.run(result) if asyncio.iscoroutine(result) else result

        arguments = self._validate_kwargs(kwargs)
        return _answer(self._tools.run(self._action, arguments, execute, default=to_jsonable_python))

    async def _arun(self, **kwargs: Any) -> Any:
        async def execute(args: dict[str, Any], _: object) -> Any:
            return await self._tool._arun(**args)

        arguments = self._validate_kwargs(kwargs)
        return _answer(await self._tools.run_async(self._action, arguments, execute, default=to_jsonable_python))


def guard_tools(
    tools: Iterable[BaseTool],
    client: Client,
    actions: Actions,
    *,
    approvals: Literal["tell", "hold"] = "tell",
    hold: Optional[float] = None,
) -> list[BaseTool]:
    """Return tools that run only if the decision about their arguments allows it.

    The gateway evaluates the arguments as the tool's ``args_schema`` validates them, after all hooks. The tool receives
    this copy. Results are not cached, since a repeated call needs its own decision. An exception of the tool becomes
    the text of a ``ToolFailure``: CrewAI would otherwise repeat the call, and with it the effect.

    Args:
        tools: Tools, as in ``Agent(tools=[…])``.
        client: An ``ActPassClient`` or ``AsyncActPassClient``.
        actions: The names of the tools and their ``ToolAction`` or ``UNGUARDED``; an unguarded tool is returned
            unchanged.
        approvals: ``"tell"`` answers that an approval is pending: the model repeats the call after it. ``"hold"``
            waits.
        hold: Seconds to wait for a decision, with ``approvals="hold"``.

    Raises:
        ActPassConfigError: An entry or an option is invalid, or a tool has no action.

    >>> agent = Agent(role="support", tools=guard_tools([refund], client, {"refund": action}))
    """
    mapped = ToolMap(client, actions, approvals=approvals, hold=hold, supported=("tell", "hold"))
    listed = list(tools)
    for tool in listed:
        if not isinstance(tool, BaseTool) or isinstance(tool, GuardedTool):
            raise wrong("tools", f"expected tools without a guard, found {getattr(tool, 'name', tool)!r}")
    mapped.check_coverage(tool.name for tool in listed if _lookup(mapped, tool.name) is None)
    return [_guarded(tool, mapped) for tool in listed]


def refuse_unguarded(client: Client, actions: Actions) -> Callable[[], None]:
    """Refuse each tool call, in every crew of the process, that is neither guarded nor ``UNGUARDED``.

    The tools that CrewAI adds, such as ``delegate_work_to_coworker``, need an entry too.

    Args:
        client: An ``ActPassClient`` or ``AsyncActPassClient``.
        actions: The names of the tools and their ``ToolAction`` or ``UNGUARDED``, as for :func:`guard_tools`.

    Returns:
        A function that removes the hooks.

    Raises:
        ActPassConfigError: An entry is invalid.

    >>> stop = refuse_unguarded(client, {"search": UNGUARDED})
    """
    mapped = ToolMap(client, actions)

    def is_open(context: ToolCallHookContext) -> bool:
        tool = getattr(context.tool, "_original_tool", None) or context.tool
        return not isinstance(tool, GuardedTool) and not isinstance(_lookup(mapped, context.tool_name), Unguarded)

    def refuse(context: ToolCallHookContext) -> Optional[bool]:
        try:
            if not is_open(context):
                return None
            text = blocked_text(mapped.unmapped(context.tool_name))
        except BaseException as error:
            # CrewAI runs the tool if a hook raises anything else.
            raise HookAborted(f"{type(error).__name__} in the guard", source="actpass") from error
        raise HookAborted(text, source="actpass")

    def explain(context: ToolCallHookContext) -> Optional[str]:
        return blocked_text(mapped.unmapped(context.tool_name)) if is_open(context) else None

    register_before_tool_call_hook(refuse)
    register_after_tool_call_hook(explain)

    def stop() -> None:
        unregister_before_tool_call_hook(refuse)
        unregister_after_tool_call_hook(explain)

    return stop


def _guarded(tool: BaseTool, mapped: ToolMap) -> BaseTool:
    action = _lookup(mapped, tool.name)
    if not isinstance(action, ToolAction):
        return tool
    guarded = GuardedTool(
        name=tool.name,
        description=tool.description,
        env_vars=tool.env_vars,
        args_schema=tool.args_schema,
        result_schema=tool.result_schema,
        cache_function=_never,
        result_as_answer=tool.result_as_answer,
        max_usage_count=tool.max_usage_count,
        tool_failure_policy=tool.tool_failure_policy,
    )
    guarded._tool, guarded._tools, guarded._action = tool, mapped, action
    return guarded


def _lookup(mapped: ToolMap, name: str) -> Any:
    """Return the action of a tool by its own name, or the name that the model sees."""
    return mapped.lookup(name, sanitize_tool_name(name))


def _never(_args: Any = None, _result: Any = None) -> bool:
    return False


def _answer(outcome: GuardOutcome[Any]) -> Any:
    if not outcome["executed"]:
        return ToolFailure(message=blocked_text(outcome))
    if "result" in outcome:
        return outcome["result"]
    error = outcome["error"]
    return ToolFailure(message=f"{type(error).__name__}: {error}", reason=ToolFailureReason.EXCEPTION)
