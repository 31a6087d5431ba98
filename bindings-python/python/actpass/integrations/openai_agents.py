"""Guard the tools of the OpenAI Agents SDK.

    agent = guard_tools(client, agent, {"refund": ToolAction("stripe.refund.create", …), "search": UNGUARDED})
    result = await Runner.run(agent, "Refund charge ch_1")
    while result.interruptions:                     # A human decides, now or days later in another process.
        state = result.to_state()                   # state.to_json() and `waiting` are JSON to store.
        waiting = await settle(state)
        …
        result = await Runner.run(agent, state)     # After `await settle(state, waiting)` returned {}.

The gateway decides inside the tool's invocation, after guardrails and hooks, about the validated arguments; the tool
runs with these arguments. The result of a blocked call is the text that instructs the model.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from agents import Agent, FunctionTool, Handoff, RunContextWrapper, RunState, Tool
from agents.function_schema import function_schema
from agents.tool_context import ToolContext
from pydantic import BaseModel

from .._async import AsyncActPassClient
from .._client import ActPassClient
from .._outcome import GuardOutcome
from .._tools import ToolAction, Unguarded, evaluation_of, wrong
from ._common import Actions, ToolMap, blocked_text, pending_of

if TYPE_CHECKING:
    from agents.mcp import MCPServer

    from .._types import PendingApproval

__all__ = ["guard_tools", "settle"]

AnyAgent = TypeVar("AnyAgent", bound="Agent[Any]")
Approvals = Literal["interrupt", "tell", "hold"]
#: The member of an agent or an MCP server with the guard that it has.
_GUARD = "_actpass_guard"
#: The maximum number of approvals of a tool that a process keeps.
_MAX_OPENED = 1000


@overload
def guard_tools(
    client: ActPassClient | AsyncActPassClient,
    tools: AnyAgent,
    actions: Actions,
    *,
    approvals: Approvals = ...,
    hold: float | None = ...,
) -> AnyAgent: ...
@overload
def guard_tools(
    client: ActPassClient | AsyncActPassClient,
    tools: list[Tool],
    actions: Actions,
    *,
    approvals: Approvals = ...,
    hold: float | None = ...,
) -> list[Tool]: ...
def guard_tools(
    client: ActPassClient | AsyncActPassClient,
    tools: Any,
    actions: Actions,
    *,
    approvals: Approvals = "interrupt",
    hold: float | None = None,
) -> Any:
    """Guard an agent, in place, or return guarded copies of a list of tools.

    Guarding an agent includes every agent that it can reach by a handoff or as a tool, their MCP servers, and the tools
    and handoffs that are added to them later. A tool without an action is denied (``actpass.unmapped_tool``).

    With ``approvals="interrupt"`` a call that needs approval pauses the run, as with the tool's own ``needs_approval``;
    see :func:`settle`. This adds a request in the mode ``monitor`` before each call; only the call itself is decided.
    Calls of MCP tools do not pause: the model gets the text.

    Args:
        client: The client whose settings apply, of either kind.
        tools: An agent or a list of tools.
        actions: The action of each tool, by the tool's name, or ``UNGUARDED``.
        approvals: ``interrupt`` (default), ``tell`` (answer the model that the action needs approval), or ``hold`` (the
            tool call waits for the decision).
        hold: Seconds to wait with ``approvals="hold"``.

    Returns:
        The same agent, or a new list.

    Raises:
        ActPassConfigError: A tool has no action, an action has no tool, a tool that this process does not execute or
            that is no function tool is not ``UNGUARDED``, or an option is invalid; the message names all of them.
    """
    guard = _Guard(ToolMap(client, actions, approvals=approvals, supported=("interrupt", "tell", "hold"), hold=hold))
    if not isinstance(tools, Agent):
        guard.check(tools, is_complete=True)
        return [guard.guarded(tool) for tool in tools]
    agents = list(_reachable(tools))
    listed = not any(agent.mcp_servers for agent in agents)
    guard.check([tool for agent in agents for tool in agent.tools], is_complete=listed)
    guard.install(tools)
    return tools


async def settle(
    state: RunState[Any, Any], waiting: Mapping[str, PendingApproval] | None = None
) -> dict[str, PendingApproval]:
    """Approve or reject the interruptions of a paused run as the gateway's approvals are decided.

    The run's state then continues with ``Runner.run(agent, state)``. The decision is made by the call that executes the
    tool: an approval is spent once, and only for the same arguments. Interruptions by a tool's own ``needs_approval``
    are left to the caller.

    Args:
        state: The state of the run.
        waiting: The result of an earlier call, which may have been stored as JSON. Another process needs it to find
            the approvals; without it, such a call continues: it runs if its approval was granted, else the model gets
            the text of the block.

    Returns:
        The approvals that are still pending, by the id of the tool call: JSON without secrets. If the run continues
        before, these calls pause it again.

    Raises:
        ActPassError: The gateway failed.

    """
    pending: dict[str, PendingApproval] = {}
    for item in state.get_interruptions():
        tool = next((one for one in getattr(item.agent, "tools", ()) if one.name == item.name), None)
        invoke = getattr(tool, "on_invoke_tool", None)
        if not isinstance(invoke, _Invoke) or invoke.pauses_itself:
            continue
        raw = item.raw_item if isinstance(item.raw_item, Mapping) else vars(item.raw_item)
        call_id = str(raw["call_id"])
        outcome = await invoke.settle(call_id, str(raw["arguments"]), (waiting or {}).get(call_id))
        if outcome is None:
            state.approve(item)
        elif (approval := pending_of(outcome)) is not None:
            pending[call_id] = approval
        else:
            state.reject(item, rejection_message=blocked_text(outcome))
    return pending


class _Guard:
    """The guard of all tools of a call of :func:`guard_tools`."""

    def __init__(self, tools: ToolMap) -> None:
        self.tools = tools

    def check(self, found: Iterable[Tool], *, is_complete: bool = False) -> None:
        """Check that every tool has an action."""
        found = list(found)
        self.tools.check_coverage(dict.fromkeys(tool.name for tool in found), is_complete=is_complete)
        others = [tool.name for tool in found if not isinstance(tool, FunctionTool) and not self._is_unguarded(tool)]
        if others:
            raise wrong(
                "tools",
                f"expected function tools, found {', '.join(map(repr, others))}, which cannot be guarded: remove each, "
                "or map it to UNGUARDED",
            )

    def guarded(self, tool: Tool) -> Tool:
        """Return a guarded copy of a tool, or the tool itself if it is guarded or unguarded."""
        if not isinstance(tool, FunctionTool) or isinstance(tool.on_invoke_tool, _Invoke) or self._is_unguarded(tool):
            return tool
        return _Invoke(self.tools, tool).tool()

    def install(self, first: Agent[Any]) -> None:
        """Guard all agents that can be reached."""
        for agent in _reachable(first):
            self.check(one for one in agent.tools if not isinstance(one, FunctionTool))
            tools = [self.guarded(tool) for tool in agent.tools]
            if any(new is not old for new, old in zip(tools, agent.tools, strict=True)):
                agent.tools = tools
            for server in agent.mcp_servers:
                self._install_server(server)
            if _GUARD not in vars(agent):
                self._install_agent(agent)

    def _install_agent(self, agent: Agent[Any]) -> None:
        list_tools = agent.get_all_tools

        async def get_all_tools(run_context: Any) -> list[Tool]:
            self.install(agent)  # Tools and handoffs that were added.
            return await list_tools(run_context)

        vars(agent).update({_GUARD: self, "get_all_tools": get_all_tools})

    def _install_server(self, server: MCPServer) -> None:
        if _GUARD in vars(server):
            return
        from mcp.types import CallToolResult  # noqa: PLC0415

        call_tool = server.call_tool

        async def guarded(tool_name: str, arguments: dict[str, Any] | None, *more: Any, **named: Any) -> CallToolResult:
            action = self.tools.lookup(tool_name)
            if isinstance(action, Unguarded):
                return await call_tool(tool_name, arguments, *more, **named)

            async def execute(args: dict[str, Any], _: object) -> CallToolResult:
                return await call_tool(tool_name, args, *more, **named)

            if action is None:
                outcome = self.tools.unmapped(tool_name)
            else:
                outcome = await self.tools.run_async(action, arguments or {}, execute)
            if outcome["executed"]:
                return cast("CallToolResult", outcome.unwrap())
            content = [{"type": "text", "text": blocked_text(outcome)}]
            return CallToolResult.model_validate({"content": content, "isError": True})

        vars(server).update({_GUARD: self, "call_tool": guarded})

    def _is_unguarded(self, tool: Tool) -> bool:
        return isinstance(self.tools.lookup(tool.name), Unguarded)


class _Invoke:
    """The guarded invocation of one tool."""

    def __init__(self, tools: ToolMap, inner: FunctionTool) -> None:
        self._tools = tools
        self._inner = inner
        self._action = cast("ToolAction | None", tools.lookup(inner.name))
        self._model = _model(inner)
        #: Whether the tool has its own `needs_approval`.
        self.pauses_itself = inner.needs_approval is not False
        #: The approvals that :func:`settle` found, by the id of the call.
        self._approved: dict[str, str] = {}
        #: The approvals that this process opened, by their action.
        self._opened: dict[str, PendingApproval] = {}

    def tool(self) -> FunctionTool:
        """Return the guarded copy of the tool."""
        pauses = self.pauses_itself or (self._tools.approvals == "interrupt" and self._action is not None)
        return dataclasses.replace(
            self._inner, on_invoke_tool=self, needs_approval=self._needs_approval if pauses else False
        )

    async def __call__(self, context: ToolContext[Any], arguments: str) -> Any:
        """Run the tool if the decision about its arguments allows it."""
        if self._action is None:
            return blocked_text(self._tools.unmapped(self._inner.name))
        args, problem = self._validated(arguments)
        if problem is not None:
            return problem

        async def execute(frozen: dict[str, Any], _: object) -> Any:
            return await self._inner.on_invoke_tool(context, json.dumps(frozen))

        approved = self._approved.pop(context.tool_call_id, None)
        outcome = await self._tools.run_async(self._action, args, execute, approval_request_id=approved)
        return outcome.unwrap() if outcome["executed"] else blocked_text(outcome)

    async def settle(self, call_id: str, arguments: str, waiting: PendingApproval | None) -> GuardOutcome[Any] | None:
        """Return the outcome that blocks a call; ``None`` if the call may continue, which then decides."""
        args, problem = self._validated(arguments)
        if problem is not None or self._action is None or not isinstance(args, dict):
            return None  # The call answers with the problem.
        key = _key(self._members(args))
        waiting = waiting or self._opened.get(key)
        if waiting is None:
            return None
        approval = waiting["approval_request_id"]
        if await self._status(approval) == "approved":
            self._opened.pop(key, None)
            self._approved[call_id] = approval
            return None
        return await self._blocked(args, approval_request_id=approval)

    async def _needs_approval(self, context: RunContextWrapper[Any], params: dict[str, Any], call_id: str) -> bool:
        """Return whether the call pauses the run; if the gateway fails, the call itself decides."""
        own = self._inner.needs_approval
        if await own(context, params, call_id) if callable(own) else own:
            return True
        args, problem = self._validated(json.dumps(params))
        if problem is not None or self._action is None or self._tools.approvals != "interrupt":
            return False
        try:
            return await self._opens(args)
        except Exception:  # No permission depends on it.
            return False

    async def _opens(self, args: dict[str, Any]) -> bool:
        """Return whether a human must decide about a call, and open its approval."""
        members = self._members(args)
        # In the mode `monitor`, the gateway opens and spends no approval, and claims no budget.
        if members["mode"] == "monitor":
            return False
        decision = await self._call("preflight", **{**members, "mode": "monitor"})
        if decision["decision"] != "require_approval":
            return False
        key = _key(members)
        known = self._opened.pop(key, None)
        if known is not None and await self._status(known["approval_request_id"]) == "approved":
            return False  # The call spends it.
        outcome = await self._blocked(args)
        approval = None if outcome is None else pending_of(outcome)
        if approval is None:
            return False
        self._opened[key] = approval
        if len(self._opened) > _MAX_OPENED:
            del self._opened[next(iter(self._opened))]
        return True

    async def _status(self, approval: str) -> str:
        return str((await self._call("wait_for_approval", approval))["status"])

    async def _blocked(self, args: dict[str, Any], **more: Any) -> GuardOutcome[Any] | None:
        outcome = await self._call("authorize", **{**self._members(args), **more})
        return outcome if isinstance(outcome, GuardOutcome) else None

    def _members(self, args: dict[str, Any]) -> dict[str, Any]:
        action = cast("ToolAction", self._action)
        members, _ = evaluation_of(action).members(self._tools.client, args, None, is_fixed=True)
        names = ("goal", "tool", "args", "resource", "user_id", "passport", "mode", "audience", "tool_manifest_hash")
        return {name: members[name] for name in names}

    async def _call(self, name: str, *args: Any, **members: Any) -> Any:
        """Call a method of the client without blocking the event loop."""
        client = self._tools.client
        if isinstance(client, AsyncActPassClient):
            return await getattr(client, name)(*args, **members)
        return await asyncio.to_thread(getattr(client, name), *args, **members)

    def _validated(self, arguments: str) -> tuple[Any, str | None]:
        """Return the arguments with which the tool will run, or the text of a problem."""
        problem = f"Invalid arguments for tool {self._inner.name}: "
        try:
            given = json.loads(arguments) if arguments.strip() else {}
            if self._model is None or not isinstance(given, dict):
                return given, None
            args = self._model(**given).model_dump(mode="json")
            if self._model(**args).model_dump(mode="json") != args:
                return None, problem + "validation changes its own result, so that no decision about them can be made."
        except (ValueError, TypeError) as error:
            return None, f"{problem}{error}"
        return args, None


def _key(members: dict[str, Any]) -> str:
    """Identify an action."""
    return json.dumps({**members, "passport": None}, sort_keys=True, default=str)


def _model(tool: FunctionTool) -> type[BaseModel] | None:
    """Return the model that validates the arguments of a decorated function; ``None`` for other tools."""
    function = getattr(tool, "__wrapped__", None)
    if function is None:
        return None
    return function_schema(function, name_override=tool.name, strict_json_schema=False).params_pydantic_model


def _reachable(first: Agent[Any]) -> Iterator[Agent[Any]]:
    """Return ``first`` and the agents that it can reach by handoffs and as tools."""
    seen: dict[int, Agent[Any]] = {}
    waiting: list[Any] = [first]
    while waiting:
        agent = waiting.pop()
        if id(agent) in seen:
            continue
        seen[id(agent)] = agent
        yield agent
        waiting += [tool._agent_instance for tool in agent.tools if getattr(tool, "_agent_instance", None) is not None]
        for handoff in agent.handoffs:
            target = handoff
            if isinstance(handoff, Handoff):
                target = handoff._agent_ref() if handoff._agent_ref is not None else None
            if not isinstance(target, Agent):
                raise wrong(
                    "handoffs",
                    f"expected handoffs to agents, found {handoff.tool_name!r} of {agent.name!r}, which names "
                    "no agent: create it with handoff(agent)",
                )
            waiting.append(target)
