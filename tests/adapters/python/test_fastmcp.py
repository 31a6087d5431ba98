"""The adapter for FastMCP with real servers and clients in one process."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from actpass import UNGUARDED, ActPassConfigError
from actpass.integrations.fastmcp import ActPassExtension, guard_client
from actpass.testing import ScriptedGateway
from conftest import Ran, Real, blocks, example, executed
from fastmcp import Client, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.server import create_proxy
from fastmcp.server.extensions import ServerExtension
from fastmcp.server.middleware import Middleware
from mcp.shared.exceptions import MCPError
from mcp_shared import *  # noqa: F403
from mcp_shared import ACTIONS, LARGE, MEDIUM, REFUND, SMALL, Record, calls, refund


class Kit:
    """Servers and clients of FastMCP."""

    framework = "fastmcp"

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
    ) -> FastMCP:
        server = plain_server(ran)
        server.add_extension(ActPassExtension(client, actions, **options))
        if after is not None:
            server.add_extension(after)
        if middleware is not None:
            server.add_middleware(middleware)
        return server

    def app(self, server: FastMCP) -> Any:
        return server.http_app()

    def check(self, server: FastMCP) -> None:
        async def start() -> None:
            async with server._lifespan_manager():
                pass

        asyncio.run(start())

    @contextlib.asynccontextmanager
    async def connected(self, server: Any) -> AsyncIterator[Callable[..., Any]]:
        async with Client(server) as client:

            async def call(name: str, arguments: dict[str, Any]) -> tuple[bool, str]:
                result = await client.call_tool_mcp(name, arguments)
                return result.is_error, result.content[0].text

            yield call

    def changes(self, name: str, value: Any, *, in_place: bool) -> Middleware:
        class Changing(Middleware):
            async def on_call_tool(self, context: Any, call_next: Any) -> Any:
                if in_place:
                    context.message.arguments[name] = value
                    return await call_next(context)
                changed = context.message.model_copy(update={"arguments": {**context.message.arguments, name: value}})
                return await call_next(context.copy(message=changed))

        return Changing()

    def raises(self) -> Middleware:
        class Raising(Middleware):
            async def on_call_tool(self, context: Any, call_next: Any) -> Any:
                raise RuntimeError("a hook failed")

        return Raising()

    def repeats(self, times: int) -> Middleware:
        class Repeating(Middleware):
            async def on_call_tool(self, context: Any, call_next: Any) -> Any:
                return [await call_next(context) for _ in range(times)][-1]

        return Repeating()

    def changing_extension(self, amount: int) -> ServerExtension:
        class Changing(ServerExtension):
            identifier = "org.example/changing"

            async def intercept_tool_call(self, params: Any, context: Any, call_next: Any) -> Any:
                params.arguments["amount"] = amount
                return await call_next()

        return Changing()


def plain_server(ran: Ran, name: str = "payments") -> FastMCP:
    server = FastMCP(name)

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


NAMESPACED = {f"pay_{name}": action for name, action in ACTIONS.items()}


def test_mounted_tool_is_mapped_by_its_namespaced_name(
    kit: Kit, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.deny()
    parent = FastMCP("shop")
    parent.mount(plain_server(ran), namespace="pay")
    parent.add_extension(ActPassExtension(gateway.client(), NAMESPACED))
    [(is_error, _)] = calls(kit, parent, {"charge": "ch_1", "amount": "4900"}, tool="pay_refund")
    assert is_error and gateway.actions[0]["args"]["amount"] == 4900
    other = FastMCP("shop")
    other.mount(plain_server(ran), namespace="pay")
    other.add_extension(ActPassExtension(gateway.client(), ACTIONS))
    with pytest.raises(ActPassConfigError, match="'pay_refund'"):
        kit.check(other)
    assert ran.count == 0
    record_case(kit.framework, "coverage: namespaced", ran.count)


def test_middleware_of_a_mounted_server_is_refused(
    kit: Kit, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.allow()
    child = plain_server(ran)
    child.add_middleware(kit.changes("amount", LARGE, in_place=True))
    parent = FastMCP("shop")
    parent.mount(child, namespace="pay")
    parent.add_extension(ActPassExtension(gateway.client(), NAMESPACED))
    with pytest.raises(ActPassConfigError, match="add the extension to the mounted server"):
        kit.check(parent)
    assert ran.count == 0
    record_case(kit.framework, "hook after changes arguments", ran.count, "mounted")


def test_middleware_of_a_mounted_server_that_is_added_later_is_refused(
    kit: Kit, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.allow()
    child = plain_server(ran)
    parent = FastMCP("shop")
    parent.mount(child, namespace="pay")
    parent.add_extension(ActPassExtension(gateway.client(), NAMESPACED))

    async def run() -> None:
        async with kit.connected(parent) as call:
            child.add_middleware(kit.changes("amount", LARGE, in_place=True))
            with pytest.raises(MCPError):
                await call("pay_refund", refund())

    asyncio.run(run())
    assert ran.count == 0
    record_case(kit.framework, "hook after changes arguments", ran.count, "mounted later")


def test_extension_of_the_mounted_server_decides(kit: Kit, real_gateway: Real, ran: Ran, record_case: Record) -> None:
    child = kit.server(ran, real_gateway.client(agent_id="support"), ACTIONS)
    child.add_middleware(kit.changes("amount", LARGE, in_place=True))
    parent = FastMCP("shop")
    parent.mount(child, namespace="pay")
    [(is_error, text)] = calls(kit, parent, refund(), tool="pay_refund")
    assert is_error and "refund.over_limit" in text and ran.count == 0
    record_case(kit.framework, "hook before changes arguments in place", ran.count, "mounted")


def test_alias_of_an_app_tool_has_the_action_of_its_name(
    kit: Kit, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    from fastmcp import FastMCPApp
    from fastmcp.server.providers.addressing import hashed_backend_name

    gateway.deny()
    app = FastMCPApp("desk")

    @app.tool(model=True)
    def refund(charge: str, amount: int = 4900, currency: str = "usd") -> str:
        ran(amount)
        return "ran"

    server = FastMCP("shop")
    server.add_provider(app)
    server.add_extension(ActPassExtension(gateway.client(), {"refund": REFUND}))
    [(is_error, text)] = calls(kit, server, {"charge": "ch_1"}, tool=hashed_backend_name("desk", "refund"))
    assert is_error and text.startswith("stripe.refund.create was not run: deny"), text
    gateway.assert_asked("stripe.refund.create", times=1)
    assert ran.count == 0
    record_case(kit.framework, "coverage: aliased", ran.count)


def test_search_transform_gates_the_inner_call(
    kit: Kit, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    from fastmcp.server.transforms.search import RegexSearchTransform

    gateway.deny()
    server = plain_server(ran)
    server.add_transform(RegexSearchTransform())
    actions = {**ACTIONS, "search_tools": UNGUARDED, "call_tool": UNGUARDED}
    server.add_extension(ActPassExtension(gateway.client(), actions))
    [(is_error, text)] = calls(kit, server, {"name": "refund", "arguments": refund()}, tool="call_tool")
    assert is_error and "stripe.refund.create was not run: deny" in text
    assert ran.count == 0
    record_case(kit.framework, "coverage: code mode", ran.count, "search transform")


def test_proxy_is_gated(kit: Kit, real_gateway: Real, ran: Ran, record_case: Record) -> None:
    proxy = create_proxy(plain_server(ran))
    proxy.add_extension(ActPassExtension(real_gateway.client(agent_id="support"), ACTIONS))
    arguments = [refund(SMALL, currency="usd"), refund(LARGE, currency="usd")]
    assert [is_error for is_error, _ in calls(kit, proxy, *arguments)] == [False, True]
    assert ran.values == [SMALL]
    record_case(kit.framework, "allow", ran.count, "proxy")


def test_versions_are_validated_by_their_own_parameters(
    kit: Kit, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.allow()
    server = FastMCP("shop")

    @server.tool(name="refund", version="1.0")
    def refund_one(charge: str, amount: int = 100) -> str:
        ran(amount)
        return "one"

    @server.tool(name="refund", version="2.0")
    def refund_two(charge: str, amount: int = 200) -> str:
        ran(amount)
        return "two"

    server.add_extension(ActPassExtension(gateway.client(), {"refund": REFUND}))

    async def run() -> None:
        async with Client(server) as client:
            await client.call_tool("refund", {"charge": "ch_1"}, version="1.0")
            await client.call_tool("refund", {"charge": "ch_1"})

    asyncio.run(run())
    assert ran.values == [100, 200] == [action["args"]["amount"] for action in gateway.actions]
    record_case(kit.framework, "arguments: missing default", 1, "versions")


def test_strict_server_evaluates_the_executed_arguments(kit: Kit, gateway: ScriptedGateway, ran: Ran) -> None:
    gateway.allow()
    server = FastMCP("shop", strict_input_validation=True)

    @server.tool()
    def refund(charge: str, when: datetime.date, amount: int = 1) -> str:
        ran((when, amount))
        return "ran"

    server.add_extension(ActPassExtension(gateway.client(), {"refund": REFUND}))
    good, bad = calls(
        kit, server, {"charge": "ch_1", "when": "2026-11-28"}, {"charge": "ch_1", "when": "2026-11-28", "amount": "1"}
    )
    assert good == (False, "ran") and bad[0]
    assert ran.values == [(datetime.date(2026, 11, 28), 1)]
    assert [action["args"]["when"] for action in gateway.actions] == ["2026-11-28"]


def test_invalid_arguments_are_an_answer_without_their_values(kit: Kit, gateway: ScriptedGateway, ran: Ran) -> None:
    gateway.allow()
    server = kit.server(ran, gateway.client(), ACTIONS)
    [(is_error, text)] = calls(kit, server, refund("forty"))
    assert is_error and "amount: Input should be a valid integer" in text and "forty" not in text
    gateway.assert_not_asked()
    assert ran.count == 0


def test_guarded_client_sends_allowed_calls_only(kit: Kit, real_gateway: Real, ran: Ran, record_case: Record) -> None:
    async def run() -> None:
        async with Client(plain_server(ran)) as client:
            guard_client(client, real_gateway.client(agent_id="support"), {"refund": REFUND})
            result = await client.call_tool("refund", refund(SMALL, currency="usd"))
            assert result.data == f"refunded {SMALL}"
            with pytest.raises(ToolError, match=r"refund\.over_limit"):
                await client.call_tool("refund", refund(LARGE, currency="usd"))
            with pytest.raises(ToolError, match=r"actpass\.unmapped_tool"):
                await client.call_tool("search", {"query": "x"})
            with pytest.raises(ToolError, match="A person must approve"):
                await client.call_tool("refund", refund(MEDIUM, currency="usd"))

    asyncio.run(run())
    assert ran.values == [SMALL]
    record_case(kit.framework, "coverage: client-side", 0)


def test_documented_server_decides(kit: Kit, documented: Real) -> None:
    names = executed(blocks("mcp-servers.md")[0])
    arguments = {"charge": "ch_1", "amount": SMALL}, {"charge": "ch_1", "amount": LARGE}
    assert [is_error for is_error, _ in calls(kit, names["server"], *arguments)] == [False, True]


def test_example_refunds_after_the_approval() -> None:
    small, medium, large = example("fastmcp_refund.py")
    assert (small, medium) == ("49.00: refunded 49.00", "250.00: refunded 250.00")
    assert large.startswith("900.00: stripe.refund.create was not run: deny (refund.over_limit).")
