"""The adapter for the OpenAI Agents SDK, with real runs and a scripted model."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from actpass import UNGUARDED, ActPassConfigError, AsyncActPassClient, ToolAction
from actpass.integrations.openai_agents import guard_tools, settle
from actpass.testing import allow, deny, require_approval
from agents import (
    Agent,
    FunctionTool,
    LocalShellTool,
    ModelBehaviorError,
    RunContextWrapper,
    RunHooks,
    Runner,
    RunState,
    ToolGuardrailFunctionOutput,
    WebSearchTool,
    function_tool,
    handoff,
    tool_input_guardrail,
)
from agents.mcp import MCPServer
from agents.testing import function_call
from conftest import Hostile, Ran, Real, blocks, example, executed
from mcp.types import CallToolResult
from mcp.types import Tool as MCPTool
from pydantic import BaseModel, BeforeValidator
from slow_gateway import SlowGateway
from support_openai_agents import (
    FLAVOURS,
    REFUND,
    TOOL,
    agent,
    call,
    client_of,
    go,
    guarded,
    outputs,
    saved,
    scripted,
)

FRAMEWORK = "openai-agents"
flavours = pytest.mark.parametrize("flavour", FLAVOURS)
DENIED = "The tool is not available to this agent. Do not call it again."
Counted = Callable[..., None]


@pytest.fixture
def refund(ran: Ran) -> FunctionTool:
    @function_tool
    def refund(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund a charge."""
        ran((charge, amount, currency))
        return f"refunded {amount}"

    return refund


@pytest.fixture
def counted(request: pytest.FixtureRequest, record_case: Any, ran: Ran) -> Counted:
    """Give the function that records a case and checks how often the tool ran."""
    spec = getattr(request.node, "callspec", None)
    variant = spec.params.get("flavour", "") if spec else ""

    def record(name: str, expected: int, more: str = "") -> None:
        record_case(FRAMEWORK, name, ran.count, " ".join(one for one in (variant, more) if one))
        assert ran.count == expected

    return record


def text_of(result: Any) -> str:
    """Return the text that the model gets for its only, blocked call."""
    [text] = outputs(result)
    assert result.final_output == "done"
    assert "was not run" in text
    return text


def settled(state: Any, waiting: Any = None) -> Any:
    """Settle with approvals that were stored as JSON."""
    return asyncio.run(settle(state, json.loads(json.dumps(waiting))))


def approval_of(waiting: Any, call_id: str = "call_1") -> str:
    return str(waiting[call_id]["approval_request_id"])


# Decisions


@flavours
def test_allow(flavour: str, real_gateway: Real, refund: FunctionTool, ran: Ran, counted: Counted) -> None:
    result = go(flavour, guarded(real_gateway, flavour, agent([call(4900)], tools=[refund])))
    assert ran.values == [("ch_1", 4900, "usd")]
    assert outputs(result) == ["refunded 4900"]
    counted("allow", 1)


@flavours
def test_deny_is_an_answer_for_the_model(
    flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted
) -> None:
    result = go(flavour, guarded(real_gateway, flavour, agent([call(90000)], tools=[refund])))
    assert text_of(result).startswith(f"{TOOL} was not run: deny (refund.over_limit).")
    counted("deny", 0)


