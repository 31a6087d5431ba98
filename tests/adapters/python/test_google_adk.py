"""The adapter for the Google ADK with real agents and a scripted model."""

from __future__ import annotations

import asyncio
import contextlib
import math
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import pytest
from actpass import UNGUARDED, ActPassConfigError, ToolAction
from actpass.integrations.google_adk import ActPassPlugin, guard_tool
from actpass.testing import ScriptedGateway
from conftest import WITHIN, Hostile, Ran, Real, blocks, example, executed
from google.adk.agents import LlmAgent
from google.adk.agents.live_request_queue import LiveRequestQueue
from google.adk.agents.run_config import RunConfig, StreamingMode
from google.adk.apps import App
from google.adk.models.base_llm import BaseLlm
from google.adk.models.base_llm_connection import BaseLlmConnection
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins import BasePlugin
from google.adk.runners import InMemoryRunner
from google.adk.tools import google_search
from google.adk.tools.agent_tool import AgentTool
from google.adk.tools.base_tool import BaseTool
from google.adk.tools.function_tool import FunctionTool
from google.genai import types
from pydantic import Field

warnings.filterwarnings("ignore")
FRAMEWORK = "google-adk"
REFUND = ToolAction("stripe.refund.create", goal="resolve_refund_request", resource="stripe:charge:{charge}")
ACTIONS = {"refund": REFUND, "search": UNGUARDED, "transfer_to_agent": UNGUARDED, "nested": UNGUARDED}
SMALL, MEDIUM, LARGE = 4900, 25000, 90000
MODES = ("plain", "streaming", "live")
Record = Callable[..., None]
Call = tuple[str, dict[str, Any]]


class Scripted(BaseLlm):
    """A model with scripted turns of tool calls, then an answer; in turns and live."""

    model: str = "scripted"
    turns: list[Any] = Field(default_factory=list)
    #: The responses of tools that the model received.
    seen: list[dict[str, Any]] = Field(default_factory=list)

    def turn(self, contents: list[types.Content]) -> LlmResponse:
        self.seen.extend(part.function_response.response for part in contents[-1].parts if part.function_response)
        if not self.turns:
            return LlmResponse(content=types.Content(role="model", parts=[types.Part(text="done")]))
        calls = self.turns.pop(0)
        parts = [types.Part(function_call=types.FunctionCall(id=i, name=n, args=dict(a))) for i, n, a in calls]
        return LlmResponse(content=types.Content(role="model", parts=parts))

    async def generate_content_async(self, llm_request: Any, stream: bool = False) -> AsyncGenerator[LlmResponse, None]:
        yield self.turn(llm_request.contents)

    @contextlib.asynccontextmanager
    async def connect(self, llm_request: Any) -> AsyncIterator[BaseLlmConnection]:
        yield Connection(self)


class Connection(BaseLlmConnection):
    """A live connection to the scripted model."""

    def __init__(self, model: Scripted) -> None:
        self.model = model
        self.inbox: asyncio.Queue[types.Content | None] = asyncio.Queue()

    async def send_history(self, history: list[types.Content]) -> None:
        if history:
            await self.inbox.put(history[-1])

    async def send_content(self, content: types.Content) -> None:
        await self.inbox.put(content)

    async def send_realtime(self, blob: Any) -> None:
        raise AssertionError("no audio")

    async def receive(self) -> AsyncGenerator[LlmResponse, None]:
        while (content := await self.inbox.get()) is not None:
            response = self.model.turn([content])
            yield response
            yield LlmResponse(turn_complete=True)

    async def close(self) -> None:
        await self.inbox.put(None)


def model(*turns: list[Call]) -> Scripted:
    """Return a model with a turn for each list of calls; the ids of calls repeat from turn to turn."""
    return Scripted(turns=[[(f"call_{i}", *one) for i, one in enumerate(turn)] for turn in turns], seen=[])


def refund(amount: Any = SMALL, **more: Any) -> Call:
    return "refund", {"charge": "ch_1", "amount": amount, "currency": "usd", **more}


