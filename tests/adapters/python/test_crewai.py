"""The adapter for CrewAI with real crews and a scripted model, with native tool calls and with ReAct."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from actpass import UNGUARDED, ActPassConfigError, ToolAction
from actpass.integrations.crewai import GuardedTool, guard_tools, refuse_unguarded
from actpass.testing import ScriptedGateway
from conftest import WITHIN, Hostile, Ran, Real, blocks, example, executed
from crewai import Agent, BaseLLM, Crew, Task
from crewai.hooks import (
    clear_all_tool_call_hooks,
    register_after_tool_call_hook,
    register_before_tool_call_hook,
)
from crewai.tools import BaseTool, tool
from pydantic import Field

FRAMEWORK = "crewai"
REFUND = ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
ACTIONS = {"refund": REFUND, "search": UNGUARDED}
SMALL, MEDIUM, LARGE = 4900, 25000, 90000
MODES = ("native", "ReAct")
Record = Callable[..., None]
Call = tuple[str, Any]

pytestmark = pytest.mark.filterwarnings("ignore")


class Scripted(BaseLLM):
    """A model that makes one scripted call per turn, then answers."""

    model: str = "scripted"
    is_native: bool = True
    script: list[Any] = Field(default_factory=list)
    seen: list[str] = Field(default_factory=list)

    def supports_function_calling(self) -> bool:
        return self.is_native

    def call(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.append(str(messages))
        if not self.script:
            return "Thought: I now know the final answer\nFinal Answer: done" if not self.is_native else "done"
        turn = self.script.pop(0)
        calls = turn if isinstance(turn, list) else [turn]
        if self.is_native:
            return [
                {"id": "call_1", "type": "function", "function": {"name": name, "arguments": _text(given)}}
                for name, given in calls
            ]
        [(name, given)] = calls
        return f"Thought: use a tool\nAction: {name}\nAction Input: {_text(given)}\n"


def _text(given: Any) -> str:
    return given if isinstance(given, str) else json.dumps(given)


def refund_tool(ran: Ran, *, fails: bool = False) -> BaseTool:
    @tool("refund")
    def refund(charge: str, amount: int = 4900, currency: str = "usd") -> str:
        """Refund a charge."""
        ran(amount)
        if fails:
            raise ValueError("no such charge")
        return f"refunded {amount}"

    return refund


@tool("search")
def search(query: str) -> str:
    """Search."""
    return f"found {query}"


def refund(amount: Any = SMALL, **more: Any) -> Call:
    return "refund", {"charge": "ch_1", "amount": amount, "currency": "usd", **more}


def play(mode: str, tools: list[BaseTool], *script: Any) -> Scripted:
    """Run a crew of one agent, and return its model."""
    llm = Scripted(model="scripted", is_native=mode == "native", script=list(script))
    agent = Agent(role="support", goal="help", backstory="-", llm=llm, tools=tools, max_iter=20)
    task = Task(description="do it", expected_output="done", agent=agent)
    Crew(agents=[agent], tasks=[task], cache=True).kickoff()
    return llm


def client_of(gateway: Any, kind: str = "sync", **settings: Any) -> Any:
    return gateway.client(**settings) if kind == "sync" else gateway.async_client(**settings)


@pytest.fixture(autouse=True)
def _no_hooks() -> Iterator[None]:
    yield
    clear_all_tool_call_hooks()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
def test_allow_runs_once(gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str, kind: str) -> None:
    gateway.allow("stripe.refund.create")
    llm = play(mode, guard_tools([refund_tool(ran)], client_of(gateway, kind), ACTIONS), refund())
    assert ran.values == [SMALL] and any("refunded 4900" in one for one in llm.seen)
    assert gateway.actions[0]["args"] == {"charge": "ch_1", "amount": SMALL, "currency": "usd"}
    record_case(FRAMEWORK, "allow", ran.count, f"{mode}, {kind}")


@pytest.mark.parametrize("word", ["deny", "warn"])
@pytest.mark.parametrize("mode", MODES)
def test_blocked_decisions_run_nothing(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str, word: str
) -> None:
    getattr(gateway, word)("stripe.refund.create", reason_code="refund.no")
    llm = play(mode, guard_tools([refund_tool(ran)], gateway.client(), ACTIONS), refund())
    assert any(f"stripe.refund.create was not run: {word} (refund.no)." in one for one in llm.seen)
    assert ran.count == 0 and len(gateway.actions) == 1
    record_case(FRAMEWORK, word, ran.count, mode)


@pytest.mark.parametrize("mode", MODES)
def test_failed_gateway_runs_nothing(hostile: Hostile, ran: Ran, record_case: Record, mode: str) -> None:
    llm = play(mode, guard_tools([refund_tool(ran)], hostile.client(), ACTIONS), refund())
    assert any("stripe.refund.create was not run: deny (actpass." in one for one in llm.seen)
    assert ran.count == 0
    record_case(FRAMEWORK, hostile.case, ran.count, mode)


@pytest.mark.parametrize("mode", MODES)
def test_error_in_the_mapping_runs_nothing(gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str) -> None:
    gateway.allow()

    def resource(charge: str) -> str:
        raise RuntimeError("lookup failed")

    actions = {"refund": ToolAction("stripe.refund.create", goal="g", resource=resource)}
    play(mode, guard_tools([refund_tool(ran)], gateway.client(), actions), refund())
    assert ran.count == 0
    record_case(FRAMEWORK, "adapter raises", ran.count, mode)


@pytest.mark.parametrize("mode", MODES)
def test_tool_that_raises_runs_once(gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str) -> None:
    gateway.allow()
    llm = play(mode, guard_tools([refund_tool(ran, fails=True)], gateway.client(), ACTIONS), refund())
    assert any("ValueError: no such charge" in one for one in llm.seen)
    assert ran.count == 1 == len(gateway.actions)
    record_case(FRAMEWORK, "tool raises", ran.count, mode)
    record_case(FRAMEWORK, "retry outside", ran.count, mode)


@pytest.mark.parametrize("mode", MODES)
def test_failing_tool_has_a_decision_for_each_run(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str
) -> None:
    gateway.allow()
    tools = guard_tools([refund_tool(ran, fails=True)], gateway.client(), ACTIONS)
    play(mode, tools, refund(1), refund(2), refund(3))
    assert ran.values == [1, 2, 3] == [action["args"]["amount"] for action in gateway.actions]
    record_case(FRAMEWORK, "tool fails after its effect", ran.count, mode)


def test_equal_calls_are_not_cached(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    play("native", guard_tools([refund_tool(ran)], gateway.client(), ACTIONS), refund(), refund())
    assert ran.count == 2 == len(gateway.actions)
    record_case(FRAMEWORK, "same call id twice", ran.count)


@pytest.mark.parametrize("mode", MODES)
def test_approval_is_reported_and_spent_by_the_repeated_call(
    real_gateway: Real, ran: Ran, record_case: Record, mode: str
) -> None:
    client = real_gateway.client(agent_id="support")
    tools = guard_tools([refund_tool(ran)], client, ACTIONS)
    llm = play(mode, tools, refund(MEDIUM))
    assert any("A person must approve this first (approval apr_" in one for one in llm.seen) and ran.count == 0
    record_case(FRAMEWORK, "approval pending", ran.count, mode)
    play(mode, tools, refund(MEDIUM))
    assert ran.count == 0
    record_case(FRAMEWORK, "resumed too early", ran.count, mode)
    [approval] = real_gateway.pending()
    real_gateway.approve(approval)
    play(mode, tools, refund(MEDIUM + 1))
    assert ran.count == 0
    record_case(FRAMEWORK, "arguments edited at approval", ran.count, mode)
    play(mode, tools, refund(MEDIUM))
    assert ran.values == [MEDIUM]
    record_case(FRAMEWORK, "approved in another process", ran.count, mode)
    play(mode, tools, refund(MEDIUM))
    assert ran.values == [MEDIUM]
    record_case(FRAMEWORK, "same call again after approval", ran.count, mode)


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_held_call_ends_with_the_decision(real_gateway: Real, ran: Ran, record_case: Record, verb: str) -> None:
    client = real_gateway.client(agent_id="support")
    tools = guard_tools([refund_tool(ran)], client, ACTIONS, approvals="hold", hold=60)

    def decide() -> None:
        pending = real_gateway.opened()
        getattr(real_gateway, verb)(pending[0])

    person = threading.Thread(target=decide)
    person.start()
    play("native", tools, refund(MEDIUM))
    person.join()
    assert ran.count == (verb == "approve")
    record_case(FRAMEWORK, "approval held" if verb == "approve" else "approval rejected", ran.count)


def test_held_call_ends_at_its_deadline(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    client = real_gateway.client(agent_id="support")
    tools = guard_tools([refund_tool(ran)], client, ACTIONS, approvals="hold", hold=0.2)
    llm = play("native", tools, refund(MEDIUM))
    assert any(real_gateway.pending()[0] in one for one in llm.seen) and ran.count == 0
    record_case(FRAMEWORK, "approval held too long", ran.count)


def test_parallel_allow_and_deny(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    tools = guard_tools([refund_tool(ran)], real_gateway.client(agent_id="support"), ACTIONS)
    play("native", tools, [refund(SMALL), refund(LARGE)])
    assert ran.values == [SMALL]
    record_case(FRAMEWORK, "parallel: allow and deny", ran.count)


def test_parallel_allow_and_approval(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    tools = guard_tools([refund_tool(ran)], real_gateway.client(agent_id="support"), ACTIONS)
    play("native", tools, [refund(SMALL), refund(MEDIUM)])
    assert ran.values == [SMALL]
    real_gateway.approve(real_gateway.pending()[0])
    play("native", tools, refund(MEDIUM))
    assert ran.values == [SMALL, MEDIUM]
    record_case(FRAMEWORK, "parallel: allow and approval", ran.count)


def test_parallel_approvals_are_not_crossed(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    tools = guard_tools([refund_tool(ran)], real_gateway.client(agent_id="support"), ACTIONS)
    play("native", tools, [refund(MEDIUM), refund(MEDIUM + 1)])
    assert ran.count == 0
    for one in real_gateway.pending():
        real_gateway.approve(one)
    play("native", tools, [refund(MEDIUM + 1), refund(MEDIUM)])
    assert sorted(ran.values) == [MEDIUM, MEDIUM + 1]
    record_case(FRAMEWORK, "parallel: two approvals", ran.count)


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("mode", MODES)
def test_hook_that_changes_arguments_comes_before_the_decision(
    real_gateway: Real, ran: Ran, record_case: Record, mode: str, order: str
) -> None:
    client = real_gateway.client(agent_id="support")
    tools = guard_tools([refund_tool(ran)], client, ACTIONS)

    def change(context: Any) -> None:
        context.tool_input["amount"] = LARGE

    if order == "before":
        register_before_tool_call_hook(change)
    refuse_unguarded(client, ACTIONS)
    if order == "after":
        register_before_tool_call_hook(change)
    llm = play(mode, tools, refund(SMALL))
    assert any("refund.over_limit" in one for one in llm.seen) and ran.count == 0
    record_case(FRAMEWORK, f"hook {order} changes arguments", ran.count, mode)
    record_case(FRAMEWORK, f"hook {order} changes arguments in place", ran.count, mode)


@pytest.mark.parametrize("mode", MODES)
def test_hook_cannot_clear_the_verdict(gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str) -> None:
    gateway.deny()
    register_after_tool_call_hook(lambda context: "refunded")
    play(mode, guard_tools([refund_tool(ran)], gateway.client(), ACTIONS), refund())
    assert ran.count == 0
    record_case(FRAMEWORK, "hook clears the verdict", ran.count, mode)


@pytest.mark.parametrize("mode", MODES)
def test_hook_that_raises_does_not_open_the_guard(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str
) -> None:
    gateway.deny()

    def fail(context: Any) -> None:
        raise RuntimeError("a hook failed")

    register_before_tool_call_hook(fail)
    play(mode, guard_tools([refund_tool(ran)], gateway.client(), ACTIONS), refund())
    assert ran.count == 0
    record_case(FRAMEWORK, "hook raises", ran.count, mode)


@pytest.mark.parametrize(
    ("case", "given", "expected"),
    [
        ("string for a number", {"charge": "c", "amount": "4900"}, 4900),
        ("missing default", {"charge": "c"}, 4900),
        ("extra member", {"charge": "c", "amount": 4900, "note": "x"}, 4900),
        ("bool", {"charge": "c", "amount": True}, 1),
        ("4900.0", {"charge": "c", "amount": 4900.0}, 4900),
        ("NaN", {"charge": "c", "amount": math.nan}, None),
        ("invalid JSON", '{"charge": "c", "amount": 4900', None),
        ("duplicate keys", '{"charge": "c", "amount": 90000, "amount": 4900}', 4900),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_gateway_evaluates_the_executed_arguments(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str, case: str, given: Any, expected: Any
) -> None:
    gateway.allow()
    play(mode, guard_tools([refund_tool(ran)], gateway.client(), ACTIONS), ("refund", given))
    asked = [action["args"] for action in gateway.actions]
    assert [one["amount"] for one in asked] == ran.values
    assert [type(one["amount"]) for one in asked] == [type(one) for one in ran.values]
    assert all(one.keys() == {"charge", "amount", "currency"} for one in asked)
    if case == "invalid JSON" and mode == "ReAct":
        # CrewAI repairs it; the gateway evaluates the repaired arguments.
        assert ran.values == [4900]
        return
    assert ran.values in ([], [expected])
    record_case(FRAMEWORK, f"arguments: {case}", ran.count, mode)


@pytest.mark.parametrize("mode", MODES)
def test_unguarded_tool_runs_without_a_decision(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str
) -> None:
    client = gateway.client()
    refuse_unguarded(client, ACTIONS)
    llm = play(mode, guard_tools([search, refund_tool(ran)], client, ACTIONS), ("search", {"query": "x"}))
    assert any("found x" in one for one in llm.seen)
    gateway.assert_not_asked()
    record_case(FRAMEWORK, "unguarded", 1, mode)


def test_tool_without_an_action_is_an_error(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    with pytest.raises(ActPassConfigError, match="expected an action for each tool, found none for 'refund'"):
        guard_tools([refund_tool(ran), search], gateway.client(), {"search": UNGUARDED})
    guarded = guard_tools([refund_tool(ran)], gateway.client(), ACTIONS)
    with pytest.raises(ActPassConfigError, match="expected tools without a guard, found 'refund'"):
        guard_tools(guarded, gateway.client(), ACTIONS)
    record_case(FRAMEWORK, "coverage: unmapped", ran.count)


@pytest.mark.parametrize("mode", MODES)
def test_tool_that_is_not_wrapped_is_refused(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str
) -> None:
    gateway.allow()
    stop = refuse_unguarded(gateway.client(), ACTIONS)
    llm = play(mode, [refund_tool(ran)], refund())
    assert any("refund was not run: deny (actpass.unmapped_tool)." in one for one in llm.seen)
    gateway.assert_not_asked()
    assert ran.count == 0
    record_case(FRAMEWORK, "coverage: added later", ran.count, mode)
    stop()
    play(mode, [refund_tool(ran)], refund())
    assert ran.count == 1


def test_tool_of_a_coworker_is_refused(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    names = ["delegate_work_to_coworker", "ask_question_to_coworker"]
    refuse_unguarded(gateway.client(), {**ACTIONS, **dict.fromkeys(names, UNGUARDED)})
    ask = {"task": "refund", "context": "-", "coworker": "clerk"}
    boss = Scripted(model="scripted", script=[("delegate_work_to_coworker", ask)])
    clerk = Scripted(model="scripted", script=[refund()])
    agents = [
        Agent(role="boss", goal="g", backstory="-", llm=boss, allow_delegation=True),
        Agent(role="clerk", goal="g", backstory="-", llm=clerk, tools=[refund_tool(ran)]),
    ]
    Crew(agents=agents, tasks=[Task(description="d", expected_output="e", agent=agents[0])]).kickoff()
    assert any("refund was not run: deny (actpass.unmapped_tool)." in one for one in clerk.seen)
    assert ran.count == 0
    record_case(FRAMEWORK, "coverage: sub-agent", ran.count)
    record_case(FRAMEWORK, "coverage: agent as tool", ran.count)


def test_name_that_the_model_sees_is_resolved(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.deny()

    @tool("Refund a Customer")
    def refund(charge: str) -> str:
        """Refund."""
        ran(charge)
        return "ran"

    for name in ("Refund a Customer", "refund_a_customer"):
        tools = guard_tools([refund], gateway.client(), {name: REFUND})
        assert isinstance(tools[0], GuardedTool)
        play("native", tools, ("refund_a_customer", {"charge": "c"}))
    assert ran.count == 0 and len(gateway.actions) == 2
    record_case(FRAMEWORK, "coverage: aliased", ran.count)


def test_asynchronous_tool_is_guarded(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    @tool("refund")
    async def refund(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund."""
        ran(amount)
        return f"refunded {amount}"

    [guarded] = guard_tools([refund], real_gateway.client(agent_id="support"), ACTIONS)
    assert asyncio.run(guarded.arun(charge="c", amount=SMALL)) == f"refunded {SMALL}"
    assert "refund.over_limit" in asyncio.run(guarded.arun(charge="c", amount=LARGE)).message
    assert guarded.run(charge="c", amount=SMALL) == f"refunded {SMALL}"
    assert ran.values == [SMALL, SMALL]
    record_case(FRAMEWORK, "allow", 1, "async tool")


