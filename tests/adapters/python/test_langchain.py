"""The LangChain adapter, with real agents and graphs and a scripted model."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import pytest
from actpass import UNGUARDED, ActPassConfigError, ToolAction
from actpass.integrations.langchain import ActPassMiddleware
from conftest import Hostile, Ran, Real, blocks, example, executed
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    ToolRetryMiddleware,
    wrap_tool_call,
)
from langchain.tools import InjectedState, InjectedToolCallId, ToolRuntime
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool, Tool, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt
from pydantic import BaseModel, field_validator, model_validator
from slow_gateway import SlowGateway
from support_langchain import (
    BOTH,
    FLAVOURS,
    REFUND,
    TOOL,
    ScriptedModel,
    agent,
    answers,
    approval_of,
    call,
    go,
    guard,
    resume,
)

FRAMEWORK = "langchain"
flavours = pytest.mark.parametrize("flavour", FLAVOURS)
both = pytest.mark.parametrize("flavour", BOTH)


@pytest.fixture
def refund(ran: Ran) -> BaseTool:
    @tool
    def refund(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund a charge."""
        ran((charge, amount, currency))
        return f"refunded {amount}"

    return refund


@pytest.fixture
def counted(request: pytest.FixtureRequest, record_case: Any, ran: Ran) -> Any:
    flavour = getattr(request.node, "callspec", None)
    variant = flavour.params.get("flavour", "") if flavour else ""

    def record(name: str, expected: int, more: str = "") -> None:
        record_case(FRAMEWORK, name, ran.count, " ".join(one for one in (variant, more) if one))
        assert ran.count == expected

    return record


def text_of(state: dict[str, Any]) -> str:
    """Return the text that the model gets for its only, blocked call."""
    [answer] = answers(state)
    assert answer.status == "error"
    assert state["messages"][-1].content == "done"
    return str(answer.content)


# Decisions


@flavours
def test_allow(flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran, counted: Any) -> None:
    state = go(flavour, agent([call(4900)], tools=[refund], middleware=[guard(real_gateway, flavour)]))
    assert ran.values == [("ch_1", 4900, "usd")]
    assert answers(state)[0].content == "refunded 4900"
    counted("allow", 1)


@flavours
def test_deny_is_an_error_answer_for_the_model(
    flavour: str, real_gateway: Real, refund: BaseTool, counted: Any
) -> None:
    state = go(flavour, agent([call(90000)], tools=[refund], middleware=[guard(real_gateway, flavour)]))
    assert text_of(state).startswith(f"{TOOL} was not run: deny (refund.over_limit).")
    [answer] = answers(state)
    assert answer.artifact["decision"]["reason_code"] == "refund.over_limit"
    assert answer.tool_call_id == "call_1"
    counted("deny", 0)


@both
def test_warn(flavour: str, gateway: Any, refund: BaseTool, counted: Any) -> None:
    gateway.warn()
    state = go(flavour, agent([call()], tools=[refund], middleware=[guard(gateway, flavour)]))
    assert "warn (test.warn)" in text_of(state)
    counted("warn", 0)


@flavours
def test_failed_gate(flavour: str, hostile: Hostile, refund: BaseTool, counted: Any) -> None:
    state = go(flavour, agent([call()], tools=[refund], middleware=[guard(hostile, flavour)]))
    assert "The policy decision could not be obtained." in text_of(state)
    counted(hostile.case, 0)


@both
def test_either_client_serves_either_run(flavour: str, gateway: Any, refund: BaseTool, ran: Ran) -> None:
    gateway.allow()
    other = "invoke" if flavour == "ainvoke" else "ainvoke"
    go(flavour, agent([call()], tools=[refund], middleware=[guard(gateway, other)]))
    assert ran.count == 1


@both
def test_adapter_raises(flavour: str, gateway: Any, refund: BaseTool, counted: Any) -> None:
    gateway.allow()

    def broken(charge: str) -> str:
        raise LookupError(charge)

    actions = {"refund": ToolAction(TOOL, goal="g", resource=broken)}
    with pytest.raises(LookupError):
        go(flavour, agent([call()], tools=[refund], middleware=[guard(gateway, flavour, actions)]))
    counted("adapter raises", 0)


