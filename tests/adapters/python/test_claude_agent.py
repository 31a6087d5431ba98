"""The adapter for the Claude Agent SDK, over a transport that acts as Claude Code with a scripted model."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from actpass import UNGUARDED, ActPassConfigError, ToolAction
from actpass.integrations.claude_agent import guard_tool, pre_tool_use
from actpass.testing import ScriptedGateway
from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    CLIConnectionError,
    HookMatcher,
    Transport,
    create_sdk_mcp_server,
    tool,
)
from conftest import WITHIN, Hostile, Ran, Real, blocks, example, executed

FRAMEWORK = "claude-agent"
REFUND = ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
SMALL, MEDIUM, LARGE = 4900, 25000, 90000
#: An in-process tool that is guarded, and a tool of Claude Code behind the hook.
WAYS = ("tool", "hook")
Record = Callable[..., None]


class ClaudeCode(Transport):
    """Claude Code: calls the hooks, and executes a tool itself (`Refund`) or in the SDK's MCP server."""

    def __init__(self, ran: Ran, *, supports_on_failure: bool = True) -> None:
        self.ran = ran
        self.supports_on_failure = supports_on_failure
        self.inbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.answers: dict[str, asyncio.Future[Any]] = {}
        self.matchers: list[dict[str, Any]] = []
        self.numbers = itertools.count(1)
        self.is_initialized = False

    async def connect(self) -> None:
        pass

    async def write(self, data: str) -> None:
        for line in data.splitlines():
            message = json.loads(line)
            if message["type"] == "control_request":
                request = message["request"]
                if request["subtype"] == "initialize":
                    self.matchers = (request.get("hooks") or {}).get("PreToolUse", [])
                said = {"hook_on_failure_supported": True} if self.supports_on_failure else {}
                response = {"subtype": "success", "request_id": message["request_id"], "response": said}
                await self.inbox.put({"type": "control_response", "response": response})
            elif message["type"] == "control_response":
                response = message["response"]
                self.answers.pop(response["request_id"]).set_result(response)

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self.inbox.get()) is not None:
            yield message

    async def close(self) -> None:
        await self.inbox.put(None)

    def is_ready(self) -> bool:
        return True

    async def end_input(self) -> None:
        pass

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request to the SDK, and return its response."""
        number = f"cli_{next(self.numbers)}"
        self.answers[number] = future = asyncio.get_running_loop().create_future()
        await self.inbox.put({"type": "control_request", "request_id": number, "request": request})
        return await future

    async def send(self, server: str, method: str, params: Any, *, is_notification: bool = False) -> Any:
        """Send a message to an MCP server of the SDK, and return its response."""
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        if not is_notification:
            message["id"] = next(self.numbers)
        response = await self.ask({"subtype": "mcp_message", "server_name": server, "message": message})
        return response["response"]["mcp_response"]

    async def call(self, name: str, given: Any) -> tuple[bool, str]:
        """Call a tool as the model does; return whether it is an error, and the text for the model."""
        for matcher in self.matchers:
            for callback in matcher["hookCallbackIds"]:
                hook_input = {"hook_event_name": "PreToolUse", "tool_name": name, "tool_input": given}
                request = {"subtype": "hook_callback", "callback_id": callback, "input": hook_input}
                response = await self.ask({**request, "tool_use_id": "toolu_1"})
                said = response.get("response")
                if response["subtype"] != "success" or said is None:
                    if matcher.get("onFailure") == "block":
                        return True, "blocked: the hook failed"
                    continue
                decided = said.get("hookSpecificOutput", {})
                if decided.get("permissionDecision") == "deny":
                    return True, decided["permissionDecisionReason"]
                given = decided.get("updatedInput", given)
        if not name.startswith("mcp__"):
            self.ran(given.get("amount"))
            return False, f"refunded {given.get('amount')}"
        _, server, tool_name = name.split("__")
        if not self.is_initialized:
            self.is_initialized = True
            info = {"name": "claude-code", "version": "1"}
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
            await self.send(server, "initialize", hello)
            await self.send(server, "notifications/initialized", {}, is_notification=True)
        answer = await self.send(server, "tools/call", {"name": tool_name, "arguments": given})
        if "error" in answer:
            return True, answer["error"]["message"]
        result = answer["result"]
        return bool(result.get("isError")), result["content"][0]["text"]


def refund_tool(ran: Ran, *, fails: Exception | None = None) -> Any:
    schema = {
        "type": "object",
        "properties": {"charge": {"type": "string"}, "amount": {"type": "number"}, "currency": {"type": "string"}},
        "required": ["charge", "amount"],
    }

    @tool("refund", "Refund a charge.", schema)
    async def refund(args: Any) -> dict[str, Any]:
        ran(args["amount"])
        if fails:
            raise fails
        return {"content": [{"type": "text", "text": f"refunded {args['amount']}"}]}

    return refund


def refund(amount: Any = SMALL, **more: Any) -> dict[str, Any]:
    return {"charge": "ch_1", "amount": amount, "currency": "usd", **more}


def client_of(gateway: Any, kind: str = "sync", **settings: Any) -> Any:
    return gateway.client(**settings) if kind == "sync" else gateway.async_client(**settings)


def options(way: str, ran: Ran, client: Any, action: Any = REFUND, **more: Any) -> tuple[str, ClaudeAgentOptions]:
    """Return the name of a guarded refund, and the options of an agent that has it."""
    if way == "tool":
        guarded = guard_tool(refund_tool(ran), client, {"refund": action}, **more)
        server = create_sdk_mcp_server("payments", tools=[guarded])
        return "mcp__payments__refund", ClaudeAgentOptions(mcp_servers={"payments": server})
    return "Refund", ClaudeAgentOptions(hooks=pre_tool_use(client, {"Refund": action, "Read": UNGUARDED}, **more))


def play(ran: Ran, given: ClaudeAgentOptions, body: Callable[[ClaudeCode], Any]) -> Any:
    """Connect, and run ``body`` as Claude Code."""

    async def run() -> Any:
        cli = ClaudeCode(ran)
        client = ClaudeSDKClient(given, transport=cli)
        await client.connect()
        try:
            return await body(cli)
        finally:
            await client.disconnect()

    return asyncio.run(run())


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("way", WAYS)
def test_allow_runs_once(gateway: ScriptedGateway, ran: Ran, record_case: Record, way: str, kind: str) -> None:
    gateway.allow("stripe.refund.create")
    name, given = options(way, ran, client_of(gateway, kind))
    assert play(ran, given, lambda cli: cli.call(name, refund())) == (False, "refunded 4900")
    assert ran.values == [SMALL] and gateway.actions[0]["args"] == refund()
    record_case(FRAMEWORK, "allow", ran.count, f"{way}, {kind}")


@pytest.mark.parametrize("word", ["deny", "warn"])
@pytest.mark.parametrize("way", WAYS)
def test_blocked_decisions_run_nothing(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, way: str, word: str
) -> None:
    getattr(gateway, word)("stripe.refund.create", reason_code="refund.no")
    name, given = options(way, ran, gateway.client())
    is_error, text = play(ran, given, lambda cli: cli.call(name, refund()))
    assert is_error and text.startswith(f"stripe.refund.create was not run: {word} (refund.no).")
    assert ran.count == 0
    record_case(FRAMEWORK, word, ran.count, way)


@pytest.mark.parametrize("way", WAYS)
def test_failed_gateway_runs_nothing(hostile: Hostile, ran: Ran, record_case: Record, way: str) -> None:
    name, given = options(way, ran, hostile.client())
    is_error, text = play(ran, given, lambda cli: cli.call(name, refund()))
    assert is_error and text.startswith("stripe.refund.create was not run: deny (actpass.")
    assert ran.count == 0
    record_case(FRAMEWORK, hostile.case, ran.count, way)


@pytest.mark.parametrize("way", WAYS)
def test_error_in_the_mapping_runs_nothing(gateway: ScriptedGateway, ran: Ran, record_case: Record, way: str) -> None:
    gateway.allow()

    def resource(charge: str) -> str:
        raise RuntimeError("lookup failed")

    name, given = options(way, ran, gateway.client(), ToolAction("t", goal="g", resource=resource))
    is_error, _ = play(ran, given, lambda cli: cli.call(name, refund()))
    assert is_error and ran.count == 0
    record_case(FRAMEWORK, "adapter raises", ran.count, way)


@pytest.mark.parametrize("bad", ["raises", "returns None"])
def test_hook_that_fails_blocks(gateway: ScriptedGateway, ran: Ran, record_case: Record, bad: str) -> None:
    gateway.allow()
    hooks = pre_tool_use(gateway.client(), {"Refund": REFUND})
    [matcher] = hooks["PreToolUse"]

    async def broken(given: Any, tool_use_id: Any, context: Any) -> Any:
        if bad == "raises":
            raise RuntimeError("no")

    matcher.hooks[:] = [broken]
    is_error, _ = play(ran, ClaudeAgentOptions(hooks=hooks), lambda cli: cli.call("Refund", refund()))
    assert is_error and ran.count == 0
    record_case(FRAMEWORK, "adapter raises", ran.count, bad)


def test_claude_code_without_on_failure_is_refused(gateway: ScriptedGateway, ran: Ran) -> None:
    async def run() -> None:
        cli = ClaudeCode(ran, supports_on_failure=False)
        given = ClaudeAgentOptions(hooks=pre_tool_use(gateway.client(), {"Refund": REFUND}))
        with pytest.raises(CLIConnectionError):
            await ClaudeSDKClient(given, transport=cli).connect()

    asyncio.run(run())


@pytest.mark.parametrize("way", WAYS)
def test_closed_while_the_gateway_decides_runs_nothing(ran: Ran, record_case: Record, way: str) -> None:
    gateway = Hostile("hangs")
    name, given = options(way, ran, gateway.client(timeout=30))

    async def body(cli: ClaudeCode) -> None:
        call = asyncio.create_task(cli.call(name, refund()))
        assert await asyncio.to_thread(gateway.asked.wait, WITHIN)
        call.cancel()

    play(ran, given, body)
    gateway.close()
    assert ran.count == 0
    record_case(FRAMEWORK, "cancelled before the decision", ran.count, way)


def test_error_of_the_tool_keeps_its_form(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    broken = ValueError("no such charge")
    guarded = guard_tool(refund_tool(ran, fails=broken), gateway.client(), {"refund": REFUND})
    with pytest.raises(ValueError, match="no such charge") as raised:
        asyncio.run(guarded.handler(refund()))
    assert raised.value is broken and ran.count == 1
    record_case(FRAMEWORK, "tool raises", ran.count)
    for _ in range(2):
        with pytest.raises(ValueError, match="no such charge"):
            asyncio.run(guarded.handler(refund()))
    assert ran.count == 3 == len(gateway.actions)
    record_case(FRAMEWORK, "tool fails after its effect", ran.count)
    record_case(FRAMEWORK, "retry outside", ran.count)


@pytest.mark.parametrize("way", WAYS)
def test_pending_approval_is_reported_and_spent_by_the_repeated_call(
    real_gateway: Real, ran: Ran, record_case: Record, way: str
) -> None:
    name, given = options(way, ran, real_gateway.client(agent_id="support"))

    async def body(cli: ClaudeCode) -> None:
        is_error, text = await cli.call(name, refund(MEDIUM))
        assert is_error and "A person must approve this first (approval apr_" in text and ran.count == 0
        record_case(FRAMEWORK, "approval pending", ran.count, way)
        assert (await cli.call(name, refund(MEDIUM)))[0]
        record_case(FRAMEWORK, "resumed too early", ran.count, way)
        await asyncio.to_thread(real_gateway.approve, real_gateway.pending()[0])
        assert (await cli.call(name, refund(MEDIUM + 1)))[0] and ran.count == 0
        record_case(FRAMEWORK, "arguments edited at approval", ran.count, way)
        assert await cli.call(name, refund(MEDIUM)) == (False, f"refunded {MEDIUM}")
        record_case(FRAMEWORK, "approved in another process", ran.count, way)
        assert (await cli.call(name, refund(MEDIUM)))[0] and ran.values == [MEDIUM]
        record_case(FRAMEWORK, "same call again after approval", ran.count, way)

    play(ran, given, body)


@pytest.mark.parametrize("verb", ["approve", "reject"])
@pytest.mark.parametrize("way", WAYS)
def test_held_call_ends_with_the_decision(
    real_gateway: Real, ran: Ran, record_case: Record, way: str, verb: str
) -> None:
    name, given = options(way, ran, real_gateway.client(agent_id="support"), approvals="hold", hold=60)

    async def body(cli: ClaudeCode) -> None:
        call = asyncio.create_task(cli.call(name, refund(MEDIUM)))
        pending = await asyncio.to_thread(real_gateway.opened)
        await asyncio.to_thread(getattr(real_gateway, verb), pending[0])
        assert (await call)[0] == (verb == "reject")

    play(ran, given, body)
    assert ran.count == (verb == "approve")
    record_case(FRAMEWORK, "approval held" if verb == "approve" else "approval rejected", ran.count, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("case", "amounts", "first"),
    [
        ("allow and deny", (SMALL, LARGE), [SMALL]),
        ("allow and approval", (SMALL, MEDIUM), [SMALL]),
        ("two approvals", (MEDIUM, MEDIUM + 1), []),
    ],
)
def test_parallel_calls_are_not_crossed(
    real_gateway: Real, ran: Ran, record_case: Record, way: str, case: str, amounts: tuple[int, int], first: list[int]
) -> None:
    name, given = options(way, ran, real_gateway.client(agent_id="support"))

    async def body(cli: ClaudeCode) -> None:
        await asyncio.gather(*(cli.call(name, refund(one)) for one in amounts))
        assert ran.values == first
        for one in reversed(real_gateway.pending()):
            await asyncio.to_thread(real_gateway.approve, one)
        await asyncio.gather(*(cli.call(name, refund(one)) for one in amounts if one not in {SMALL, LARGE}))

    play(ran, given, body)
    assert sorted(ran.values) == [one for one in amounts if one != LARGE]
    record_case(FRAMEWORK, f"parallel: {case}", ran.count, way)


@pytest.mark.parametrize("order", ["before", "after"])
def test_hook_that_changes_the_input_comes_before_the_decision_of_a_guarded_tool(
    real_gateway: Real, ran: Ran, record_case: Record, order: str
) -> None:
    client = real_gateway.client(agent_id="support")
    name, given = options("tool", ran, client)

    async def change(called: Any, tool_use_id: Any, context: Any) -> Any:
        changed = {**called["tool_input"], "amount": LARGE}
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", "updatedInput": changed}}

    ours = pre_tool_use(client, {name: UNGUARDED})["PreToolUse"]
    theirs = [HookMatcher(hooks=[change])]
    given.hooks = {"PreToolUse": theirs + ours if order == "before" else ours + theirs}
    is_error, text = play(ran, given, lambda cli: cli.call(name, refund(SMALL)))
    assert is_error and "refund.over_limit" in text and ran.count == 0
    record_case(FRAMEWORK, f"hook {order} changes arguments", ran.count)


def test_other_hook_that_allows_does_not_clear_the_verdict(
    gateway: ScriptedGateway, ran: Ran, record_case: Record
) -> None:
    gateway.deny()

    async def allow(called: Any, tool_use_id: Any, context: Any) -> Any:
        return {"hookSpecificOutput": {"hookEventName": "PreToolUse", "permissionDecision": "allow"}}

    for way in WAYS:
        name, given = options(way, ran, gateway.client())
        ours = (given.hooks or {}).get("PreToolUse", [])
        given.hooks = {"PreToolUse": [HookMatcher(hooks=[allow]), *ours, HookMatcher(hooks=[allow])]}
        assert play(ran, given, lambda cli, name=name: cli.call(name, refund()))[0]
        assert ran.count == 0
        record_case(FRAMEWORK, "hook clears the verdict", ran.count, way)


@pytest.mark.parametrize(
    ("case", "given", "expected"),
    [
        ("string for a number", {"charge": "c", "amount": "4900"}, "4900"),
        ("extra member", {"charge": "c", "amount": 4900, "note": "x"}, 4900),
        ("bool", {"charge": "c", "amount": True}, True),
        ("4900.0", {"charge": "c", "amount": 4900.0}, 4900.0),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_gateway_evaluates_the_executed_arguments(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, way: str, case: str, given: Any, expected: Any
) -> None:
    gateway.allow()
    name, settings = options(way, ran, gateway.client())
    play(ran, settings, lambda cli: cli.call(name, given))
    assert [action["args"] for action in gateway.actions] == [given] * ran.count
    assert ran.values in ([], [expected])
    record_case(FRAMEWORK, f"arguments: {case}", ran.count, way)


@pytest.mark.parametrize("way", WAYS)
def test_arguments_without_canonical_form_run_nothing(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, way: str
) -> None:
    gateway.allow()
    name, given = options(way, ran, gateway.client())
    is_error, _ = play(ran, given, lambda cli: cli.call(name, refund(math.nan)))
    assert is_error and ran.count == 0
    record_case(FRAMEWORK, "arguments: NaN", ran.count, way)


def test_two_calls_with_one_id_have_two_decisions(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    name, given = options("hook", ran, gateway.client())

    async def body(cli: ClaudeCode) -> None:
        await asyncio.gather(cli.call(name, refund()), cli.call(name, refund()))

    play(ran, given, body)
    assert ran.count == 2 == len(gateway.actions)
    record_case(FRAMEWORK, "same call id twice", ran.count)


def test_unmapped_tool_is_denied(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    name, given = options("hook", ran, gateway.client())
    assert name == "Refund"
    for case, called in (("unmapped", "Bash"), ("added later", "mcp__new__refund"), ("sub-agent", "Task")):
        is_error, text = play(ran, given, lambda cli, called=called: cli.call(called, refund()))
        assert is_error and text == (
            f"{called} was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. "
            "Do not call it again."
        )
        record_case(FRAMEWORK, f"coverage: {case}", ran.count)
    gateway.assert_not_asked()
    with pytest.raises(ActPassConfigError, match="expected an action for each tool, found none for 'refund'"):
        guard_tool(refund_tool(ran), gateway.client(), {"Refund": REFUND})


def test_unguarded_tool_runs_without_a_decision(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    _, given = options("hook", ran, gateway.client())
    assert not play(ran, given, lambda cli: cli.call("Read", refund()))[0]
    plain = refund_tool(ran)
    assert guard_tool(plain, gateway.client(), {"refund": UNGUARDED}) is plain
    gateway.assert_not_asked()
    record_case(FRAMEWORK, "unguarded", ran.count)


def test_documented_options_decide(documented: Real, ran: Ran) -> None:
    given = executed(blocks("claude-agent.md")[0])["options"]
    name = "mcp__payments__refund"
    assert play(ran, given, lambda cli: cli.call(name, refund(SMALL))) == (False, "refunded 4900")
    assert play(ran, given, lambda cli: cli.call(name, refund(LARGE)))[0]
    assert play(ran, given, lambda cli: cli.call("Bash", {"command": "rm -r /"}))[0]
    assert not play(ran, given, lambda cli: cli.call("Read", {"amount": 1}))[0] and ran.count == 1


@pytest.mark.parametrize("way", WAYS)
def test_expired_approval_runs_nothing(gateway: ScriptedGateway, ran: Ran, record_case: Record, way: str) -> None:
    gateway.require_approval("stripe.refund.create")
    name, given = options(way, ran, gateway.client())

    async def body(cli: ClaudeCode) -> None:
        assert (await cli.call(name, refund()))[0]
        gateway.expire()
        assert (await cli.call(name, refund()))[0]

    play(ran, given, body)
    assert ran.count == 0
    record_case(FRAMEWORK, "approval expired", ran.count, way)


def test_example_refunds_after_the_approval() -> None:
    assert example("claude_agent_refund.py") == ["refunded 250.00"]
