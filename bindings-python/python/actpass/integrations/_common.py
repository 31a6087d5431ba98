"""Code that all adapters share. Imports no framework.

An adapter creates a :class:`ToolMap` from its parameters, once; ``supported`` lists the values of ``approvals`` that
its framework supports::

    self._tools = ToolMap(client, actions, approvals=approvals, supported=("tell", "hold"), hold=hold)
    self._tools.check_coverage(tool.name for tool in tools)          # Also at run time, if tools can be added.

For each call of a tool it looks up the action, by the name that the model used and the aliases that the framework
resolved, and runs the tool inside the guard::

    action = self._tools.lookup(name)
    if isinstance(action, Unguarded):
        return await tool(args)                                      # As if there were no adapter.
    if action is None:
        outcome = self._tools.unmapped(name)
    else:
        outcome = await self._tools.run_async(action, args, execute, suspends=(GraphInterrupt,))
    if outcome["executed"]:
        return outcome.unwrap()                                      # The result; or raises the tool's own exception.
    return ToolMessage(blocked_text(outcome), status="error", artifact=pending_of(outcome))

``execute(args, context)`` calls the tool. ``args`` is a private copy of the evaluated arguments: pass on this copy, not
the framework's. ``context`` is the :class:`~actpass.ExecutionContext`. In :meth:`ToolMap.run_async` it may be a
coroutine function; :meth:`ToolMap.run` is the same for frameworks that call tools synchronously. Either works with
either client. ``suspends`` lists the exception types of the framework's control flow: they propagate as the same object
and end the action as ``suspended``. Other exceptions of the tool are in ``outcome["error"]``;
:meth:`~actpass.GuardOutcome.unwrap` raises the same object.

Invalid arguments (not JSON, NaN, missing for a template) are a blocked outcome too, ``actpass.invalid_argument``, so
that the model can correct them. An invalid option or a missing goal raises :class:`~actpass.ActPassConfigError`.

After an approval, call :meth:`ToolMap.run` again with the arguments that are executed then, and the approval's id as
``approval_request_id``. :attr:`ToolMap.approvals` is the configured mode; ``"hold"`` needs no code in the adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, Union

from .. import _native, _run
from .._errors import ActionBlockedError, ActPassArgumentError
from .._json import name_of
from .._outcome import GuardOutcome
from .._settings import Settings, limits
from .._telemetry import instrument
from .._tools import ToolAction, Unguarded, evaluation_of, is_fixed, wrong

if TYPE_CHECKING:
    from .._async import AsyncActPassClient
    from .._client import ActPassClient
    from .._types import ExecutionContext, PendingApproval

    Client = Union[ActPassClient, AsyncActPassClient]
    #: Calls the tool with the evaluated arguments and the context.
    Execute = Callable[[dict[str, Any], ExecutionContext], Any]

#: Handling of a pending approval: pause the run; answer the model; or wait for the human decision inside the call.
Approvals = Literal["interrupt", "tell", "hold"]
#: The adapters' parameter that maps tool names to actions.
Actions = Mapping[str, Union[ToolAction, Unguarded]]

#: Nesting beyond which arguments are rejected, so that copying them stops.
_DEPTH = 128


class ToolMap:
    """A client and the actions of an agent's tools.

    Args:
        client: The client, of either kind.
        actions: The names of the tools, as the model sees them, and their actions.
        approvals: The handling of a pending approval; one of ``supported``.
        hold: Seconds to wait for a human decision, with ``approvals="hold"`` only. A ``wait_for_approval`` of a
            ``ToolAction`` wins.
        supported: The values of ``approvals`` that the framework supports.

    Raises:
        ActPassConfigError: An entry or an option is invalid; the message names it.
    """

    def __init__(
        self,
        client: Client,
        actions: Actions,
        *,
        approvals: Approvals = "tell",
        hold: Optional[float] = None,
        supported: tuple[Approvals, ...] = ("tell", "hold"),
    ) -> None:
        """Check the mapping and the options."""
        if not isinstance(client, Settings):
            raise wrong("client", f"expected an ActPassClient or AsyncActPassClient, found {name_of(client)}")
        if not isinstance(actions, Mapping):
            raise wrong("actions", f"expected a mapping from tool names to ToolAction, found {name_of(actions)}")
        for name, action in actions.items():
            if not isinstance(name, str) or not name:
                raise wrong("actions", f"expected names of tools, found {name!r}")
            if not isinstance(action, (ToolAction, Unguarded)):
                raise wrong(f"actions[{name!r}]", f"expected a ToolAction or UNGUARDED, found {name_of(action)}")
        self.client = client
        self.approvals = approvals
        self.hold = _seconds(approvals, hold, supported)
        self._actions = dict(actions)

    def lookup(self, name: str, *aliases: str) -> Union[ToolAction, Unguarded, None]:
        """Return the action of a tool by its first name that is mapped; ``None`` if none is."""
        return next((self._actions[one] for one in (name, *aliases) if one in self._actions), None)

    def check_coverage(self, names: Iterable[str], *, is_complete: bool = False) -> None:
        """Check that each tool is mapped and, if ``names`` ``is_complete``, that each action has a tool.

        Raises:
            ActPassConfigError: The message names all of them.
        """
        names = list(names)
        missing = [name for name in dict.fromkeys(names) if name not in self._actions]
        others = [name for name in self._actions if name not in names] if is_complete else []
        problems = []
        if missing:
            problems.append(
                f"expected an action for each tool, found none for {_list(missing)}: map each to a ToolAction, or to "
                "UNGUARDED if it may run without a decision"
            )
        if others:
            problems.append(f"expected names of tools, found {_list(others)}: use the names in {_list(names)}")
        if problems:
            raise wrong("actions", "; ".join(problems))

    def unmapped(self, name: str) -> GuardOutcome[Any]:
        """Return the blocked outcome of a tool that is not mapped."""
        with instrument("guard", name, None, self.client) as span:
            return _run.blocked(_native.unmapped_tool(name), name, span)

    def run(
        self,
        action: ToolAction,
        args: Mapping[str, Any],
        execute: Execute,
        *,
        approval_request_id: Optional[str] = None,
        suspends: tuple[type[BaseException], ...] = (),
        default: Optional[Callable[[Any], Any]] = None,
    ) -> GuardOutcome[Any]:
        """Run a tool if the decision allows it: :func:`run_guarded` with this client and ``hold``."""
        return run_guarded(
            self.client,
            action,
            args,
            execute,
            approval_request_id=approval_request_id,
            suspends=suspends,
            default=default,
            wait_for_approval=self.hold,
        )

    async def run_async(
        self,
        action: ToolAction,
        args: Mapping[str, Any],
        execute: Execute,
        *,
        approval_request_id: Optional[str] = None,
        suspends: tuple[type[BaseException], ...] = (),
        default: Optional[Callable[[Any], Any]] = None,
    ) -> GuardOutcome[Any]:
        """Run a tool if the decision allows it: :func:`run_guarded_async` with this client and ``hold``."""
        return await run_guarded_async(
            self.client,
            action,
            args,
            execute,
            approval_request_id=approval_request_id,
            suspends=suspends,
            default=default,
            wait_for_approval=self.hold,
        )


def run_guarded(
    client: Client,
    action: ToolAction,
    args: Mapping[str, Any],
    execute: Execute,
    *,
    approval_request_id: Optional[str] = None,
    suspends: tuple[type[BaseException], ...] = (),
    default: Optional[Callable[[Any], Any]] = None,
    wait_for_approval: Optional[float] = None,
    presented: Optional[Mapping[str, Any]] = None,
) -> GuardOutcome[Any]:
    """Run ``execute`` if the decision about ``args`` allows it, on the calling thread.

    Args:
        client: The client, of either kind.
        action: The action of the tool.
        args: The arguments that are executed. A copy is evaluated and passed to ``execute``.
        execute: Calls the tool.
        approval_request_id: The approval that the call spends. Default: that of ``action``.
        suspends: Exception types of the framework's control flow; they propagate.
        default: Converts arguments that are not JSON. Default: that of ``action``, else of the client.
        wait_for_approval: Seconds to wait for a human decision. Default: that of ``action``.
        presented: Members of the action that a verified passport determines; they win.

    Returns:
        The outcome. Invalid arguments are a blocked outcome.
    """
    try:
        call = _Call(client, action, args, execute, approval_request_id, default, wait_for_approval, presented)
        return client._synchronous()._guard(call.action, call.run, now=call.now, suspends=suspends, **call.how)
    except ActPassArgumentError as error:
        return _invalid(action.tool, error)


async def run_guarded_async(
    client: Client,
    action: ToolAction,
    args: Mapping[str, Any],
    execute: Execute,
    *,
    approval_request_id: Optional[str] = None,
    suspends: tuple[type[BaseException], ...] = (),
    default: Optional[Callable[[Any], Any]] = None,
    wait_for_approval: Optional[float] = None,
    presented: Optional[Mapping[str, Any]] = None,
) -> GuardOutcome[Any]:
    """Run ``execute``, plain or ``async def``, if the decision about ``args`` allows it: see :func:`run_guarded`."""
    try:
        call = _Call(client, action, args, execute, approval_request_id, default, wait_for_approval, presented)
        return await client._asynchronous()._guard(call.action, call.run, now=call.now, suspends=suspends, **call.how)
    except ActPassArgumentError as error:
        return _invalid(action.tool, error)


def blocked_text(outcome: GuardOutcome[Any]) -> str:
    """Return the text of a blocked outcome for a model."""
    return str(ActionBlockedError(outcome._tool, outcome))


def pending_of(outcome: GuardOutcome[Any]) -> Optional[PendingApproval]:
    """Return the handle of the approval that a blocked action waits for; ``None`` if none is pending."""
    return outcome.get("approval")


class _Call:
    """One call of a tool: the parameters of ``_guard``."""

    def __init__(
        self,
        client: Client,
        action: ToolAction,
        args: Mapping[str, Any],
        execute: Execute,
        approval_request_id: Optional[str],
        default: Optional[Callable[[Any], Any]],
        wait_for_approval: Optional[float],
        presented: Optional[Mapping[str, Any]],
    ) -> None:
        if not isinstance(args, Mapping):
            raise ActPassArgumentError(f"args: expected a dict, found {name_of(args)}", code="actpass.invalid_argument")
        converter = client._converter(action.default or default, "guard")
        frozen, fixed = _frozen(dict(args))
        self.action, self.now = evaluation_of(action).members(client, frozen, converter, is_fixed=fixed)
        if approval_request_id is not None:
            self.action["approval_request_id"] = approval_request_id
        if self.action["wait_for_approval"] is None:
            self.action["wait_for_approval"] = wait_for_approval
        self.action.update(presented or {})
        options = limits(action.timeout, action.max_retries)
        self.how: dict[str, Any] = {"default": converter, "record_outcome": action.record_outcome, "options": options}
        self._args, self._execute = frozen, execute

    def run(self, context: ExecutionContext) -> Any:
        return self._execute(self._args, context)


def _frozen(value: Any, depth: int = 0) -> tuple[Any, bool]:
    """Return a copy of JSON-like ``value``, and whether no other code can change it."""
    kind = type(value)
    if depth > _DEPTH or kind not in {dict, list, tuple}:
        return value, is_fixed(value)
    copies = [_frozen(one, depth + 1) for one in (value.values() if kind is dict else value)]
    items = [copy for copy, _ in copies]
    return kind(zip(value, items) if kind is dict else items), all(fixed for _, fixed in copies)


def _invalid(tool: str, error: ActPassArgumentError) -> GuardOutcome[Any]:
    """Return the blocked outcome of invalid arguments."""
    outcome: GuardOutcome[Any] = _native.invalid_argument(tool, str(error))
    outcome["error"] = error
    outcome._tool = tool
    return outcome


def _seconds(approvals: object, hold: object, supported: tuple[Approvals, ...]) -> Optional[float]:
    if approvals not in supported:
        raise wrong("approvals", f"expected {' or '.join(map(repr, supported))}, found {approvals!r}")
    if approvals != "hold":
        if hold is not None:
            raise wrong("hold", f"expected no value with approvals={approvals!r}, found {hold!r}")
        return None
    if hold is None:
        raise wrong("hold", "expected seconds, found nothing: approvals='hold' needs them")
    try:
        return ToolAction("-", wait_for_approval=hold).wait_for_approval  # type: ignore[arg-type]
    except ActPassArgumentError as error:
        raise wrong("hold", str(error).partition(": ")[2]) from None


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
