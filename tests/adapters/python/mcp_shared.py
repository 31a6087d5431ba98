"""Tests of MCP servers, for FastMCP and the MCP SDK alike; `kit` makes the server and the client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from actpass import UNGUARDED, ActPassConfigError, ToolAction
from actpass.testing import ScriptedGateway
from conftest import WITHIN, Hostile, Ran, Real
from mcp import Client as SdkClient
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

REFUND = ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
#: The actions of the tools that `kit.server` registers.
ACTIONS = {"refund": REFUND, "fail": REFUND, "search": UNGUARDED}
SMALL, MEDIUM, LARGE = 4900, 25000, 90000
CLIENTS = ("sync", "async")
Record = Callable[..., None]


def refund(amount: Any = SMALL, **more: Any) -> dict[str, Any]:
    """Return the arguments of a refund."""
    return {"charge": "ch_1", "amount": amount, **more}


def client_of(gateway: Any, kind: str = "sync", **settings: Any) -> Any:
    """Return a client of either kind."""
    return gateway.client(**settings) if kind == "sync" else gateway.async_client(**settings)


def calls(kit: Any, server: Any, *arguments: dict[str, Any], tool: str = "refund") -> list[tuple[bool, str]]:
    """Call a tool once for each arguments, in sequence, and return whether it is an error, and the text."""

    async def run() -> list[tuple[bool, str]]:
        async with kit.connected(server) as call:
            return [await call(tool, one) for one in arguments]

    return asyncio.run(run())


@pytest.mark.parametrize("kind", CLIENTS)
def test_allow_runs_once(kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record, kind: str) -> None:
    gateway.allow("stripe.refund.create")
    [(is_error, text)] = calls(kit, kit.server(ran, client_of(gateway, kind), ACTIONS), refund())
    assert (is_error, text, ran.values) == (False, "refunded 4900", [4900])
    assert gateway.actions[0]["args"] == {"charge": "ch_1", "amount": 4900, "currency": "usd"}
    assert gateway.actions[0]["resource"] == "stripe:charge:ch_1"
    record_case(kit.framework, "allow", ran.count, kind)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize("word", ["deny", "warn"])
def test_blocked_decisions_run_nothing(
    kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record, kind: str, word: str
) -> None:
    getattr(gateway, word)("stripe.refund.create", reason_code="refund.no")
    [(is_error, text)] = calls(kit, kit.server(ran, client_of(gateway, kind), ACTIONS), refund())
    assert is_error and text.startswith(f"stripe.refund.create was not run: {word} (refund.no).")
    assert ran.count == 0
    record_case(kit.framework, word, ran.count, kind)


@pytest.mark.parametrize("kind", CLIENTS)
def test_failed_gateway_runs_nothing(kit: Any, hostile: Hostile, ran: Ran, record_case: Record, kind: str) -> None:
    [(is_error, text)] = calls(kit, kit.server(ran, client_of(hostile, kind), ACTIONS), refund())
    assert is_error and text.startswith("stripe.refund.create was not run: deny (actpass.")
    assert ran.count == 0
    record_case(kit.framework, hostile.case, ran.count, kind)


def test_error_in_the_mapping_runs_nothing(kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()

    def resource(charge: str) -> str:
        raise RuntimeError("lookup failed")

    action = ToolAction("stripe.refund.create", goal="g", resource=resource)
    server = kit.server(ran, gateway.client(), {**ACTIONS, "refund": action})
    with_error = calls_with_errors(kit, server, refund())
    assert with_error and ran.count == 0
    record_case(kit.framework, "adapter raises", ran.count)


def calls_with_errors(kit: Any, server: Any, arguments: dict[str, Any]) -> bool:
    """Return whether the call failed, as a result or as a protocol error."""
    try:
        [(is_error, _)] = calls(kit, server, arguments)
    except Exception:
        return True
    return is_error


def test_call_cancelled_before_the_decision_runs_nothing(kit: Any, ran: Ran, record_case: Record) -> None:
    gateway = Hostile("hangs")
    client = gateway.client(timeout=30)

    async def run() -> None:
        async with kit.connected(kit.server(ran, client, ACTIONS)) as call:
            task = asyncio.create_task(call("refund", refund()))
            assert await asyncio.to_thread(gateway.asked.wait, WITHIN)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    gateway.close()
    assert ran.count == 0
    record_case(kit.framework, "cancelled before the decision", ran.count)


def test_error_of_the_tool_keeps_its_text(kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    guarded = calls(kit, kit.server(ran, gateway.client(), ACTIONS), refund(), tool="fail")
    plain = calls(kit, kit.server(Ran(), gateway.client(), {**ACTIONS, "fail": UNGUARDED}), refund(), tool="fail")
    assert guarded == plain and guarded[0][0]
    assert ran.count == 1
    record_case(kit.framework, "tool raises", ran.count)


def test_each_run_of_a_failing_tool_has_a_decision(
    kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.allow()
    calls(kit, kit.server(ran, gateway.client(), ACTIONS), refund(), refund(), refund(), tool="fail")
    assert ran.count == 3 == len(gateway.actions)
    record_case(kit.framework, "tool fails after its effect", ran.count)


@pytest.mark.parametrize("kind", CLIENTS)
def test_pending_approval_is_reported_and_spent_by_the_repeated_call(
    kit: Any, real_gateway: Real, ran: Ran, record_case: Record, kind: str
) -> None:
    server = kit.server(ran, client_of(real_gateway, kind, agent_id="support"), ACTIONS)

    async def run() -> None:
        async with kit.connected(server) as call:
            is_error, text = await call("refund", refund(MEDIUM))
            assert is_error and "A person must approve this first (approval apr_" in text
            assert ran.count == 0
            record_case(kit.framework, "approval pending", ran.count, kind)
            [approval] = real_gateway.pending()
            is_error, text = await call("refund", refund(MEDIUM))
            assert is_error and approval in text and real_gateway.pending() == [approval]
            record_case(kit.framework, "resumed too early", ran.count, kind)
            await asyncio.to_thread(real_gateway.approve, approval)
            is_error, _ = await call("refund", refund(MEDIUM + 1))
            assert is_error
            record_case(kit.framework, "arguments edited at approval", ran.count, kind)
            assert await call("refund", refund(MEDIUM)) == (False, f"refunded {MEDIUM}")
            record_case(kit.framework, "approved in another process", ran.count, kind)
            is_error, _ = await call("refund", refund(MEDIUM))
            assert is_error and ran.values == [MEDIUM]
            record_case(kit.framework, "same call again after approval", ran.count, kind)

    asyncio.run(run())


def test_rejected_approval_runs_nothing(kit: Any, real_gateway: Real, ran: Ran, record_case: Record) -> None:
    server = kit.server(ran, real_gateway.client(agent_id="support"), ACTIONS, approvals="hold", hold=30)

    async def run() -> None:
        async with kit.connected(server) as call:
            task = asyncio.create_task(call("refund", refund(MEDIUM)))
            pending = await asyncio.to_thread(real_gateway.opened)
            await asyncio.to_thread(real_gateway.reject, pending[0])
            is_error, text = await task
            assert is_error and "approval.rejected" in text

    asyncio.run(run())
    assert ran.count == 0
    record_case(kit.framework, "approval rejected", ran.count)


@pytest.mark.parametrize("kind", CLIENTS)
def test_held_call_runs_after_the_approval(
    kit: Any, real_gateway: Real, ran: Ran, record_case: Record, kind: str
) -> None:
    client = client_of(real_gateway, kind, agent_id="support")
    server = kit.server(ran, client, ACTIONS, approvals="hold", hold=60)

    async def run() -> None:
        async with kit.connected(server) as call:
            task = asyncio.create_task(call("refund", refund(MEDIUM)))
            pending = await asyncio.to_thread(real_gateway.opened)
            await asyncio.to_thread(real_gateway.approve, pending[0])
            assert await task == (False, f"refunded {MEDIUM}")

    asyncio.run(run())
    assert ran.count == 1
    record_case(kit.framework, "approval held", ran.count, kind)


def test_call_that_the_client_gave_up_is_not_run_by_a_later_approval(
    kit: Any, real_gateway: Real, ran: Ran, record_case: Record
) -> None:
    server = kit.server(ran, real_gateway.client(agent_id="support"), ACTIONS, approvals="hold", hold=60)

    async def run() -> None:
        async with kit.connected(server) as call:
            task = asyncio.create_task(call("refund", refund(MEDIUM)))
            pending = await asyncio.to_thread(real_gateway.opened)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(real_gateway.approve, pending[0])
            # A further call of the same server, so that a waiting call would have had its turn.
            assert await call("search", {"query": "x"}) == (False, "found x")

    asyncio.run(run())
    assert ran.count == 0
    record_case(kit.framework, "approval held too long", ran.count)


def test_held_call_ends_at_its_deadline(kit: Any, real_gateway: Real, ran: Ran, record_case: Record) -> None:
    server = kit.server(ran, real_gateway.client(agent_id="support"), ACTIONS, approvals="hold", hold=0.2)
    [(is_error, text)] = calls(kit, server, refund(MEDIUM))
    assert is_error and real_gateway.pending()[0] in text
    assert ran.count == 0
    record_case(kit.framework, "approval held too long", ran.count, "timeout")


def parallel(kit: Any, server: Any, *arguments: dict[str, Any]) -> list[tuple[bool, str]]:
    async def run() -> list[tuple[bool, str]]:
        async with kit.connected(server) as call:
            return list(await asyncio.gather(*(call("refund", one) for one in arguments)))

    return asyncio.run(run())


def test_parallel_allow_and_deny(kit: Any, real_gateway: Real, ran: Ran, record_case: Record) -> None:
    server = kit.server(ran, real_gateway.client(agent_id="support"), ACTIONS)
    allowed, denied = parallel(kit, server, refund(SMALL), refund(LARGE))
    assert (allowed[0], denied[0], ran.values) == (False, True, [SMALL])
    record_case(kit.framework, "parallel: allow and deny", ran.count)


def test_parallel_allow_and_approval(kit: Any, real_gateway: Real, ran: Ran, record_case: Record) -> None:
    server = kit.server(ran, real_gateway.client(agent_id="support"), ACTIONS)
    allowed, waiting = parallel(kit, server, refund(SMALL), refund(MEDIUM))
    assert (allowed[0], waiting[0], ran.values) == (False, True, [SMALL])
    real_gateway.approve(real_gateway.pending()[0])
    assert calls(kit, server, refund(MEDIUM)) == [(False, f"refunded {MEDIUM}")]
    assert ran.values == [SMALL, MEDIUM]
    record_case(kit.framework, "parallel: allow and approval", ran.count)


def test_parallel_approvals_are_not_crossed(kit: Any, real_gateway: Real, ran: Ran, record_case: Record) -> None:
    server = kit.server(ran, real_gateway.client(agent_id="support"), ACTIONS, approvals="hold", hold=60)

    async def run() -> None:
        async with kit.connected(server) as call:
            tasks = [asyncio.create_task(call("refund", refund(MEDIUM + one))) for one in (0, 1)]
            pending = await asyncio.to_thread(real_gateway.opened, 2)
            for one in pending:
                await asyncio.to_thread(real_gateway.approve, one)
            assert await asyncio.gather(*tasks) == [(False, f"refunded {MEDIUM + one}") for one in (0, 1)]

    asyncio.run(run())
    assert sorted(ran.values) == [MEDIUM, MEDIUM + 1]
    record_case(kit.framework, "parallel: two approvals", ran.count)


@pytest.mark.parametrize("in_place", [True, False])
def test_middleware_that_changes_arguments_comes_before_the_decision(
    kit: Any, real_gateway: Real, ran: Ran, record_case: Record, in_place: bool
) -> None:
    client = real_gateway.client(agent_id="support")
    server = kit.server(ran, client, ACTIONS, middleware=kit.changes("amount", LARGE, in_place=in_place))
    [(is_error, text)] = calls(kit, server, refund(SMALL))
    assert is_error and "refund.over_limit" in text
    assert ran.count == 0
    record_case(kit.framework, "hook before changes arguments" + " in place" * in_place, ran.count)


def test_middleware_that_raises_runs_nothing(kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    server = kit.server(ran, gateway.client(), ACTIONS, middleware=kit.raises())
    assert calls_with_errors(kit, server, refund())
    assert ran.count == 0
    record_case(kit.framework, "hook raises", ran.count)


def test_middleware_that_retries_gets_a_decision_each_time(
    kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.allow()
    server = kit.server(ran, gateway.client(), ACTIONS, middleware=kit.repeats(3))
    calls(kit, server, refund())
    assert ran.count == 3 == len(gateway.actions)
    record_case(kit.framework, "retry outside", ran.count)


@pytest.mark.parametrize(
    ("case", "given", "evaluated", "executed"),
    [
        ("string for a number", {"charge": "ch_1", "amount": "4900"}, 4900, 4900),
        ("missing default", {"charge": "ch_1"}, 4900, 4900),
        ("bool", {"charge": "ch_1", "amount": True}, 1, 1),
        ("4900.0", {"charge": "ch_1", "amount": 4900.0}, 4900, 4900),
    ],
)
def test_gateway_evaluates_the_executed_arguments(
    kit: Any,
    gateway: ScriptedGateway,
    ran: Ran,
    record_case: Record,
    case: str,
    given: dict[str, Any],
    evaluated: Any,
    executed: Any,
) -> None:
    gateway.allow()
    calls(kit, kit.server(ran, gateway.client(), ACTIONS), given)
    asked = [action["args"]["amount"] for action in gateway.actions]
    assert (asked, ran.values) in [([evaluated], [executed]), ([], [])]
    assert [type(one) for one in asked] == [type(one) for one in ran.values]
    record_case(kit.framework, f"arguments: {case}", ran.count)


def test_extra_argument_is_not_evaluated(kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    calls(kit, kit.server(ran, gateway.client(), ACTIONS), refund(note="extra"))
    assert all("note" not in action["args"] for action in gateway.actions)
    assert ran.count == len(gateway.actions)
    record_case(kit.framework, "arguments: extra member", ran.count)


def test_arguments_without_canonical_form_run_nothing(
    kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.allow()
    assert calls_with_errors(kit, kit.server(ran, gateway.client(), ACTIONS), refund(math.nan))
    assert ran.count == 0
    record_case(kit.framework, "arguments: NaN", ran.count)


def test_unguarded_tool_runs_without_a_decision(
    kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    server = kit.server(ran, gateway.client(), ACTIONS)
    assert calls(kit, server, {"query": "x"}, tool="search") == [(False, "found x")]
    gateway.assert_not_asked()
    record_case(kit.framework, "unguarded", 1)


def test_start_names_tools_without_action_and_actions_without_tool(
    kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.allow()
    with pytest.raises(ActPassConfigError, match=r"'fail', 'search'.*'pay', 'wipe'"):
        kit.check(kit.server(ran, gateway.client(), {"refund": REFUND, "pay": REFUND, "wipe": UNGUARDED}, check=False))
    assert ran.count == 0
    record_case(kit.framework, "coverage: unmapped", ran.count)


def test_tool_that_is_added_later_is_denied(kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    server = kit.server(ran, gateway.client(), ACTIONS)

    async def run() -> tuple[bool, str]:
        async with kit.connected(server) as call:

            @server.tool()
            def later(amount: int) -> str:
                ran(amount)
                return "ran"

            return await call("later", {"amount": 1})

    is_error, text = asyncio.run(run())
    assert is_error and text == (
        "later was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. "
        "Do not call it again."
    )
    gateway.assert_not_asked()
    assert ran.count == 0
    record_case(kit.framework, "coverage: added later", ran.count)


def test_extension_that_changes_arguments_after_the_decision_is_refused(
    kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.allow()
    with pytest.raises(ActPassConfigError, match="last extension, found Changing"):
        kit.check(kit.server(ran, gateway.client(), ACTIONS, after=kit.changing_extension(LARGE), check=False))
    assert ran.count == 0
    record_case(kit.framework, "hook after changes arguments", ran.count)


def test_two_equal_calls_need_two_decisions(kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    parallel(kit, kit.server(ran, gateway.client(), ACTIONS), refund(), refund())
    assert ran.count == 2 == len(gateway.actions)
    record_case(kit.framework, "same call id twice", ran.count)


def test_expired_approval_runs_nothing(kit: Any, gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.require_approval("stripe.refund.create")
    server = kit.server(ran, gateway.client(), ACTIONS)
    assert calls(kit, server, refund())[0][0]
    gateway.expire()
    assert calls(kit, server, refund())[0][0]
    assert ran.count == 0
    record_case(kit.framework, "approval expired", ran.count)


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an ASGI application on this machine, and give the URL of its MCP endpoint."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until = time.monotonic() + WITHIN
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            thread.join()


def issued(gateway: Real, **more: Any) -> str:
    """Return a passport for refunds of at most 5000."""
    body = {
        "agent_id": "planner",
        "audience": "mcp://payments",
        "goal": "resolve_refund_request",
        "allowed_tools": ["stripe.refund.create"],
        "resource_constraints": {"max_amount": 5000, "currency": "usd"},
        **more,
    }
    request = urllib.request.Request(
        f"{gateway.base_url}/api/v1/passports/issue",
        json.dumps(body).encode(),
        {"authorization": "Bearer apk_dev", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        token: str = json.load(answer)["token"]
    return token


def presenting(url: str, token: str | None, carrier: str, amount: int = SMALL) -> tuple[bool, str]:
    """Call `refund` over HTTP with the passport in `_meta` or in `Authorization`."""
    headers = {"authorization": f"Bearer {token}"} if token and carrier == "authorization" else {}
    meta: Any = {"actpass/passport": token} if token and carrier == "meta" else None

    async def run() -> tuple[bool, str]:
        async with (
            create_mcp_http_client(headers=headers) as http,
            SdkClient(streamable_http_client(url, http_client=http)) as client,
        ):
            result = await client.call_tool("refund", refund(amount, currency="usd"), meta=meta)
            content: Any = result.content[0]
            return result.is_error, content.text

    return asyncio.run(run())


@pytest.mark.parametrize("carrier", ["meta", "authorization"])
def test_required_passport_is_valid_once(
    kit: Any, real_gateway: Real, ran: Ran, record_case: Record, carrier: str
) -> None:
    valid, expired = issued(real_gateway), issued(real_gateway, ttl_seconds=1)
    # Beyond the leeway of an offline verification, which is 10 s.
    late = time.monotonic() + 12
    # The claims of a wider passport with the signature of this one.
    wider = issued(real_gateway, resource_constraints={})
    widened = f"{wider.rpartition('.')[0]}.{valid.rpartition('.')[2]}"
    server = kit.server(ran, real_gateway.client(), ACTIONS, require_passport="mcp://payments")
    with served(kit.app(server)) as url:
        for code, token, amount in [
            ("passport.missing", None, SMALL),
            ("passport.audience", issued(real_gateway, audience="mcp://bank"), SMALL),
            ("passport.signature", widened, SMALL),
            ("passport.constraint", valid, 5001),
            ("passport.tool", issued(real_gateway, allowed_tools=["stripe.refund.list"]), SMALL),
        ]:
            is_error, text = presenting(url, token, carrier, amount)
            assert is_error and f"({code})" in text, text
        assert ran.count == 0
        assert presenting(url, valid, carrier) == (False, f"refunded {SMALL}")
        record_case(kit.framework, "passport", ran.count, carrier)
        is_error, text = presenting(url, valid, carrier)
        assert is_error and "(passport.replayed)" in text, text
        time.sleep(max(0.0, late - time.monotonic()))
        is_error, text = presenting(url, expired, carrier)
        assert is_error and "(passport.expired)" in text, text
    assert ran.values == [SMALL]