def refund_tool(ran: Ran) -> Callable[..., Any]:
    def refund(charge: str, amount: int = 4900, currency: str = "usd") -> dict[str, Any]:
        """Refund a charge."""
        ran(amount)
        return {"refunded": amount}

    return refund


def client_of(gateway: Any, kind: str = "sync", **settings: Any) -> Any:
    return gateway.client(**settings) if kind == "sync" else gateway.async_client(**settings)


class Session:
    """A session of an app with one agent."""

    def __init__(self, llm: Scripted, tools: list[Any], plugins: list[BasePlugin] | None = None, **agent: Any) -> None:
        self.llm = llm
        root = LlmAgent(name="support", model=llm, tools=tools, **agent)
        self.runner = InMemoryRunner(app=App(name="support", root_agent=root, plugins=plugins or []))
        self.events: list[Any] = []

    async def send(self, content: types.Content, mode: str = "plain") -> None:
        sessions = self.runner.session_service
        found = await sessions.get_session(app_name="support", user_id="u", session_id="s")
        if found is None:
            await sessions.create_session(app_name="support", user_id="u", session_id="s")
        if mode == "live":
            await self.live(content)
            return
        config = RunConfig(streaming_mode=StreamingMode.SSE if mode == "streaming" else StreamingMode.NONE)
        async for event in self.runner.run_async(user_id="u", session_id="s", new_message=content, run_config=config):
            self.events.append(event)

    async def live(self, content: types.Content) -> None:
        queue = LiveRequestQueue()
        queue.send_content(content)
        async for event in self.runner.run_live(user_id="u", session_id="s", live_request_queue=queue):
            self.events.append(event)
            parts = event.content.parts if event.content and event.content.parts else []
            if any(part.text == "done" for part in parts):
                queue.close()
                break

    async def say(self, mode: str = "plain") -> list[dict[str, Any]]:
        """Run the turns of the model, and return the responses of the tools."""
        self.llm.seen.clear()
        await self.send(types.Content(role="user", parts=[types.Part(text="please")]), mode)
        return [
            part.function_response.response
            for event in self.events
            for part in (event.content.parts or [] if event.content else [])
            if part.function_response and part.function_response.name != "adk_request_confirmation"
        ]

    def confirmations(self) -> list[Any]:
        """Return the function calls that request a confirmation."""
        return [
            part.function_call
            for event in self.events
            for part in (event.content.parts or [] if event.content else [])
            if part.function_call and part.function_call.name == "adk_request_confirmation"
        ]

    async def confirm(self, request: Any, *, confirmed: bool = True, payload: Any = None) -> None:
        """Answer a request for a confirmation."""
        answer = {"confirmed": confirmed, "payload": payload}
        response = types.FunctionResponse(id=request.id, name=request.name, response=answer)
        await self.send(types.Content(role="user", parts=[types.Part(function_response=response)]))


def payload_of(request: Any) -> dict[str, Any]:
    return request.args["toolConfirmation"]["payload"]


def play(llm: Scripted, tools: list[Any], mode: str = "plain", **more: Any) -> list[dict[str, Any]]:
    return asyncio.run(Session(llm, tools, **more).say(mode))


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
def test_allow_runs_once(gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str, kind: str) -> None:
    gateway.allow("stripe.refund.create")
    tool = guard_tool(refund_tool(ran), client_of(gateway, kind), ACTIONS)
    assert play(model([refund()]), [tool], mode) == [{"refunded": SMALL}]
    assert ran.values == [SMALL]
    assert gateway.actions[0]["args"] == {"charge": "ch_1", "amount": SMALL, "currency": "usd"}
    record_case(FRAMEWORK, "allow", ran.count, f"{mode}, {kind}")


