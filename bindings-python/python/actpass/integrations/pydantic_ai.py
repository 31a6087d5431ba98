"""Guard the tools of Pydantic AI agents.

    agent = Agent(
        model,
        tools=[refund, search],
        output_type=[str, DeferredToolRequests],
        capabilities=[ActPass(client, {"refund": ToolAction("stripe.refund.create", …), "search": UNGUARDED})],
    )

The gateway decides around the innermost call, about the validated arguments, after all hooks and wrapper toolsets; the
tool runs with these arguments. A blocked call is a failed tool call (``ToolFailed``) with the text that instructs the
model; it uses no retry of the tool.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic_ai import RunContext
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ToolFailed
from pydantic_ai.models import ModelRequestContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_core import to_jsonable_python

from .._async import AsyncActPassClient
from .._client import ActPassClient
from .._tools import Unguarded, wrong
from ._common import Actions, ToolMap, blocked_text, pending_of

__all__ = ["ActPass"]

#: The member of a deferred call's metadata that contains the pending approval.
PENDING = "actpass"


class ActPass(AbstractCapability[Any]):
    """Capability that runs each tool only if the decision about its arguments allows it.

    It covers every tool of the run, also from ``run(toolsets=…)`` and ``override(tools=…)``. A tool without an action
    is denied (``actpass.unmapped_tool``). The first model request raises if a tool has no action. Every model request
    raises for a native tool, which the provider executes, and an external tool, which the caller executes, unless they
    are ``UNGUARDED``. The construction of the agent raises for functions in ``output_type`` that are not. Functions in
    ``run(output_type=…)`` and the tools of agents that are called inside tools are not covered.

    With ``approvals="interrupt"`` a call that needs approval ends the run with ``DeferredToolRequests``, which must be
    in ``output_type``. Its ``metadata`` has the pending approval, JSON without secrets, as
    ``metadata[tool_call_id]["actpass"]``. Continue after the decision, in any process, with
    ``run(message_history=…, deferred_tool_results=requests.build_results(approvals={id: True}, metadata=…))``. The
    gateway then decides about the arguments that are about to run; while the approval is pending, the call is deferred
    again.

    Args:
        client: The client whose settings apply, of either kind.
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
        self._tools = ToolMap(client, actions, approvals=approvals, supported=("interrupt", "tell", "hold"), hold=hold)
        self._is_checked = False

    def get_ordering(self) -> CapabilityOrdering:
        """Return the position: inside all other capabilities."""
        return CapabilityOrdering(position="innermost")

    def for_agent(self, agent: AbstractAgent[Any, Any]) -> ActPass:
        """Check that no function in the agent's ``output_type`` runs unguarded."""
        self._check_unguarded("output_type", "output functions", _functions(agent.output_type))
        return self

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """Return the toolset with its guard."""
        return _Guarded(toolset, self._tools)

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Check that every tool of the request has an action."""
        parameters = request_context.model_request_parameters
        self._check_unguarded("tools", "native tools", [one.unique_id for one in parameters.native_tools])
        external = [one.name for one in parameters.function_tools if one.kind == "external"]
        self._check_unguarded("tools", "external tools", external)
        if not self._is_checked:
            self._tools.check_coverage(one.name for one in parameters.function_tools)
            self._is_checked = True
        return request_context

    def _check_unguarded(self, option: str, kind: str, names: Sequence[str]) -> None:
        others = [name for name in names if not isinstance(self._tools.lookup(name), Unguarded)]
        if others:
            raise wrong(
                option,
                f"expected tools that can be guarded, found the {kind} {', '.join(map(repr, others))}: remove each, or "
                "map it to UNGUARDED",
            )


@dataclasses.dataclass
class _Guarded(WrapperToolset[Any]):
    """The toolset of a run with its guard."""

    tools: ToolMap

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Run the tool if the decision about its arguments allows it."""
        action = self.tools.lookup(name)
        if isinstance(action, Unguarded):
            return await self.wrapped.call_tool(name, tool_args, ctx, tool)
        if action is None:
            raise ToolFailed(blocked_text(self.tools.unmapped(name)))

        async def execute(args: dict[str, Any], _: object) -> Any:
            return await self.wrapped.call_tool(name, args, ctx, tool)

        outcome = await self.tools.run_async(
            action,
            tool_args,
            execute,
            approval_request_id=_approval(ctx.tool_call_metadata),
            suspends=(ApprovalRequired, CallDeferred),
            default=to_jsonable_python,
        )
        if outcome["executed"]:
            return outcome.unwrap()
        pending = pending_of(outcome)
        if pending is not None and self.tools.approvals == "interrupt":
            raise ApprovalRequired({PENDING: pending})
        raise ToolFailed(blocked_text(outcome))


def _approval(metadata: object) -> str | None:
    """Return the id of the approval in a deferred call's metadata."""
    pending = metadata.get(PENDING) if isinstance(metadata, dict) else None
    approval = pending.get("approval_request_id") if isinstance(pending, dict) else None
    return approval if isinstance(approval, str) else None


def _functions(output: object) -> list[str]:
    """Return the names of the functions in an output type."""
    return [name for one in (output if isinstance(output, Sequence) else [output]) for name in _function(one)]


def _function(output: object) -> Iterator[str]:
    # `ToolOutput` and `TextOutput` hold a function in a member.
    for one in (output, getattr(output, "output", None), getattr(output, "output_function", None)):
        if inspect.isroutine(one):
            yield one.__name__