@pytest.mark.parametrize("body", ["thread", "coroutine"])
def test_cancelled_while_requesting(body: str, refund: BaseTool, ran: Ran, counted: Any) -> None:
    async def arefund(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund a charge."""
        ran(amount)
        return "refunded"

    one = refund if body == "thread" else StructuredTool.from_function(coroutine=arefund, name="refund")
    with SlowGateway() as slow:

        async def main() -> None:
            running = asyncio.create_task(
                agent([call()], tools=[one], middleware=[guard(slow, "ainvoke")]).ainvoke({"messages": [("user", "x")]})
            )
            await asyncio.to_thread(slow.asked.wait, 30)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            slow.answer.set()
            await asyncio.to_thread(slow.answered.wait, 30)

        asyncio.run(main())
    counted("cancelled before the decision", 0, body)


@both
def test_exception_of_the_tool_is_the_same_object(flavour: str, gateway: Any, ran: Ran, counted: Any) -> None:
    gateway.allow()
    mine = LookupError("mine")

    @tool
    def refund(amount: int) -> str:
        """Refund."""
        ran(amount)
        raise mine

    with pytest.raises(LookupError) as raised:
        go(
            flavour,
            agent(
                [call()], tools=[refund], middleware=[guard(gateway, flavour, {"refund": ToolAction(TOOL, goal="g")})]
            ),
        )
    assert raised.value is mine
    counted("tool raises", 1)


# Approvals


def pausing(gateway: Real, flavour: str, refund: BaseTool, *turns: Any, saver: Any = None, before: Any = ()) -> Any:
    saver = InMemorySaver() if saver is None else saver
    return agent(
        *(turns or [[call(25000)]]), tools=[refund], middleware=[*before, guard(gateway, flavour)], checkpointer=saver
    )


@flavours
def test_pending_interrupts(flavour: str, real_gateway: Real, refund: BaseTool, counted: Any) -> None:
    state = go(flavour, pausing(real_gateway, flavour, refund))
    [waiting] = state["__interrupt__"]
    assert waiting.value["actpass"]["args"] == {"charge": "ch_1", "amount": 25000, "currency": "usd"}
    assert "require_approval" in waiting.value["message"]
    assert real_gateway.pending() == [approval_of(state)]
    counted("approval pending", 0)


@flavours
def test_approved_in_another_process(
    flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran, counted: Any
) -> None:
    graph = pausing(real_gateway, flavour, refund)
    state = go(flavour, graph)
    real_gateway.approve(approval_of(state))
    state = go(flavour, graph, resume(state))
    assert ran.values == [("ch_1", 25000, "usd")]
    assert answers(state)[0].content == "refunded 25000"
    counted("approved in another process", 1)


@flavours
def test_rejected(flavour: str, real_gateway: Real, refund: BaseTool, counted: Any) -> None:
    graph = pausing(real_gateway, flavour, refund)
    state = go(flavour, graph)
    real_gateway.reject(approval_of(state))
    state = go(flavour, graph, resume(state))
    assert "deny (approval.rejected)" in text_of(state)
    counted("approval rejected", 0)


@both
def test_expired(flavour: str, gateway: Any, refund: BaseTool, counted: Any) -> None:
    from actpass.testing import deny, require_approval

    gateway.answer_next(require_approval(id="apr_1"), deny("approval.expired"))
    graph = pausing(gateway, flavour, refund)
    state = go(flavour, graph, resume(go(flavour, graph)))
    assert "deny (approval.expired)" in text_of(state)
    assert [one.get("approval_request_id") for one in gateway.actions] == [None, "apr_1"]
    counted("approval expired", 0)


@flavours
def test_resumed_too_early(flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran, counted: Any) -> None:
    graph = pausing(real_gateway, flavour, refund)
    first = go(flavour, graph)
    again = go(flavour, graph, resume(first))
    assert approval_of(again) == approval_of(first)
    again = go(flavour, graph, resume(again))
    counted("resumed too early", 0)
    real_gateway.approve(approval_of(again))
    go(flavour, graph, resume(again))
    assert ran.count == 1


@both
@pytest.mark.parametrize("value", [True, "approved", {"type": "approve"}])
def test_approved_only_in_the_framework(
    flavour: str, value: Any, real_gateway: Real, refund: BaseTool, counted: Any
) -> None:
    graph = pausing(real_gateway, flavour, refund)
    state = go(flavour, graph, resume(go(flavour, graph), value))
    assert approval_of(state) == real_gateway.pending()[0]
    counted("approved only in the framework", 0, str(value))


@both
def test_metadata_lost(flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran, counted: Any) -> None:
    graph = pausing(real_gateway, flavour, refund)
    state = go(flavour, graph, resume(go(flavour, graph), {"actpass": {}}))
    counted("metadata lost", 0)
    # The gateway finds the approval by its action.
    real_gateway.approve(approval_of(state))
    go(flavour, graph, resume(state, {"actpass": {}}))
    assert ran.count == 1


@both
def test_forged_approval(flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran) -> None:
    graph = pausing(real_gateway, flavour, refund, [call(25000)], [call(26000, id="call_2")])
    state = go(flavour, graph)
    mine = approval_of(state)
    real_gateway.approve(mine)
    state = go(flavour, graph, resume(state))
    state = go(flavour, graph, resume(state, {"actpass": {"approval_request_id": mine}}))
    assert "deny (approval.action_mismatch)" in answers(state)[-1].content
    assert ran.count == 1


@both
def test_saved_state_resumed_twice(flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran, counted: Any) -> None:
    saver = InMemorySaver()
    graph = pausing(real_gateway, flavour, refund, saver=saver)
    state = go(flavour, graph)
    saved = graph.get_state({"configurable": {"thread_id": "t"}}).config
    real_gateway.approve(approval_of(state))
    go(flavour, graph, resume(state))
    assert ran.count == 1
    again = (
        graph.invoke(resume(state), saved) if flavour == "invoke" else asyncio.run(graph.ainvoke(resume(state), saved))
    )
    assert "approval.spent" in answers(again)[-1].content
    counted("saved state resumed twice", 1)


def test_two_runs_of_one_saved_state(real_gateway: Real, refund: BaseTool, counted: Any) -> None:
    saver = InMemorySaver()
    graph = pausing(real_gateway, "invoke", refund, saver=saver)
    state = go("invoke", graph)
    saved = graph.get_state({"configurable": {"thread_id": "t"}}).config
    real_gateway.approve(approval_of(state))
    others = [pausing(real_gateway, "invoke", refund, saver=saver) for _ in range(2)]
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(lambda one: one.invoke(resume(state), saved), others))
    counted("two runs of one saved state", 1)


@both
def test_arguments_edited_at_approval(flavour: str, real_gateway: Real, refund: BaseTool, counted: Any) -> None:
    saver = InMemorySaver()
    state = go(flavour, pausing(real_gateway, flavour, refund, saver=saver))
    real_gateway.approve(approval_of(state))
    editing = pausing(real_gateway, flavour, refund, saver=saver, before=[Mutate(26000, in_place=False)])
    state = go(flavour, editing, resume(state))
    assert "deny (approval.action_mismatch)" in text_of(state)
    counted("arguments edited at approval", 0)


@both
def test_same_call_after_approval_needs_another(
    flavour: str, real_gateway: Real, refund: BaseTool, counted: Any
) -> None:
    graph = pausing(real_gateway, flavour, refund, [call(25000)], [call(25000, id="call_2")])
    state = go(flavour, graph)
    first = approval_of(state)
    real_gateway.approve(first)
    state = go(flavour, graph, resume(state))
    assert approval_of(state) != first
    counted("same call again after approval", 1)


@both
def test_without_a_checkpointer_answers_the_model(flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran) -> None:
    state = go(flavour, agent([call(25000)], tools=[refund], middleware=[guard(real_gateway, flavour)]))
    assert "require_approval" in text_of(state)
    assert ran.count == 0


@both
def test_tell(flavour: str, real_gateway: Real, refund: BaseTool, counted: Any) -> None:
    middleware = [guard(real_gateway, flavour, approvals="tell")]
    graph = agent([call(25000)], tools=[refund], middleware=middleware, checkpointer=InMemorySaver())
    state = go(flavour, graph)
    assert "require_approval" in text_of(state)
    [answer] = answers(state)
    assert answer.artifact["approval"]["approval_request_id"] == real_gateway.pending()[0]
    counted("approval pending", 0, "tell")


@both
def test_hold(flavour: str, real_gateway: Real, refund: BaseTool, counted: Any) -> None:
    def person() -> None:
        until = time.monotonic() + 60
        while not (waiting := real_gateway.pending()):
            assert time.monotonic() < until
            time.sleep(0.02)
        real_gateway.approve(waiting[0])

    thread = threading.Thread(target=person)
    thread.start()
    middleware = [guard(real_gateway, flavour, approvals="hold", hold=60)]
    go(flavour, agent([call(25000)], tools=[refund], middleware=middleware, checkpointer=InMemorySaver()))
    thread.join()
    counted("approval held", 1)


@both
def test_held_too_long(flavour: str, real_gateway: Real, refund: BaseTool, counted: Any) -> None:
    middleware = [guard(real_gateway, flavour, approvals="hold", hold=0.3)]
    state = go(flavour, agent([call(25000)], tools=[refund], middleware=middleware, checkpointer=InMemorySaver()))
    assert "actpass.approval_timeout" in text_of(state)
    counted("approval held too long", 0)


# Several calls in a turn


@flavours
def test_allow_and_deny(flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran, counted: Any) -> None:
    calls = [call(4900, id="a"), call(90000, id="b", charge="ch_2")]
    state = go(flavour, agent(calls, tools=[refund], middleware=[guard(real_gateway, flavour)]))
    assert {one.tool_call_id: one.status for one in answers(state)} == {"a": "success", "b": "error"}
    assert ran.values == [("ch_1", 4900, "usd")]
    counted("parallel: allow and deny", 1)


@flavours
def test_allow_and_approval(flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran, counted: Any) -> None:
    graph = pausing(real_gateway, flavour, refund, [call(4900, id="a"), call(25000, id="b", charge="ch_2")])
    state = go(flavour, graph)
    assert ran.values == [("ch_1", 4900, "usd")]
    real_gateway.approve(approval_of(state))
    go(flavour, graph, resume(state))
    assert ran.values == [("ch_1", 4900, "usd"), ("ch_2", 25000, "usd")]
    counted("parallel: allow and approval", 2)


@flavours
def test_two_approvals_are_not_crossed(
    flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran, counted: Any
) -> None:
    graph = pausing(real_gateway, flavour, refund, [call(25000, id="a"), call(26000, id="b", charge="ch_2")])
    state = go(flavour, graph)
    waiting = {one.value["actpass"]["args"]["charge"]: one for one in state["__interrupt__"]}
    real_gateway.approve(waiting["ch_2"].value["actpass"]["approval_request_id"])
    state = go(flavour, graph, resume(state))
    assert ran.values == [("ch_2", 26000, "usd")]
    real_gateway.approve(approval_of(state))
    go(flavour, graph, resume(state))
    assert ran.values == [("ch_2", 26000, "usd"), ("ch_1", 25000, "usd")]
    counted("parallel: two approvals", 2)


@both
def test_same_call_id_twice(flavour: str, gateway: Any, refund: BaseTool, counted: Any) -> None:
    gateway.allow()
    go(flavour, agent([call(4900)], [call(4900)], tools=[refund], middleware=[guard(gateway, flavour)]))
    gateway.assert_asked(TOOL, times=2)
    counted("same call id twice", 2)


# Other middleware


class Mutate(AgentMiddleware):
    """Changes the amount of every call."""

    def __init__(self, amount: int, *, in_place: bool) -> None:
        super().__init__()
        self._amount, self._in_place = amount, in_place

    def _changed(self, request: Any) -> Any:
        if self._in_place:
            request.tool_call["args"]["amount"] = self._amount
            return request
        return request.override(
            tool_call={**request.tool_call, "args": {**request.tool_call["args"], "amount": self._amount}}
        )

    def wrap_tool_call(self, request: Any, handler: Any) -> Any:
        return handler(self._changed(request))

    async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
        return await handler(self._changed(request))


@both
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("position", ["before", "after"])
def test_hook_changes_arguments(
    flavour: str, in_place: bool, position: str, real_gateway: Real, refund: BaseTool, ran: Ran, counted: Any
) -> None:
    for amount, times in ((90000, 0), (4800, 1)):
        mutate, ours = Mutate(amount, in_place=in_place), guard(real_gateway, flavour)
        middleware = [mutate, ours] if position == "before" else [ours, mutate]
        go(flavour, agent([call(4900)], tools=[refund], middleware=middleware))
        assert ran.count == times
    assert ran.values == [("ch_1", 4800, "usd")]
    counted(f"hook {position} changes arguments{' in place' * in_place}", 1)


@both
@pytest.mark.parametrize("position", ["before", "after"])
def test_hook_changes_arguments_of_a_tool_with_its_own_entrance(
    flavour: str, position: str, gateway: Any, ran: Ran
) -> None:
    gateway.allow()
    mutate = Mutate(90000, in_place=False)
    ours = guard(gateway, flavour, {"refund": ToolAction(TOOL, goal="g")})
    middleware = [mutate, ours] if position == "before" else [ours, mutate]
    one = {"name": "refund", "args": {"amount": 4900}, "id": "c", "type": "tool_call"}
    go(flavour, agent([one], tools=[OwnEntrance(effect=ran)], middleware=middleware))
    assert ran.values == [90000] == [one["args"]["amount"] for one in gateway.actions]


@both
@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("mode", ["batched", "per_call"])
def test_human_in_the_loop_edits_arguments(
    flavour: str, position: str, mode: str, real_gateway: Real, refund: BaseTool, ran: Ran
) -> None:
    human = HumanInTheLoopMiddleware(interrupt_on={"refund": True}, interrupt_mode=mode)
    ours = guard(real_gateway, flavour)
    middleware = [human, ours] if position == "before" else [ours, human]
    graph = agent([call(4900)], tools=[refund], middleware=middleware, checkpointer=InMemorySaver())
    state = go(flavour, graph)
    edit = {"type": "edit", "edited_action": {"name": "refund", "args": call(90000)["args"]}}
    state = go(flavour, graph, resume(state, edit if mode == "per_call" else {"decisions": [edit]}))
    assert "refund.over_limit" in answers(state)[-1].content
    assert ran.count == 0


@both
@pytest.mark.parametrize("position", ["before", "after"])
def test_human_in_the_loop_and_an_approval_in_one_call(
    flavour: str, position: str, real_gateway: Real, ran: Ran
) -> None:
    @tool
    def refund(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund."""
        ran(amount)
        return "refunded"

    human = HumanInTheLoopMiddleware(interrupt_on={"refund": True}, interrupt_mode="per_call")
    ours = guard(real_gateway, flavour)
    middleware = [human, ours] if position == "before" else [ours, human]
    graph = agent([call(25000)], tools=[refund], middleware=middleware, checkpointer=InMemorySaver())
    state, asked = go(flavour, graph), []
    while "__interrupt__" in state:
        [waiting] = state["__interrupt__"]
        asked.append("actpass" if "actpass" in waiting.value else "human")
        if asked == ["human", "actpass", "actpass"]:
            real_gateway.approve(approval_of(state))
        state = go(flavour, graph, resume(state, None if asked[-1] == "actpass" else {"type": "approve"}))
    assert asked == ["human", "actpass", "actpass"]
    assert ran.values == [25000]


@both
@pytest.mark.parametrize("position", ["before", "after"])
def test_hook_clears_the_verdict(
    flavour: str, position: str, real_gateway: Real, refund: BaseTool, counted: Any
) -> None:
    class Clear(AgentMiddleware):
        def _cleared(self, request: Any) -> Any:
            return ToolMessage("refunded", tool_call_id=request.tool_call["id"], name="refund")

        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            handler(request)
            return self._cleared(request)

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            await handler(request)
            return self._cleared(request)

    ours = guard(real_gateway, flavour)
    middleware = [Clear(), ours] if position == "before" else [ours, Clear()]
    state = go(flavour, agent([call(90000)], tools=[refund], middleware=middleware))
    # Only a hook outside of ours can hide the denial from the model.
    assert ("refund.over_limit" in answers(state)[0].content) == (position == "after")
    counted("hook clears the verdict", 0, position)


@both
@pytest.mark.parametrize("position", ["before", "after"])
def test_hook_raises(flavour: str, position: str, gateway: Any, refund: BaseTool, counted: Any) -> None:
    gateway.allow()

    class Raise(AgentMiddleware):
        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            raise LookupError

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            raise LookupError

    ours = guard(gateway, flavour)
    with pytest.raises(LookupError):
        go(
            flavour,
            agent([call()], tools=[refund], middleware=[Raise(), ours] if position == "before" else [ours, Raise()]),
        )
    counted("hook raises", 0, position)


@both
@pytest.mark.parametrize("place", ["inside", "outside"])
def test_each_attempt_of_a_retry_has_its_decision(
    flavour: str, place: str, gateway: Any, ran: Ran, counted: Any
) -> None:
    from actpass.testing import allow, deny

    gateway.answer_next(allow(), allow(), deny("refund.twice"))

    @tool
    def refund(amount: int) -> str:
        """Refund."""
        ran(amount)
        raise LookupError("after the effect")

    retry = ToolRetryMiddleware(max_retries=4, initial_delay=0, jitter=False)
    ours = guard(gateway, flavour, {"refund": ToolAction(TOOL, goal="g")})
    middleware = [retry, ours] if place == "outside" else [ours, retry]
    state = go(flavour, agent([call()], tools=[refund], middleware=middleware))
    assert "refund.twice" in answers(state)[0].content
    gateway.assert_asked(TOOL, times=3)
    counted(f"retry {place}", 2)


@both
def test_tool_that_fails_after_its_effect(flavour: str, gateway: Any, ran: Ran, counted: Any) -> None:
    gateway.allow()

    @tool
    def refund(amount: int) -> str:
        """Refund."""
        ran(amount)
        raise LookupError("after the effect")

    graph = StateGraph(MessagesState)
    ours = guard(gateway, flavour, {"refund": ToolAction(TOOL, goal="g")})
    node = ToolNode(
        [refund], handle_tool_errors=True, wrap_tool_call=ours.wrap_tool_call, awrap_tool_call=ours.awrap_tool_call
    )
    model = ScriptedModel(turns=[[call()], [call(id="call_2")]])
    state = go(flavour, plain(graph, model, node))
    assert [one.status for one in answers(state)] == ["error", "error"]
    gateway.assert_asked(TOOL, times=2)
    counted("tool fails after its effect", 2)


# Arguments: the evaluated ones are the executed ones


@flavours
@pytest.mark.parametrize(
    ("name", "given", "executed"),
    [
        ("string for a number", {"amount": "4900"}, ("ch_1", 4900, "usd")),
        ("missing default", {"amount": 4900, "currency": None}, ("ch_1", 4900, "usd")),
        ("extra member", {"amount": 4900, "more": 1}, ("ch_1", 4900, "usd")),
        ("bool", {"amount": True}, ("ch_1", 1, "usd")),
        ("4900.0", {"amount": 4900.0}, ("ch_1", 4900, "usd")),
    ],
)
def test_arguments(
    flavour: str, name: str, given: Any, executed: Any, gateway: Any, refund: BaseTool, ran: Ran, counted: Any
) -> None:
    gateway.allow()
    one = call(**given)
    if given.get("currency", "") is None:
        del one["args"]["currency"]
    go(flavour, agent([one], tools=[refund], middleware=[guard(gateway, flavour)]))
    assert ran.values == [executed]
    charge, amount, currency = executed
    assert gateway.actions[0]["args"] == {"charge": charge, "amount": amount, "currency": currency}
    assert type(gateway.actions[0]["args"]["amount"]) is int
    counted(f"arguments: {name}", 1)


@flavours
def test_not_a_number(flavour: str, gateway: Any, ran: Ran, counted: Any) -> None:
    gateway.allow()

    @tool
    def refund(amount: float) -> str:
        """Refund."""
        ran(amount)
        return "refunded"

    actions = {"refund": ToolAction(TOOL, goal="g")}
    state = go(flavour, agent([call(float("nan"))], tools=[refund], middleware=[guard(gateway, flavour, actions)]))
    assert "args.amount" in text_of(state)
    counted("arguments: NaN", 0)


@pytest.mark.parametrize("flavour", ["stream", "astream"])
def test_duplicate_keys(flavour: str, gateway: Any, refund: BaseTool, ran: Ran, counted: Any) -> None:
    gateway.allow()
    one = {**call(), "raw": '{"charge": "ch_1", "amount": 4900, "amount": 90000}'}
    go(flavour, agent([one], tools=[refund], middleware=[guard(gateway, flavour)]))
    assert gateway.actions[0]["args"]["amount"] == ran.values[0][1]
    counted("arguments: duplicate keys", 1)


@pytest.mark.parametrize("flavour", ["stream", "astream"])
def test_invalid_json(flavour: str, gateway: Any, refund: BaseTool, counted: Any) -> None:
    gateway.allow()
    one = {**call(), "raw": '{"charge": "ch_1", amount}'}
    go(flavour, agent([one], tools=[refund], middleware=[guard(gateway, flavour)]))
    gateway.assert_not_asked()
    counted("arguments: invalid JSON", 0)


@both
def test_invalid_arguments_are_refused_by_the_tool(flavour: str, gateway: Any, refund: BaseTool, ran: Ran) -> None:
    gateway.allow()
    state = go(flavour, agent([call("much")], tools=[refund], middleware=[guard(gateway, flavour)]))
    assert "valid integer" in text_of(state)
    gateway.assert_not_asked()
    assert ran.count == 0


class Doubled(BaseModel):
    amount: int

    @field_validator("amount")
    @classmethod
    def double(cls, amount: int) -> int:
        return 2 * amount


class Replaced(BaseModel):
    amount: int

    @model_validator(mode="before")
    @classmethod
    def replace(cls, _: Any) -> Any:
        return {"amount": 90000}


@both
@pytest.mark.parametrize(("schema", "executed"), [(Doubled, 9800), (Replaced, 90000)])
def test_validators_of_the_schema_run_before_the_decision(
    flavour: str, schema: Any, executed: int, gateway: Any, ran: Ran
) -> None:
    gateway.allow()
    refund = StructuredTool.from_function(
        lambda amount: ran(amount), name="refund", description="x", args_schema=schema
    )
    actions = {"refund": ToolAction(TOOL, goal="g", resource="amount:{amount}")}
    go(flavour, agent([call(4900)], tools=[refund], middleware=[guard(gateway, flavour, actions)]))
    assert ran.values == [executed]
    assert gateway.actions[0]["args"] == {"amount": executed}


class Line(BaseModel):
    item: str
    cents: int = 100


@both
def test_models_are_evaluated_as_json_and_executed_as_models(flavour: str, gateway: Any, ran: Ran) -> None:
    gateway.allow()

    @tool
    def order(lines: list[Line]) -> str:
        """Order."""
        ran(lines)
        return "ordered"

    one = {"name": "order", "args": {"lines": [{"item": "pen"}]}, "id": "c", "type": "tool_call"}
    go(
        flavour,
        agent([one], tools=[order], middleware=[guard(gateway, flavour, {"order": ToolAction("order", goal="g")})]),
    )
    assert ran.values == [[Line(item="pen", cents=100)]]
    assert gateway.actions[0]["args"] == {"lines": [{"item": "pen", "cents": 100}]}


@both
def test_injected_arguments_are_passed_on_but_not_sent(flavour: str, gateway: Any, ran: Ran) -> None:
    gateway.allow()

    @tool
    def refund(
        amount: int,
        state: Annotated[Any, InjectedState],
        id: Annotated[str, InjectedToolCallId],  # noqa: A002
        runtime: ToolRuntime,
        config: RunnableConfig,
    ) -> str:
        """Refund."""
        ran((amount, len(state["messages"]), id, runtime.tool_call_id, "callbacks" in config))
        return "refunded"

    one = {"name": "refund", "args": {"amount": 1, "state": {"forged": 1}}, "id": "c", "type": "tool_call"}
    go(
        flavour,
        agent([one], tools=[refund], middleware=[guard(gateway, flavour, {"refund": ToolAction(TOOL, goal="g")})]),
    )
    assert ran.values == [(1, 2, "c", "c", True)]
    assert gateway.actions[0]["args"] == {"amount": 1}


class OwnBody(BaseTool):
    name: str = "refund"
    description: str = "Refund."
    effect: Any = None

    def _run(self, amount: int, run_manager: Any = None) -> str:
        self.effect(amount)
        return f"refunded {amount} {run_manager is not None}"


class OwnEntrance(OwnBody):
    def invoke(self, input: Any, config: Any = None, **_: Any) -> Any:  # noqa: A002
        self.effect(input["args"]["amount"])
        return ToolMessage("refunded", tool_call_id=input["id"], name="refund")


def pair(amount: int) -> tuple[str, dict[str, int]]:
    """Refund."""
    return f"refunded {amount}", {"amount": amount}


@both
@pytest.mark.parametrize("kind", ["own body", "own entrance", "one text", "dict schema", "pair"])
@pytest.mark.parametrize("decision", ["allow", "deny"])
def test_kinds_of_tools(flavour: str, kind: str, decision: str, gateway: Any, ran: Ran) -> None:
    getattr(gateway, decision)()
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}}}

    def paired(amount: int) -> Any:
        ran(amount)
        return pair(amount)

    tools = {
        "own body": OwnBody(effect=ran),
        "own entrance": OwnEntrance(effect=ran),
        "one text": Tool("refund", lambda amount: ran(int(amount)), "Refund."),
        "dict schema": StructuredTool(
            name="refund", description="x", args_schema=schema, func=lambda amount: ran(amount)
        ),
        "pair": StructuredTool.from_function(
            paired, name="refund", description="x", response_format="content_and_artifact"
        ),
    }
    given = {"__arg1": "4900"} if kind == "one text" else {"amount": 4900}
    one = {"name": "refund", "args": given, "id": "c", "type": "tool_call"}
    actions = {"refund": ToolAction(TOOL, goal="g")}
    state = go(flavour, agent([one], tools=[tools[kind]], middleware=[guard(gateway, flavour, actions)]))
    assert ran.values == ([4900] if decision == "allow" else [])
    sent = gateway.actions[0]["args"]
    assert list(sent.values()) == ["4900" if kind == "one text" else 4900]
    [answer] = answers(state)
    if decision == "deny":
        assert answer.status == "error"
        assert answer.artifact["decision"]["reason_code"] == "test.deny"
        assert "was not run" in answer.content
    elif kind == "pair":
        assert answer.artifact == {"amount": 4900}
    elif kind == "own body":
        assert answer.content == "refunded 4900 True"


