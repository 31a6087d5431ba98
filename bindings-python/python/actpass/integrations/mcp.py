"""Adapter for the MCP SDK: an extension for servers, and a guard for the calls of a client.

    from actpass.integrations.mcp import ActPassExtension

    extension = ActPassExtension(client, {
        "refund": ToolAction("stripe.refund.create", goal="refund", resource="stripe:charge:{charge}"),
        "search": UNGUARDED,
    })
    server = MCPServer("payments", extensions=[extension])
    ...                              # Register the tools.
    extension.attach(server)

A blocked call is a result with ``isError`` and a text for the model. Install ``actpass[mcp]``.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Literal, Optional, TypeVar

from mcp.server import MCPServer
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension
from mcp_types import CallToolRequestParams, CallToolResult, TextContent
from pydantic import ValidationError
from pydantic_core import to_jsonable_python

from .._errors import ActPassConfigError
from .._tools import Unguarded, wrong
from ._common import Actions, ToolMap, blocked_text
from .passports import PassportGuard, passport_of

if TYPE_CHECKING:
    from ._common import Client

__all__ = ["ActPassExtension", "guard_client"]

Target = TypeVar("Target")


class ActPassExtension(Extension):
    """A server extension that runs a tool only if the decision about its arguments allows it.

    It decides after the server's middleware. The gateway evaluates the arguments as the tool's function receives them:
    validated, converted, with defaults; the tool runs with this copy. Tools that are added after :meth:`attach` are
    denied unless they are mapped. ``MCPServer.call_tool()``, called in the program itself, bypasses extensions.

    Args:
        client: An ``ActPassClient`` or ``AsyncActPassClient``.
        actions: The names of the server's tools and their ``ToolAction`` or ``UNGUARDED``.
        approvals: ``"tell"`` answers that an approval is pending: the client repeats the call after it.
            ``"hold"`` keeps the call open until a human decides.
        hold: Seconds to wait for a decision, with ``approvals="hold"``. Keep it below the timeout of the clients: a
            client that has given up does not run the action.
        require_passport: The audience of the passports, such as ``mcp://payments``: a tool with an action runs only
            with a passport for it, once, in the ``actpass/passport`` of the call's ``_meta`` or in ``Authorization``.
            See :class:`actpass.integrations.passports.PassportGuard`.

    Raises:
        ActPassConfigError: An entry or an option is invalid.

    >>> extension = ActPassExtension(client, {"search": UNGUARDED})
    >>> server = MCPServer("payments", extensions=[extension])
    """

    identifier = "org.actpass/guard"

    def __init__(
        self,
        client: Client,
        actions: Actions,
        *,
        approvals: Literal["tell", "hold"] = "tell",
        hold: Optional[float] = None,
        require_passport: Optional[str] = None,
    ) -> None:
        """Check the mapping and the options."""
        self._tools = ToolMap(client, actions, approvals=approvals, hold=hold, supported=("tell", "hold"))
        self._passports = None if require_passport is None else PassportGuard(client, require_passport)
        self._server: Optional[MCPServer[Any]] = None

    def attach(self, server: MCPServer[Any]) -> None:
        """Check the coverage of the server's tools, and use their parameters to validate arguments.

        Call it after the tools are registered. Until then every guarded call is an error.

        Raises:
            ActPassConfigError: A tool has no action, an action has no tool, or a later extension intercepts calls.
        """
        check_last(self, server._extensions, Extension)
        self._tools.check_coverage((tool.name for tool in server._tool_manager.list_tools()), is_complete=True)
        self._server = server

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        """Run the tool if the decision allows it."""
        action = self._tools.lookup(params.name)
        if isinstance(action, Unguarded):
            return await call_next(ctx)
        if action is None:
            return _error(blocked_text(self._tools.unmapped(params.name)))
        if self._server is None:
            raise ActPassConfigError(
                "ActPassExtension: expected attach(server) before the first call", code="actpass.invalid_config"
            )
        arguments = params.arguments or {}
        tool = self._server._tool_manager.get_tool(params.name)
        if tool is not None:
            try:
                arguments = tool.fn_metadata.validate_arguments(arguments)
            except ValidationError as error:
                return _error(invalid_text(params.name, error))

        async def execute(args: dict[str, Any], _: object) -> HandlerResult:
            params.arguments = args
            return await call_next(ctx)

        if self._passports is None:
            outcome = await self._tools.run_async(action, arguments, execute, default=to_jsonable_python)
        else:
            headers = getattr(getattr(ctx, "request", None), "headers", None)
            outcome = await self._passports.run_async(
                passport_of(params.meta, headers),
                action,
                arguments,
                execute,
                default=to_jsonable_python,
                wait_for_approval=self._tools.hold,
            )
        if not outcome["executed"]:
            return _error(blocked_text(outcome))
        result: HandlerResult = outcome.unwrap()
        return result


def guard_client(
    target: Target,
    client: Client,
    actions: Actions,
    *,
    approvals: Literal["tell", "hold"] = "tell",
    hold: Optional[float] = None,
) -> Target:
    """Guard the tool calls of a client, in place, and return it.

    The gateway evaluates the arguments as they are sent. A blocked call is not sent: its result has ``isError``
    (``fastmcp.Client.call_tool`` raises ``ToolError`` for it, as for each such result). Other clients of the same
    server are not guarded. If other code uses the ``session`` of an ``mcp.Client``, guard the session instead.

    Args:
        target: An ``mcp.ClientSession``, ``mcp.Client``, ``mcp.ClientSessionGroup`` or ``fastmcp.Client``.
        client: An ``ActPassClient`` or ``AsyncActPassClient``.
        actions: The names of the tools and their ``ToolAction`` or ``UNGUARDED``; others are denied.
        approvals: ``"tell"`` answers that an approval is pending, ``"hold"`` waits for it.
        hold: Seconds to wait for a decision, with ``approvals="hold"``.

    Raises:
        ActPassConfigError: An entry or an option is invalid, or ``target`` has no ``call_tool``.

    >>> session = guard_client(session, client, {"search": UNGUARDED})
    """
    tools = ToolMap(client, actions, approvals=approvals, hold=hold, supported=("tell", "hold"))
    method = "call_tool_mcp" if hasattr(target, "call_tool_mcp") else "call_tool"
    call = getattr(target, method, None)
    if call is None:
        raise wrong("target", f"expected a client with call_tool, found {type(target).__name__}")

    @functools.wraps(call)
    async def call_tool(name: str, arguments: Optional[dict[str, Any]] = None, *args: Any, **kwargs: Any) -> Any:
        action = tools.lookup(name)
        if isinstance(action, Unguarded):
            return await call(name, arguments, *args, **kwargs)
        if action is None:
            return _error(blocked_text(tools.unmapped(name)))

        async def execute(judged: dict[str, Any], _: object) -> Any:
            return await call(name, judged, *args, **kwargs)

        outcome = await tools.run_async(action, arguments or {}, execute)
        return outcome.unwrap() if outcome["executed"] else _error(blocked_text(outcome))

    setattr(target, method, call_tool)
    return target


def check_last(extension: Any, registered: Any, base: type) -> None:
    """Check that no extension that was registered later intercepts calls, since it could change the arguments."""
    names = [type(one).__name__ for one in _later(extension, registered, base)]
    if names:
        raise wrong("ActPassExtension", f"expected to be the last extension, found {', '.join(names)} after it")


def _later(extension: Any, registered: Any, base: Any) -> list[Any]:
    after = list(registered)
    after = after[after.index(extension) + 1 :] if extension in after else []
    return [one for one in after if type(one).intercept_tool_call is not base.intercept_tool_call]


def invalid_text(name: str, error: ValidationError) -> str:
    """Return the text about arguments that the tool's parameters reject, without their values."""
    problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
    return f"{name} was not run: invalid arguments. {'; '.join(problems)}. Correct them and call it again."


def _error(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)
