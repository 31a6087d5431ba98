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
from typing import TYPE_CHECKING, Any, Callable, Literal, TypeVar, cast, overload

from agents import Agent, FunctionTool, Handoff, RunContextWrapper, RunState, Tool
from agents.function_schema import function_schema
from agents.tool_context import ToolContext
from pydantic import BaseModel

from .._async import AsyncActPassClient
from .._client import ActPassClient
from .._errors import ActPassArgumentError
from .._outcome import GuardOutcome
from .._tools import ToolAction, Unguarded, evaluation_of, wrong
from ._common import Actions, ToolMap, blocked_text

if TYPE_CHECKING:
    from agents.mcp import MCPServer

    from .._types import PendingApproval

__all__ = ["guard_tools", "settle"]

AnyAgent = TypeVar("AnyAgent", bound="Agent[Any]")
Approvals = Literal["interrupt", "tell", "hold"]
#: The member of an agent or an MCP server with the guard that it has.
_GUARD = "_actpass_guard"


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
        waiting: The result of an earlier call, which may have been stored as JSON. Default: the gateway finds a
            pending or approved approval by its action; a call without one continues, and its decision is the model's
            text.

    Returns:
        The approvals that are still pending, by the id of the tool call: JSON without secrets. If the run continues
        before, these calls pause it again.

    Raises:
        ActPassError: The gateway failed.

    """
    pending: dict[str, PendingApproval] = {}
    for item in state.get_interruptions():
        tools = list(getattr(item.agent, "tools", ()))
        if all(tool.name != item.name for tool in tools) and item.agent.mcp_servers:
            tools = await item.agent.get_mcp_tools(state._context or RunContextWrapper(None))
        tool = next((one for one in tools if one.name == item.name), None)
        pause = getattr(tool, "needs_approval", None)
        if not isinstance(pause, _Pause) or pause.is_own:
            continue
        raw = item.raw_item if isinstance(item.raw_item, Mapping) else vars(item.raw_item)
        call_id = str(raw["call_id"])
        found = await pause.settle(call_id, str(raw["arguments"]), (waiting or {}).get(call_id))
        if found is None:
            state.approve(item)
        elif isinstance(found, str):
            state.reject(item, rejection_message=found)
        else:
            pending[call_id] = found
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

        policy = server._get_needs_approval_for_tool

        def needs_approval(tool: Any, *more: Any) -> Any:
            pause = _Pause(self.tools, tool.name, policy(tool, *more), lambda text: (_parsed(text), None))
            return pause.needs_approval()

        vars(server).update({_GUARD: self, "call_tool": guarded, "_get_needs_approval_for_tool": needs_approval})

    def _is_unguarded(self, tool: Tool) -> bool:
        return isinstance(self.tools.lookup(tool.name), Unguarded)


class _Invoke:
    """Guarded invocation of one tool."""

    def __init__(self, tools: ToolMap, inner: FunctionTool) -> None:
        self._tools = tools
        self._inner = inner
        self._action = tools.lookup(inner.name)
        self._model = _model(inner)
        self._pause = _Pause(tools, inner.name, inner.needs_approval, self._validated)

    def tool(self) -> FunctionTool:
        """Return the guarded copy of the tool."""
        return dataclasses.replace(self._inner, on_invoke_tool=self, needs_approval=self._pause.needs_approval())

    async def __call__(self, context: ToolContext[Any], arguments: str) -> Any:
        """Run the tool if the decision about its arguments allows it."""
        if not isinstance(self._action, ToolAction):
            return blocked_text(self._tools.unmapped(self._inner.name))
        args, problem = self._validated(arguments)
        if problem is not None:
            return problem

        async def execute(frozen: dict[str, Any], _: object) -> Any:
            return await self._inner.on_invoke_tool(context, json.dumps(frozen))

        approved = self._pause.approved.pop(context.tool_call_id, None)
        outcome = await self._tools.run_async(self._action, args, execute, approval_request_id=approved)
        return outcome.unwrap() if outcome["executed"] else blocked_text(outcome)

    def _validated(self, arguments: str) -> tuple[Any, str | None]:
        """Return the arguments with which the tool will run, or the text of a problem."""
        problem = f"Invalid arguments for tool {self._inner.name}: "
        try:
            given = _parsed(arguments)
            if self._model is None or not isinstance(given, dict):
                return given, None
            args = self._model(**given).model_dump(mode="json")
            if self._model(**args).model_dump(mode="json") != args:
                return None, problem + "validation changes its own result, so that no decision about them can be made."
        except (ValueError, TypeError) as error:
            return None, f"{problem}{error}"
        return args, None


class _Pause:
    """The ``needs_approval`` of a guarded tool. It gives no permission: the call that executes is decided."""

    def __init__(self, tools: ToolMap, name: str, own: Any, validated: Callable[[str], tuple[Any, str | None]]) -> None:
        self._tools = tools
        self._action = tools.lookup(name)
        self._own = own
        self._validated = validated
        #: The approvals that :func:`settle` found, by the id of the call.
        self.approved: dict[str, str] = {}

    def needs_approval(self) -> Any:
        """Return the value of the tool's member."""
        pauses = self.is_own or (self._tools.approvals == "interrupt" and isinstance(self._action, ToolAction))
        return self if pauses else False

    @property
    def is_own(self) -> bool:
        """Whether the tool has its own ``needs_approval``, which the caller answers."""
        return self._own is not False

    async def __call__(self, context: RunContextWrapper[Any], params: dict[str, Any], call_id: str) -> bool:
        """Return whether the call pauses the run; if the gateway fails, the call itself decides."""
        if await self._own(context, params, call_id) if callable(self._own) else self._own:
            return True
        if self._tools.approvals != "interrupt":
            return False
        try:
            return await self._waiting(json.dumps(params), opens=True) is not None
        except Exception:  # No permission depends on it.
            return False

    async def settle(
        self, call_id: str, arguments: str, waiting: PendingApproval | None
    ) -> PendingApproval | str | None:
        """Return the pending approval of a call, or the text of its rejection; ``None`` if the call may continue."""
        try:
            waiting = waiting or await self._waiting(arguments, opens=False)
        except ActPassArgumentError:  # The call answers with the problem.
            return None
        if waiting is None:
            return None
        approval = waiting["approval_request_id"]
        status = (await self._call("wait_for_approval", approval))["status"]
        if status == "pending":
            return waiting
        if status == "approved":
            self.approved[call_id] = approval
            return None
        members = self._members(arguments)
        outcome = members and await self._call("authorize", **{**members, "approval_request_id": approval})
        return blocked_text(outcome) if isinstance(outcome, GuardOutcome) else None

    async def _waiting(self, arguments: str, *, opens: bool) -> PendingApproval | None:
        """Return the pending approval of a call, and open it if it is missing and ``opens``."""
        members = self._members(arguments)
        if members is None or (members["mode"] or self._tools.client.mode) not in {"enforce", "strict"}:
            return None
        # In the mode `monitor`, the gateway opens and spends no approval, and claims no budget.
        decision = await self._call("preflight", **{**members, "mode": "monitor"})
        if opens and decision["decision"] == "require_approval" and "approval_request_id" not in decision:
            decision = await self._call("preflight", **members)
        approval = decision.get("approval_request_id")
        if decision["decision"] != "require_approval" or approval is None:
            return None
        kept = {name: one for name, one in members.items() if one is not None and name != "passport"}
        return cast("PendingApproval", {"approval_request_id": approval, **kept})

    def _members(self, arguments: str) -> dict[str, Any] | None:
        """Return the members of the action of a call; ``None`` if the call itself answers with a problem."""
        args, problem = self._validated(arguments)
        if problem is not None or not isinstance(args, dict) or not isinstance(self._action, ToolAction):
            return None
        members, _ = evaluation_of(self._action).members(self._tools.client, args, None, is_fixed=True)
        names = ("goal", "tool", "args", "resource", "user_id", "passport", "mode", "audience", "tool_manifest_hash")
        return {name: members[name] for name in names}

    async def _call(self, name: str, *args: Any, **members: Any) -> Any:
        """Call a method of the client without blocking the event loop."""
        client = self._tools.client
        if isinstance(client, AsyncActPassClient):
            return await getattr(client, name)(*args, **members)
        return await asyncio.to_thread(getattr(client, name), *args, **members)


def _parsed(arguments: str) -> Any:
    """Parse the arguments as the framework does."""
    return json.loads(arguments) if arguments.strip() else {}


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