@flavours
def test_warn(flavour: str, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    gateway.warn()
    result = go(flavour, guarded(gateway, flavour, agent([call()], tools=[refund])))
    assert "warn (test.warn)" in text_of(result)
    counted("warn", 0)


@flavours
def test_failed_gate(flavour: str, hostile: Hostile, refund: FunctionTool, counted: Counted) -> None:
    result = go(flavour, guarded(hostile, flavour, agent([call()], tools=[refund])))
    assert "The policy decision could not be obtained." in text_of(result)
    counted(hostile.case, 0)


@flavours
@pytest.mark.parametrize("approvals", ["interrupt", "tell"])
def test_adapter_raises(flavour: str, approvals: Any, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    gateway.allow()

    def broken(charge: str) -> str:
        raise LookupError(charge)

    actions = {"refund": ToolAction(TOOL, goal="g", resource=broken)}
    with pytest.raises(Exception, match="ch_1"):
        go(flavour, guarded(gateway, flavour, agent([call()], tools=[refund]), actions, approvals=approvals))
    counted("adapter raises", 0, approvals)


@pytest.mark.parametrize("client", ["client", "async_client"])
def test_run_cancelled_before_the_decision(client: str, refund: FunctionTool, ran: Ran, counted: Counted) -> None:
    with SlowGateway() as slow:
        one = guard_tools(
            getattr(slow, client)(), agent([call()], tools=[refund]), {"refund": REFUND}, approvals="tell"
        )

        async def main() -> None:
            running = asyncio.create_task(Runner.run(one, "refund it"))
            await asyncio.to_thread(slow.asked.wait, 30)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            slow.answer.set()
            await asyncio.to_thread(slow.answered.wait, 30)

        asyncio.run(main())
    counted("cancelled before the decision", 0, client)


@flavours
def test_exception_of_the_tool(flavour: str, gateway: Any, ran: Ran, counted: Counted) -> None:
    gateway.allow()
    mine = LookupError("mine")

    @function_tool(failure_error_function=None)
    def refund(amount: int) -> str:
        """Refund."""
        ran(amount)
        raise mine

    one = agent([function_call("refund", {"amount": 1}, call_id="c")], tools=[refund])
    with pytest.raises(Exception, match="mine") as raised:
        go(flavour, guarded(gateway, flavour, one, {"refund": ToolAction(TOOL, goal="g")}))
    # The framework wraps it.
    assert mine in (raised.value, raised.value.__cause__)
    counted("tool raises", 1)


# Approvals


def paused(gateway: Real, flavour: str, refund: FunctionTool, *turns: Any) -> tuple[Agent[Any], Any, Any]:
    """Return the agent, the result of its paused run and the approvals that it waits for."""
    one = guarded(gateway, flavour, agent(*(turns or [[call(25000)]]), tools=[refund]))
    result = go(flavour, one)
    return one, result, settled(saved(result, one))


@flavours
def test_pending_pauses(flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted) -> None:
    _, result, waiting = paused(real_gateway, flavour, refund)
    assert [one.name for one in result.interruptions] == ["refund"]
    assert waiting["call_1"]["args"] == {"charge": "ch_1", "amount": 25000, "currency": "usd"}
    assert real_gateway.pending() == [approval_of(waiting)]
    counted("approval pending", 0)


@flavours
@pytest.mark.parametrize("knows", [True, False])
def test_approved_in_another_process(
    flavour: str, knows: bool, real_gateway: Real, refund: FunctionTool, ran: Ran, counted: Counted
) -> None:
    one, result, waiting = paused(real_gateway, flavour, refund)
    real_gateway.approve(approval_of(waiting))
    state = saved(result, one)
    assert settled(state, waiting if knows else None) == {}
    result = go(flavour, one, state)
    assert ran.values == [("ch_1", 25000, "usd")]
    assert "refunded 25000" in outputs(result)
    counted("approved in another process", 1, "" if knows else "found by its action")


@flavours
def test_rejected(flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted) -> None:
    one, result, waiting = paused(real_gateway, flavour, refund)
    real_gateway.reject(approval_of(waiting))
    state = saved(result, one)
    assert settled(state, waiting) == {}
    assert "deny (approval.rejected)" in outputs(go(flavour, one, state))[-1]
    counted("approval rejected", 0)


@flavours
def test_expired(flavour: str, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    gateway.require_approval(id="apr_1")
    one = guarded(gateway, flavour, agent([call()], tools=[refund]))
    result = go(flavour, one)
    state = saved(result, one)
    waiting = settled(state)
    gateway.deny(reason_code="approval.expired")
    state.approve(state.get_interruptions()[0])
    assert "deny (approval.expired)" in outputs(go(flavour, one, state))[-1]
    assert list(waiting) == ["call_1"]
    counted("approval expired", 0)


@flavours
def test_resumed_too_early(flavour: str, real_gateway: Real, refund: FunctionTool, ran: Ran, counted: Counted) -> None:
    one, result, waiting = paused(real_gateway, flavour, refund)
    state = saved(result, one)
    assert settled(state, waiting) == waiting
    result = go(flavour, one, state)
    assert [item.name for item in result.interruptions] == ["refund"]
    counted("resumed too early", 0)
    real_gateway.approve(approval_of(waiting))
    state = saved(result, one)
    assert settled(state, waiting) == {}
    go(flavour, one, state)
    assert ran.count == 1


@flavours
def test_approved_only_in_the_framework(
    flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted
) -> None:
    one, result, _ = paused(real_gateway, flavour, refund)
    state = saved(result, one)
    state.approve(state.get_interruptions()[0])
    assert "require_approval" in outputs(go(flavour, one, state))[-1]
    counted("approved only in the framework", 0)


@flavours
@pytest.mark.parametrize("is_approved", [False, True])
def test_waiting_lost(
    flavour: str, is_approved: bool, real_gateway: Real, refund: FunctionTool, ran: Ran, counted: Counted
) -> None:
    _, result, waiting = paused(real_gateway, flavour, refund)
    if is_approved:
        real_gateway.approve(approval_of(waiting))
    other = guarded(real_gateway, flavour, agent(tools=[refund]))  # As in another process.
    state = saved(result, other)
    # The gateway finds the approval by its action.
    assert settled(state) == ({} if is_approved else waiting)
    result = go(flavour, other, state)
    assert ran.count == is_approved
    if not is_approved:
        assert [item.name for item in result.interruptions] == ["refund"]
        counted("metadata lost", 0)


@flavours
@pytest.mark.parametrize("when", ["before the run", "after the question"])
def test_approved_elsewhere_is_spent_by_the_call_that_executes(
    flavour: str, when: str, real_gateway: Real, refund: FunctionTool, ran: Ran, counted: Counted, monkeypatch: Any
) -> None:
    """The question whether to pause never spends the approval that another process opened."""
    asked = guarded(real_gateway, "run", agent([call(25000)], tools=[refund]), approvals="tell")
    go("run", asked)
    [approval] = real_gateway.pending()
    client = client_of(real_gateway, flavour)
    if when == "before the run":
        real_gateway.approve(approval)
    else:
        preflight = type(client).preflight

        async def slow(self: Any, **members: Any) -> Any:
            answered = await preflight(self, **members)
            real_gateway.approve(approval)
            return answered

        def blocking(self: Any, **members: Any) -> Any:
            answered = preflight(self, **members)
            real_gateway.approve(approval)
            return answered

        is_async = isinstance(client, AsyncActPassClient)
        monkeypatch.setattr(type(client), "preflight", slow if is_async else blocking)
    one = guard_tools(client, agent([call(25000)], tools=[refund]), {"refund": REFUND})
    result = go(flavour, one)
    monkeypatch.undo()
    if when == "after the question":
        state = saved(result, one)
        assert settled(state) == {}
        result = go(flavour, one, state)
    assert ran.values == [("ch_1", 25000, "usd")]
    assert outputs(result)[-1] == "refunded 25000"
    assert real_gateway.pending() == []
    counted("approved in another process", 1, when)


@flavours
def test_saved_state_resumed_twice(flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted) -> None:
    one, result, waiting = paused(real_gateway, flavour, refund)
    real_gateway.approve(approval_of(waiting))
    first = saved(result, one)
    settled(first, waiting)
    go(flavour, one, first)
    again = saved(result, one)
    settled(again, waiting)
    one.model = scripted()
    assert "deny (approval.spent)" in outputs(go(flavour, one, again))[-1]
    counted("saved state resumed twice", 1)


def test_two_runs_of_one_saved_state(real_gateway: Real, refund: FunctionTool, counted: Counted) -> None:
    one, result, waiting = paused(real_gateway, "run", refund)
    real_gateway.approve(approval_of(waiting))
    states = [saved(result, one) for _ in range(2)]
    one.model = scripted([], [])

    async def main() -> None:
        for state in states:
            assert await settle(state, waiting) == {}
        await asyncio.gather(*(Runner.run(one, state) for state in states), return_exceptions=True)

    asyncio.run(main())
    counted("two runs of one saved state", 1)


@flavours
def test_arguments_edited_at_approval(flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted) -> None:
    one, result, waiting = paused(real_gateway, flavour, refund)
    real_gateway.approve(approval_of(waiting))
    text = json.dumps(result.to_state().to_json()).replace("25000", "26000")
    state = asyncio.run(RunState.from_json(one, json.loads(text)))
    # The framework rejects the edited call; a wrapper outside of the guard can edit it too.
    with pytest.raises(ModelBehaviorError):
        settled(state, waiting)
    state = saved(result, one)
    settled(state, waiting)
    [tool] = one.tools

    async def edit(context: Any, arguments: str) -> Any:
        return await tool.on_invoke_tool(context, arguments.replace("25000", "26000"))

    one.tools = [wrapped(tool, edit)]
    assert "deny (approval.action_mismatch)" in outputs(go(flavour, one, state))[-1]
    counted("arguments edited at approval", 0)


@flavours
def test_same_call_after_approval_needs_another(
    flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted
) -> None:
    one, result, waiting = paused(real_gateway, flavour, refund, [call(25000)], [call(25000, id="call_2")])
    real_gateway.approve(approval_of(waiting))
    state = saved(result, one)
    settled(state, waiting)
    result = go(flavour, one, state)
    again = settled(saved(result, one))
    assert approval_of(again, "call_2") != approval_of(waiting)
    counted("same call again after approval", 1)


@flavours
def test_tell(flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted) -> None:
    result = go(flavour, guarded(real_gateway, flavour, agent([call(25000)], tools=[refund]), approvals="tell"))
    assert "require_approval" in text_of(result)
    assert len(real_gateway.pending()) == 1
    counted("approval pending", 0, "tell")


@flavours
def test_hold(flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted) -> None:
    def person() -> None:
        until = time.monotonic() + 60
        while not (waiting := real_gateway.pending()):
            assert time.monotonic() < until
            time.sleep(0.02)
        real_gateway.approve(waiting[0])

    thread = threading.Thread(target=person)
    thread.start()
    go(flavour, guarded(real_gateway, flavour, agent([call(25000)], tools=[refund]), approvals="hold", hold=60))
    thread.join()
    counted("approval held", 1)


@flavours
def test_held_too_long(flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted) -> None:
    one = guarded(real_gateway, flavour, agent([call(25000)], tools=[refund]), approvals="hold", hold=0.3)
    assert "actpass.approval_timeout" in text_of(go(flavour, one))
    counted("approval held too long", 0)


@flavours
@pytest.mark.parametrize("kind", ["always", "function"])
def test_needs_approval_of_the_tool_itself_is_left_to_the_caller(
    flavour: str, kind: str, gateway: Any, refund: FunctionTool, ran: Ran
) -> None:
    gateway.allow()

    async def needs(_: Any, params: Any, call_id: str) -> bool:
        assert (params["amount"], call_id) == (4900, "call_1")
        return True

    tool = dataclasses.replace(refund, needs_approval=True if kind == "always" else needs)
    one = guarded(gateway, flavour, agent([call()], tools=[tool]))
    result = go(flavour, one)
    state = saved(result, one)
    assert settled(state) == {}
    assert len(state.get_interruptions()) == 1
    assert ran.count == 0
    state.approve(state.get_interruptions()[0])
    go(flavour, one, state)
    assert ran.count == 1


# Several calls in a turn


@flavours
def test_allow_and_deny(flavour: str, real_gateway: Real, refund: FunctionTool, ran: Ran, counted: Counted) -> None:
    turn = [call(4900, id="a"), call(90000, id="b", charge="ch_2")]
    result = go(flavour, guarded(real_gateway, flavour, agent(turn, tools=[refund])))
    assert sorted(one.partition(":")[0] for one in outputs(result)) == ["refunded 4900", f"{TOOL} was not run"]
    assert ran.values == [("ch_1", 4900, "usd")]
    counted("parallel: allow and deny", 1)


@flavours
def test_allow_and_approval(flavour: str, real_gateway: Real, refund: FunctionTool, ran: Ran, counted: Counted) -> None:
    turn = [call(4900, id="a"), call(25000, id="b", charge="ch_2")]
    one, result, waiting = paused(real_gateway, flavour, refund, turn)
    assert ran.values == [("ch_1", 4900, "usd")]
    real_gateway.approve(approval_of(waiting, "b"))
    state = saved(result, one)
    settled(state, waiting)
    go(flavour, one, state)
    assert ran.values == [("ch_1", 4900, "usd"), ("ch_2", 25000, "usd")]
    counted("parallel: allow and approval", 2)


@flavours
def test_two_approvals_are_not_crossed(
    flavour: str, real_gateway: Real, refund: FunctionTool, ran: Ran, counted: Counted
) -> None:
    turn = [call(25000, id="a"), call(26000, id="b", charge="ch_2")]
    one, result, waiting = paused(real_gateway, flavour, refund, turn)
    real_gateway.approve(approval_of(waiting, "b"))
    state = saved(result, one)
    waiting = settled(state, waiting)
    assert list(waiting) == ["a"]
    result = go(flavour, one, state)
    assert ran.values == [("ch_2", 26000, "usd")]
    real_gateway.approve(approval_of(waiting, "a"))
    state = saved(result, one)
    assert settled(state, waiting) == {}
    go(flavour, one, state)
    assert ran.values == [("ch_2", 26000, "usd"), ("ch_1", 25000, "usd")]
    counted("parallel: two approvals", 2)


@flavours
def test_same_call_id_twice(flavour: str, gateway: Any, refund: FunctionTool, ran: Ran, counted: Counted) -> None:
    gateway.allow()
    one = guarded(gateway, flavour, agent([call(4900)], [call(4900)], tools=[refund]), approvals="tell")
    go(flavour, one)
    gateway.assert_asked(TOOL, times=ran.count)
    counted("same call id twice", ran.count)


# Other hooks


def wrapped(tool: Any, invoke: Any) -> Any:
    """Return a tool whose invocation is wrapped."""
    return dataclasses.replace(tool, on_invoke_tool=invoke)


@flavours
@pytest.mark.parametrize("in_place", [False, True])
def test_hook_changes_arguments(
    flavour: str, in_place: bool, real_gateway: Real, refund: FunctionTool, ran: Ran, counted: Counted
) -> None:
    class Change(RunHooks[Any]):
        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            context.tool_call.arguments = context.tool_call.arguments.replace("4900", "90000")

    one = guarded(real_gateway, flavour, agent([call(4900)], tools=[refund]), approvals="tell")
    if in_place:
        result = go(flavour, one, hooks=Change())
        # The hook changes both the executed and the evaluated arguments, or neither.
        assert (ran.values == [("ch_1", 4900, "usd")]) != ("refund.over_limit" in outputs(result)[0])
        counted("hook before changes arguments in place", ran.count)
        return
    [tool] = one.tools

    async def change(context: Any, arguments: str) -> Any:
        return await tool.on_invoke_tool(context, arguments.replace("4900", "90000"))

    one.tools = [wrapped(tool, change)]
    # The wrapper has replaced the guard in the agent's list; the agent guards it again, inside and outside.
    assert "refund.over_limit" in outputs(go(flavour, one))[0]
    counted("hook before changes arguments", 0)


@flavours
def test_hook_clears_the_verdict(flavour: str, real_gateway: Real, refund: FunctionTool, counted: Counted) -> None:
    [tool] = guard_tools(client_of(real_gateway, flavour), [refund], {"refund": REFUND})

    async def clear(context: Any, arguments: str) -> Any:
        await tool.on_invoke_tool(context, arguments)
        return "refunded"

    go(flavour, agent([call(90000)], tools=[wrapped(tool, clear)]))
    counted("hook clears the verdict", 0)


@flavours
@pytest.mark.parametrize("kind", ["guardrail", "on_tool_start"])
def test_hook_raises(flavour: str, kind: str, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    gateway.allow()

    @tool_input_guardrail
    def broken(_: Any) -> ToolGuardrailFunctionOutput:
        raise LookupError

    class Raise(RunHooks[Any]):
        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            raise LookupError

    tool = dataclasses.replace(refund, tool_input_guardrails=[broken]) if kind == "guardrail" else refund
    one = guarded(gateway, flavour, agent([call()], tools=[tool]))
    with pytest.raises(Exception):  # noqa: B017
        go(flavour, one, **({"hooks": Raise()} if kind == "on_tool_start" else {}))
    counted("hook raises", 0, kind)


@flavours
@pytest.mark.parametrize("place", ["inside", "outside"])
def test_retry(flavour: str, place: str, gateway: Any, ran: Ran, counted: Counted) -> None:
    gateway.answer_next(allow(), deny("refund.twice"))

    @function_tool(failure_error_function=None)
    def refund(amount: int) -> str:
        """Refund."""
        ran(amount)
        raise LookupError("after the effect")

    def retrying(tool: FunctionTool) -> FunctionTool:
        async def retry(context: Any, arguments: str) -> Any:
            try:
                return await tool.on_invoke_tool(context, arguments)
            except LookupError:
                return await tool.on_invoke_tool(context, arguments)

        return wrapped(tool, retry)

    actions, client = {"refund": ToolAction(TOOL, goal="g")}, client_of(gateway, flavour)
    turn = [function_call("refund", {"amount": 1}, call_id="c")]
    if place == "outside":
        [tool] = guard_tools(client, [refund], actions, approvals="tell")
        assert "refund.twice" in text_of(go(flavour, agent(turn, tools=[retrying(tool)])))
        gateway.assert_asked(TOOL, times=2)
        counted("retry outside", 1)
    else:
        [tool] = guard_tools(client, [retrying(refund)], actions, approvals="tell")
        with pytest.raises(Exception, match="after the effect"):
            go(flavour, agent(turn, tools=[tool]))
        # One decision for a tool that repeats its effect: retry outside of the guard.
        gateway.assert_asked(TOOL, times=1)
        counted("retry inside", 2)


@flavours
def test_tool_that_fails_after_its_effect(flavour: str, gateway: Any, ran: Ran, counted: Counted) -> None:
    gateway.allow()

    @function_tool
    def refund(amount: int) -> str:
        """Refund."""
        ran(amount)
        raise LookupError("after the effect")

    turns = [[function_call("refund", {"amount": 1}, call_id=name)] for name in ("a", "b")]
    actions = {"refund": ToolAction(TOOL, goal="g")}
    result = go(flavour, guarded(gateway, flavour, agent(*turns, tools=[refund]), actions, approvals="tell"))
    assert "error occurred" in outputs(result)[0]
    gateway.assert_asked(TOOL, times=2)
    counted("tool fails after its effect", 2)


# Arguments: the evaluated ones are the executed ones


@flavours
@pytest.mark.parametrize(
    ("name", "given", "executed"),
    [
        ("string for a number", '{"charge": "ch_1", "amount": "4900"}', ("ch_1", 4900, "usd")),
        ("missing default", '{"charge": "ch_1", "amount": 4900}', ("ch_1", 4900, "usd")),
        ("extra member", '{"charge": "ch_1", "amount": 4900, "more": 1}', ("ch_1", 4900, "usd")),
        ("bool", '{"charge": "ch_1", "amount": true}', ("ch_1", 1, "usd")),
        ("4900.0", '{"charge": "ch_1", "amount": 4900.0}', ("ch_1", 4900, "usd")),
        ("duplicate keys", '{"charge": "ch_1", "amount": 90000, "amount": 4900}', ("ch_1", 4900, "usd")),
    ],
)
def test_arguments(
    flavour: str, name: str, given: str, executed: Any, gateway: Any, refund: FunctionTool, ran: Ran, counted: Counted
) -> None:
    gateway.allow()
    turn = [function_call("refund", given, call_id="c")]
    go(flavour, guarded(gateway, flavour, agent(turn, tools=[refund])))
    assert ran.values == [executed]
    charge, amount, currency = executed
    assert gateway.actions[-1]["args"] == {"charge": charge, "amount": amount, "currency": currency}
    assert type(gateway.actions[-1]["args"]["amount"]) is int
    counted(f"arguments: {name}", 1)


@flavours
@pytest.mark.parametrize(
    ("kind", "name", "given"),
    [
        ("decorated", "NaN", '{"amount": NaN}'),
        ("decorated", "invalid JSON", '{"amount": 1'),
        ("decorated", "invalid JSON", '[{"amount": 1}]'),
        ("decorated", "invalid JSON", '{"amount": "much"}'),
        ("by hand", "NaN", '{"amount": NaN}'),
        ("by hand", "invalid JSON", '{"amount": 1'),
        ("by hand", "invalid JSON", '[{"amount": 1}]'),
    ],
)
@pytest.mark.parametrize("approvals", ["interrupt", "tell"])
def test_invalid_arguments(
    flavour: str, name: str, given: str, kind: str, approvals: Any, gateway: Any, ran: Ran, counted: Counted
) -> None:
    gateway.allow()

    @function_tool
    def refund(amount: float) -> str:
        """Refund."""
        ran(amount)
        return "refunded"

    async def invoke(_: Any, arguments: str) -> str:
        ran(arguments)
        return "refunded"

    if kind == "by hand":
        refund = FunctionTool(
            "refund", "Refund.", {"type": "object", "properties": {}}, invoke, strict_json_schema=False
        )
    turn = [function_call("refund", given, call_id="c")]
    actions = {"refund": ToolAction(TOOL, goal="g")}
    one = guarded(gateway, flavour, agent(turn, tools=[refund]), actions, approvals=approvals)
    result = go(flavour, one)
    if result.interruptions:  # The framework pauses where its policy cannot read the arguments.
        state = saved(result, one)
        assert settled(state) == {}
        result = go(flavour, one, state)
    assert result.final_output == "done"
    assert "nvalid" in outputs(result)[-1] or "args" in outputs(result)[-1]
    gateway.assert_not_asked()
    counted(f"arguments: {name}", 0, f"{kind} {approvals}")


@flavours
def test_tool_by_hand_runs_with_the_evaluated_arguments(flavour: str, gateway: Any, ran: Ran) -> None:
    gateway.allow()

    async def invoke(_: Any, arguments: str) -> str:
        ran(json.loads(arguments, object_pairs_hook=list))
        return "refunded"

    schema = {"type": "object", "properties": {}}
    refund = FunctionTool("refund", "Refund.", schema, invoke, strict_json_schema=False)
    turn = [function_call("refund", '{"amount": 90000, "amount": 4900}', call_id="c")]
    go(flavour, guarded(gateway, flavour, agent(turn, tools=[refund]), {"refund": REFUND_ANY}))
    assert ran.values == [[("amount", 4900)]]
    assert gateway.actions[-1]["args"] == {"amount": 4900}


@flavours
def test_question_about_a_pause_enforces_nothing(flavour: str, gateway: Any, refund: FunctionTool, ran: Ran) -> None:
    gateway.allow()
    go(flavour, guarded(gateway, flavour, agent([call()], tools=[refund])))
    assert [one["mode"] for one in gateway.actions] == ["monitor", "enforce"]
    go(flavour, guarded(gateway, flavour, agent([call()], tools=[refund]), approvals="tell"))
    assert [one["mode"] for one in gateway.actions[2:]] == ["enforce"]
    assert ran.count == 2


class Line(BaseModel):
    item: str
    cents: int = 100


@flavours
def test_models_and_context(flavour: str, gateway: Any, ran: Ran) -> None:
    gateway.allow()

    @function_tool(strict_mode=False)
    def order(context: RunContextWrapper[Any], lines: list[Line]) -> str:
        """Order."""
        ran((context.context, lines))
        return "ordered"

    turn = [function_call("order", {"lines": [{"item": "pen"}]}, call_id="c")]
    one = guarded(gateway, flavour, agent(turn, tools=[order]), {"order": ToolAction("order", goal="g")})
    go(flavour, one, context="mine")
    assert ran.values == [("mine", [Line(item="pen", cents=100)])]
    assert gateway.actions[-1]["args"] == {"lines": [{"item": "pen", "cents": 100}]}


@flavours
def test_validation_that_changes_its_own_result_is_blocked(flavour: str, gateway: Any, ran: Ran) -> None:
    gateway.allow()

    @function_tool
    def refund(amount: Annotated[int, BeforeValidator(lambda one: 2 * one)]) -> str:
        """Refund."""
        ran(amount)
        return "refunded"

    turn = [function_call("refund", {"amount": 4900}, call_id="c")]
    one = guarded(gateway, flavour, agent(turn, tools=[refund]), {"refund": ToolAction(TOOL, goal="g")})
    assert "validation changes its own result" in outputs(go(flavour, one))[0]
    assert ran.count == 0


# Coverage


@pytest.mark.parametrize("form", ["agent", "list"])
def test_unmapped_tool_is_an_error(form: str, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    one = agent([call()], tools=[refund])
    with pytest.raises(ActPassConfigError, match="none for 'refund'"):
        guard_tools(gateway.client(), one if form == "agent" else one.tools, {})  # type: ignore[call-overload]
    with pytest.raises(ActPassConfigError, match="found 'refnud'"):
        guard_tools(gateway.client(), [refund], {"refund": REFUND, "refnud": REFUND})
    counted("coverage: unmapped", 0, form)


@flavours
def test_tool_added_later_is_denied(flavour: str, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    gateway.allow()
    one = guarded(gateway, flavour, agent([call()], tools=[]), {})
    one.tools.append(refund)
    assert text_of(go(flavour, one)) == f"refund was not run: deny (actpass.unmapped_tool). {DENIED}"
    counted("coverage: added later", 0)


@flavours
def test_clone_is_guarded(flavour: str, gateway: Any, refund: FunctionTool, ran: Ran) -> None:
    gateway.deny()
    one = guarded(gateway, flavour, agent([call()], tools=[refund]))
    assert "test.deny" in text_of(go(flavour, one.clone(name="other")))
    assert ran.count == 0


@pytest.mark.parametrize("tool", [WebSearchTool(), LocalShellTool(executor=lambda _: "")])
def test_tool_that_cannot_be_guarded_is_an_error(
    tool: Any, gateway: Any, refund: FunctionTool, counted: Counted
) -> None:
    one = agent([call()], tools=[refund, tool])
    with pytest.raises(ActPassConfigError, match=f"'{tool.name}', which cannot be guarded"):
        guard_tools(gateway.client(), one, {"refund": REFUND, tool.name: REFUND})
    guard_tools(gateway.client(), one, {"refund": REFUND, tool.name: UNGUARDED})
    one.tools.append(dataclasses.replace(tool))
    is_local = isinstance(tool, LocalShellTool)
    counted("coverage: client-side" if is_local else "coverage: provider-executed", 0)


@flavours
def test_unguarded(flavour: str, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    go(flavour, guarded(gateway, flavour, agent([call()], tools=[refund]), {"refund": UNGUARDED}))
    gateway.assert_not_asked()
    counted("unguarded", 1)


@flavours
@pytest.mark.parametrize("form", ["agent", "handoff"])
def test_handoff(flavour: str, form: str, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    gateway.deny()
    target = agent([call()], tools=[refund], name="billing")
    to = target if form == "agent" else handoff(target)
    first = agent([function_call("transfer_to_billing", {}, call_id="h")], tools=[], handoffs=[to])
    target.handoffs = [first]  # A cycle.
    result = go(flavour, guarded(gateway, flavour, first))
    assert "test.deny" in outputs(result)[-1]
    counted("coverage: handoff", 0, form)


@flavours
def test_handoff_added_later(flavour: str, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    gateway.allow()
    first = guarded(gateway, flavour, agent([function_call("transfer_to_billing", {}, call_id="h")], tools=[]), {})
    first.handoffs = [agent([call()], tools=[refund], name="billing")]
    assert DENIED in outputs(go(flavour, first))[-1]
    counted("coverage: added later", 0, "handoff")


def test_handoff_to_an_unknown_agent_is_an_error(gateway: Any, refund: FunctionTool) -> None:
    to = handoff(agent(tools=[refund], name="billing"))
    to._agent_ref = None
    with pytest.raises(ActPassConfigError, match="transfer_to_billing"):
        guard_tools(gateway.client(), agent(tools=[], handoffs=[to]), {"refund": REFUND})


@flavours
@pytest.mark.parametrize("depth", [1, 2])
def test_agent_as_tool(flavour: str, depth: int, gateway: Any, refund: FunctionTool, counted: Counted) -> None:
    gateway.deny()
    one = agent([call()], tools=[refund], name="inner")
    actions: Any = {"refund": REFUND}
    for level in range(depth):
        name = f"delegate{level}"
        tool = one.as_tool(name, "Delegate.")
        one = agent([function_call(name, {"input": "refund"}, call_id=name)], tools=[tool], name=f"outer{level}")
        actions[name] = UNGUARDED
    go(flavour, guarded(gateway, flavour, one, actions))
    gateway.assert_asked(TOOL, times=2)  # Whether to pause, and the decision.
    counted("coverage: agent as tool" if depth == 1 else "coverage: sub-agent", 0)


@flavours
def test_approval_inside_an_agent_as_tool(flavour: str, real_gateway: Real, refund: FunctionTool, ran: Ran) -> None:
    inner = agent([call(25000)], tools=[refund], name="inner")
    one = agent([function_call("delegate", {"input": "x"}, call_id="d")], tools=[inner.as_tool("delegate", "D.")])
    one = guarded(real_gateway, flavour, one, {"refund": REFUND, "delegate": UNGUARDED})
    result = go(flavour, one)
    state = saved(result, one)
    waiting = settled(state)
    real_gateway.approve(approval_of(waiting))
    assert settled(state, waiting) == {}
    go(flavour, one, state)
    assert ran.values == [("ch_1", 25000, "usd")]


class Server(MCPServer):
    """An MCP server in the test's process."""

    def __init__(self, ran: Ran, **members: Any) -> None:
        super().__init__(**members)
        self._ran = ran

    @property
    def name(self) -> str:
        return "billing"

    async def connect(self) -> None:
        pass

    async def cleanup(self) -> None:
        pass

    async def list_tools(self, *_: Any, **__: Any) -> list[MCPTool]:
        schema = {"type": "object", "properties": {"amount": {"type": "integer"}}}
        return [MCPTool.model_validate({"name": "refund", "inputSchema": schema})]

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> CallToolResult:
        self._ran(arguments)
        return CallToolResult.model_validate({"content": [{"type": "text", "text": "refunded"}]})

    async def list_prompts(self) -> Any:
        raise NotImplementedError

    async def get_prompt(self, name: str, arguments: Any = None) -> Any:
        raise NotImplementedError


@flavours
@pytest.mark.parametrize("clone", [False, True])
def test_mcp_server(flavour: str, clone: bool, gateway: Any, ran: Ran, counted: Counted) -> None:
    turn = [function_call("refund", {"amount": 4900}, call_id="c")]
    for actions, expected in (
        ({"refund": REFUND_ANY}, 1),
        ({"refund": REFUND_ANY}, 0),
        ({}, 0),
        ({"refund": UNGUARDED}, 1),
    ):
        ran.values.clear()
        one = agent(turn, tools=[], mcp_servers=[Server(ran)])
        gateway.answer(allow() if expected else deny())
        one = guarded(gateway, flavour, one, actions)
        result = go(flavour, one.clone() if clone else one)
        assert ran.count == expected
        assert ("was not run" in outputs(result)[0]) == (not expected)
    ran.values.clear()
    counted("coverage: namespaced", 0, "MCP server")


def served(gateway: Any, flavour: str, ran: Ran, amount: int = 25000, **members: Any) -> Agent[Any]:
    """Return an agent with a guarded MCP server whose tool is called."""
    name = "mcp_billing__refund" if "mcp_config" in members else "refund"
    turn = [call(amount, id="c", name=name)]
    server = Server(ran, require_approval=members.pop("require_approval", None))
    one = agent(turn, tools=[], mcp_servers=[server], **members)
    return guarded(gateway, flavour, one)


PREFIXED = {"mcp_config": {"include_server_in_tool_names": True}}


@flavours
@pytest.mark.parametrize("members", [{}, PREFIXED], ids=["bare", "prefixed"])
@pytest.mark.parametrize("clone", [False, True])
def test_mcp_server_pauses(
    flavour: str, members: Any, clone: bool, real_gateway: Real, ran: Ran, counted: Counted
) -> None:
    one = served(real_gateway, flavour, ran, **members)
    one = one.clone() if clone else one
    result = go(flavour, one)
    assert len(result.interruptions) == 1
    waiting = settled(saved(result, one))
    assert real_gateway.pending() == [approval_of(waiting, "c")]
    other = served(real_gateway, flavour, ran, **members)  # As in another process.
    state = saved(result, other)
    assert settled(state, waiting) == waiting
    real_gateway.approve(approval_of(waiting, "c"))
    assert settled(state, waiting) == {}
    go(flavour, other, state)
    assert ran.values == [{"charge": "ch_1", "amount": 25000, "currency": "usd"}]
    counted("approved in another process", 1, f"MCP server{' prefixed' * bool(members)}{' clone' * clone}")
    state = saved(result, other)
    settled(state, waiting)
    other.model = scripted()
    assert "was not run" in outputs(go(flavour, other, state))[-1]
    counted("saved state resumed twice", 1, f"MCP server{' prefixed' * bool(members)}{' clone' * clone}")


@flavours
def test_mcp_server_rejected(flavour: str, real_gateway: Real, ran: Ran, counted: Counted) -> None:
    one = served(real_gateway, flavour, ran)
    result = go(flavour, one)
    state = saved(result, one)
    waiting = settled(state)
    real_gateway.reject(approval_of(waiting, "c"))
    assert settled(state, waiting) == {}
    assert "deny (approval.rejected)" in outputs(go(flavour, one, state))[-1]
    counted("approval rejected", 0, "MCP server")


@flavours
def test_mcp_server_approved_only_in_the_framework(
    flavour: str, real_gateway: Real, ran: Ran, counted: Counted
) -> None:
    one = served(real_gateway, flavour, ran)
    result = go(flavour, one)
    state = saved(result, one)
    state.approve(state.get_interruptions()[0])
    assert "require_approval" in outputs(go(flavour, one, state))[-1]
    counted("approved only in the framework", 0, "MCP server")


@flavours
@pytest.mark.parametrize("policy", ["always", {"refund": True}])
def test_approval_policy_of_an_mcp_server_is_left_to_the_caller(
    flavour: str, policy: Any, gateway: Any, ran: Ran
) -> None:
    gateway.allow()
    one = served(gateway, flavour, ran, require_approval=policy)
    result = go(flavour, one)
    state = saved(result, one)
    assert settled(state) == {}
    assert len(state.get_interruptions()) == 1
    assert ran.count == 0
    state.approve(state.get_interruptions()[0])
    go(flavour, one, state)
    assert ran.count == 1


REFUND_ANY = ToolAction(TOOL, goal="g")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"approvals": "maybe"}, "approvals: expected"),
        ({"approvals": "hold"}, "hold: expected seconds"),
        ({"hold": 3}, "hold: expected no value"),
    ],
)
def test_invalid_option(options: Any, problem: str, gateway: Any) -> None:
    with pytest.raises(ActPassConfigError, match=problem):
        guard_tools(gateway.client(), [], {}, **options)


def test_failed_gate_leaves_the_state_unsettled(hostile: Hostile, gateway: Any, refund: FunctionTool, ran: Ran) -> None:
    from actpass import ActPassError

    gateway.answer(require_approval(id="apr_1"))
    one = guarded(gateway, "run", agent([call()], tools=[refund]))
    result = go("run", one)
    waiting = settled(saved(result, one))
    state = saved(result, guarded(hostile, "run", agent(tools=[refund])))
    with pytest.raises(ActPassError):
        settled(state, waiting)
    assert len(state.get_interruptions()) == 1
    assert ran.count == 0


# Documentation


def test_documented_agent_decides(documented: Real) -> None:
    setup, running = blocks("openai-agents.md")
    agent = executed(setup)["agent"]
    agent.model = scripted([call(4900, id="a")], [call(25000, id="b")], [call(90000, id="c")])
    names = executed(running)
    saved_text = asyncio.run(names["start"](agent, "refund it"))
    [pending] = json.loads(saved_text)["waiting"].values()
    assert asyncio.run(names["go_on"](agent, saved_text)) == {"b": pending}
    documented.approve(pending["approval_request_id"])
    result = asyncio.run(names["go_on"](agent, saved_text))
    assert [one[:40] for one in outputs(result)] == [
        "refunded 49.00",
        "refunded 250.00",
        "stripe.refund.create was not run: deny (",
    ]


def test_example_refunds_after_the_approval() -> None:
    printed = ["paused: stripe.refund.create of 250.00", "refunded 250.00", "The refund is on its way."]
    assert example("openai_agents_refund.py") == printed
