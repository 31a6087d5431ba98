"""Adapter for FastMCP: an extension that decides about each call of a server's tools.

    from actpass.integrations.fastmcp import ActPassExtension

    server = FastMCP("payments")
    server.add_extension(ActPassExtension(client, {
        "refund": ToolAction("stripe.refund.create", goal="refund", resource="stripe:charge:{charge}"),
        "search": UNGUARDED,
    }))

A blocked call is a tool error (``isError``) with a text for the model. Install ``actpass[fastmcp]``.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, Optional

from fastmcp import FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server.context import Context
from fastmcp.server.dependencies import get_http_headers, without_injected_parameters
from fastmcp.server.extensions import ServerExtension, ToolCallContinuation, ToolCallOutcome
from fastmcp.server.middleware.dereference import DereferenceRefsMiddleware
from fastmcp.server.providers.addressing import parse_hashed_backend_name
from fastmcp.server.providers.fastmcp_provider import FastMCPProviderTool
from fastmcp.tools import FunctionTool, Tool
from fastmcp.utilities.types import get_cached_typeadapter
from fastmcp.utilities.versions import VersionSpec
from mcp_types import CallToolRequestParams
from pydantic import ValidationError
from pydantic_core import SchemaValidator, to_json, to_jsonable_python

from .._tools import Unguarded, wrong
from ._common import Actions, ToolMap, blocked_text
from .mcp import check_last, guard_client, invalid_text
from .passports import PassportGuard, passport_of

if TYPE_CHECKING:
    from ._common import Client

__all__ = ["ActPassExtension", "guard_client"]


class ActPassExtension(ServerExtension):
    """A server extension that runs a tool only if the decision about its arguments allows it.

    It decides after the server's middleware and directly before the tool. The gateway evaluates the arguments as the
    tool's function receives them: validated, converted, with defaults; the tool runs with this copy. Arguments of tools
    without a function, such as those of a proxy, are evaluated as they are passed on.

    When the server starts, each listed tool must be mapped and each mapped name must be a tool. Tools that are added
    later are denied until they are mapped. Use the names that clients see: a mounted tool has its namespace. Calls
    with ``run_middleware=False`` and ``tool.run()`` bypass extensions.

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

    >>> server = FastMCP("payments")
    >>> server.add_extension(ActPassExtension(client, {"search": UNGUARDED}))
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
        self._names = tuple(actions)

    def clone(self) -> ActPassExtension:
        """Return an extension with the same client and actions, for another server."""
        clone = ActPassExtension.__new__(ActPassExtension)
        clone._tools, clone._names, clone._passports = self._tools, self._names, self._passports
        return clone

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Check the coverage when the server starts."""
        return self._checked()

    @contextlib.asynccontextmanager
    async def _checked(self) -> AsyncIterator[None]:
        await self.check()
        yield

    async def check(self) -> None:
        """Check that each tool of the server is mapped and each mapped name is a tool; the server does this at start.

        Raises:
            ActPassConfigError: The message names the tools without an action and the actions without a tool.
        """
        server = self.server
        check_last(self, server._extensions.values(), ServerExtension)
        tools = {tool.name: tool for tool in await server.list_tools(run_middleware=False)}
        # Search transforms hide tools from the list that can still be called.
        tools |= {name: tool for name in self._names if name not in tools and (tool := await server.get_tool(name))}
        self._tools.check_coverage(tools, is_complete=True)
        for tool in tools.values():
            await _leaf(tool)

    async def intercept_tool_call(
        self, params: CallToolRequestParams, context: Context, call_next: ToolCallContinuation
    ) -> ToolCallOutcome:
        """Run the tool if the decision allows it."""
        server = context.fastmcp
        tool = await _resolved(params, server)
        action = self._tools.lookup(params.name, *([tool.name] if tool else []))
        if isinstance(action, Unguarded):
            return await call_next()
        if action is None:
            raise ToolError(blocked_text(self._tools.unmapped(params.name)))
        check_last(self, server._extensions.values(), ServerExtension)
        try:
            arguments = _validated(await _leaf(tool), params.arguments or {}, strict=server.strict_input_validation)
        except ValidationError as error:
            raise ToolError(invalid_text(params.name, error)) from error

        async def execute(args: dict[str, Any], _: object) -> ToolCallOutcome:
            params.arguments = args
            return await call_next()

        if self._passports is None:
            outcome = await self._tools.run_async(action, arguments, execute, default=to_jsonable_python)
        else:
            # FastMCP passes only the version of a tool in the `_meta` of the params.
            request = context.request_context
            outcome = await self._passports.run_async(
                passport_of(request and request.meta, get_http_headers(include={"authorization"})),
                action,
                arguments,
                execute,
                default=to_jsonable_python,
                wait_for_approval=self._tools.hold,
            )
        if not outcome["executed"]:
            raise ToolError(blocked_text(outcome))
        result: ToolCallOutcome = outcome.unwrap()
        return result


async def _resolved(params: CallToolRequestParams, server: FastMCP[Any]) -> Optional[Tool]:
    """Return the tool that the server will run, for a listed name or the alias of an app's tool."""
    meta: Any = params.meta or {}
    version = (meta.get("fastmcp") or {}).get("version")
    tool = await server.get_tool(params.name, VersionSpec(eq=version) if version else None)
    hashed = parse_hashed_backend_name(params.name) if tool is None else None
    return tool if hashed is None else await server.get_tool_by_hash(*hashed)


async def _leaf(tool: Optional[Tool]) -> Optional[Tool]:
    """Return the tool that a mounted server runs."""
    while isinstance(tool, FastMCPProviderTool):
        server: FastMCP[Any] = tool._server
        names = [type(one).__name__ for one in server.middleware if type(one) is not DereferenceRefsMiddleware]
        names += [type(one).__name__ for one in server._extensions.values() if _intercepts(one)]
        if names:
            raise wrong(
                "ActPassExtension",
                f"the mounted server {server.name!r} has {', '.join(names)}, which could change arguments after the "
                "decision: add the extension to the mounted server instead",
            )
        version = VersionSpec(eq=tool.version) if tool.version else None
        tool = await server.get_tool(tool._original_name or tool.name, version)
    return tool


def _intercepts(extension: ServerExtension) -> bool:
    return type(extension).intercept_tool_call is not ServerExtension.intercept_tool_call


def _validated(tool: Optional[Tool], arguments: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    """Return the arguments as the tool's function receives them; of other tools, unchanged."""
    if not isinstance(tool, FunctionTool):
        return arguments
    schema: Any = get_cached_typeadapter(without_injected_parameters(tool.fn)).core_schema
    if schema["type"] == "definitions":
        schema = {**schema, "schema": schema["schema"]["arguments_schema"]}
    else:
        schema = schema["arguments_schema"]
    validator = SchemaValidator(schema)
    if strict:
        _, named = validator.validate_json(to_json(arguments), strict=True)
    else:
        _, named = validator.validate_python(arguments)
    return dict(named)