@both
def test_approval_of_a_tool_that_interrupts_itself(flavour: str, real_gateway: Real, ran: Ran) -> None:
    @tool
    def refund(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund."""
        said = interrupt("really?")
        ran((amount, said))
        return "refunded"

    graph = agent(
        [call(25000)], tools=[refund], middleware=[guard(real_gateway, flavour)], checkpointer=InMemorySaver()
    )
    state = go(flavour, graph)
    real_gateway.approve(approval_of(state))
    state = go(flavour, graph, resume(state))
    # Its own interrupt does not get the approval as its answer.
    assert [one.value for one in state["__interrupt__"]] == ["really?"]
    state = go(flavour, graph, resume(state, "yes"))
    # The tool would run from its start again: that is another action, for which the approval is spent.
    assert "approval.spent" in text_of(state)
    assert ran.count == 0


@both
def test_tool_that_interrupts_itself(flavour: str, real_gateway: Real, ran: Ran) -> None:
    @tool
    def refund(charge: str, amount: int, currency: str = "usd") -> str:
        """Refund."""
        said = interrupt("really?")
        ran((amount, said))
        return "refunded"

    graph = agent([call(4900)], tools=[refund], middleware=[guard(real_gateway, flavour)], checkpointer=InMemorySaver())
    state = go(flavour, graph)
    assert [one.value for one in state["__interrupt__"]] == ["really?"]
    go(flavour, graph, resume(state, "yes"))
    assert ran.values == [(4900, "yes")]


# Coverage


@both
def test_unmapped_tool_is_an_error_at_the_first_model_call(
    flavour: str, gateway: Any, refund: BaseTool, counted: Any
) -> None:
    with pytest.raises(ActPassConfigError, match="'refund'"):
        go(flavour, agent([call()], tools=[refund], middleware=[guard(gateway, flavour, {})]))
    counted("coverage: unmapped", 0)


@both
def test_tool_added_later_is_denied(flavour: str, gateway: Any, refund: BaseTool, ran: Ran, counted: Any) -> None:
    gateway.allow()

    @tool
    def wipe() -> str:
        """Wipe."""
        ran("wiped")
        return "wiped"

    class Add(AgentMiddleware):
        """Offers a tool from the second model call on, and executes it."""

        def _request(self, request: Any) -> Any:
            return request.override(tools=[*request.tools, wipe]) if len(request.messages) > 2 else request

        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(self._request(request))

        async def awrap_model_call(self, request: Any, handler: Any) -> Any:
            return await handler(self._request(request))

        def _tool(self, request: Any) -> Any:
            return request.override(tool=wipe) if request.tool_call["name"] == "wipe" else request

        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            return handler(self._tool(request))

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            return await handler(self._tool(request))

    turns = [[call()], [{"name": "wipe", "args": {}, "id": "w", "type": "tool_call"}]]
    state = go(flavour, agent(*turns, tools=[refund], middleware=[Add(), guard(gateway, flavour)]))
    assert answers(state)[-1].content == (
        "wipe was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. Do not call it again."
    )
    assert [one for one in ran.values if one == "wiped"] == []
    ran.values.clear()
    counted("coverage: added later", 0)


@both
@pytest.mark.parametrize("position", ["before", "after"])
def test_aliased_tool_has_the_action_of_the_tool_that_is_executed(
    flavour: str, position: str, gateway: Any, refund: BaseTool, counted: Any
) -> None:
    @tool
    def harmless() -> str:
        """Do nothing."""
        return "nothing"

    class Alias(AgentMiddleware):
        """Executes the refund under the name of another tool, or the other tool under another name."""

        def _other(self, request: Any) -> Any:
            if position == "before":
                return request.override(tool=refund)
            return request.override(tool_call={**request.tool_call, "name": "harmless"})

        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            return handler(self._other(request))

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            return await handler(self._other(request))

    gateway.deny(TOOL)
    ours = guard(gateway, flavour, {"refund": REFUND, "harmless": UNGUARDED})
    middleware = [Alias(), ours] if position == "before" else [ours, Alias()]
    name = "harmless" if position == "before" else "refund"
    go(flavour, agent([call(name=name)], tools=[refund, harmless], middleware=middleware))
    gateway.assert_asked(TOOL, times=1)
    counted("coverage: aliased", 0, position)


@both
def test_tool_that_a_later_hook_would_supply_is_denied(flavour: str, gateway: Any, refund: BaseTool, ran: Ran) -> None:
    gateway.allow()

    @wrap_tool_call
    def supply(request: Any, handler: Any) -> Any:
        return handler(request.override(tool=refund, tool_call={**request.tool_call, "name": "refund"}))

    @wrap_tool_call
    async def asupply(request: Any, handler: Any) -> Any:
        return await handler(request.override(tool=refund, tool_call={**request.tool_call, "name": "refund"}))

    other = supply if flavour == "invoke" else asupply
    state = go(flavour, agent([call(name="pay")], tools=[refund], middleware=[guard(gateway, flavour), other]))
    assert "actpass.unmapped_tool" in text_of(state)
    assert ran.count == 0


@both
@pytest.mark.parametrize(
    "provided", [{"type": "web_search_preview"}, {"type": "code_execution_20250522", "name": "code"}]
)
def test_tool_of_the_provider_is_an_error(
    flavour: str, provided: Any, gateway: Any, refund: BaseTool, counted: Any
) -> None:
    with pytest.raises(ActPassConfigError, match="provider"):
        go(flavour, agent([call()], tools=[refund, provided], middleware=[guard(gateway, flavour)]))
    counted("coverage: provider-executed", 0, provided["type"])
    gateway.allow()
    name = provided.get("name", provided["type"])
    actions = {"refund": REFUND, name: UNGUARDED}
    go(flavour, agent([call()], tools=[refund, provided], middleware=[guard(gateway, flavour, actions)]))


@both
def test_unguarded(flavour: str, gateway: Any, refund: BaseTool, counted: Any) -> None:
    go(flavour, agent([call()], tools=[refund], middleware=[guard(gateway, flavour, {"refund": UNGUARDED})]))
    gateway.assert_not_asked()
    counted("unguarded", 1)


@both
@pytest.mark.parametrize("name", ["coverage: sub-agent", "coverage: agent as tool"])
def test_agent_inside_a_tool(flavour: str, name: str, gateway: Any, refund: BaseTool, ran: Ran, counted: Any) -> None:
    inner = agent([call()], tools=[refund], middleware=[guard(gateway, flavour)] if name.endswith("sub-agent") else [])

    @tool
    def delegate(task: str) -> str:
        """Give a task to another agent."""
        return str(inner.invoke({"messages": [("user", task)]})["messages"][-1].content)

    gateway.deny()
    one = {"name": "delegate", "args": {"task": "refund"}, "id": "d", "type": "tool_call"}
    # Its tools have their own middleware, or the delegation itself is guarded.
    action = UNGUARDED if name.endswith("sub-agent") else ToolAction("delegate", goal="g")
    go(flavour, agent([one], tools=[delegate], middleware=[guard(gateway, flavour, {"delegate": action})]))
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
        ActPassMiddleware(gateway.client(), {}, **options)


# LangGraph without an agent


def plain(graph: Any, model: ScriptedModel, node: ToolNode, saver: Any = None) -> Any:
    """Return a graph with a model and a plain tool node."""

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    def more(state: MessagesState) -> str:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else END

    graph.add_node("model", think)
    graph.add_node("tools", node)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", more, ["tools", END])
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=saver)


@both
def test_plain_tool_node(flavour: str, real_gateway: Real, refund: BaseTool, ran: Ran) -> None:
    ours = guard(real_gateway, flavour)
    node = ToolNode([refund], wrap_tool_call=ours.wrap_tool_call, awrap_tool_call=ours.awrap_tool_call)
    calls = [call(4900, id="a"), call(25000, id="b"), call(90000, id="c"), call(id="d", name="wipe")]
    graph = plain(StateGraph(MessagesState), ScriptedModel(turns=[calls]), node, InMemorySaver())
    state = go(flavour, graph)
    said = {one.tool_call_id: str(one.content) for one in answers(state)}
    assert said["a"] == "refunded 4900"
    assert "require_approval" in said["b"]
    assert "refund.over_limit" in said["c"]
    assert "actpass.unmapped_tool" in said["d"]
    assert "__interrupt__" not in state
    assert ran.values == [("ch_1", 4900, "usd")]


@both
def test_plain_tool_node_denies_a_tool_without_an_action(
    flavour: str, gateway: Any, refund: BaseTool, counted: Any
) -> None:
    ours = guard(gateway, flavour, {})
    node = ToolNode([refund], wrap_tool_call=ours.wrap_tool_call, awrap_tool_call=ours.awrap_tool_call)
    state = go(flavour, plain(StateGraph(MessagesState), ScriptedModel(turns=[[call()]]), node))
    assert text_of(state) == (
        "refund was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. "
        "Do not call it again."
    )
    counted("coverage: unmapped", 0, "tool node")


def test_model_call_of_an_agent_that_resumes_checks_again(real_gateway: Real, refund: BaseTool, ran: Ran) -> None:
    saver = InMemorySaver()
    state = go("invoke", pausing(real_gateway, "invoke", refund, saver=saver))
    real_gateway.approve(approval_of(state))
    other = agent([call(25000)], tools=[refund], middleware=[guard(real_gateway, "invoke", {})], checkpointer=saver)
    with pytest.raises(ActPassConfigError):
        go("invoke", other, Command(resume=True))
    assert ran.count == 0


# Documentation


def test_documented_agent_decides(documented: Real) -> None:
    setup, node, resuming = blocks("langchain.md")
    turns = [[call(4900, id="a")], [call(25000, id="b")], [call(90000, id="c")]]
    names = executed(setup, model=ScriptedModel(turns=turns), checkpointer=InMemorySaver())
    state = go("invoke", names["agent"])
    documented.approve(approval_of(state))
    config = {"configurable": {"thread_id": "t"}}
    state = executed(resuming)["resume"](names["agent"], config)
    assert [str(one.content)[:40] for one in answers(state)] == [
        "refunded 49.00",
        "refunded 250.00",
        "stripe.refund.create was not run: deny (",
    ]
    executed(node, **{name: names[name] for name in ("refund", "search", "guard")})


def test_example_refunds_after_the_approval() -> None:
    assert example("langgraph_refund.py") == ["paused: stripe.refund.create of 250.00", "refunded 250.00"]
