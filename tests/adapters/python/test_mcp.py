"""The adapter for the MCP SDK with real servers and clients in one process."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from actpass import ActPassConfigError
from actpass.integrations.mcp import ActPassExtension, guard_client
from actpass.testing import ScriptedGateway
from conftest import Ran, Real, blocks, executed
from mcp import Client
from mcp.server import MCPServer
from mcp.server.extension import Extension
from mcp_shared import *  # noqa: F403
from mcp_shared import ACTIONS, LARGE, MEDIUM, REFUND, SMALL, Record, calls, calls_with_errors, client_of, refund


class Kit:
    """Servers and clients of the MCP SDK."""

    framework = "mcp"

    def server(
        self,
        ran: Ran,
        client: Any,
        actions: Any,
        *,
        middleware: Any = None,
        after: Any = None,
        check: bool = True,
        **options: Any,
    ) -> MCPServer:
        extension = ActPassExtension(client, actions, **options)
        extensions = [extension, *([after] if after else [])]
        server = plain_server(ran, extensions=extensions, middleware=[middleware] if middleware else None)
        server.extension = extension
        if check:
            extension.attach(server)
        return server

    def app(self, server: Any) -> Any:
        return server.streamable_http_app()

    def check(self, server: Any) -> None:
        server.extension.attach(server)

    @contextlib.asynccontextmanager
    async def connected(self, server: Any) -> AsyncIterator[Callable[..., Any]]:
        async with Client(server) as client:
            yield answers(client)

    def changes(self, name: str, value: Any, *, in_place: bool) -> Any:
        async def change(context: Any, call_next: Any) -> Any:
            if context.method != "tools/call":
                return await call_next(context)
            if in_place:
                context.params["arguments"][name] = value
                return await call_next(context)
            params = {**context.params, "arguments": {**context.params["arguments"], name: value}}
            return await call_next(dataclasses.replace(context, params=params))

        return change

    def raises(self) -> Any:
        async def fail(context: Any, call_next: Any) -> Any:
            if context.method == "tools/call":
                raise RuntimeError("a hook failed")
            return await call_next(context)

        return fail

    def repeats(self, times: int) -> Any:
        async def repeat(context: Any, call_next: Any) -> Any:
            count = times if context.method == "tools/call" else 1
            return [await call_next(context) for _ in range(count)][-1]

        return repeat

    def changing_extension(self, amount: int) -> Extension:
        class Changing(Extension):
            identifier = "org.example/changing"

            async def intercept_tool_call(self, params: Any, ctx: Any, call_next: Any) -> Any:
                params.arguments["amount"] = amount
                return await call_next(ctx)

        return Changing()


def answers(client: Any) -> Callable[..., Any]:
    async def call(name: str, arguments: dict[str, Any]) -> tuple[bool, str]:
        result = await client.call_tool(name, arguments)
        return result.is_error, result.content[0].text

    return call


def plain_server(ran: Ran, **options: Any) -> Any:
    server = MCPServer("payments", **options)

    @server.tool()
    def refund(charge: str, amount: int = 4900, currency: str = "usd") -> str:
        ran(amount)
        return f"refunded {amount}"

    @server.tool()
    async def fail(charge: str, amount: int = 4900, currency: str = "usd") -> str:
        ran(amount)
        raise ValueError("no such charge")

    @server.tool()
    def search(query: str) -> str:
        return f"found {query}"

    return server


@pytest.fixture
def kit() -> Kit:
    return Kit()


def test_extension_that_is_not_attached_runs_nothing(
    kit: Kit, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.allow()
    assert calls_with_errors(kit, kit.server(ran, gateway.client(), ACTIONS, check=False), refund())
    assert ran.count == 0
    record_case(kit.framework, "adapter raises", ran.count, "not attached")


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("level", ["client", "session"])
def test_guarded_client_sends_allowed_calls_only(
    kit: Kit, real_gateway: Real, ran: Ran, record_case: Record, level: str, kind: str
) -> None:
    async def run() -> None:
        async with Client(plain_server(ran)) as client:
            target = client if level == "client" else client.session
            guard_client(target, client_of(real_gateway, kind, agent_id="support"), {"refund": REFUND})
            call = answers(client)
            assert await call("refund", refund(SMALL, currency="usd")) == (False, f"refunded {SMALL}")
            assert (await call("refund", refund(LARGE, currency="usd")))[0]
            is_error, text = await call("search", {"query": "x"})
            assert is_error and "actpass.unmapped_tool" in text
            is_error, text = await call("refund", refund(MEDIUM, currency="usd"))
            assert is_error and "A person must approve" in text
            await asyncio.to_thread(real_gateway.approve, real_gateway.pending()[0])
            assert await call("refund", refund(MEDIUM, currency="usd")) == (False, f"refunded {MEDIUM}")

    asyncio.run(run())
    assert ran.values == [SMALL, MEDIUM]
    record_case(kit.framework, "coverage: client-side", 0, f"{level}, {kind}")


def test_guard_of_something_else_is_an_error(gateway: ScriptedGateway) -> None:
    with pytest.raises(ActPassConfigError, match="target: expected a client with call_tool, found object"):
        guard_client(object(), gateway.client(), {"refund": REFUND})


def test_documented_server_and_client_decide(kit: Kit, documented: Real) -> None:
    names = executed(blocks("mcp-servers.md")[1])
    arguments = refund(SMALL, currency="usd"), refund(LARGE, currency="usd")
    assert [is_error for is_error, _ in calls(kit, names["server"], *arguments)] == [False, True]
    call = executed(blocks("mcp-servers.md")[2])["refund"]
    assert [asyncio.run(call(plain_server(Ran()), one)).is_error for one in arguments] == [False, True]
