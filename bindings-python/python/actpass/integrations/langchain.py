"""Guard the tools of LangChain agents and LangGraph graphs.

    agent = create_agent(
        model,
        [refund, search],
        middleware=[ActPassMiddleware(client, {"refund": ToolAction("stripe.refund.create", …), "search": UNGUARDED})],
        checkpointer=saver,
    )

The gateway decides inside the tool, about the validated arguments with which it is about to run: no middleware, before
or after this one in the list, can change them later, and each attempt of a retrying middleware gets its own decision.
The answer to a blocked call is an error ``ToolMessage``; its text instructs the model, its ``artifact`` is the outcome.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeGuard, cast

from langchain.agents.middleware import AgentMiddleware
from langchain.agents.middleware.types import ModelCallResult, ModelRequest, ModelResponse
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command, interrupt
from pydantic_core import to_jsonable_python

from .._async import AsyncActPassClient
from .._client import ActPassClient
from .._outcome import GuardOutcome
from .._tools import ToolAction, Unguarded, wrong
from ._common import Actions, ToolMap, blocked_text, pending_of

__all__ = ["ActPassMiddleware"]

Answer = ToolMessage | Command[Any]
#: The member of an interrupt's value that contains the pending approval.
PENDING = "actpass"
#: The methods of a tool between the tool node and its body.
_ENTRANCES = ("invoke", "ainvoke", "run", "arun")


class ActPassMiddleware(AgentMiddleware[Any, Any, Any]):
    """Middleware that runs each tool only if the decision about its arguments allows it.

    In a graph with a plain ``ToolNode``, pass the hooks of one instance:
    ``ToolNode(tools, wrap_tool_call=guard.wrap_tool_call, awrap_tool_call=guard.awrap_tool_call)``.

    A tool without an action, and a tool that the agent does not have, are denied (``actpass.unmapped_tool``). The
    first model call raises if a tool has no action. Every model call raises for a tool that the provider executes,
    which nothing in this process can block, unless it is ``UNGUARDED``. Agents inside tools need their own middleware.

    With ``approvals="interrupt"`` an action that needs approval interrupts the graph. The interrupt's value has the
    members ``actpass`` (the pending approval, JSON without secrets), ``tool`` and ``message``. Resume with this value
    after the decision, in any process with the same checkpointer: ``Command(resume={one.id: one.value for one in
    interrupts})``. The gateway then decides about the arguments that are about to run; while the approval is pending,
    the graph is interrupted again. Without a checkpointer, and in a plain ``ToolNode``, where all calls of a turn share
    one task, the middleware answers the model instead, as with ``approvals="tell"``.

    Args:
        client: The client whose settings apply; either kind serves synchronous and asynchronous runs.
        actions: The action of each tool, by the tool's name, or ``UNGUARDED``.
        approvals: ``interrupt`` (default), ``tell`` (answer the model that the action needs approval), or ``hold`` (the
            tool call waits for the decision).
        hold: Seconds to wait with ``approvals="hold"``.

    Raises:
        ActPassConfigError: An option is invalid; the message names it.
    """

    def __init__(
        self,
        client: ActPassClient | AsyncActPassClient,
        actions: Actions,
        *,
        approvals: Literal["interrupt", "tell", "hold"] = "interrupt",
        hold: float | None = None,
    ) -> None:
        """Check the options. Nothing is sent."""
        super().__init__()
        self._tools = ToolMap(client, actions, approvals=approvals, supported=("interrupt", "tell", "hold"), hold=hold)
        self._is_checked = False

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelCallResult[Any]:
        """Check that every tool of the model call has an action."""
        self._check(request)
        return handler(request)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelCallResult[Any]:
        """Check that every tool of the model call has an action."""
        self._check(request)
        return await handler(request)

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Answer]) -> Answer:
        """Run the tool if the decision about its arguments allows it."""
        action = self._tools.lookup(_name(request))
        if isinstance(action, Unguarded):
            return handler(request)
        if action is None or request.tool is None:
            return _message(request, self._tools.unmapped(_name(request)))
        call = _Call(self._tools, action, request, request.tool)
        guarded = call.guarded()
        while True:
            answer = handler(guarded)
            if call.blocked is None:
                return answer
            if not call.may_interrupt:
                return _message(request, call.blocked)
            call.interrupt(call.blocked)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Answer]]
    ) -> Answer:
        """Run the tool if the decision about its arguments allows it."""
        action = self._tools.lookup(_name(request))
        if isinstance(action, Unguarded):
            return await handler(request)
        if action is None or request.tool is None:
            return _message(request, self._tools.unmapped(_name(request)))
        call = _Call(self._tools, action, request, request.tool)
        guarded = call.aguarded()
        while True:
            answer = await handler(guarded)
            if call.blocked is None:
                return answer
            if not call.may_interrupt:
                return _message(request, call.blocked)
            call.interrupt(call.blocked)

    def _check(self, request: ModelRequest[Any]) -> None:
        provided = [_provided_name(one) for one in request.tools if not isinstance(one, BaseTool)]
        executed = [name for name in provided if not isinstance(self._tools.lookup(name), Unguarded)]
        if executed:
            raise wrong(
                "tools",
                f"expected tools that this process executes, found {', '.join(sorted(executed))}, which the provider "
                "executes: remove each, or map it to UNGUARDED",
            )
        if not self._is_checked:
            self._tools.check_coverage(one.name for one in request.tools if isinstance(one, BaseTool))
            self._is_checked = True


class _Call:
    """One call of a tool."""

    def __init__(self, tools: ToolMap, action: ToolAction, request: ToolCallRequest, tool: BaseTool) -> None:
        self._tools = tools
        self._action = action
        self._request = request
        self._tool = tool
        self._config = cast("dict[str, Any]", request.runtime.config)
        #: The outcome of the last attempt, if it was blocked.
        self.blocked: GuardOutcome[Any] | None = None
        self._approval: str | None = None
        self._handed = self._resumed()

    def guarded(self) -> ToolCallRequest:
        """Return the request with a tool that guards itself."""
        tool = self._tool

        def run(*args: Any, **kwargs: Any) -> Any:
            bound = _Bound(tool, tool._run, args, kwargs)
            return self._of_body(self._run(bound.named, lambda frozen: bound.call(tool._run, frozen)))

        def invoke(given: Any, config: RunnableConfig | None = None) -> Any:
            return self._run(_raw(tool, given), lambda frozen: tool.invoke(_filled(given, frozen), config))

        if _is_standard(tool):
            return self._with(_run=functools.wraps(tool._run)(run))
        return self._with(invoke=invoke)

    def aguarded(self) -> ToolCallRequest:
        """Return the request with a tool that guards itself in an event loop."""
        tool = self._tool
        # As `BaseTool.arun` chooses, which looks up which arguments to add.
        body = tool._run if type(tool)._arun is BaseTool._arun else tool._arun

        async def run(*args: Any, **kwargs: Any) -> Any:
            bound = _Bound(tool, body, args, kwargs)
            return self._of_body(await self._arun(bound.named, lambda frozen: bound.call(tool._arun, frozen)))

        async def invoke(given: Any, config: RunnableConfig | None = None) -> Any:
            return await self._arun(_raw(tool, given), lambda frozen: tool.ainvoke(_filled(given, frozen), config))

        if not _is_standard(tool):
            return self._with(ainvoke=invoke)
        guarded = functools.wraps(body)(run)
        request = self._with(_run=guarded, _arun=guarded)
        # A tool without a coroutine would run in a thread as a whole: cancelling would not end its request.
        vars(request.tool)["ainvoke"] = functools.partial(BaseTool.ainvoke, cast("BaseTool", request.tool))
        return request

    @property
    def may_interrupt(self) -> bool:
        """Whether the block waits for an approval, the graph can be resumed, and the task has no other call."""
        # `thread_id` is also set by a caller whose graph has no checkpointer.
        is_resumable = self._config.get("configurable", {}).get("__pregel_checkpointer") is not None
        path = self._config.get("metadata", {}).get("langgraph_path") or ("",)
        is_alone = path[0] == "__pregel_push"
        is_pending = self.blocked is not None and pending_of(self.blocked) is not None
        return self._tools.approvals == "interrupt" and is_pending and is_resumable and is_alone

    def interrupt(self, blocked: GuardOutcome[Any]) -> None:
        """Interrupt the graph; return if it was resumed."""
        value = {PENDING: pending_of(blocked), "tool": self._tool.name, "message": blocked_text(blocked)}
        self._take(interrupt(value))

    def _with(self, **methods: Any) -> ToolCallRequest:
        """Return the request with a copy of the tool that has other methods."""
        clone = copy.copy(self._tool)
        vars(clone).update(methods)
        return self._request.override(tool=clone)

    def _take(self, handed: object) -> None:
        if _is_ours(handed):
            self._approval = handed[PENDING].get("approval_request_id")

    def _resumed(self) -> list[Mapping[str, Any]]:
        """Return the values with which interrupts of this adapter were resumed in this task."""
        # No public function returns them. Without it, the gateway still finds an approval by its action.
        scratchpad = self._config.get("configurable", {}).get("__pregel_scratchpad")
        values = [] if scratchpad is None else [*scratchpad.resume, scratchpad.get_null_resume(False)]
        return [one for one in values if _is_ours(one)]

    def _run(self, args: dict[str, Any], execute: Callable[[dict[str, Any]], Any]) -> Any:
        outcome = self._tools.run(self._action, args, lambda frozen, _: execute(frozen), **self._options())
        return self._settled(outcome)

    async def _arun(self, args: dict[str, Any], execute: Callable[[dict[str, Any]], Awaitable[Any]]) -> Any:
        outcome = await self._tools.run_async(self._action, args, lambda frozen, _: execute(frozen), **self._options())
        return self._settled(outcome)

    def _options(self) -> dict[str, Any]:
        while self._handed:
            self._take(self._handed.pop(0))
            # Consume the value: the next one is the tool's. The task has consumed it if a hook repeats the call.
            with contextlib.suppress(GraphInterrupt):
                interrupt(None)
        return {"approval_request_id": self._approval, "suspends": (GraphBubbleUp,), "default": to_jsonable_python}

    def _settled(self, outcome: GuardOutcome[Any]) -> Any:
        self.blocked = None if outcome["executed"] else outcome
        return outcome.unwrap() if outcome["executed"] else _message(self._request, outcome)

    def _of_body(self, result: Any) -> Any:
        """Return the result of the tool's body; a blocked tool's has the shape that the tool declares."""
        is_pair = self._tool.response_format == "content_and_artifact"
        return (result, None) if is_pair and self.blocked is not None else result


class _Bound:
    """The arguments of a tool's body."""

    def __init__(self, tool: BaseTool, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            hints = typing.get_type_hints(body)
        except Exception:  # As LangChain does, for hints that cannot be evaluated.
            hints = {}
        self._positional = dict(zip(tool.args, args, strict=False))
        self._kwargs = kwargs
        given = {**self._positional, **tool._filter_injected_args(kwargs)}
        #: The arguments by name, without those that the framework adds.
        self.named = {name: value for name, value in given.items() if hints.get(name) is not RunnableConfig}

    def call(self, body: Callable[..., Any], frozen: dict[str, Any]) -> Any:
        """Call ``body`` with the evaluated copy of the arguments."""
        rest = {name: value for name, value in frozen.items() if name not in self._positional}
        return body(*(frozen[name] for name in self._positional), **{**self._kwargs, **rest})


def _message(request: ToolCallRequest, blocked: GuardOutcome[Any]) -> ToolMessage:
    """Return the answer to a blocked call."""
    return ToolMessage(
        content=blocked_text(blocked),
        tool_call_id=request.tool_call["id"],
        name=request.tool_call["name"],
        status="error",
        artifact=blocked.to_dict(),
    )


def _name(request: ToolCallRequest) -> str:
    """Return the name of the tool that will be executed; of a missing tool, the name in the call."""
    return request.tool_call["name"] if request.tool is None else request.tool.name


def _is_standard(tool: BaseTool) -> bool:
    """Return whether calls of ``tool`` reach its body as in LangChain's own classes."""
    return all(getattr(type(tool), name).__module__.startswith("langchain_core.") for name in _ENTRANCES)


def _raw(tool: BaseTool, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of a tool that does not validate them as LangChain's own classes do."""
    return tool._filter_injected_args(given["args"])


def _filled(given: dict[str, Any], frozen: dict[str, Any]) -> dict[str, Any]:
    return {**given, "args": {**given["args"], **frozen}}


def _is_ours(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and isinstance(value.get(PENDING), Mapping)


def _provided_name(tool: dict[str, Any] | Callable[..., Any]) -> str:
    """Return the name or the type of a tool that is given in a provider's form."""
    if not isinstance(tool, dict):
        return getattr(tool, "__name__", repr(tool))
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return str(tool.get("name") or name or tool.get("type"))
