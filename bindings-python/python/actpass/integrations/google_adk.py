"""Adapter for the Google Agent Development Kit: guarded tools, and a plugin that denies all others.

    from actpass.integrations.google_adk import ActPassPlugin, guard_tool

    actions = {
        "refund": ToolAction("stripe.refund.create", goal="refund", resource="stripe:charge:{charge}"),
        "search": UNGUARDED,
    }
    agent = LlmAgent(name="support", model=…, tools=[guard_tool(refund, client, actions), search])
    app = App(name="support", root_agent=agent, plugins=[ActPassPlugin(client, actions)])

A blocked call is the response ``{"error": text}``. Install ``actpass[google-adk]``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, Union

from google.adk.agents import BaseAgent, InvocationContext, LlmAgent
from google.adk.models.llm_request import LlmRequest
from google.adk.plugins import BasePlugin
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.function_tool import FunctionTool
from google.adk.tools.tool_context import ToolContext
from google.genai import types
from pydantic_core import to_jsonable_python

from .._tools import ToolAction, Unguarded, wrong
from ._common import Actions, ToolMap, blocked_text, pending_of

if TYPE_CHECKING:
    from ._common import Client

__all__ = ["ActPassPlugin", "GuardedTool", "guard_tool"]

#: Name that stands for an agent's code executor in the mapping.
CODE_EXECUTOR = "code_executor"


class GuardedTool(BaseTool):
    """A tool that runs only if the decision about its arguments allows it; created by :func:`guard_tool`."""

    def __init__(self, tool: BaseTool, tools: ToolMap, action: ToolAction) -> None:
        """Wrap ``tool``."""
        super().__init__(
            name=tool.name,
            description=tool.description,
            is_long_running=tool.is_long_running,
            custom_metadata=tool.custom_metadata,
        )
        for name in ("behavior", "response_scheduling", "_defers_response"):
            if hasattr(tool, name):
                setattr(self, name, getattr(tool, name))
        self._tool, self._tools, self._action = tool, tools, action

    def _get_declaration(self) -> Optional[types.FunctionDeclaration]:
        return self._tool._get_declaration()

    async def process_llm_request(self, *, tool_context: ToolContext, llm_request: LlmRequest) -> None:
        """Let the tool add itself to the request, and replace it there."""
        await self._tool.process_llm_request(tool_context=tool_context, llm_request=llm_request)
        for name, tool in llm_request.tools_dict.items():
            if tool is self._tool:
                llm_request.tools_dict[name] = self

    async def check_require_confirmation(self, args: dict[str, Any], tool_context: ToolContext) -> bool:
        """Return whether the tool itself requires confirmation."""
        return await self._tool.check_require_confirmation(args, tool_context)

    async def run_async(self, *, args: dict[str, Any], tool_context: ToolContext) -> Any:
        """Run the tool if the decision allows it."""
        confirmation = tool_context.tool_confirmation
        if confirmation is not None and not confirmation.confirmed:
            return {"error": f"{self.name} was not run: a person rejected the call. Do not call it again."}
        arguments = _prepared(self._tool, args)
        if isinstance(arguments, str):
            return {"error": arguments}

        async def execute(evaluated: dict[str, Any], _: object) -> Any:
            return await self._tool.run_async(args=evaluated, tool_context=tool_context)

        outcome = await self._tools.run_async(
            self._action,
            arguments,
            execute,
            approval_request_id=_approval_of(confirmation),
            default=to_jsonable_python,
        )
        if outcome["executed"]:
            return outcome.unwrap()
        pending, text = pending_of(outcome), blocked_text(outcome)
        if pending is not None and self._tools.approvals == "interrupt" and confirmation is None:
            tool_context.request_confirmation(hint=text, payload=dict(pending))
            # Do not let the model answer before the person.
            tool_context.actions.skip_summarization = True
        return {"error": text}


def guard_tool(
    tool: Union[BaseTool, Callable[..., Any]],
    client: Client,
    actions: Actions,
    *,
    approvals: Literal["interrupt", "tell", "hold"] = "tell",
    hold: Optional[float] = None,
) -> BaseTool:
    """Return a tool that runs only if the decision about its arguments allows it.

    The gateway evaluates the arguments that the tool runs with, after all callbacks and plugins, with the defaults of
    a function. The tool receives this copy.

    Args:
        tool: A tool, or a function as in ``LlmAgent(tools=[…])``.
        client: An ``ActPassClient`` or ``AsyncActPassClient``.
        actions: The names of tools and their ``ToolAction`` or ``UNGUARDED``; an unguarded tool is returned unchanged.
        approvals: ``"interrupt"`` requests ADK's confirmation, with the pending approval as its payload: approve at the
            gateway first, then confirm; a call that is confirmed earlier does not run. ``"tell"`` answers that an
            approval is pending. ``"hold"`` waits for it.
        hold: Seconds to wait for a decision, with ``approvals="hold"``.

    Raises:
        ActPassConfigError: An entry or an option is invalid, the tool has no action, or it cannot be guarded: the model
            executes it, or it is a generator function.

    >>> agent = LlmAgent(name="support", tools=[guard_tool(refund, client, {"refund": action})])
    """
    tools = ToolMap(client, actions, approvals=approvals, hold=hold, supported=("interrupt", "tell", "hold"))
    inner = tool if isinstance(tool, BaseTool) else FunctionTool(tool)
    if isinstance(inner, GuardedTool):
        raise wrong("tool", f"expected a tool without a guard, found {inner.name!r}, which is guarded")
    tools.check_coverage([inner.name])
    action = tools.lookup(inner.name)
    if not isinstance(action, ToolAction):
        return inner
    function = getattr(inner, "func", None)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise wrong("tool", f"expected a function that finishes when it returns, found the generator {inner.name!r}")
    if _is_remote(inner):
        raise wrong(
            "tool", f"expected a tool that this program executes, found {inner.name!r}, which the model executes"
        )
    return GuardedTool(inner, tools, action)


class ActPassPlugin(BasePlugin):
    """A plugin that denies each tool that is neither guarded nor ``UNGUARDED``, in every agent of the app.

    Before each run it checks the agents for tools that pass no plugin: tools that the model executes, code executors
    (mapped as ``"code_executor"``), and agents in an ``AgentTool`` with ``include_plugins=False``. The tools that ADK
    adds, such as ``transfer_to_agent``, need an entry too.

    Args:
        client: An ``ActPassClient`` or ``AsyncActPassClient``.
        actions: The names of tools and their ``ToolAction`` or ``UNGUARDED``, as for :func:`guard_tool`.

    Raises:
        ActPassConfigError: An entry is invalid.

    >>> App(name="support", root_agent=agent, plugins=[ActPassPlugin(client, actions)])
    """

    def __init__(self, client: Client, actions: Actions) -> None:
        """Check the mapping."""
        super().__init__(name="actpass")
        self._tools = ToolMap(client, actions)

    async def before_run_callback(self, *, invocation_context: InvocationContext) -> None:
        """Check the coverage of the app's agents."""
        self.check(invocation_context.agent)

    def check(self, agent: Any) -> None:
        """Check the coverage of an agent, its sub-agents and its agent tools; each run does this first.

        Raises:
            ActPassConfigError: The message names the tools that are neither guarded nor ``UNGUARDED``.
        """
        names = [name for name in _open_tools(agent, set()) if not isinstance(self._tools.lookup(name), Unguarded)]
        self._tools.check_coverage(name for name in names if self._tools.lookup(name) is None)
        if names:
            raise wrong(
                "actions",
                f"expected guarded tools, found {', '.join(map(repr, names))}: pass each to guard_tool, or map "
                "it to UNGUARDED",
            )

    async def before_tool_callback(
        self, *, tool: BaseTool, tool_args: dict[str, Any], tool_context: ToolContext
    ) -> Optional[dict[str, Any]]:
        """Deny a tool that is neither guarded nor ``UNGUARDED``."""
        if isinstance(tool, GuardedTool) or isinstance(self._tools.lookup(tool.name), Unguarded):
            return None
        return {"error": blocked_text(self._tools.unmapped(tool.name))}