def test_cancelled_call_runs_nothing(ran: Ran, record_case: Record) -> None:
    gateway = Hostile("hangs")

    @tool("refund")
    async def refund(charge: str) -> str:
        """Refund."""
        ran()
        return "ran"

    async def run() -> None:
        [guarded] = guard_tools([refund], gateway.client(timeout=30), ACTIONS)
        task = asyncio.create_task(guarded.arun(charge="c"))
        assert await asyncio.to_thread(gateway.asked.wait, WITHIN)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    gateway.close()
    assert ran.count == 0
    record_case(FRAMEWORK, "cancelled before the decision", ran.count)


def test_documented_tools_decide(documented: Real) -> None:
    tools = executed(blocks("crewai.md")[0])["tools"]
    llm = play("native", tools, refund(SMALL), refund(LARGE))
    assert any("refunded 49.00" in one and "refund.over_limit" in one for one in llm.seen)


def test_expired_approval_runs_nothing(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.require_approval("stripe.refund.create")
    tools = guard_tools([refund_tool(ran)], gateway.client(), ACTIONS)
    play("native", tools, refund())
    gateway.expire()
    play("native", tools, refund())
    assert ran.count == 0
    record_case(FRAMEWORK, "approval expired", ran.count)


def test_example_refunds_after_the_approval() -> None:
    assert example("crewai_refund.py") == ["refunded 250.00"]