@pytest.mark.parametrize("word", ["deny", "warn"])
@pytest.mark.parametrize("mode", MODES)
def test_blocked_decisions_run_nothing(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str, word: str
) -> None:
    getattr(gateway, word)("stripe.refund.create", reason_code="refund.no")
    llm = model([refund()])
    [said] = play(llm, [guard_tool(refund_tool(ran), gateway.client(), ACTIONS)], mode)
    assert said["error"].startswith(f"stripe.refund.create was not run: {word} (refund.no).")
    assert said in llm.seen
    assert ran.count == 0
    record_case(FRAMEWORK, word, ran.count, mode)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_failed_gateway_runs_nothing(hostile: Hostile, ran: Ran, record_case: Record, kind: str) -> None:
    [said] = play(model([refund()]), [guard_tool(refund_tool(ran), client_of(hostile, kind), ACTIONS)])
    assert said["error"].startswith("stripe.refund.create was not run: deny (actpass.")
    assert ran.count == 0
    record_case(FRAMEWORK, hostile.case, ran.count, kind)


def test_error_in_the_mapping_runs_nothing(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()

    def resource(charge: str) -> str:
        raise RuntimeError("lookup failed")

    actions = {"refund": ToolAction("stripe.refund.create", goal="g", resource=resource)}
    with pytest.raises(RuntimeError, match="lookup failed"):
        play(model([refund()]), [guard_tool(refund_tool(ran), gateway.client(), actions)])
    assert ran.count == 0
    record_case(FRAMEWORK, "adapter raises", ran.count)


def test_call_cancelled_before_the_decision_runs_nothing(ran: Ran, record_case: Record) -> None:
    gateway = Hostile("hangs")

    async def run() -> None:
        session = Session(model([refund()]), [guard_tool(refund_tool(ran), gateway.client(timeout=30), ACTIONS)])
        task = asyncio.create_task(session.say())
        assert await asyncio.to_thread(gateway.asked.wait, WITHIN)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    gateway.close()
    assert ran.count == 0
    record_case(FRAMEWORK, "cancelled before the decision", ran.count)


def test_error_of_the_tool_is_the_same_object(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    broken = ValueError("no such charge")

    async def refund(charge: str, amount: int, currency: str) -> str:
        ran(amount)
        raise broken

    with pytest.raises(ValueError, match="no such charge") as raised:
        play(
            model([("refund", {"charge": "c", "amount": 1, "currency": "usd"})]),
            [guard_tool(refund, gateway.client(), ACTIONS)],
        )
    assert raised.value is broken and ran.count == 1
    record_case(FRAMEWORK, "tool raises", ran.count)


def test_retried_tool_has_a_decision_for_each_run(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    from google.adk.plugins import ReflectAndRetryToolPlugin

    gateway.allow()

    def refund(charge: str, amount: int, currency: str) -> str:
        """Refund a charge."""
        ran(amount)
        raise ValueError("after the effect")

    plugin = ReflectAndRetryToolPlugin(max_retries=5, throw_exception_if_retry_exceeded=False)
    play(model(*[[globals()["refund"]()]] * 3), [guard_tool(refund, gateway.client(), ACTIONS)], plugins=[plugin])
    assert ran.count == 3 == len(gateway.actions)
    record_case(FRAMEWORK, "tool fails after its effect", ran.count)
    record_case(FRAMEWORK, "retry outside", ran.count)
    record_case(FRAMEWORK, "same call id twice", ran.count)


def test_confirmed_approval_runs_once(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    async def run() -> None:
        client = real_gateway.client(agent_id="support")
        tool = guard_tool(refund_tool(ran), client, ACTIONS, approvals="interrupt")
        session = Session(model([refund(MEDIUM)]), [tool])
        await session.say()
        [request] = session.confirmations()
        [approval] = real_gateway.pending()
        assert payload_of(request)["approval_request_id"] == approval
        assert ran.count == 0
        record_case(FRAMEWORK, "approval pending", ran.count)
        await asyncio.to_thread(real_gateway.approve, approval)
        await session.confirm(request, payload=payload_of(request))
        assert ran.values == [MEDIUM] and session.llm.seen == [{"refunded": MEDIUM}]
        record_case(FRAMEWORK, "approved in another process", ran.count)
        await session.confirm(request, payload=payload_of(request))
        assert ran.values == [MEDIUM]
        record_case(FRAMEWORK, "saved state resumed twice", ran.count)

    asyncio.run(run())


def test_lost_payload_does_not_lose_the_approval(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    async def run() -> None:
        client = real_gateway.client(agent_id="support")
        tool = guard_tool(refund_tool(ran), client, ACTIONS, approvals="interrupt")
        session = Session(model([refund(MEDIUM)]), [tool])
        await session.say()
        [request] = session.confirmations()
        await session.confirm(request)
        assert ran.count == 0
        record_case(FRAMEWORK, "metadata lost", ran.count)

    asyncio.run(run())


@pytest.mark.parametrize("case", ["approved only in the framework", "resumed too early"])
def test_confirmation_without_the_approval_runs_nothing(
    real_gateway: Real, ran: Ran, record_case: Record, case: str
) -> None:
    async def run() -> None:
        client = real_gateway.client(agent_id="support")
        tool = guard_tool(refund_tool(ran), client, ACTIONS, approvals="interrupt")
        session = Session(model([refund(MEDIUM)]), [tool])
        await session.say()
        [request] = session.confirmations()
        payload = payload_of(request)
        payload = payload if case == "resumed too early" else {**payload, "approval_request_id": "apr_forged"}
        await session.confirm(request, payload=payload)
        assert len(real_gateway.pending()) == 1
        [said] = session.llm.seen
        assert said["error"].startswith("stripe.refund.create was not run: ")

    asyncio.run(run())
    assert ran.count == 0
    record_case(FRAMEWORK, case, ran.count)


@pytest.mark.parametrize("where", ["gateway", "framework"])
def test_rejected_approval_runs_nothing(real_gateway: Real, ran: Ran, record_case: Record, where: str) -> None:
    async def run() -> None:
        client = real_gateway.client(agent_id="support")
        tool = guard_tool(refund_tool(ran), client, ACTIONS, approvals="interrupt")
        session = Session(model([refund(MEDIUM)]), [tool])
        await session.say()
        [request] = session.confirmations()
        decide = real_gateway.reject if where == "gateway" else real_gateway.approve
        await asyncio.to_thread(decide, real_gateway.pending()[0])
        await session.confirm(request, confirmed=where == "gateway", payload=payload_of(request))

    asyncio.run(run())
    assert ran.count == 0
    record_case(FRAMEWORK, "approval rejected", ran.count, where)


def test_edited_arguments_do_not_run_under_the_approval(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    async def run() -> None:
        edited: list[int] = []

        def edit(tool: Any, args: dict[str, Any], tool_context: Any) -> None:
            if edited:
                args["amount"] = edited[0]

        client = real_gateway.client(agent_id="support")
        tool = guard_tool(refund_tool(ran), client, ACTIONS, approvals="interrupt")
        session = Session(model([refund(MEDIUM)]), [tool], before_tool_callback=edit)
        await session.say()
        [request] = session.confirmations()
        await asyncio.to_thread(real_gateway.approve, real_gateway.pending()[0])
        edited.append(MEDIUM + 1)
        await session.confirm(request, payload=payload_of(request))
        [said] = session.llm.seen
        assert "approval.action_mismatch" in said["error"]

    asyncio.run(run())
    assert ran.count == 0
    record_case(FRAMEWORK, "arguments edited at approval", ran.count)


def test_reported_approval_is_spent_by_the_repeated_call(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    async def run() -> None:
        client = real_gateway.client(agent_id="support")
        session = Session(model([refund(MEDIUM)]), [guard_tool(refund_tool(ran), client, ACTIONS)])
        [said] = await session.say()
        assert "A person must approve this first (approval apr_" in said["error"] and not session.confirmations()
        await asyncio.to_thread(real_gateway.approve, real_gateway.pending()[0])
        session.llm.turns = [[("again", *refund(MEDIUM))]]
        assert (await session.say())[-1] == {"refunded": MEDIUM}

    asyncio.run(run())
    assert ran.values == [MEDIUM]
    record_case(FRAMEWORK, "same call again after approval", ran.count)


def test_held_call_runs_after_the_approval(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    async def run() -> None:
        client = real_gateway.client(agent_id="support")
        tool = guard_tool(refund_tool(ran), client, ACTIONS, approvals="hold", hold=60)
        task = asyncio.create_task(Session(model([refund(MEDIUM)]), [tool]).say())
        pending = await asyncio.to_thread(real_gateway.opened)
        await asyncio.to_thread(real_gateway.approve, pending[0])
        assert await task == [{"refunded": MEDIUM}]

    asyncio.run(run())
    assert ran.count == 1
    record_case(FRAMEWORK, "approval held", ran.count)


def test_parallel_allow_and_deny(real_gateway: Real, ran: Ran, record_case: Record) -> None:
    tool = guard_tool(refund_tool(ran), real_gateway.client(agent_id="support"), ACTIONS)
    allowed, denied = play(model([refund(SMALL), refund(LARGE)]), [tool])
    assert allowed == {"refunded": SMALL} and "refund.over_limit" in denied["error"]
    assert ran.values == [SMALL]
    record_case(FRAMEWORK, "parallel: allow and deny", ran.count)


@pytest.mark.parametrize("amounts", [(SMALL, MEDIUM), (MEDIUM, MEDIUM + 1)])
def test_parallel_approvals_run_once_each(
    real_gateway: Real, ran: Ran, record_case: Record, amounts: tuple[int, ...]
) -> None:
    async def run() -> None:
        client = real_gateway.client(agent_id="support")
        tool = guard_tool(refund_tool(ran), client, ACTIONS, approvals="interrupt")
        session = Session(model([refund(one) for one in amounts]), [tool])
        await session.say()
        requests = session.confirmations()
        for one in reversed(real_gateway.pending()):
            await asyncio.to_thread(real_gateway.approve, one)
        for request in reversed(requests):
            await session.confirm(request, payload=payload_of(request))

    asyncio.run(run())
    assert sorted(ran.values) == sorted(amounts)
    case = "allow and approval" if SMALL in amounts else "two approvals"
    record_case(FRAMEWORK, f"parallel: {case}", ran.count)


@pytest.mark.parametrize("in_place", [True, False])
def test_callbacks_that_change_arguments_come_before_the_decision(
    real_gateway: Real, ran: Ran, record_case: Record, in_place: bool
) -> None:
    class Changing(BasePlugin):
        async def before_tool_callback(self, *, tool: Any, tool_args: Any, tool_context: Any) -> None:
            tool_args["amount"] = LARGE

    def change(tool: Any, args: dict[str, Any], tool_context: Any) -> None:
        args.update({"amount": LARGE})

    client = real_gateway.client(agent_id="support")
    tool = guard_tool(refund_tool(ran), client, ACTIONS)
    guard = ActPassPlugin(client, ACTIONS)
    more: dict[str, Any] = {"before_tool_callback": change} if in_place else {}
    plugins = [guard] if in_place else [guard, Changing(name="changing")]
    [said] = play(model([refund(SMALL)]), [tool], plugins=plugins, **more)
    assert "refund.over_limit" in said["error"]
    assert ran.count == 0
    record_case(FRAMEWORK, "hook after changes arguments", ran.count, "callback" if in_place else "plugin")
    record_case(FRAMEWORK, "hook before changes arguments", ran.count, "callback" if in_place else "plugin")


def test_callback_cannot_clear_the_verdict(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.deny()

    def clear(tool: Any, args: Any, tool_context: Any, tool_response: Any) -> dict[str, Any]:
        return {"refunded": SMALL}

    tool = guard_tool(refund_tool(ran), gateway.client(), ACTIONS)
    play(model([refund()]), [tool], after_tool_callback=clear)
    assert ran.count == 0
    record_case(FRAMEWORK, "hook clears the verdict", ran.count)


def test_callback_that_raises_runs_nothing(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()

    def fail(tool: Any, args: Any, tool_context: Any) -> None:
        raise RuntimeError("a hook failed")

    with pytest.raises(RuntimeError, match="a hook failed"):
        play(model([refund()]), [guard_tool(refund_tool(ran), gateway.client(), ACTIONS)], before_tool_callback=fail)
    assert ran.count == 0
    record_case(FRAMEWORK, "hook raises", ran.count)


@pytest.mark.parametrize(
    ("case", "given", "expected"),
    [
        ("string for a number", {"charge": "c", "amount": "4900"}, "4900"),
        ("missing default", {"charge": "c"}, 4900),
        ("extra member", {"charge": "c", "amount": 4900, "note": "x"}, 4900),
        ("bool", {"charge": "c", "amount": True}, True),
        ("4900.0", {"charge": "c", "amount": 4900.0}, 4900.0),
    ],
)
def test_gateway_evaluates_the_executed_arguments(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, case: str, given: dict[str, Any], expected: Any
) -> None:
    gateway.allow()
    play(model([("refund", given)]), [guard_tool(refund_tool(ran), gateway.client(), ACTIONS)])
    asked = gateway.actions[0]["args"]
    assert ran.values == [expected] and type(ran.values[0]) is type(asked["amount"])
    assert asked == {"charge": "c", "amount": expected, "currency": "usd"}
    record_case(FRAMEWORK, f"arguments: {case}", ran.count)


def test_arguments_without_canonical_form_run_nothing(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    [said] = play(model([refund(math.nan)]), [guard_tool(refund_tool(ran), gateway.client(), ACTIONS)])
    assert "was not run" in said["error"] and ran.count == 0
    record_case(FRAMEWORK, "arguments: NaN", ran.count)


def search(query: str) -> dict[str, str]:
    """Search."""
    return {"found": query}


def test_unguarded_tool_runs_without_a_decision(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    guard = ActPassPlugin(gateway.client(), ACTIONS)
    tools = [search, guard_tool(refund_tool(ran), gateway.client(), ACTIONS)]
    assert play(model([("search", {"query": "x"})]), tools, plugins=[guard]) == [{"found": "x"}]
    assert guard_tool(search, gateway.client(), ACTIONS).name == "search"
    gateway.assert_not_asked()
    record_case(FRAMEWORK, "unguarded", 1)


def test_run_with_an_unguarded_tool_is_refused(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    guard = ActPassPlugin(gateway.client(), ACTIONS)

    def wipe() -> str:
        """Wipe."""
        ran()
        return "wiped"

    with pytest.raises(RuntimeError, match="expected an action for each tool, found none for 'wipe'"):
        play(model([("wipe", {})]), [wipe], plugins=[guard])
    with pytest.raises(RuntimeError, match="expected guarded tools, found 'refund'"):
        play(model([refund()]), [refund_tool(ran)], plugins=[guard])
    with pytest.raises(ActPassConfigError, match="'wipe'"):
        guard_tool(wipe, gateway.client(), ACTIONS)
    assert ran.count == 0
    record_case(FRAMEWORK, "coverage: unmapped", ran.count)


@pytest.mark.parametrize("mode", MODES)
def test_tool_that_is_added_in_a_run_is_denied(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, mode: str
) -> None:
    from google.adk.tools.base_toolset import BaseToolset

    gateway.allow()

    class Tools(BaseToolset):
        async def get_tools(self, readonly_context: Any = None) -> list[BaseTool]:
            return [FunctionTool(refund_tool(ran))]

        async def close(self) -> None:
            pass

    [said] = play(model([refund()]), [Tools()], mode, plugins=[ActPassPlugin(gateway.client(), ACTIONS)])
    assert said["error"].startswith("refund was not run: deny (actpass.unmapped_tool).")
    assert ran.count == 0
    record_case(FRAMEWORK, "coverage: added later", ran.count, mode)


def test_tool_that_the_model_executes_is_refused(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    from google.adk.code_executors import BuiltInCodeExecutor

    guard = ActPassPlugin(gateway.client(), ACTIONS)
    with pytest.raises(RuntimeError, match="'google_search'"):
        play(model(), [google_search], plugins=[guard])
    with pytest.raises(ActPassConfigError, match="which the model executes"):
        guard_tool(google_search, gateway.client(), {"google_search": REFUND})
    with pytest.raises(RuntimeError, match="'code_executor'"):
        play(model(), [], plugins=[guard], code_executor=BuiltInCodeExecutor())
    record_case(FRAMEWORK, "coverage: provider-executed", ran.count)
    record_case(FRAMEWORK, "coverage: code mode", ran.count)


def test_tool_of_a_sub_agent_is_denied(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    gateway.allow()
    client = gateway.client()
    below = LlmAgent(name="below", model=model([refund()]), tools=[refund_tool(ran)])
    with pytest.raises(RuntimeError, match="expected guarded tools, found 'refund'"):
        play(
            model([("transfer_to_agent", {"agent_name": "below"})]),
            [],
            plugins=[ActPassPlugin(client, ACTIONS)],
            sub_agents=[below],
        )
    record_case(FRAMEWORK, "coverage: sub-agent", ran.count)
    record_case(FRAMEWORK, "coverage: handoff", ran.count)
    gateway.deny()
    guarded = LlmAgent(name="below", model=model([refund()]), tools=[guard_tool(refund_tool(ran), client, ACTIONS)])
    said = play(
        model([("transfer_to_agent", {"agent_name": "below"})]),
        [],
        plugins=[ActPassPlugin(client, ACTIONS)],
        sub_agents=[guarded],
    )
    assert said[-1]["error"].startswith("stripe.refund.create was not run: deny") and ran.count == 0


@pytest.mark.parametrize("include_plugins", [True, False])
def test_tool_of_an_agent_tool_is_refused_or_guarded(
    gateway: ScriptedGateway, ran: Ran, record_case: Record, include_plugins: bool
) -> None:
    gateway.allow()
    client = gateway.client()
    nested = LlmAgent(name="nested", model=model([refund()]), tools=[refund_tool(ran)])
    with pytest.raises(RuntimeError, match="expected guarded tools, found 'refund'"):
        play(
            model([("nested", {"request": "x"})]),
            [AgentTool(nested, include_plugins=include_plugins)],
            plugins=[ActPassPlugin(client, ACTIONS)],
        )
    gateway.deny()
    guarded = LlmAgent(name="nested", model=model([refund()]), tools=[guard_tool(refund_tool(ran), client, ACTIONS)])
    play(
        model([("nested", {"request": "x"})]),
        [AgentTool(guarded, include_plugins=include_plugins)],
        plugins=[ActPassPlugin(client, ACTIONS)],
    )
    gateway.assert_asked("stripe.refund.create", times=1)
    assert ran.count == 0
    record_case(FRAMEWORK, "coverage: agent as tool", ran.count, f"include_plugins={include_plugins}")


def test_generator_function_is_refused(gateway: ScriptedGateway) -> None:
    def refund(charge: str) -> Any:
        """Refund."""
        yield charge

    with pytest.raises(ActPassConfigError, match="found the generator 'refund'"):
        guard_tool(refund, gateway.client(), ACTIONS)


def test_documented_agent_decides(documented: Real) -> None:
    agent = executed(blocks("google-adk.md")[0])["agent"]
    allowed, denied = play(model([refund(SMALL), refund(LARGE)]), agent.tools)
    assert allowed == {"refunded": SMALL} and "refund.over_limit" in denied["error"]


def test_example_refunds_after_the_approval() -> None:
    assert example("google_adk_refund.py") == ["paused: stripe.refund.create of 250.00", "{'refunded': '250.00'}"]


def test_expired_approval_runs_nothing(gateway: ScriptedGateway, ran: Ran, record_case: Record) -> None:
    async def run() -> None:
        gateway.require_approval("stripe.refund.create")
        tool = guard_tool(refund_tool(ran), gateway.client(), ACTIONS, approvals="interrupt")
        session = Session(model([refund()]), [tool])
        await session.say()
        [request] = session.confirmations()
        gateway.expire()
        await session.confirm(request, payload=payload_of(request))
        [said] = session.llm.seen
        assert "approval.expired" in said["error"]

    asyncio.run(run())
    assert ran.count == 0
    record_case(FRAMEWORK, "approval expired", ran.count)