def _open_tools(agent: Any, seen: set[int]) -> Iterator[str]:
    """Yield the names of the tools of an agent, and of agents below it, that run without a guard."""
    if not isinstance(agent, BaseAgent) or id(agent) in seen:
        return
    seen.add(id(agent))
    for below in agent.sub_agents:
        yield from _open_tools(below, seen)
    if not isinstance(agent, LlmAgent):
        return
    if agent.code_executor is not None:
        yield CODE_EXECUTOR
    for tool in agent.tools:
        inner = tool._tool if isinstance(tool, GuardedTool) else tool
        if isinstance(inner, AgentTool):
            yield from _open_tools(inner.agent, seen)
        if isinstance(tool, BaseTool):
            if not isinstance(tool, GuardedTool):
                yield tool.name
        elif callable(tool):
            yield FunctionTool(tool).name


def _is_remote(tool: BaseTool) -> bool:
    """Return whether the model executes the tool: it has no code to run here."""
    return type(tool).run_async is BaseTool.run_async


def _prepared(tool: BaseTool, args: dict[str, Any]) -> Union[dict[str, Any], str]:
    """Return the arguments that a function receives, or the text about invalid ones; of other tools, ``args``."""
    if not isinstance(tool, FunctionTool):
        return args
    prepared, problems = tool._preprocess_args_with_validation(args)
    if problems:
        return tool._build_validation_error_response(problems)["error"]
    try:
        parameters = inspect.signature(tool.func).parameters
    except (TypeError, ValueError):
        return prepared
    ignored = {*tool._ignore_params}
    defaults = {
        name: one.default for name, one in parameters.items() if one.default is not one.empty and name not in ignored
    }
    return {name: value for name, value in {**defaults, **prepared}.items() if name in parameters}


def _approval_of(confirmation: Any) -> Optional[str]:
    """Return the id of the approval in a confirmation's payload; without it the gateway finds it by its action."""
    payload = getattr(confirmation, "payload", None)
    approval = payload.get("approval_request_id") if isinstance(payload, dict) else None
    return approval if isinstance(approval, str) and approval else None
