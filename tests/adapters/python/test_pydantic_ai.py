"""The Pydantic AI adapter, with real runs and a scripted model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from actpass import UNGUARDED, ActPassConfigError, ToolAction
from actpass.integrations.pydantic_ai import ActPass
from actpass.testing import allow, deny, require_approval
from conftest import Hostile, Ran, Real, blocks, example, executed
from pydantic import BaseModel, BeforeValidator
from pydantic_ai import Agent, DeferredToolRequests, ModelRetry, RunContext, ToolApproved, ToolDenied
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import UserError
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.tools import Tool, ToolDefinition
from pydantic_ai.toolsets import ExternalToolset, FunctionToolset, WrapperToolset
from slow_gateway import SlowGateway
from support_pydantic_ai import (
    FLAVOURS,
    REFUND,
    TOOL,
    agent,
    approval_of,
    call,
    go,
    guard,
    raw,
    resumed,
    scripted,
)

FRAMEWORK = "pydantic-ai"
flavours = pytest.mark.parametrize("flavour", FLAVOURS)
ANY = {"refund": ToolAction(TOOL, goal="g")}
DENIED = "The tool is not available to this agent. Do not call it again."
Counted = Callable[..., None]
Refund = Callable[..., str]


@pytest.fixture
def refund(ran: Ran) -> Refund:
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
    [text] = result.answers()
    assert result.output == "done"
    assert "was not run" in text
    return str(text)


# Decisions


@flavours
def test_allow(flavour: str, real_gateway: Real, refund: Refund, ran: Ran, counted: Counted) -> None:
    result = go(flavour, agent([call(4900)], tools=[refund], capabilities=[guard(real_gateway, flavour)]))
    assert ran.values == [("ch_1", 4900, "usd")]
    assert result.answers() == ["refunded 4900"]
    counted("allow", 1)


@flavours
def test_deny_is_a_failed_tool_call(flavour: str, real_gateway: Real, refund: Refund, counted: Counted) -> None:
    result = go(flavour, agent([call(90000)], tools=[refund], capabilities=[guard(real_gateway, flavour)]))
    assert text_of(result).startswith(f"{TOOL} was not run: deny (refund.over_limit).")
    [part] = [part for one in result.messages for part in one.parts if part.part_kind == "tool-return"]
    assert part.outcome == "failed"
    counted("deny", 0)


@flavours
def test_denials_use_no_retries(flavour: str, gateway: Any, refund: Refund, ran: Ran) -> None:
    gateway.deny()
    turns = [[call(id=f"call_{index}")] for index in range(5)]
    result = go(flavour, agent(*turns, tools=[refund], capabilities=[guard(gateway, flavour)]))
    assert result.output == "done"
    assert ran.count == 0


@flavours
def test_warn(flavour: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    gateway.warn()
    result = go(flavour, agent([call()], tools=[refund], capabilities=[guard(gateway, flavour)]))
    assert "warn (test.warn)" in text_of(result)
    counted("warn", 0)


@flavours
def test_failed_gate(flavour: str, hostile: Hostile, refund: Refund, counted: Counted) -> None:
    result = go(flavour, agent([call()], tools=[refund], capabilities=[guard(hostile, flavour)]))
    assert "The policy decision could not be obtained." in text_of(result)
    counted(hostile.case, 0)


@flavours
def test_adapter_raises(flavour: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    gateway.allow()

    def broken(charge: str) -> str:
        raise LookupError(charge)

    actions = {"refund": ToolAction(TOOL, goal="g", resource=broken)}
    with pytest.raises(LookupError):
        go(flavour, agent([call()], tools=[refund], capabilities=[guard(gateway, flavour, actions)]))
    counted("adapter raises", 0)


@pytest.mark.parametrize("client", ["client", "async_client"])
def test_run_cancelled_before_the_decision(client: str, refund: Refund, counted: Counted) -> None:
    with SlowGateway() as slow:
        one = agent([call()], tools=[refund], capabilities=[ActPass(getattr(slow, client)(), {"refund": REFUND})])

        async def main() -> None:
            running = asyncio.create_task(one.run("refund it"))
            await asyncio.to_thread(slow.asked.wait, 30)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            slow.answer.set()
            await asyncio.to_thread(slow.answered.wait, 30)

        asyncio.run(main())
    counted("cancelled before the decision", 0, client)


@flavours
@pytest.mark.parametrize("is_async", [False, True])
def test_exception_of_the_tool_is_the_same_object(
    flavour: str, is_async: bool, gateway: Any, ran: Ran, counted: Counted
) -> None:
    gateway.allow()
    mine = LookupError("mine")

    def refund(amount: int) -> str:
        ran(amount)
        raise mine

    async def arefund(amount: int) -> str:
        return refund(amount)

    tool = Tool(arefund if is_async else refund, name="refund")
    with pytest.raises(LookupError) as raised:
        go(flavour, agent([raw({"amount": 1})], tools=[tool], capabilities=[guard(gateway, flavour, ANY)]))
    assert raised.value is mine
    counted("tool raises", 1)


# Approvals


def paused(gateway: Any, flavour: str, refund: Any, *turns: Any, **options: Any) -> tuple[Any, Any]:
    one = agent(*(turns or [[call(25000)]]), tools=[refund], capabilities=[guard(gateway, flavour, **options)])
    return one, go(flavour, one)


@flavours
def test_pending_ends_the_run(flavour: str, real_gateway: Real, refund: Refund, counted: Counted) -> None:
    _, result = paused(real_gateway, flavour, refund)
    assert isinstance(result.output, DeferredToolRequests)
    pending = result.output.metadata["call_1"]["actpass"]
    assert pending["args"] == {"charge": "ch_1", "amount": 25000, "currency": "usd"}
    assert real_gateway.pending() == [approval_of(result)]
    counted("approval pending", 0)


@flavours
def test_approved_in_another_process(
    flavour: str, real_gateway: Real, refund: Refund, ran: Ran, counted: Counted
) -> None:
    one, result = paused(real_gateway, flavour, refund)
    real_gateway.approve(approval_of(result))
    result = resumed(flavour, one, result)
    assert ran.values == [("ch_1", 25000, "usd")]
    assert result.output == "done"
    counted("approved in another process", 1)


@flavours
def test_rejected(flavour: str, real_gateway: Real, refund: Refund, counted: Counted) -> None:
    one, result = paused(real_gateway, flavour, refund)
    real_gateway.reject(approval_of(result))
    assert "deny (approval.rejected)" in text_of(resumed(flavour, one, result))
    counted("approval rejected", 0)


@flavours
def test_expired(flavour: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    gateway.answer_next(require_approval(id="apr_1"), deny("approval.expired"))
    one, result = paused(gateway, flavour, refund)
    assert "deny (approval.expired)" in text_of(resumed(flavour, one, result))
    counted("approval expired", 0)


@flavours
def test_resumed_too_early(flavour: str, real_gateway: Real, refund: Refund, ran: Ran, counted: Counted) -> None:
    one, first = paused(real_gateway, flavour, refund)
    again = resumed(flavour, one, first)
    assert approval_of(again) == approval_of(first)
    counted("resumed too early", 0)
    counted("approved only in the framework", 0)
    real_gateway.approve(approval_of(first))
    resumed(flavour, one, again)
    assert ran.count == 1


@flavours
def test_denied_in_the_framework(flavour: str, real_gateway: Real, refund: Refund, ran: Ran) -> None:
    one, result = paused(real_gateway, flavour, refund)
    real_gateway.approve(approval_of(result))
    result = resumed(flavour, one, result, approved=ToolDenied("not today"))
    assert "not today" in result.answers()[0]
    assert ran.count == 0


@flavours
@pytest.mark.parametrize("lost", [{}, {"call_1": {"actpass": None}}, {"call_1": {"actpass": {}}}])
def test_metadata_lost(flavour: str, lost: Any, real_gateway: Real, refund: Refund, ran: Ran, counted: Counted) -> None:
    one, result = paused(real_gateway, flavour, refund)
    again = resumed(flavour, one, result, metadata=lost)
    assert approval_of(again) == approval_of(result)
    counted("metadata lost", 0)
    # The gateway finds the approval by its action.
    real_gateway.approve(approval_of(again))
    resumed(flavour, one, again, metadata=lost)
    assert ran.count == 1


@flavours
def test_saved_state_resumed_twice(flavour: str, real_gateway: Real, refund: Refund, counted: Counted) -> None:
    one, result = paused(real_gateway, flavour, refund)
    real_gateway.approve(approval_of(result))
    resumed(flavour, one, result)
    assert "deny (approval.spent)" in text_of(resumed(flavour, one, result))
    counted("saved state resumed twice", 1)


def test_two_runs_of_one_saved_state(real_gateway: Real, refund: Refund, counted: Counted) -> None:
    one, result = paused(real_gateway, "run", refund)
    real_gateway.approve(approval_of(result))
    results = result.output.build_results(approvals={"call_1": True}, metadata=result.output.metadata)

    async def main() -> None:
        runs = [one.run(message_history=result.saved(), deferred_tool_results=results) for _ in range(2)]
        await asyncio.gather(*runs)

    asyncio.run(main())
    counted("two runs of one saved state", 1)


@flavours
def test_arguments_edited_at_approval(flavour: str, real_gateway: Real, refund: Refund, counted: Counted) -> None:
    one, result = paused(real_gateway, flavour, refund)
    real_gateway.approve(approval_of(result))
    edited = ToolApproved(override_args={"charge": "ch_1", "amount": 26000})
    assert "deny (approval.action_mismatch)" in text_of(resumed(flavour, one, result, approved=edited))
    counted("arguments edited at approval", 0)


@flavours
def test_same_call_after_approval_needs_another(
    flavour: str, real_gateway: Real, refund: Refund, counted: Counted
) -> None:
    one, result = paused(real_gateway, flavour, refund, [call(25000)], [call(25000, id="call_2")])
    real_gateway.approve(approval_of(result))
    again = resumed(flavour, one, result)
    assert approval_of(again, "call_2") != approval_of(result)
    counted("same call again after approval", 1)


@flavours
def test_tell(flavour: str, real_gateway: Real, refund: Refund, counted: Counted) -> None:
    _, result = paused(real_gateway, flavour, refund, approvals="tell")
    assert "require_approval" in text_of(result)
    assert len(real_gateway.pending()) == 1
    counted("approval pending", 0, "tell")


@flavours
def test_hold(flavour: str, real_gateway: Real, refund: Refund, counted: Counted) -> None:
    def person() -> None:
        until = time.monotonic() + 60
        while not (waiting := real_gateway.pending()):
            assert time.monotonic() < until
            time.sleep(0.02)
        real_gateway.approve(waiting[0])

    thread = threading.Thread(target=person)
    thread.start()
    paused(real_gateway, flavour, refund, approvals="hold", hold=60)
    thread.join()
    counted("approval held", 1)


@flavours
def test_held_too_long(flavour: str, real_gateway: Real, refund: Refund, counted: Counted) -> None:
    _, result = paused(real_gateway, flavour, refund, approvals="hold", hold=0.3)
    assert "actpass.approval_timeout" in text_of(result)
    counted("approval held too long", 0)


@flavours
def test_interrupt_without_deferred_requests_is_an_error(
    flavour: str, real_gateway: Real, refund: Refund, ran: Ran
) -> None:
    one = agent([call(25000)], tools=[refund], capabilities=[guard(real_gateway, flavour)], output_type=str)
    with pytest.raises(UserError, match="DeferredToolRequests"):
        go(flavour, one)
    assert ran.count == 0


@flavours
def test_approval_of_the_framework_and_of_the_gateway(
    flavour: str, real_gateway: Real, refund: Refund, ran: Ran
) -> None:
    one, result = paused(real_gateway, flavour, Tool(refund, requires_approval=True))
    assert real_gateway.pending() == []
    result = resumed(flavour, one, result)
    real_gateway.approve(approval_of(result))
    resumed(flavour, one, result)
    assert ran.count == 1


# Several calls in a turn


@flavours
def test_allow_and_deny(flavour: str, real_gateway: Real, refund: Refund, ran: Ran, counted: Counted) -> None:
    turn = [call(4900, id="a"), call(90000, id="b", charge="ch_2")]
    _, result = paused(real_gateway, flavour, refund, turn)
    assert result.answers()[0] == "refunded 4900"
    assert "refund.over_limit" in result.answers()[1]
    assert ran.values == [("ch_1", 4900, "usd")]
    counted("parallel: allow and deny", 1)


@flavours
def test_allow_and_approval(flavour: str, real_gateway: Real, refund: Refund, ran: Ran, counted: Counted) -> None:
    turn = [call(4900, id="a"), call(25000, id="b", charge="ch_2")]
    one, result = paused(real_gateway, flavour, refund, turn)
    assert ran.values == [("ch_1", 4900, "usd")]
    real_gateway.approve(approval_of(result, "b"))
    resumed(flavour, one, result)
    assert ran.values == [("ch_1", 4900, "usd"), ("ch_2", 25000, "usd")]
    counted("parallel: allow and approval", 2)


@flavours
def test_two_approvals_are_not_crossed(
    flavour: str, real_gateway: Real, refund: Refund, ran: Ran, counted: Counted
) -> None:
    turn = [call(25000, id="a"), call(26000, id="b", charge="ch_2")]
    one, result = paused(real_gateway, flavour, refund, turn)
    real_gateway.approve(approval_of(result, "b"))
    result = resumed(flavour, one, result)
    assert ran.values == [("ch_2", 26000, "usd")]
    real_gateway.approve(approval_of(result, "a"))
    resumed(flavour, one, result)
    assert ran.values == [("ch_2", 26000, "usd"), ("ch_1", 25000, "usd")]
    counted("parallel: two approvals", 2)


@flavours
def test_same_call_id_twice(flavour: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    gateway.allow()
    paused(gateway, flavour, refund, [call(4900)], [call(4900)])
    gateway.assert_asked(TOOL, times=2)
    counted("same call id twice", 2)


# Other capabilities and toolsets


class Mutate(AbstractCapability[Any]):
    """Changes the amount of every call in a hook."""

    def __init__(self, *, in_place: bool) -> None:
        self._in_place = in_place

    async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
        if not self._in_place:
            return {**args, "amount": 90000}
        args["amount"] = 90000
        return args


class MutateToolset(WrapperToolset[Any]):
    """Changes the amount of every call."""

    async def call_tool(self, name: str, tool_args: Any, ctx: Any, tool: Any) -> Any:
        return await self.wrapped.call_tool(name, {**tool_args, "amount": 90000}, ctx, tool)


class Wrap(AbstractCapability[Any]):
    """Wraps the toolset."""

    def get_wrapper_toolset(self, toolset: Any) -> Any:
        return MutateToolset(toolset)


@flavours
@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("kind", ["in place", "by copy", "toolset"])
def test_hook_changes_arguments(
    flavour: str, position: str, kind: str, real_gateway: Real, refund: Refund, counted: Counted
) -> None:
    other = Wrap() if kind == "toolset" else Mutate(in_place=kind == "in place")
    ours = guard(real_gateway, flavour)
    one = agent([call(4900)], tools=[refund], capabilities=[other, ours] if position == "before" else [ours, other])
    assert "refund.over_limit" in text_of(go(flavour, one))
    counted(f"hook {position} changes arguments{' in place' * (kind == 'in place')}", 0, kind)


@flavours
@pytest.mark.parametrize("position", ["before", "after"])
def test_hook_clears_the_verdict(
    flavour: str, position: str, real_gateway: Real, refund: Refund, counted: Counted
) -> None:
    class Clear(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            try:
                return await handler(args)
            except Exception:
                return "refunded"

    ours = guard(real_gateway, flavour)
    order = [Clear(), ours] if position == "before" else [ours, Clear()]
    go(flavour, agent([call(90000)], tools=[refund], capabilities=order))
    counted("hook clears the verdict", 0, position)


@flavours
@pytest.mark.parametrize("position", ["before", "after"])
def test_hook_raises(flavour: str, position: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    gateway.allow()

    class Raise(AbstractCapability[Any]):
        async def before_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any) -> Any:
            raise LookupError

    ours = guard(gateway, flavour)
    order = [Raise(), ours] if position == "before" else [ours, Raise()]
    with pytest.raises(LookupError):
        go(flavour, agent([call()], tools=[refund], capabilities=order))
    counted("hook raises", 0, position)


@flavours
@pytest.mark.parametrize("place", ["inside", "outside"])
def test_each_attempt_of_a_retry_has_its_decision(
    flavour: str, place: str, gateway: Any, ran: Ran, counted: Counted
) -> None:
    gateway.answer_next(allow(), allow(), deny("refund.twice"))

    def refund(amount: int) -> str:
        ran(amount)
        raise LookupError("after the effect")

    class Retry(AbstractCapability[Any]):
        async def wrap_tool_execute(self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Any) -> Any:
            while True:
                try:
                    return await handler(args)
                except LookupError:
                    continue

    ours = guard(gateway, flavour, ANY)
    order = [Retry(), ours] if place == "outside" else [ours, Retry()]
    result = go(flavour, agent([raw({"amount": 1})], tools=[refund], capabilities=order))
    assert "refund.twice" in text_of(result)
    counted(f"retry {place}", 2)


@flavours
def test_tool_that_fails_after_its_effect(flavour: str, gateway: Any, ran: Ran, counted: Counted) -> None:
    gateway.allow()

    def refund(amount: int) -> str:
        ran(amount)
        raise ModelRetry("after the effect")

    turns = [[raw({"amount": 1}, id=name)] for name in ("a", "b")]
    tool = Tool(refund, max_retries=5)
    go(flavour, agent(*turns, tools=[tool], capabilities=[guard(gateway, flavour, ANY)]))
    gateway.assert_asked(TOOL, times=2)
    counted("tool fails after its effect", 2)


# Arguments: the evaluated ones are the executed ones


@flavours
@pytest.mark.parametrize(
    ("name", "given", "executed"),
    [
        ("string for a number", '{"charge": "ch_1", "amount": "4900"}', ("ch_1", 4900, "usd")),
        ("missing default", '{"charge": "ch_1", "amount": 4900}', ("ch_1", 4900, "usd")),
        ("4900.0", '{"charge": "ch_1", "amount": 4900.0}', ("ch_1", 4900, "usd")),
        ("duplicate keys", '{"charge": "ch_1", "amount": 90000, "amount": 4900}', ("ch_1", 4900, "usd")),
        ("bool", '{"charge": "ch_1", "amount": true}', ("ch_1", 1, "usd")),
    ],
)
def test_arguments(
    flavour: str, name: str, given: str, executed: Any, gateway: Any, refund: Refund, ran: Ran, counted: Counted
) -> None:
    gateway.allow()
    go(flavour, agent([raw(given)], tools=[refund], capabilities=[guard(gateway, flavour)]))
    assert ran.values == [executed]
    charge, amount, currency = executed
    assert gateway.actions[0]["args"] == {"charge": charge, "amount": amount, "currency": currency}
    assert type(gateway.actions[0]["args"]["amount"]) is int
    counted(f"arguments: {name}", 1)


@flavours
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("extra member", '{"charge": "ch_1", "amount": 4900, "more": 1}'),
        ("invalid JSON", '{"charge": "ch_1", "amount"}'),
        ("invalid JSON", '[{"amount": 1}]'),
        ("invalid JSON", '{"charge": "ch_1", "amount": "much"}'),
    ],
)
def test_arguments_that_the_framework_rejects(
    flavour: str, name: str, given: str, gateway: Any, refund: Refund, counted: Counted
) -> None:
    gateway.allow()
    result = go(flavour, agent([raw(given)], tools=[refund], capabilities=[guard(gateway, flavour)]))
    assert result.output == "done"
    gateway.assert_not_asked()
    counted(f"arguments: {name}", 0)


@flavours
def test_not_a_number(flavour: str, gateway: Any, ran: Ran, counted: Counted) -> None:
    gateway.allow()

    def refund(amount: float) -> str:
        ran(amount)
        return "refunded"

    one = agent([raw('{"amount": NaN}')], tools=[refund], capabilities=[guard(gateway, flavour, ANY)])
    assert "args.amount" in text_of(go(flavour, one))
    gateway.assert_not_asked()
    counted("arguments: NaN", 0)


class Line(BaseModel):
    item: str
    cents: int = 100


@flavours
def test_models_and_context(flavour: str, gateway: Any, ran: Ran) -> None:
    gateway.allow()

    def order(
        ctx: RunContext[str], lines: list[Line], twice: Annotated[int, BeforeValidator(lambda one: 2 * one)]
    ) -> str:
        ran((ctx.deps, lines, twice))
        return "ordered"

    actions = {"order": ToolAction("order", goal="g")}
    turn = [raw({"lines": [{"item": "pen"}], "twice": 2}, name="order")]
    go(flavour, agent(turn, tools=[order], capabilities=[guard(gateway, flavour, actions)], deps_type=str), deps="mine")
    assert ran.values == [("mine", [Line(item="pen", cents=100)], 4)]
    assert gateway.actions[0]["args"] == {"lines": [{"item": "pen", "cents": 100}], "twice": 4}


# Coverage


@flavours
def test_unmapped_tool_is_an_error_at_the_first_request(
    flavour: str, gateway: Any, refund: Refund, counted: Counted
) -> None:
    with pytest.raises(ActPassConfigError, match="none for 'refund'"):
        go(flavour, agent([call()], tools=[refund], capabilities=[guard(gateway, flavour, {})]))
    counted("coverage: unmapped", 0)


@flavours
@pytest.mark.parametrize("way", ["toolsets", "override"])
def test_tool_added_later_is_denied(
    flavour: str, way: str, gateway: Any, refund: Refund, ran: Ran, counted: Counted
) -> None:
    gateway.allow()
    one = agent([call()], [call(name="wipe", id="w")], tools=[refund], capabilities=[guard(gateway, flavour)])
    go(flavour, one)
    ran.values.clear()

    def wipe(charge: str, amount: int, currency: str) -> str:
        ran("wiped")
        return "wiped"

    if way == "toolsets":
        result = go(flavour, one, toolsets=[FunctionToolset([wipe])])
    else:
        with one.override(tools=[Tool(refund), Tool(wipe)]):
            result = go(flavour, one)
    assert result.answers()[-1] == f"wipe was not run: deny (actpass.unmapped_tool). {DENIED}"
    ran.values.remove(("ch_1", 4900, "usd"))
    counted("coverage: added later", 0, way)


@flavours
def test_toolset_with_a_prefix(flavour: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    gateway.deny()
    toolset = FunctionToolset([refund]).prefixed("pay")
    actions = {"pay_refund": REFUND}
    turn = [call(name="pay_refund")]
    go(flavour, agent(turn, toolsets=[toolset], capabilities=[guard(gateway, flavour, actions)]))
    gateway.assert_asked(TOOL, times=1)
    with pytest.raises(ActPassConfigError, match="pay_refund"):
        go(flavour, agent(turn, toolsets=[toolset], capabilities=[guard(gateway, flavour)]))
    counted("coverage: namespaced", 0)


@flavours
def test_renamed_tool(flavour: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    gateway.deny()
    toolset = FunctionToolset([refund]).renamed({"harmless": "refund"})
    with pytest.raises(ActPassConfigError, match="harmless"):
        go(flavour, agent([call(name="harmless")], toolsets=[toolset], capabilities=[guard(gateway, flavour)]))
    counted("coverage: aliased", 0)


@flavours
def test_native_tool_is_an_error(flavour: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    from pydantic_ai.capabilities import NativeTool

    extra = NativeTool(WebSearchTool())
    with pytest.raises(ActPassConfigError, match="native tools 'web_search'"):
        go(flavour, agent([call()], tools=[refund], capabilities=[extra, guard(gateway, flavour)]))
    counted("coverage: provider-executed", 0)


@flavours
def test_external_tool_is_an_error(flavour: str, gateway: Any, counted: Counted) -> None:
    toolset: Any = ExternalToolset([ToolDefinition(name="refund")])
    with pytest.raises(ActPassConfigError, match="external tools 'refund'"):
        go(flavour, agent([call()], toolsets=[toolset], capabilities=[guard(gateway, flavour)]))
    one = agent([call()], toolsets=[toolset], capabilities=[guard(gateway, flavour, {"refund": UNGUARDED})])
    assert isinstance(go(flavour, one).output, DeferredToolRequests)
    counted("coverage: client-side", 0)


def test_function_as_output_type_is_an_error(gateway: Any, refund: Refund, counted: Counted) -> None:
    with pytest.raises(ActPassConfigError, match="output functions 'refund'"):
        agent([call()], capabilities=[guard(gateway, "run")], output_type=[refund, str])
    agent([call()], capabilities=[guard(gateway, "run", {"refund": UNGUARDED})], output_type=[refund, str])
    counted("coverage: bypass", 0)


@flavours
def test_capability_of_one_run(flavour: str, gateway: Any, refund: Refund, ran: Ran) -> None:
    gateway.deny()
    one: Agent[Any, Any] = Agent(scripted([call()]), tools=[refund])
    assert "test.deny" in text_of(go(flavour, one, capabilities=[guard(gateway, flavour)]))
    assert ran.count == 0


@flavours
def test_unguarded(flavour: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    go(flavour, agent([call()], tools=[refund], capabilities=[guard(gateway, flavour, {"refund": UNGUARDED})]))
    gateway.assert_not_asked()
    counted("unguarded", 1)


@flavours
@pytest.mark.parametrize("name", ["coverage: sub-agent", "coverage: agent as tool"])
def test_agent_inside_a_tool(flavour: str, name: str, gateway: Any, refund: Refund, counted: Counted) -> None:
    gateway.deny()
    own = [guard(gateway, flavour)] if name.endswith("sub-agent") else []
    inner = agent([call()], tools=[refund], capabilities=own)

    async def delegate(task: str) -> str:
        return str((await inner.run(task)).output)

    # Its tools have their own capability, or the delegation itself is guarded.
    action = UNGUARDED if own else ToolAction("delegate", goal="g")
    turn = [raw({"task": "refund"}, name="delegate")]
    go(flavour, agent(turn, tools=[delegate], capabilities=[guard(gateway, flavour, {"delegate": action})]))
    gateway.assert_asked(times=1)
    counted(name, 0)


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
        ActPass(gateway.client(), {}, **options)


# Documentation


def test_documented_agent_decides(documented: Real) -> None:
    setup, continuing = blocks("pydantic-ai.md")
    model = scripted([call(4900, id="a")], [call(25000, id="b")], [call(90000, id="c")])
    one = executed(setup, model=model)["agent"]
    result = go("run_sync", one)
    documented.approve(approval_of(result, "b"))
    done = executed(continuing)["go_on"](one, result.saved(), result.output)
    parts = [part for message in done.all_messages() for part in message.parts if part.part_kind == "tool-return"]
    assert [str(part.content)[:40] for part in parts] == [
        "refunded 49.00",
        "refunded 250.00",
        "stripe.refund.create was not run: deny (",
    ]


def test_example_refunds_after_the_approval() -> None:
    assert example("pydantic_ai_refund.py") == ["paused: stripe.refund.create of 250.00", "refunded 250.00"]
